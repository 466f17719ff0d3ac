//! What is under way between pilots and broker, and the broker's side of it.

use broker_core::{Broker, Effect, Event, Reply, Step, SyncDecision};
use pilot_core::agent;
use protocol::ids::{Incarnation, PilotBoot, SubmitKey};
use protocol::time::{Mono, Timestamp};

use super::small::{Checked, Small, config};
use crate::simulation::Break;

/// A message under way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub what: What,
    /// Time may go on before it arrives.
    pub late: bool,
}

/// Which.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// A pilot's request; nobody waits for the answer to one that is repeated.
    Request {
        wire: Wire,
        event: Box<Event>,
        repeated: bool,
    },
    /// An answer, or the news that there is none.
    Answer {
        pilot: usize,
        event: Box<agent::Event>,
    },
}

/// Who waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    pub pilot: usize,
    pub sent: Mono,
    /// Number of the sync; none for a registration.
    pub number: Option<u64>,
}

impl Wire {
    /// The pilot hears nothing.
    pub(super) fn failed(&self) -> Message {
        let text = "no answer".to_owned();
        let event = match self.number {
            Some(number) => agent::Event::SyncFailed { number, text },
            None => agent::Event::RegisterFailed { text },
        };
        self.answer(event)
    }

    fn answer(&self, event: agent::Event) -> Message {
        Message {
            what: What::Answer {
                pilot: self.pilot,
                event: Box::new(event),
            },
            late: false,
        }
    }
}

/// A sync whose answer is held back.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub wire: Wire,
    pub incarnation: Incarnation,
    pub boot: PilotBoot,
    pub number: u64,
    pub received: Timestamp,
    pub until: Timestamp,
}

impl Small {
    /// The broker takes an event, commits, acts and answers.
    pub(super) fn broker_step(&mut self, event: Event, wire: Option<&Wire>) -> Checked {
        let about = about_sync(&event);
        let was_held = matches!(event, Event::SyncPoll { .. });
        let step = self.broker.step(self.now, event);
        if let Some(wire) = wire
            && was_held
            && !step.changes.is_empty()
            && std::mem::take(&mut self.doomed)
        {
            return self.broker_crashes_over(step, wire);
        }
        self.commit(&step.changes)?;
        self.answer(step.reply, wire, about.as_ref());
        for effect in step.effects {
            if let Effect::Wake(keys) = effect {
                for key in keys {
                    self.poll(&key)?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, reply: Reply, wire: Option<&Wire>, about: Option<&About>) {
        let Some(wire) = wire else { return };
        let event = match reply {
            Reply::Registered(reply) => agent::Event::Registered(*reply),
            Reply::Sync(SyncDecision::Answer(mut reply)) => {
                if self.breaks == Some(Break::Fencing) {
                    reply.lease_ttl = reply.lease_ttl.times(4);
                }
                agent::Event::SyncAnswered {
                    sent: wire.sent,
                    reply,
                }
            }
            Reply::Sync(SyncDecision::Hold { until }) => {
                if let Some(about) = about {
                    let held = Held {
                        wire: wire.clone(),
                        incarnation: about.incarnation.clone(),
                        boot: about.boot.clone(),
                        number: about.number,
                        received: about.received,
                        until,
                    };
                    if let Some(before) = self.held.insert(about.key.clone(), held) {
                        self.messages.push(before.wire.failed());
                    }
                }
                return;
            }
            Reply::Refused(body) => match wire.number {
                Some(number) => agent::Event::SyncRefused {
                    number,
                    code: body.code,
                    text: body.detail,
                },
                None => agent::Event::RegisterRefused {
                    code: body.code,
                    text: body.detail,
                },
            },
            Reply::None
            | Reply::Workspace(_)
            | Reply::Site(_)
            | Reply::HandPilot { .. }
            | Reply::Forgotten { .. } => return,
        };
        self.messages.push(wire.answer(event));
    }

    /// A held sync is looked at again.
    pub(super) fn poll(&mut self, key: &SubmitKey) -> Checked {
        let Some(held) = self.held.remove(key) else {
            return Ok(());
        };
        let event = Event::SyncPoll {
            submit_key: key.clone(),
            incarnation: held.incarnation,
            boot: held.boot,
            number: held.number,
            received: held.received,
        };
        self.broker_step(event, Some(&held.wire))
    }

    /// The broker's process ends and another begins. What was held is never answered.
    pub(super) fn broker_restarts(&mut self) -> Checked {
        self.tell(|| "the broker crashes and starts again".into());
        self.doomed = false;
        let held = std::mem::take(&mut self.held);
        (self.messages).extend(held.into_values().map(|h| h.wire.failed()));
        self.broker = Broker::load(config(), self.records.clone());
        self.broker_step(Event::Started, None)
    }

    /// A message arrives, and the broker crashes over it.
    pub(super) fn broker_crashes_after(&mut self, event: Event, wire: &Wire) -> Checked {
        let step = self.broker.step(self.now, event);
        self.broker_crashes_over(step, wire)
    }

    /// A step is recorded, and the broker crashes before it answers or acts. With the rule broken
    /// it answers before it has recorded.
    fn broker_crashes_over(&mut self, step: Step, wire: &Wire) -> Checked {
        if self.breaks == Some(Break::Commit) {
            self.answer(step.reply, Some(wire), None);
        } else {
            self.commit(&step.changes)?;
            self.messages.push(wire.failed());
        }
        self.broker_restarts()
    }

    /// Delivers the oldest message. False when there is none.
    pub(super) fn deliver_first(&mut self) -> Result<bool, String> {
        if self.messages.is_empty() {
            return Ok(false);
        }
        let message = self.messages.remove(0);
        self.arrives(message)?;
        Ok(true)
    }

    /// A message arrives.
    pub(super) fn arrives(&mut self, message: Message) -> Checked {
        match message.what {
            What::Request {
                wire,
                mut event,
                repeated,
            } => {
                if let Event::Sync { received, .. } = event.as_mut() {
                    *received = self.now;
                }
                self.broker_step(*event, (!repeated).then_some(&wire))
            }
            What::Answer { pilot, event } => self.pilot_step(pilot, *event),
        }
    }
}

/// What a held sync is about.
struct About {
    key: SubmitKey,
    incarnation: Incarnation,
    boot: PilotBoot,
    number: u64,
    received: Timestamp,
}

fn about_sync(event: &Event) -> Option<About> {
    match event {
        Event::Sync { request, received } => Some(About {
            key: request.submit_key.clone(),
            incarnation: request.incarnation.clone(),
            boot: request.boot.clone(),
            number: request.number,
            received: *received,
        }),
        Event::SyncPoll {
            submit_key,
            incarnation,
            boot,
            number,
            received,
        } => Some(About {
            key: submit_key.clone(),
            incarnation: incarnation.clone(),
            boot: boot.clone(),
            number: *number,
            received: *received,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use protocol::time::Span;

    use super::super::act::Act;
    use super::super::search::{Begin, Bounds};
    use super::*;

    /// Both pilots' syncs are held, and the broker is to crash over the next of them; then a request
    /// comes.
    fn doomed(breaks: Option<Break>) -> Small {
        let mut world = Small::new(&Bounds {
            begin: Begin::Waiting,
            workspaces: 1,
            faults: 1,
            depth: 0,
            horizon: Span::ZERO,
            states: 0,
            calm_one_in: 1,
            breaks,
        })
        .expect("a world");
        while world.held.len() < 2 {
            if !world.deliver_first().expect("it keeps the promises") {
                world.act(Act::Tick).expect("it keeps the promises");
            }
        }
        world.act(Act::Doom).expect("it keeps the promises");
        world.act(Act::Ask).expect("it keeps the promises");
        world
    }

    fn answers(world: &Small) -> usize {
        let answered = |m: &&Message| match &m.what {
            What::Answer { event, .. } => {
                matches!(event.as_ref(), agent::Event::SyncAnswered { .. })
            }
            What::Request { .. } => false,
        };
        world.messages.iter().filter(answered).count()
    }

    #[test]
    fn a_broker_crashes_over_the_lease_that_it_gives_in_a_held_answer() {
        let world = doomed(None);
        assert_eq!((world.records.leases.len(), answers(&world)), (1, 0));
        assert!(world.held.is_empty() && !world.doomed);
    }

    #[test]
    fn with_the_rule_broken_the_answer_is_out_and_nothing_recorded() {
        let world = doomed(Some(Break::Commit));
        assert_eq!((world.records.leases.len(), answers(&world)), (0, 1));
    }
}
