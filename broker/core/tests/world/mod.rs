//! A small world around the broker's core: a store, LRMs, pilots with guests, a network that
//! loses, delays and repeats. All pure, on one virtual clock.
//!
//! The pilots here do what `protocol::messages` says, and no more: a guest is given up when the
//! pilot's own count of its lease runs out.
#![expect(
    clippy::needless_pass_by_value,
    reason = "events and orders are made where they are handed over"
)]

mod exchange;
pub mod lrm;
mod pilots;
mod specs;

use std::collections::{BTreeMap, BTreeSet};

use broker_core::records::{EventRecord, Log, Meta};
use broker_core::{Broker, BrokerConfig, Effect, Event, Records, Reply, SiteConfig, Step};
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{EventSeq, SiteName, StateId, SubmitKey, WorkspaceId};
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::lrm::SubmitAnswer;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

pub use lrm::Job;
pub use pilots::{Guest, Pilot, suspended};
pub use specs::{admin, config, room, site, site_config, spec, start, user, ws};

/// Everything.
#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    pub config: BrokerConfig,
    pub broker: Broker,
    pub store: Records,
    pub events: Vec<EventRecord>,
    pub last_seq: BTreeMap<Log, EventSeq>,
    pub accepted: BTreeSet<WorkspaceId>,
    pub finals: BTreeMap<WorkspaceId, WorkspaceState>,
    pub submitted: BTreeSet<SubmitKey>,
    pub todo: Vec<Effect>,
    pub woken: BTreeSet<SubmitKey>,
    pub jobs: Vec<Job>,
    pub pilots: Vec<Pilot>,
    /// States that exist, by id, with the run time in them.
    pub states: BTreeMap<StateId, Span>,
    pub made: usize,
    pub boots: usize,
    pub job_ids: usize,
    /// Compare every step with that of a broker that was just loaded from the store.
    pub twin: bool,
    /// Check everything after each step; else only what is cheap.
    pub strict: bool,
    /// What new pilots say that guests can't use of their time.
    pub cost: Span,
    /// Where pilots register, and the file system of the store there.
    pub node: String,
    pub filesystem: String,
}

impl World {
    pub fn new(config: BrokerConfig) -> Self {
        let store = Records::empty(Meta::new("t"));
        Self {
            now: start(),
            broker: Broker::load(config.clone(), store.clone()),
            config,
            store,
            events: Vec::new(),
            last_seq: BTreeMap::new(),
            accepted: BTreeSet::new(),
            finals: BTreeMap::new(),
            submitted: BTreeSet::new(),
            todo: Vec::new(),
            woken: BTreeSet::new(),
            jobs: Vec::new(),
            pilots: Vec::new(),
            states: BTreeMap::new(),
            made: 0,
            boots: 0,
            job_ids: 0,
            twin: true,
            strict: true,
            cost: Span::from_secs(90),
            node: "node-1".to_owned(),
            filesystem: "/shared nfs4 server:/export".to_owned(),
        }
    }

    /// One step of the broker, committed, and everything checked that must always hold.
    pub fn step(&mut self, event: Event) -> Reply {
        let twin = self
            .twin
            .then(|| Broker::load(self.config.clone(), self.store.clone()));
        let step = self.broker.step(self.now, event.clone());
        if let Some(mut twin) = twin {
            let other = twin.step(self.now, event.clone());
            assert_eq!(
                step, other,
                "a restart before {event:?} changes what it does"
            );
        }
        let Step {
            changes,
            effects,
            reply,
        } = step;
        if matches!(reply, Reply::Refused(_)) {
            assert!(
                changes.is_empty(),
                "{event:?} was refused and changed {changes:?}"
            );
        }
        self.store.apply(&changes);
        for e in changes.events {
            let seq = self.last_seq.entry(e.log.clone()).or_default();
            assert_eq!(e.seq, seq.next(), "gap in the log of {:?}", e.log);
            *seq = e.seq;
            if let (Log::Workspace(id), Some(state)) = (&e.log, e.state) {
                let before = self.finals.get(id);
                assert_eq!(before, None, "{id} left its final state for {state}");
                if state.is_final() {
                    self.finals.insert(id.clone(), state);
                }
            }
            self.events.push(e);
        }
        for id in changes.forgotten.workspaces {
            assert!(self.finals.contains_key(&id), "{id} is forgotten and open");
            self.accepted.remove(&id);
        }
        for effect in effects {
            match effect {
                Effect::SubmitPilot(order) => {
                    assert!(
                        self.submitted.insert(order.key.clone()),
                        "{} is submitted twice",
                        order.key
                    );
                    self.todo.push(Effect::SubmitPilot(order));
                }
                Effect::Wake(keys) => self.woken.extend(keys),
                Effect::LookUp { .. } | Effect::CancelPilot { .. } => self.todo.push(effect),
            }
        }
        self.nothing_runs_twice();
        if !self.strict {
            return reply;
        }
        if let Err(broken) = self.broker.check() {
            panic!("after {event:?}: {broken}");
        }
        let records = self.broker.records();
        let mut stored = self.store.clone();
        stored.workspaces.sort_by(|a, b| a.id.cmp(&b.id));
        stored.leases.sort_by(|a, b| a.workspace.cmp(&b.workspace));
        stored.pilots.sort_by(|a, b| a.key.cmp(&b.key));
        stored.sites.sort_by(|a, b| a.name.cmp(&b.name));
        (stored.costs).sort_by(|a, b| (&a.site, &a.node).cmp(&(&b.site, &b.node)));
        (stored.idempotency).sort_by(|a, b| (&a.owner, &a.key).cmp(&(&b.owner, &b.key)));
        stored.discards.sort_by(|a, b| a.state.cmp(&b.state));
        assert_eq!(records, stored, "after {event:?}: not all was written");
        for id in &self.accepted {
            assert!(
                self.broker.workspace(&admin(), id).is_some(),
                "{id} was accepted and is lost"
            );
        }
        reply
    }

    pub fn nothing_runs_twice(&self) {
        let mut seen = BTreeMap::new();
        for p in self.pilots.iter().filter(|p| !p.gone) {
            for (id, g) in p.guests.iter().filter(|(_, g)| g.alive()) {
                if let Some(other) = seen.insert(id, (&p.key, &p.boot, g.generation)) {
                    panic!(
                        "{id} runs in {} under lease {} and in {other:?}",
                        p.key, g.generation
                    );
                }
            }
        }
    }

    /// Time passes; pilots give up what they could not renew.
    pub fn pass(&mut self, span: Span) {
        self.now = self.now + span;
        let (now, states) = (self.now, &mut self.states);
        for p in self.pilots.iter_mut().filter(|p| !p.gone) {
            for (id, g) in &mut p.guests {
                if g.phase == LeasePhase::Running {
                    g.run += span;
                }
                if g.expiry <= now && !matches!(g.phase, LeasePhase::Ended { .. }) {
                    let reason = Reason::new(ReasonCode::LeaseExpired, "could not renew");
                    let outcome = match g.phase {
                        LeasePhase::Running if g.suspends => {
                            suspended(states, id, g, &p.site, now, reason)
                        }
                        _ => EndOutcome::Killed { reason },
                    };
                    g.phase = LeasePhase::Ended { outcome };
                }
            }
        }
    }

    /// Time passes and the broker's timer fires where it asked for it.
    pub fn pass_ticking(&mut self, span: Span) {
        let to = self.now + span;
        while let Some(at) = self.broker.next_wakeup().filter(|at| *at < to) {
            self.pass(at.since(self.now).max(Span::from_millis(1)));
            self.step(Event::Tick);
        }
        self.pass(to.since(self.now));
        self.step(Event::Tick);
    }

    pub fn submit(&mut self, owner: &str, spec: WorkspaceSpec) -> WorkspaceId {
        self.made += 1;
        let id = ws(self.made);
        let reply = self.step(Event::Submit {
            id: id.clone(),
            owner: user(owner),
            key: None,
            spec: Box::new(spec),
        });
        assert!(matches!(reply, Reply::Workspace(_)), "{reply:?}");
        self.accepted.insert(id.clone());
        id
    }

    pub fn state(&self, id: &WorkspaceId) -> WorkspaceState {
        self.broker.workspace(&admin(), id).unwrap().state
    }

    pub fn reason(&self, id: &WorkspaceId) -> ReasonCode {
        let view = self.broker.workspace(&admin(), id).unwrap();
        view.reason.unwrap().code
    }

    pub fn terms(&self, name: &SiteName) -> &SiteConfig {
        (self.config.sites.iter())
            .find(|s| s.name == *name)
            .expect("a pilot's site is configured")
    }

    /// The broker dies and another one starts from the store.
    pub fn restart_broker(&mut self) {
        self.broker = Broker::load(self.config.clone(), self.store.clone());
        self.todo.clear();
        self.woken.clear();
        self.step(Event::Started);
    }

    /// The clock of the broker's host is set back.
    pub fn set_clock_back(&mut self, by: Span) {
        self.now = self.now.before(by);
    }

    /// Brings a pilot up for the next order, registered and synced once.
    pub fn pilot_up(&mut self) -> usize {
        let order = self.take_order().expect("no pilot was submitted");
        let key = order.key.clone();
        let id = self.lrm_takes(order);
        let answer = SubmitAnswer::Accepted(id);
        self.step(Event::LrmSubmitted { key, answer });
        let pilot = self.start_job(self.jobs.len() - 1);
        self.register(pilot);
        self.sync(pilot);
        pilot
    }
}
