//! A small world around the broker's core: a store, LRMs, pilots with guests, a network that
//! loses, delays and repeats. All pure, on one virtual clock.
//!
//! The pilots here do what `protocol::messages` says, and no more: a guest is given up when the
//! pilot's own count of its lease runs out.
#![expect(
    clippy::needless_pass_by_value,
    reason = "events and orders are made where they are handed over"
)]

use std::collections::{BTreeMap, BTreeSet};

use broker_core::records::{EventRecord, Log, Meta};
use broker_core::{
    Broker, BrokerConfig, Caller, Effect, Event, PilotOrder, ProvisionPolicy, Records, Reply,
    SiteConfig, Step, SyncDecision,
};
use protocol::codes::{ErrorCode, Reason, ReasonCode};
use protocol::ids::{
    EventSeq, Generation, Incarnation, LrmJobId, NodeName, PilotBoot, SiteName, StateId, SubmitKey,
    UserName, WorkspaceId,
};
use protocol::lease::{EndOutcome, Goal, LeasePhase, LeaseReport, StateRef};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, ObservedJob, SubmitAnswer};
use protocol::messages::{RegisterRequest, SyncReply, SyncRequest};
use protocol::resources::Resources;
use protocol::slot::{EndSource, HostFacts, PilotPhase, SlotFacts, SlotStatus, SlotUse};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{
    AdvanceTo, Artefact, Image, OnEviction, Policy, WorkspaceSpec, WorkspaceState,
};

pub fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

pub fn ws(n: usize) -> WorkspaceId {
    WorkspaceId::new(&format!("ws-{n}")).unwrap()
}

pub fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

pub fn admin() -> Caller {
    Caller::Admin(user("root"))
}

pub const fn room(cores: u32, memory_mib: u64) -> Resources {
    Resources {
        cores,
        memory_mib,
        disk_mib: 1024,
    }
}

pub fn spec(memory_mib: u64, run: Span) -> WorkspaceSpec {
    WorkspaceSpec {
        name: "test".into(),
        image: Image {
            kernel: Some(Artefact {
                url: "/images/vmlinux".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: room(1, memory_mib),
        run_time: run,
        // So that the notice is no matter; tests of it say otherwise.
        policy: Policy {
            may_be_killed: true,
            ..Policy::default()
        },
        advance_to: AdvanceTo::Finished,
        network: Default::default(),
        context: Default::default(),
    }
}

pub fn site_config(name: &str, slot: Resources) -> SiteConfig {
    SiteConfig {
        name: site(name),
        preference: 0,
        lrm: Some("sim".into()),
        slot: Resources {
            disk_mib: 65_536,
            ..slot
        },
        walltime_min: Span::from_mins(5),
        walltime_max: Span::from_mins(60),
        notice: Span::from_secs(30),
        margin: Span::from_secs(5),
        overhead: Span::from_secs(30),
        nodes: 1,
        max_queued: 3,
        max_running: 10,
        idle_limit: Some(Span::from_mins(5)),
        enabled: true,
    }
}

pub fn config(sites: Vec<SiteConfig>) -> BrokerConfig {
    BrokerConfig {
        lease_ttl: Span::from_secs(60),
        sites,
        provision: ProvisionPolicy {
            attenuation: 1,
            ..ProvisionPolicy::default()
        },
        ..BrokerConfig::default()
    }
}

/// Starts at a round hour, so that texts are stable.
pub fn start() -> Timestamp {
    Timestamp::parse("2026-11-21T13:00:00Z").unwrap()
}

/// A job in an LRM.
#[derive(Clone, Debug)]
pub struct Job {
    pub site: SiteName,
    pub order: PilotOrder,
    pub id: LrmJobId,
    pub state: JobState,
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub restarts: u32,
}

impl Job {
    pub fn observed(&self) -> ObservedJob {
        ObservedJob {
            id: self.id.clone(),
            key: Some(self.order.key.clone()),
            state: self.state.clone(),
            detail: String::new(),
            start: self.start,
            end: self.end,
            node: self.start.map(|_| NodeName::new("node-1").unwrap()),
            restarts: self.restarts,
        }
    }
}

/// A guest under a lease, as its pilot has it.
#[derive(Clone, Debug)]
pub struct Guest {
    pub generation: Generation,
    pub phase: LeasePhase,
    /// When the pilot gives it up, by its own count.
    pub expiry: Timestamp,
    pub run: Span,
    pub need: Resources,
    pub suspends: bool,
}

impl Guest {
    /// True while a process of it may exist.
    pub fn alive(&self) -> bool {
        !matches!(self.phase, LeasePhase::Ended { .. } | LeasePhase::Staging)
    }
}

/// A pilot process.
#[derive(Clone, Debug)]
pub struct Pilot {
    pub key: SubmitKey,
    pub site: SiteName,
    pub incarnation: Incarnation,
    pub boot: PilotBoot,
    pub resources: Resources,
    pub end: Timestamp,
    pub registered: bool,
    pub gone: bool,
    pub leaving: bool,
    pub number: u64,
    pub ttl: Span,
    pub sent: Option<SyncRequest>,
    pub sent_at: Timestamp,
    pub failed_sync: bool,
    pub guests: BTreeMap<WorkspaceId, Guest>,
    pub discarded: Vec<StateId>,
    /// Of its time, what it says that guests can't use.
    pub cost: Span,
}

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

    /// Takes a submit out of the list of things to do.
    pub fn take_order(&mut self) -> Option<PilotOrder> {
        let at = (self.todo.iter()).position(|e| matches!(e, Effect::SubmitPilot(_)))?;
        match self.todo.remove(at) {
            Effect::SubmitPilot(order) => Some(order),
            Effect::LookUp { .. } | Effect::CancelPilot { .. } | Effect::Wake(_) => None,
        }
    }

    /// The LRM takes a job in.
    pub fn lrm_takes(&mut self, order: PilotOrder) -> LrmJobId {
        self.job_ids += 1;
        let id = LrmJobId::new(&self.job_ids.to_string()).unwrap();
        self.jobs.push(Job {
            site: order.site.clone(),
            order,
            id: id.clone(),
            state: JobState::Queued,
            start: None,
            end: None,
            restarts: 0,
        });
        id
    }

    /// Submits that wait are done and answered as they should be.
    pub fn honest_submits(&mut self) {
        while let Some(order) = self.take_order() {
            let key = order.key.clone();
            let id = self.lrm_takes(order);
            let answer = SubmitAnswer::Accepted(id);
            self.step(Event::LrmSubmitted { key, answer });
        }
    }

    pub fn listing(&self, name: &SiteName) -> Observation {
        let jobs = self.jobs.iter().filter(|j| j.site == *name);
        Observation::Listing(jobs.map(Job::observed).collect())
    }

    pub fn observe(&mut self, name: &str) {
        let (site, observation) = (site(name), self.listing(&site(name)));
        self.step(Event::LrmObserved { site, observation });
    }

    /// Look-ups and cancels that wait are done and answered as they should be.
    pub fn honest_rest(&mut self) {
        for effect in std::mem::take(&mut self.todo) {
            match effect {
                Effect::LookUp { key, .. } => {
                    let found = self.jobs.iter().filter(|j| j.order.key == key);
                    let observation = Observation::Listing(found.map(Job::observed).collect());
                    self.step(Event::LrmFound { key, observation });
                }
                Effect::CancelPilot { key, .. } => {
                    let job = self.jobs.iter().position(|j| j.order.key == key);
                    if let Some(job) = job {
                        self.end_job(job, JobEnd::Cancelled);
                    }
                    let answer = CancelAnswer::Taken;
                    self.step(Event::LrmCancelled { key, answer });
                }
                Effect::SubmitPilot(_) | Effect::Wake(_) => self.todo.push(effect),
            }
        }
    }

    /// The LRM ends a job: its processes are gone.
    pub fn end_job(&mut self, job: usize, end: JobEnd) {
        let key = self.jobs[job].order.key.clone();
        self.jobs[job].state = JobState::Ended(end);
        for p in self.pilots.iter_mut().filter(|p| is_of(&p.key, &key)) {
            p.gone = true;
        }
    }

    /// The LRM starts a job, and its pilots come up, one on each node. Says which is the first.
    pub fn start_job(&mut self, job: usize) -> usize {
        let now = self.now;
        let j = &mut self.jobs[job];
        j.state = JobState::Running;
        j.start = Some(now);
        j.end = Some(now + j.order.walltime);
        let (order, restarts, end) = (j.order.clone(), j.restarts, now + j.order.walltime);
        let first = self.pilots.len();
        for rank in 0..order.nodes {
            let key = match order.nodes {
                1 => order.key.clone(),
                _ => order.key.member(rank).unwrap(),
            };
            self.new_pilot(&key, &order.site, order.resources, end, restarts);
        }
        first
    }

    pub fn new_pilot(
        &mut self,
        key: &SubmitKey,
        site: &SiteName,
        resources: Resources,
        end: Timestamp,
        restarts: u32,
    ) -> usize {
        self.boots += 1;
        self.pilots.push(Pilot {
            key: key.clone(),
            site: site.clone(),
            incarnation: Incarnation::new(&format!("start-{restarts}")).unwrap(),
            boot: PilotBoot::new(&format!("boot-{}", self.boots)).unwrap(),
            resources,
            end,
            registered: false,
            gone: false,
            leaving: false,
            number: 0,
            ttl: Span::ZERO,
            sent: None,
            sent_at: self.now,
            failed_sync: false,
            guests: BTreeMap::new(),
            discarded: Vec::new(),
            cost: self.cost,
        });
        self.pilots.len() - 1
    }

    pub fn register(&mut self, pilot: usize) -> Reply {
        let p = &self.pilots[pilot];
        let request = RegisterRequest {
            version: 1,
            boot: p.boot.clone(),
            pilot_version: "0".into(),
            slot: SlotFacts {
                site: p.site.clone(),
                submit_key: p.key.clone(),
                incarnation: p.incarnation.clone(),
                lrm_job_id: None,
                node: NodeName::new("node-1").unwrap(),
                resources: p.resources,
                start: self.now,
                end: p.end,
                notice: self.terms(&p.site).notice,
                margin: self.terms(&p.site).margin,
            },
            host: HostFacts::default(),
        };
        let reply = self.step(Event::Register {
            request: Box::new(request),
        });
        let p = &mut self.pilots[pilot];
        match &reply {
            Reply::Registered(r) => {
                p.registered = true;
                p.ttl = r.lease_ttl;
            }
            Reply::Refused(_) => self.quit(pilot),
            other => panic!("register got {other:?}"),
        }
        reply
    }

    fn terms(&self, name: &SiteName) -> &SiteConfig {
        (self.config.sites.iter())
            .find(|s| s.name == *name)
            .expect("a pilot's site is configured")
    }

    /// The pilot process and its guests are gone.
    pub fn quit(&mut self, pilot: usize) {
        self.pilots[pilot].gone = true;
    }

    /// What the pilot would send now.
    pub fn request(&mut self, pilot: usize) -> SyncRequest {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        p.number += 1;
        let used = (p.guests.values())
            .filter(|g| !matches!(g.phase, LeasePhase::Ended { .. }))
            .fold(Resources::default(), |sum, g| sum.plus(&g.need));
        let phase = if p.leaving {
            PilotPhase::Leaving
        } else {
            PilotPhase::Open
        };
        let request = SyncRequest {
            version: 1,
            submit_key: p.key.clone(),
            incarnation: p.incarnation.clone(),
            boot: p.boot.clone(),
            number: p.number,
            no_hold: p.failed_sync,
            slot: SlotStatus {
                end: p.end,
                end_source: EndSource::SlotFile,
                phase,
                useful: p.end.since(now).minus(p.cost),
            },
            free: p.resources.minus(&used),
            leases: (p.guests.iter())
                .map(|(id, g)| LeaseReport {
                    workspace: id.clone(),
                    generation: g.generation,
                    phase: g.phase.clone(),
                    run: g.run,
                    console_bytes: 0,
                })
                .collect(),
            suspend_rate: None,
            events: Vec::new(),
            used: SlotUse::default(),
            discarded: std::mem::take(&mut p.discarded),
        };
        p.sent = Some(request.clone());
        p.sent_at = now;
        request
    }

    /// The broker gets a request.
    pub fn deliver(&mut self, request: SyncRequest) -> Reply {
        let received = self.now;
        self.step(Event::Sync {
            request: Box::new(request),
            received,
        })
    }

    /// The pilot gets the answer to what it sent last; to anything else it does not listen.
    pub fn answered(&mut self, pilot: usize, reply: &SyncReply) {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        if p.gone || p.sent.as_ref().is_none_or(|s| s.number != reply.number) {
            return;
        }
        let sent = p.sent.take().unwrap();
        p.failed_sync = false;
        let expiry = p.sent_at + reply.held + reply.lease_ttl;
        let reported: BTreeSet<_> = (sent.leases.iter())
            .map(|l| (l.workspace.clone(), l.generation))
            .collect();
        let wanted: BTreeMap<_, _> = (reply.leases.iter())
            .map(|l| (l.workspace.clone(), l))
            .collect();
        p.guests.retain(|id, g| {
            wanted.get(id).is_some_and(|l| l.generation == g.generation)
                || !reported.contains(&(id.clone(), g.generation))
        });
        for (id, lease) in wanted {
            if let Some(g) = p.guests.get_mut(&id) {
                if matches!(g.phase, LeasePhase::Ended { .. }) {
                    continue;
                }
                g.expiry = g.expiry.max(expiry);
                match &lease.goal {
                    Goal::Stage | Goal::Run => {}
                    Goal::Pause => g.phase = LeasePhase::Paused,
                    Goal::Suspend { reason } => {
                        let outcome =
                            suspended(&mut self.states, &id, g, &p.site, now, reason.clone());
                        g.phase = LeasePhase::Ended { outcome };
                    }
                    Goal::Stop { reason } => {
                        let outcome = EndOutcome::Killed {
                            reason: reason.clone(),
                        };
                        g.phase = LeasePhase::Ended { outcome };
                    }
                }
            } else if let Some(order) = &lease.order
                && expiry > now
            {
                if let Some(state) = &order.state {
                    assert!(
                        self.states.contains_key(&state.id),
                        "{id} is to resume from {}, which does not exist",
                        state.id
                    );
                    assert_eq!(state.site, p.site, "{id} is sent where its state is not");
                }
                p.guests.insert(
                    id.clone(),
                    Guest {
                        generation: lease.generation,
                        phase: LeasePhase::Staging,
                        expiry,
                        run: order.run,
                        need: order.spec.resources,
                        suspends: order.spec.policy.on_eviction == OnEviction::Suspend,
                    },
                );
            }
        }
        for state in &reply.discard {
            self.states.remove(state);
            p.discarded.push(state.clone());
        }
        if reply.leave.is_some() {
            self.evict(pilot, ReasonCode::Draining);
        }
        if self.pilots[pilot].leaving && sent.slot.phase == PilotPhase::Leaving {
            self.quit(pilot);
        }
    }

    /// Suspends or kills all guests and leaves.
    pub fn evict(&mut self, pilot: usize, code: ReasonCode) {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        for (id, g) in &mut p.guests {
            if matches!(g.phase, LeasePhase::Ended { .. }) {
                continue;
            }
            let reason = Reason::new(code, "has to leave");
            let outcome = match g.phase {
                LeasePhase::Staging => EndOutcome::Declined { reason },
                _ if g.suspends => suspended(&mut self.states, id, g, &p.site, now, reason),
                _ => EndOutcome::Killed { reason },
            };
            g.phase = LeasePhase::Ended { outcome };
        }
        p.leaving = true;
    }

    /// A whole sync without any trouble. None: it is being held.
    pub fn sync(&mut self, pilot: usize) -> Option<SyncReply> {
        let request = self.request(pilot);
        match self.deliver(request) {
            Reply::Sync(SyncDecision::Answer(reply)) => {
                self.answered(pilot, &reply);
                Some(*reply)
            }
            Reply::Sync(SyncDecision::Hold { .. }) => None,
            Reply::Refused(e) => {
                let fenced = e.code == ErrorCode::Fenced;
                assert!(fenced, "sync was refused: {e:?}");
                self.quit(pilot);
                None
            }
            other => panic!("sync got {other:?}"),
        }
    }

    /// Polls a held sync.
    pub fn poll(&mut self, pilot: usize) -> Option<SyncReply> {
        let p = &self.pilots[pilot];
        let sent = p.sent.as_ref()?;
        let event = Event::SyncPoll {
            submit_key: p.key.clone(),
            incarnation: p.incarnation.clone(),
            boot: p.boot.clone(),
            number: sent.number,
            received: p.sent_at,
        };
        match self.step(event) {
            Reply::Sync(SyncDecision::Answer(reply)) => {
                self.answered(pilot, &reply);
                Some(*reply)
            }
            _ => None,
        }
    }

    /// The guests of a pilot go one phase on; one whose time is used ends.
    pub fn progress(&mut self, pilot: usize, needed: &BTreeMap<WorkspaceId, Span>) {
        for (id, g) in &mut self.pilots[pilot].guests {
            let used = needed.get(id).is_some_and(|n| g.run >= *n);
            g.phase = match std::mem::replace(&mut g.phase, LeasePhase::Staged) {
                LeasePhase::Staging => LeasePhase::Booting,
                LeasePhase::Booting | LeasePhase::Resuming | LeasePhase::Staged => {
                    LeasePhase::Running
                }
                LeasePhase::Running if used => LeasePhase::Ended {
                    outcome: EndOutcome::Finished {
                        reason: Reason::new(ReasonCode::RunTimeUsed, "used its time"),
                    },
                },
                same => same,
            };
        }
    }

    /// The broker dies and another one starts from the store.
    pub fn restart_broker(&mut self) {
        self.broker = Broker::load(self.config.clone(), self.store.clone());
        self.todo.clear();
        self.woken.clear();
        self.step(Event::Started);
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

/// True for the pilot of this job, or one of its pilots.
pub fn is_of(pilot: &SubmitKey, job: &SubmitKey) -> bool {
    pilot == job || pilot.split_member().is_some_and(|(of, _)| of == *job)
}

/// Makes a state, as a pilot does.
pub fn suspended(
    states: &mut BTreeMap<StateId, Span>,
    id: &WorkspaceId,
    g: &Guest,
    site: &SiteName,
    now: Timestamp,
    reason: Reason,
) -> EndOutcome {
    let name = StateId::new(&format!("{id}.g{}", g.generation)).unwrap();
    states.insert(name.clone(), g.run);
    EndOutcome::Suspended {
        state: StateRef {
            id: name,
            manifest: "0".repeat(64),
            site: site.clone(),
            bytes: 1 << 20,
            run: g.run,
            at: now,
        },
        reason,
    }
}
