//! What can happen next in a small world.

use std::fmt;

use broker_core::Event;
use pilot_core::agent;
use protocol::ids::SubmitKey;
use protocol::time::{Mono, Span, Timestamp};

use super::messages::{Message, What};
use super::pilots::suspend_failed;
use super::small::{BEGIN, Checked, Small};

/// Something that happens. Numbers are places in the world's lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// A message arrives.
    Deliver(usize),
    /// A suspend ends with a state.
    Written(usize),
    /// A pilot that hung goes on.
    GoesOn(usize),
    /// Time goes on to what is due next.
    Tick,
    /// A user makes the next request.
    Ask,
    /// A message is lost; who waits for the answer hears of it.
    Lose(usize),
    /// A message arrives and is still under way.
    Repeat(usize),
    /// A message is under way while time goes on.
    Delay(usize),
    /// A request is recorded, and the broker crashes before it answers.
    CrashAfter(usize),
    /// The broker will crash over the next answer that it has held back.
    Doom,
    /// The broker crashes.
    Crash,
    /// A suspend fails, with the guest alive.
    WriteFails(usize),
    /// A suspend takes a while.
    WriteIsSlow(usize),
    /// A pilot is killed.
    Dies(usize),
    /// A pilot hangs.
    Hangs(usize),
    /// The batch system signals that the slot ends.
    Signal(usize),
    /// The batch system starts the job again elsewhere; the pilot that was there runs on.
    Replaced(usize),
}

impl Act {
    /// True when something goes wrong by it.
    const fn is_fault(self) -> bool {
        match self {
            Self::Deliver(_) | Self::Written(_) | Self::GoesOn(_) | Self::Tick | Self::Ask => false,
            Self::Lose(_)
            | Self::Repeat(_)
            | Self::Delay(_)
            | Self::CrashAfter(_)
            | Self::Doom
            | Self::Crash
            | Self::WriteFails(_)
            | Self::WriteIsSlow(_)
            | Self::Dies(_)
            | Self::Hangs(_)
            | Self::Signal(_)
            | Self::Replaced(_) => true,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Request { wire, .. } => match wire.number {
                Some(number) => write!(f, "sync {number} of pilot {}", wire.pilot),
                None => write!(f, "the registration of pilot {}", wire.pilot),
            },
            What::Answer { pilot, event } => match event.as_ref() {
                agent::Event::SyncAnswered { reply, .. } => {
                    write!(f, "the answer to sync {} of pilot {pilot}", reply.number)
                }
                agent::Event::SyncFailed { number, .. } => {
                    write!(f, "that sync {number} of pilot {pilot} has no answer")
                }
                agent::Event::SyncRefused { number, .. } => {
                    write!(f, "the refusal of sync {number} of pilot {pilot}")
                }
                _ => write!(f, "news for pilot {pilot}"),
            },
        }
    }
}

impl Small {
    /// All that can happen now. Time goes on only when nothing is under way that is not late.
    pub(super) fn acts(&self, horizon: Span) -> Vec<Act> {
        let mut acts = Vec::new();
        let hangs = |pilot: usize| self.pilots[pilot].hangs.is_some();
        let arrives = |m: &Message| match &m.what {
            What::Request { .. } => true,
            What::Answer { pilot, .. } => !hangs(*pilot),
        };
        for (n, message) in self.messages.iter().enumerate() {
            if arrives(message) {
                acts.push(Act::Deliver(n));
            }
        }
        acts.extend((0..self.writing.len()).map(Act::Written));
        acts.extend(
            (0..self.pilots.len())
                .filter(|p| hangs(*p))
                .map(Act::GoesOn),
        );
        acts.extend((self.to_come > 0).then_some(Act::Ask));
        let waits = self.messages.iter().all(|m| m.late || !arrives(m))
            && self.writing.iter().all(|w| w.late);
        if waits && self.next_due().is_some_and(|at| at.since(BEGIN) <= horizon) {
            acts.push(Act::Tick);
        }
        if self.faults_left > 0 {
            self.add_faults(&mut acts);
        }
        acts
    }

    fn add_faults(&self, acts: &mut Vec<Act>) {
        for (n, message) in self.messages.iter().enumerate() {
            match &message.what {
                What::Request { repeated, .. } => {
                    acts.extend([Act::Lose(n), Act::CrashAfter(n)]);
                    acts.extend((!repeated).then_some(Act::Repeat(n)));
                }
                What::Answer { event, .. } => {
                    if !matches!(event.as_ref(), agent::Event::SyncFailed { .. }) {
                        acts.extend([Act::Lose(n), Act::Repeat(n)]);
                    }
                }
            }
            acts.extend((!message.late).then_some(Act::Delay(n)));
        }
        acts.push(Act::Crash);
        acts.extend((!self.held.is_empty() && !self.doomed).then_some(Act::Doom));
        for (n, writing) in self.writing.iter().enumerate() {
            acts.push(Act::WriteFails(n));
            acts.extend((!writing.late).then_some(Act::WriteIsSlow(n)));
        }
        for (n, pilot) in self.pilots.iter().enumerate() {
            let Some(agent) = &pilot.agent else { continue };
            acts.push(Act::Dies(n));
            if pilot.hangs.is_none() {
                acts.push(Act::Hangs(n));
                acts.extend((!agent.clock().is_signalled()).then_some(Act::Signal(n)));
            }
            acts.extend((!pilot.replaced).then_some(Act::Replaced(n)));
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let at = |mono: Mono| BEGIN + Span::from_millis(mono.as_millis());
        let held = self.held.values().map(|h| h.until);
        let pilots = (self.pilots.iter()).filter_map(|p| match p.hangs {
            Some(fence) => fence.map(at),
            None => p.agent.as_ref()?.next_wakeup().map(at),
        });
        let soonest = self.now + Span::from_millis(1);
        (self.broker.next_wakeup().into_iter())
            .chain(held)
            .chain(pilots)
            .min()
            .map(|next| next.max(soonest))
    }

    /// Time goes on, and whatever is due happens.
    pub(super) fn tick(&mut self) -> Checked {
        let Some(at) = self.next_due() else {
            return Ok(());
        };
        self.now = at;
        self.wardens()?;
        for pilot in 0..self.pilots.len() {
            let mono = self.pilot_now().mono;
            let p = &self.pilots[pilot];
            let due = p.hangs.is_none()
                && (p.agent.as_ref())
                    .and_then(Agent::next_wakeup)
                    .is_some_and(|t| t <= mono);
            if due {
                self.pilot_step(pilot, agent::Event::Tick)?;
            }
        }
        if self.broker.next_wakeup().is_some_and(|t| t <= self.now) {
            self.broker_step(Event::Tick, None)?;
        }
        let held: Vec<SubmitKey> = (self.held.iter())
            .filter(|(_, h)| h.until <= self.now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in held {
            self.poll(&key)?;
        }
        Ok(())
    }

    /// Does it.
    pub(super) fn act(&mut self, act: Act) -> Checked {
        if act.is_fault() {
            self.faults_left -= 1;
        }
        match act {
            Act::Deliver(n) => {
                let message = self.messages.remove(n);
                self.tell(|| format!("arrives: {message}"));
                self.arrives(message)?;
            }
            Act::Written(n) => {
                let writing = self.writing.remove(n);
                self.written(writing)?;
            }
            Act::GoesOn(pilot) => {
                self.tell(|| format!("pilot {pilot} goes on"));
                self.pilots[pilot].hangs = None;
                self.pilot_step(pilot, agent::Event::Tick)?;
            }
            Act::Tick => self.tick()?,
            Act::Lose(n) => {
                let message = self.messages.remove(n);
                self.tell(|| format!("is lost: {message}"));
                self.lost(&message);
            }
            Act::Repeat(n) => {
                let mut message = self.messages[n].clone();
                self.tell(|| format!("arrives, and will once more: {message}"));
                if let What::Request { repeated, .. } = &mut self.messages[n].what {
                    *repeated = true;
                }
                message.late = false;
                self.arrives(message)?;
            }
            Act::Delay(n) => {
                self.messages[n].late = true;
                let message = self.messages[n].clone();
                self.tell(|| format!("is late: {message}"));
            }
            Act::CrashAfter(n) => {
                let message = self.messages.remove(n);
                self.tell(|| format!("arrives, and the broker crashes over it: {message}"));
                if let What::Request { wire, event, .. } = message.what {
                    self.broker_crashes_after(*event, &wire)?;
                }
            }
            Act::Ask => {
                self.tell(|| "a user makes a request".into());
                self.ask()?;
            }
            Act::Doom => {
                self.tell(|| "the broker is to crash over an answer that it holds".into());
                self.doomed = true;
            }
            Act::Crash => self.broker_restarts()?,
            Act::WriteFails(n) => {
                let writing = self.writing.remove(n);
                self.tell(|| format!("the suspend of {} fails", writing.lease));
                self.pilot_hears(writing.pilot, suspend_failed(writing.lease, true))?;
            }
            Act::WriteIsSlow(n) => {
                self.writing[n].late = true;
                self.tell(|| "a suspend takes its time".into());
            }
            Act::Dies(pilot) => self.pilot_dies(pilot),
            Act::Hangs(pilot) => {
                self.tell(|| format!("pilot {pilot} hangs"));
                let fence = self.pilots[pilot].agent.as_ref().map(Agent::fence_at);
                self.pilots[pilot].hangs = Some(fence.flatten());
            }
            Act::Signal(pilot) => {
                self.tell(|| format!("the batch system signals pilot {pilot}"));
                let event = agent::Event::Signal {
                    which: agent::Signal::Term,
                    from: "the LRM".into(),
                };
                self.pilot_step(pilot, event)?;
            }
            Act::Replaced(pilot) => {
                self.pilots[pilot].replaced = true;
                let key = self.pilots[pilot].key.clone();
                self.tell(|| format!("{key} is started again; pilot {pilot} runs on unseen"));
                self.pilot_lands(key)?;
            }
        }
        self.check()
    }

    fn lost(&mut self, message: &Message) {
        let failed = match &message.what {
            What::Request { repeated: true, .. } => None,
            What::Request { wire, .. } => Some(wire.failed()),
            What::Answer { pilot, event } => {
                let number = match event.as_ref() {
                    agent::Event::SyncAnswered { reply, .. } => Some(reply.number),
                    agent::Event::SyncRefused { number, .. } => Some(*number),
                    _ => None,
                };
                let wire = super::messages::Wire {
                    pilot: *pilot,
                    sent: Mono::from_millis(0),
                    number,
                };
                Some(wire.failed())
            }
        };
        self.messages.extend(failed);
    }
}

use pilot_core::agent::Agent;
