//! The broker in the simulation: its core, what its store holds, and its crashes.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::records::Log;
use broker_core::{Broker, BrokerConfig, Changes, Effect, Event, Reply, Step, SyncDecision};
use pilot_core::agent;
use protocol::codes::ErrorCode;
use protocol::ids::{Incarnation, PilotBoot, SubmitKey, WorkspaceId};
use protocol::lrm::PilotJob;
use protocol::slot_file::{BrokerAccess, HypervisorKind, HypervisorSection};
use protocol::time::{Span, Timestamp};
use protocol::workspace::WorkspaceState;

use super::fault::Fault;
use super::lrm_side::Site;
use super::options::{Break, Promise, Violation};
use super::store::Store;
use super::truth::PilotNumber;
use super::wire::Wire;
use super::world::{Coming, Command, Sender, World};

/// A sync whose answer is held back.
#[derive(Clone, Debug)]
struct Held {
    pilot: PilotNumber,
    wire: Wire,
    incarnation: Incarnation,
    boot: PilotBoot,
    number: u64,
    received: Timestamp,
}

/// The broker's process and its store.
pub struct BrokerSide {
    config: BrokerConfig,
    /// None while it is down.
    core: Option<Broker>,
    /// What is durable.
    pub(super) records: Store,
    held: BTreeMap<SubmitKey, Held>,
    tick: Option<Timestamp>,
    /// The next step that changes something is its last.
    doomed: bool,
    /// When it came up.
    pub(super) up_since: Timestamp,
    /// How much its clock is ahead; read anew at each start.
    ahead_ms: i64,
    /// How often each pilot job was really asked for.
    pub(super) submits: BTreeMap<SubmitKey, u32>,
    /// The pilot jobs that a cancel was asked for.
    pub(super) cancels: BTreeSet<SubmitKey>,
}

impl BrokerSide {
    /// A broker for these sites; not started. Half of the seeds have leases so short that every
    /// loss of contact is a case for the fence.
    pub fn new(sites: &[Site], seed: u64) -> Self {
        let lease_ttl = if (seed / 4).is_multiple_of(2) {
            Span::from_secs(60)
        } else {
            Span::from_mins(5)
        };
        let config = BrokerConfig {
            lease_ttl,
            sites: sites.iter().map(|s| s.config.clone()).collect(),
            ..BrokerConfig::default()
        };
        Self {
            config,
            core: None,
            records: Store::new(),
            held: BTreeMap::new(),
            tick: None,
            doomed: false,
            up_since: Timestamp::default(),
            ahead_ms: 0,
            submits: BTreeMap::new(),
            cancels: BTreeSet::new(),
        }
    }

    /// True while its process runs.
    pub(super) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// How long a lease lives in the broker after the last word of its pilot.
    pub(super) fn lease_life(&self) -> Span {
        self.config.lease_ttl + self.config.lease_margin
    }

    /// What is left of a lease at least while its pilot and the broker hear each other: a sync is
    /// held for a while, and its answer takes a moment.
    pub(super) fn least_left(&self) -> Span {
        let third = Span::from_millis(self.config.lease_ttl.as_millis() / 3);
        let held = self.config.hold.min(third) + Span::from_secs(3);
        self.config.lease_ttl.minus(held)
    }

    /// A point of the world's time on the broker's clock.
    fn clock(&self, world: Timestamp) -> Timestamp {
        Timestamp::from_millis(world.as_millis() + self.ahead_ms)
    }

    /// A point of the broker's clock in the world's time.
    fn world(&self, clock: Timestamp) -> Timestamp {
        Timestamp::from_millis(clock.as_millis() - self.ahead_ms)
    }

    /// The state of a workspace by the durable records.
    pub fn state_of(&self, id: &WorkspaceId) -> Option<WorkspaceState> {
        self.workspace(id).map(|w| w.state)
    }

    /// The durable record of a workspace.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<&broker_core::records::WorkspaceRecord> {
        self.records.workspace(id)
    }
}

impl World {
    /// What the broker says on why things are as they are.
    pub(super) fn explain(&self, request: Option<&String>) -> String {
        let Some(core) = &self.broker.core else {
            return "the broker is down".into();
        };
        let admin = super::users::administrator();
        let id = request.and_then(|r| WorkspaceId::new(r).ok());
        let of_request = id.and_then(|id| core.explain(self.broker.clock(self.now), &admin, &id));
        let of_sites = (self.sites.iter())
            .filter_map(|s| core.explain_site(self.broker.clock(self.now), &s.config.name));
        let lrm = (self.sites.iter()).flat_map(|s| {
            let jobs = (s.model.jobs())
                .filter(|j| !j.is_over())
                .map(|j| format!("job {} {:?} {:?}", j.number, j.request.key, j.phase));
            let nodes = (s.model.nodes())
                .map(|n| format!("node {} {:?}, used {}", n.name, n.state, n.used));
            jobs.chain(nodes).collect::<Vec<_>>()
        });
        of_sites
            .chain(of_request)
            .flat_map(|e| e.sentences)
            .chain(lrm)
            .map(|line| format!("  {line}\n"))
            .collect()
    }

    pub(super) fn broker_starts(&mut self) -> Result<(), Box<Violation>> {
        if self.summary.steps > 1 && self.fault(Fault::BrokerClockJump, 200) {
            let by = i64::try_from(self.chance.between(0, 1_800_000)).unwrap_or(0) - 900_000;
            self.broker.ahead_ms += by;
            self.tell(|| format!("the clock of the broker's host jumps by {by} ms"));
        }
        let core = Broker::load(self.broker.config.clone(), self.broker.records.load());
        self.broker.core = Some(core);
        self.broker.up_since = self.now;
        self.tell(|| "the broker starts".into());
        self.broker_hears(Event::Started, Sender::Nobody)
    }

    /// Plans the next crash of the broker.
    pub(super) fn plan_broker_failure(&mut self) {
        let usual = self.chance.millis(60_000, 1_500_000).as_millis() * 100;
        if let Some(after) = usual.checked_div(self.options.faults) {
            self.plan(Span::from_millis(after), Coming::BrokerFails);
        }
    }

    pub(super) fn broker_fails(&mut self) {
        self.broker.doomed = true;
        self.plan_broker_failure();
    }

    fn broker_crashes(&mut self, fault: Fault) {
        self.summary.faults.count(fault);
        self.broker.doomed = false;
        self.broker.core = None;
        self.broker.tick = None;
        for held in std::mem::take(&mut self.broker.held).into_values() {
            self.sync_unanswered(held.pilot, &held.wire, Span::from_millis(10));
        }
        let down = if self.fault(Fault::BrokerAway, 150) {
            self.chance.millis(120_000, 900_000)
        } else {
            self.chance.millis(100, 90_000)
        };
        self.tell(|| format!("the broker crashes, and is away for {down}"));
        self.plan(down, Coming::BrokerStarts);
    }

    /// Something reaches the broker's port.
    pub(super) fn broker_hears(
        &mut self,
        event: Event,
        sender: Sender,
    ) -> Result<(), Box<Violation>> {
        let sender_of_poll = sender.clone();
        let now = self.broker.clock(self.now);
        let Some(core) = self.broker.core.as_mut() else {
            if let Sender::Pilot(pilot, wire) = sender {
                self.sync_unanswered(pilot, &wire, Span::from_millis(10));
            }
            return Ok(());
        };
        let mut event = event;
        if let Event::Sync { received, .. } = &mut event {
            *received = now;
        }
        let held_info = match &event {
            Event::Sync { request, received } => Some((
                request.submit_key.clone(),
                request.incarnation.clone(),
                request.boot.clone(),
                request.number,
                *received,
            )),
            Event::SyncPoll {
                submit_key,
                incarnation,
                boot,
                number,
                received,
            } => Some((
                submit_key.clone(),
                incarnation.clone(),
                boot.clone(),
                *number,
                *received,
            )),
            _ => None,
        };
        let Step {
            changes,
            effects,
            reply,
        } = core.step(now, event);
        let crash = self.broker.doomed && !changes.is_empty();
        let before = crash && self.chance.happens(500, 100);
        if before {
            self.broker_crashes(Fault::CrashBeforeCommit);
            if self.breaks(Break::Commit) {
                return self.broker_answers(reply, sender_of_poll);
            }
            return Ok(());
        }
        self.check_changes(&changes)?;
        self.take_changes(changes);
        if crash {
            self.broker_crashes(Fault::CrashAfterCommit);
            return Ok(());
        }
        for effect in effects {
            self.broker_wants(effect)?;
        }
        if let (
            Reply::Sync(SyncDecision::Hold { until }),
            Some((key, incarnation, boot, number, received)),
            Sender::Pilot(pilot, wire),
        ) = (&reply, &held_info, &sender_of_poll)
        {
            let held = Held {
                pilot: *pilot,
                wire: wire.clone(),
                incarnation: incarnation.clone(),
                boot: boot.clone(),
                number: *number,
                received: *received,
            };
            let wait = until.since(now) + Span::from_millis(1);
            self.broker.held.insert(key.clone(), held);
            self.plan(wait, Coming::Poll(key.clone()));
        } else {
            self.broker_answers(reply, sender_of_poll)?;
        }
        self.plan_broker_tick();
        Ok(())
    }

    /// Makes the changes durable, and tells the story by the events that are recorded with them.
    fn take_changes(&mut self, changes: Changes) {
        for event in &changes.events {
            let of = match &event.log {
                Log::Workspace(id) => id.as_str(),
                Log::Pilot(key) => key.as_str(),
            };
            let line = format!("broker [{of}] {}: {}", event.kind, event.text);
            self.story.tell(self.now, line);
        }
        for (id, w) in &changes.workspaces {
            if w.state.is_final() {
                self.users.open.remove(id);
            }
        }
        self.broker.records.apply(changes);
    }

    fn plan_broker_tick(&mut self) {
        let Some(next) = self.broker.core.as_ref().and_then(Broker::next_wakeup) else {
            return;
        };
        let next = self.broker.world(next);
        if self.broker.tick.is_none_or(|t| next < t || t < self.now) {
            let at = next.max(self.now + Span::from_millis(1));
            self.broker.tick = Some(at);
            self.plan(at.since(self.now), Coming::BrokerTick);
        }
    }

    pub(super) fn broker_ticks(&mut self) -> Result<(), Box<Violation>> {
        if self.broker.tick.is_some_and(|t| t <= self.now) {
            self.broker.tick = None;
            if self.breaks(Break::Expiry) {
                return Ok(());
            }
            return self.broker_hears(Event::Tick, Sender::Nobody);
        }
        Ok(())
    }

    pub(super) fn broker_polls(&mut self, key: &SubmitKey) -> Result<(), Box<Violation>> {
        let Some(held) = self.broker.held.remove(key) else {
            return Ok(());
        };
        let event = Event::SyncPoll {
            submit_key: key.clone(),
            incarnation: held.incarnation,
            boot: held.boot,
            number: held.number,
            received: held.received,
        };
        self.broker_hears(event, Sender::Pilot(held.pilot, held.wire))
    }

    fn broker_answers(&mut self, reply: Reply, sender: Sender) -> Result<(), Box<Violation>> {
        match (reply, sender) {
            (Reply::Workspace(view), Sender::User(number)) => {
                if self.fault(Fault::UserAnswerLost, 20) {
                    return Ok(());
                }
                self.user_hears(number, &view.id)
            }
            (Reply::Registered(reply), Sender::Pilot(pilot, wire)) => {
                self.answer_pilot(pilot, &wire, agent::Event::Registered(*reply));
                Ok(())
            }
            (Reply::Sync(SyncDecision::Answer(mut reply)), Sender::Pilot(pilot, wire)) => {
                if self.breaks(Break::Fencing) {
                    reply.lease_ttl = reply.lease_ttl.times(8);
                }
                if self.breaks(Break::Signals) {
                    reply.slot_end = None;
                }
                let event = agent::Event::SyncAnswered {
                    sent: wire.sent,
                    reply,
                };
                self.answer_pilot(pilot, &wire, event);
                Ok(())
            }
            (Reply::Refused(body), Sender::Pilot(pilot, wire)) => {
                self.tell(|| format!("broker refuses pilot {pilot}: {}", body.detail));
                let event = wire.refused(body.code, body.detail);
                self.answer_pilot(pilot, &wire, event);
                Ok(())
            }
            (Reply::Refused(body), Sender::User(number)) => {
                if body.code == ErrorCode::Unavailable {
                    return Ok(());
                }
                Err(self.violation(
                    Promise::Kept,
                    &format!("request {number} was refused: {}", body.detail),
                    &[],
                ))
            }
            (
                Reply::None
                | Reply::Workspace(_)
                | Reply::Site(_)
                | Reply::HandPilot { .. }
                | Reply::Forgotten { .. },
                _,
            )
            | (Reply::Registered(_) | Reply::Sync(_), Sender::Nobody | Sender::User(_))
            | (Reply::Sync(SyncDecision::Hold { .. }), _)
            | (Reply::Refused(_), Sender::Nobody) => Ok(()),
        }
    }

    fn broker_wants(&mut self, effect: Effect) -> Result<(), Box<Violation>> {
        match effect {
            Effect::SubmitPilot(order) => {
                let times = self.broker.submits.entry(order.key.clone()).or_default();
                *times += 1;
                if *times > 1 {
                    let what = format!("pilot job {} was submitted twice", order.key);
                    return Err(self.violation(Promise::Polite, &what, &[order.key.to_string()]));
                }
                let Some(site) = self.site_number(&order.site) else {
                    return Ok(());
                };
                let config = &self.sites[site].config;
                let job = PilotJob {
                    key: order.key,
                    site: order.site,
                    program: "/opt/pilot".into(),
                    directory: "/var/pilot".into(),
                    nodes: order.nodes,
                    resources: order.resources,
                    walltime: order.walltime,
                    min_walltime: Some(order.min_walltime),
                    notice: config.notice,
                    margin: config.margin,
                    broker: BrokerAccess {
                        url: "http://broker".into(),
                        token_file: "/t".into(),
                        ca_file: None,
                    },
                    hypervisor: HypervisorSection {
                        kind: HypervisorKind::Null,
                        accelerator: None,
                        binary: None,
                        machine: None,
                        cpu: None,
                    },
                    scratch: "/scratch".into(),
                    store: "/store".into(),
                    avoid: order.avoid,
                };
                let after = self.chance.millis(20, 900);
                self.plan(after, Coming::Command(site, Command::Submit(Box::new(job))));
            }
            Effect::LookUp { site, key } => {
                let Some(site) = self.site_number(&site) else {
                    return Ok(());
                };
                let after = self.chance.millis(20, 500);
                self.plan(after, Coming::Command(site, Command::LookUp(key)));
            }
            Effect::CancelPilot {
                site,
                key,
                job,
                scope,
            } => {
                let first = self.broker.cancels.insert(key.clone());
                if !first && self.options.faults == 0 {
                    let what = format!("pilot job {key} was cancelled twice");
                    return Err(self.violation(Promise::Polite, &what, &[key.to_string()]));
                }
                let Some(site) = self.site_number(&site) else {
                    return Ok(());
                };
                let after = self.chance.millis(20, 500);
                self.plan(
                    after,
                    Coming::Command(site, Command::Cancel(key, job, scope)),
                );
            }
            Effect::Wake(keys) => {
                for key in keys {
                    self.plan(Span::from_millis(1), Coming::Poll(key));
                }
            }
        }
        Ok(())
    }
}
