//! The agent: one state machine for the whole slot.
//!
//! Each step takes one event, then *settles*: every lease, the slot's life and the exchange with
//! the broker are compared with what they should be now, and moved one move nearer. So a missed
//! or repeated event heals at the next step, and nothing depends on the order of events.
//!
//! ```text
//! New -> Registering -> Serving -> Leaving -> CleaningUp -> Gone
//!             |            |                      ^
//!             +------------+-- (time is up) ------+
//! ```
//! Owner: the shell's loop (`pilot::drive`), or a simulation.

mod checkpoint;
mod departure;
mod effect;
mod event;
mod exchange;
mod ladder;
mod settle;
mod stages;
mod tell;
mod want;

use std::collections::{BTreeMap, BTreeSet};

use protocol::codes::{Reason, ReasonCode, exit};
use protocol::ids::{EventSeq, PilotBoot, StateId};
use protocol::lease::EndOutcome;
use protocol::messages::{PilotEvent, RegisterReply, RegisterRequest};
use protocol::resources::Resources;
use protocol::slot::{HostFacts, PilotPhase, SlotFacts};
use protocol::time::{Mono, Span, Timestamp};

pub use effect::Effect;
pub use event::{Event, ExitHow, Signal};

use crate::deadline::{self, Plan};
use crate::guest::{Lease, LeaseKey};
use crate::lease_book::LeaseTerms;
use crate::now::Now;
use crate::rates::Rates;
use crate::settings::Settings;
use crate::slot_clock::SlotClock;
use crate::spool::Spool;
use crate::usage::Usage;

/// The pilot's mind. See the module's words.
#[derive(Clone, Debug)]
pub struct Agent {
    facts: SlotFacts,
    host: HostFacts,
    boot: PilotBoot,
    settings: Settings,
    now: Now,
    life: Life,
    clock: SlotClock,
    rates: Rates,
    leases: BTreeMap<LeaseKey, Lease>,
    spool: Spool,
    usage: Usage,
    terms: Option<LeaseTerms>,
    idle_limit: Option<Span>,
    idle_since: Mono,
    eviction: Option<Eviction>,
    next_probe: Mono,
    deadline_told: bool,
    /// Nothing new is taken before this: a guest that was ready left early, to give time back.
    closed_until: Mono,
    exchange: exchange::Exchange,
    discarding: BTreeSet<StateId>,
    discarded: BTreeSet<StateId>,
    effects: Vec<Effect>,
}

/// The pilot's own life.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Life {
    New,
    Registering {
        under_way: bool,
        attempts: u32,
        next: Mono,
    },
    Serving,
    Leaving {
        give_up_at: Mono,
        told: bool,
    },
    CleaningUp,
    Gone,
}

/// Everybody out.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Eviction {
    reason: Reason,
    /// The broker does not want anything that we have: kill, make no states.
    fenced: bool,
    /// Code of the process when all is clean.
    exit: i32,
}

impl Agent {
    /// A pilot in the slot of `facts`; `boot` tells it from other pilots of the same job.
    pub fn new(
        now: Now,
        facts: SlotFacts,
        host: HostFacts,
        boot: PilotBoot,
        settings: Settings,
    ) -> Self {
        let clock = SlotClock::new(
            now,
            facts.end,
            facts.notice,
            facts.margin,
            settings.word_stale_after,
        );
        // The slot file is new: by then the broker may have a listing with this job.
        let next_probe = now.mono
            + settings
                .probe_every
                .map_or(Span::ZERO, |every| every + every);
        Self {
            facts,
            host,
            boot,
            settings,
            now,
            life: Life::New,
            clock,
            rates: Rates::default(),
            leases: BTreeMap::new(),
            spool: Spool::default(),
            usage: Usage::new(now.mono),
            terms: None,
            idle_limit: None,
            idle_since: now.mono,
            eviction: None,
            next_probe,
            deadline_told: false,
            closed_until: Mono::default(),
            exchange: exchange::Exchange::default(),
            discarding: BTreeSet::new(),
            discarded: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// Takes an event and says what to do.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let now = Now {
            mono: now.mono.max(self.now.mono),
            wall: now.wall,
        };
        self.now = now;
        self.usage.pass(now.mono, self.leases.values());
        for lease in self.leases.values_mut() {
            lease.expired |= lease.has_guest() && now.mono >= lease.expiry;
        }
        self.take(event);
        self.settle();
        std::mem::take(&mut self.effects)
    }

    /// When to call [`Agent::step`] with [`Event::Tick`] if nothing happens before.
    pub fn next_wakeup(&self) -> Option<Mono> {
        if matches!(self.life, Life::New | Life::CleaningUp | Life::Gone) {
            return None;
        }
        let plan = self.plan();
        let mut times = vec![self.clock.vacate_at(), plan.last_kill, plan.clean_up_at];
        match &self.life {
            Life::Registering {
                under_way, next, ..
            } => times.extend((!under_way).then_some(*next)),
            Life::Serving => {
                if self.settings.probe_every.is_some() {
                    times.push(self.next_probe);
                }
                if let Some(limit) = self.idle_limit {
                    times.push(self.idle_since + limit);
                }
                times.push(self.closes_at(&plan));
                times.extend(settle::deadline_near(&plan));
            }
            Life::Leaving { give_up_at, .. } => times.push(*give_up_at),
            Life::New | Life::CleaningUp | Life::Gone => {}
        }
        times.extend(self.exchange.wakeup());
        for lease in self.leases.values() {
            self.lease_times(lease, &plan, &mut times);
        }
        times.into_iter().filter(|t| *t > self.now.mono).min()
    }

    /// What registers this slot.
    pub fn registration(&self, pilot_version: &str) -> RegisterRequest {
        RegisterRequest {
            version: protocol::WIRE_VERSION,
            boot: self.boot.clone(),
            pilot_version: pilot_version.to_owned(),
            slot: self.facts.clone(),
            host: self.host.clone(),
        }
    }

    /// The leases, for looking at.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The slot's clock, for looking at.
    pub fn clock(&self) -> &SlotClock {
        &self.clock
    }

    /// When somebody else has to end all guests here, unless a later step says otherwise: the
    /// earliest expiry of a lease with a guest. That is after the moment at which the agent gives
    /// the guest up, and before the broker, which waits a margin longer, gives the workspace away.
    /// None without such a guest; a lease that the broker has ended does not count: the others are
    /// not to die with its guest.
    pub fn fence_at(&self) -> Option<Mono> {
        let guarded = self.leases.values().filter(|l| l.has_guest() && !l.lost);
        guarded.map(|l| l.expiry).min()
    }

    /// The eviction plan as of the last step.
    pub fn plan(&self) -> Plan {
        deadline::plan(
            &self.settings,
            &self.clock,
            &self.rates,
            self.now.mono,
            self.leases.values(),
        )
    }

    /// True when the process may end.
    pub fn is_gone(&self) -> bool {
        self.life == Life::Gone
    }

    /// Where the pilot is, as it tells the broker.
    pub fn phase(&self) -> PilotPhase {
        self.phase_by(&self.plan())
    }

    /// The same, by a plan that was made already.
    fn phase_by(&self, plan: &Plan) -> PilotPhase {
        match &self.life {
            Life::Leaving { .. } | Life::CleaningUp | Life::Gone => PilotPhase::Leaving,
            Life::New | Life::Registering { .. } => PilotPhase::Open,
            Life::Serving => {
                let begin = |l: &Lease| plan.begin.get(&l.key);
                let begun = |l: &Lease| {
                    l.is_alive() && (l.due || begin(l).is_some_and(|b| *b <= self.now.mono))
                };
                if self.eviction.is_some() || self.leases.values().any(begun) {
                    PilotPhase::Evicting
                } else if self.useful(plan).is_zero() {
                    PilotPhase::Closing
                } else {
                    PilotPhase::Open
                }
            }
        }
    }

    /// What is not promised to any lease, as the broker may give it away.
    pub fn free(&self) -> Resources {
        let overhead = Resources {
            memory_mib: self.settings.guest_overhead_mib,
            ..Resources::default()
        };
        self.leases
            .values()
            .filter(|l| l.is_alive())
            .fold(self.facts.resources.minus(&overhead), |free, l| {
                free.minus(&l.spec.resources.plus(&overhead))
            })
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Started => self.on_started(),
            Event::Tick => {}
            Event::Registered(reply) => self.on_registered(&reply),
            Event::RegisterFailed { text } => self.on_register_failed(&text),
            Event::RegisterRefused { code, text } => self.on_register_refused(code, &text),
            Event::SyncAnswered { sent, reply } => self.on_answer(sent, *reply),
            Event::SyncFailed { number, text } => self.on_sync_failed(number, &text),
            Event::SyncRefused { number, code, text } => {
                self.on_sync_refused(number, code, &text);
            }
            Event::Probed(end) => self.on_probed(end),
            Event::Signal { which, from } => self.on_signal(which, &from),
            Event::Discarded { state } => {
                self.discarding.remove(&state);
                self.discarded.insert(state);
                self.exchange.news = true;
            }
            Event::DiscardFailed { state } => {
                self.discarding.remove(&state);
            }
            Event::CleanedUp { leftovers } => self.on_cleaned_up(&leftovers),
            Event::Staged { .. }
            | Event::StageFailed { .. }
            | Event::Running { .. }
            | Event::StartFailed { .. }
            | Event::Paused { .. }
            | Event::Continued { .. }
            | Event::Measured { .. }
            | Event::Console { .. }
            | Event::GuestSaid { .. }
            | Event::Suspended { .. }
            | Event::SuspendFailed { .. }
            | Event::Checkpointed { .. }
            | Event::CheckpointFailed { .. }
            | Event::GuestExited { .. } => self.on_guest(event),
        }
    }

    fn on_started(&mut self) {
        if self.life != Life::New {
            return;
        }
        self.life = Life::Registering {
            under_way: false,
            attempts: 0,
            next: self.now.mono,
        };
        let text = format!(
            "pilot started on {} with {}; the slot ends at {} with a notice of {}",
            self.facts.node, self.facts.resources, self.facts.end, self.facts.notice
        );
        self.record("slot_started", None, text, serde_json::Value::Null);
    }

    fn on_probed(&mut self, end: Option<Timestamp>) {
        if let Some(end) = end {
            self.hear(protocol::slot::EndSource::Probe, end);
        }
    }

    fn hear(&mut self, source: protocol::slot::EndSource, told: Timestamp) {
        if told <= self.facts.start {
            return; // `0`, or another job's: no end of this slot
        }
        let before = self.clock.end().0;
        if self.clock.hear(self.now, source, told) {
            let (end, _) = self.clock.end();
            if end > before {
                self.deadline_told = false;
                for lease in self.leases.values_mut() {
                    lease.due = false;
                }
            }
            if end != before {
                let text = format!("the slot's end moved from {before} to {end}");
                let data = serde_json::json!({"from": before, "to": end, "source": source});
                self.record("slot_end_moved", None, text, data);
            }
        }
    }

    fn on_signal(&mut self, which: Signal, from: &str) {
        match which {
            Signal::Hup => {}
            Signal::Cont => self.next_probe = self.now.mono,
            Signal::Term | Signal::Int | Signal::Usr1 | Signal::Usr2 | Signal::Xcpu => {
                let left = self.clock.end_at().since(self.now.mono);
                let moved = self.clock.signal(self.now);
                if self.eviction.is_none() || moved {
                    let text = format!(
                        "{} from {from}: everything here has to be gone in {}",
                        which.as_str(),
                        self.clock.kill_at().since(self.now.mono)
                    );
                    let data = serde_json::json!({"signal": which.as_str(), "from": from});
                    self.record("signal_received", None, text, data);
                }
                let reason = if left > self.clock.margin() {
                    Reason::new(
                        ReasonCode::Preempted,
                        format!(
                            "the batch system sent {} with {left} of the slot left",
                            which.as_str()
                        ),
                    )
                } else {
                    Reason::new(
                        ReasonCode::SlotEnding,
                        format!("the batch system sent {} at the slot's end", which.as_str()),
                    )
                };
                self.evict(reason, false, exit::OK);
            }
        }
    }

    /// Everybody out, from now on. The first reason stays; a fence makes it harder.
    fn evict(&mut self, reason: Reason, fenced: bool, exit: i32) {
        match &mut self.eviction {
            None => {
                self.eviction = Some(Eviction {
                    reason,
                    fenced,
                    exit,
                });
                self.exchange.news = true;
            }
            Some(e) if fenced && !e.fenced => {
                *e = Eviction {
                    reason,
                    fenced,
                    exit,
                };
            }
            Some(_) => {}
        }
    }

    fn on_cleaned_up(&mut self, leftovers: &[String]) {
        if self.life != Life::CleaningUp {
            return;
        }
        let mut leases = std::mem::take(&mut self.leases);
        for lease in leases.values_mut().filter(|l| l.is_alive()) {
            let outcome = EndOutcome::Killed {
                reason: self.eviction_reason(),
            };
            self.end(lease, outcome);
        }
        self.leases = leases;
        self.life = Life::Gone;
        let reason = self.eviction_reason();
        let code = if leftovers.is_empty() {
            self.eviction.as_ref().map_or(exit::OK, |e| e.exit)
        } else {
            let text = format!("could not be removed: {}", leftovers.join(", "));
            let data = serde_json::json!({"leftovers": leftovers});
            self.record("leftovers", None, text, data);
            exit::LEFTOVERS
        };
        self.effects.push(Effect::Exit { code, reason });
    }

    fn record(
        &mut self,
        kind: &str,
        lease: Option<&LeaseKey>,
        text: String,
        data: serde_json::Value,
    ) {
        let event = self.spool.push(PilotEvent {
            seq: EventSeq(0),
            at: self.now.wall,
            kind: kind.to_owned(),
            workspace: lease.map(|l| l.workspace.clone()),
            generation: lease.map(|l| l.generation),
            text,
            data,
        });
        self.effects.push(Effect::Record(event));
        self.exchange.news = true;
    }

    fn registered_terms(&mut self, reply: &RegisterReply) {
        self.terms = Some(LeaseTerms {
            ttl: reply.lease_ttl,
            hold: reply.hold,
            contact: self.now.mono,
        });
        self.idle_limit = reply.idle_limit;
    }
}
