//! The broker in the simulation: its core, what its store holds, and its crashes.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::records::Meta;
use broker_core::{
    Broker, BrokerConfig, Caller, Changes, Effect, Event, Records, Reply, Step, SyncDecision,
};
use pilot_core::agent;
use protocol::codes::ErrorCode;
use protocol::ids::{Incarnation, PilotBoot, SubmitKey, WorkspaceId};
use protocol::lrm::PilotJob;
use protocol::slot_file::{BrokerAccess, HypervisorKind, HypervisorSection};
use protocol::time::{Span, Timestamp};
use protocol::workspace::WorkspaceState;

use super::lrm_side::Site;
use super::options::Violation;
use super::pilot_side::Wire;
use super::truth::PilotNumber;
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
    /// How often each pilot job was really asked for.
    pub(super) submits: BTreeMap<SubmitKey, u32>,
    /// The pilot jobs that a cancel was asked for.
    pub(super) cancels: BTreeSet<SubmitKey>,
}

/// The durable records, indexed: [`Records`] alone is too slow at this size.
pub(super) struct Store {
    all: Changes,
    meta: Meta,
}

impl Store {
    fn apply(&mut self, changes: Changes) {
        if let Some(meta) = &changes.meta {
            self.meta = meta.clone();
        }
        let mut changes = changes;
        changes.events.clear();
        self.all.merge(changes);
    }

    fn load(&self) -> Records {
        let mut records = Records::empty(self.meta.clone());
        records.workspaces = self.all.workspaces.values().cloned().collect();
        records.leases = self.all.leases.values().flatten().cloned().collect();
        records.pilots = self.all.pilots.values().cloned().collect();
        records.sites = self.all.sites.values().cloned().collect();
        records.costs = self.all.costs.values().flatten().cloned().collect();
        records.idempotency = self.all.idempotency.values().cloned().collect();
        records.discards = self.all.discards.values().flatten().cloned().collect();
        records
    }
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
            records: Store {
                all: Changes::default(),
                meta: Meta::new("sim"),
            },
            held: BTreeMap::new(),
            tick: None,
            submits: BTreeMap::new(),
            cancels: BTreeSet::new(),
        }
    }

    /// The state of a workspace by the durable records.
    pub fn state_of(&self, id: &WorkspaceId) -> Option<WorkspaceState> {
        self.records.all.workspaces.get(id).map(|w| w.state)
    }

    /// The durable record of a workspace.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<&broker_core::records::WorkspaceRecord> {
        self.records.all.workspaces.get(id)
    }
}

impl World {
    /// What the broker says on why things are as they are.
    pub(super) fn explain(&self, request: Option<&String>) -> String {
        let Some(core) = &self.broker.core else {
            return "the broker is down".into();
        };
        let admin = Caller::Admin(super::users::owner(1));
        let id = request.and_then(|r| WorkspaceId::new(r).ok());
        let of_request = id.and_then(|id| core.explain(self.now, &admin, &id));
        let of_sites =
            (self.sites.iter()).filter_map(|s| core.explain_site(self.now, &s.config.name));
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
        let core = Broker::load(self.broker.config.clone(), self.broker.records.load());
        self.broker.core = Some(core);
        self.tell(|| "broker starts".into());
        self.broker_hears(Event::Started, Sender::Nobody)
    }

    fn broker_crashes(&mut self, when: &str) {
        self.summary.broker_crashes += 1;
        self.tell(|| format!("broker crashes {when}"));
        self.broker.core = None;
        self.broker.tick = None;
        for held in std::mem::take(&mut self.broker.held).into_values() {
            self.sync_unanswered(held.pilot, &held.wire, Span::from_millis(10));
        }
        let down = self.chance.millis(100, 90_000);
        self.plan(down, Coming::BrokerStarts);
    }

    /// Something reaches the broker's port.
    pub(super) fn broker_hears(
        &mut self,
        event: Event,
        sender: Sender,
    ) -> Result<(), Box<Violation>> {
        let sender_of_poll = sender.clone();
        let Some(core) = self.broker.core.as_mut() else {
            if let Sender::Pilot(pilot, wire) = sender {
                self.sync_unanswered(pilot, &wire, Span::from_millis(10));
            }
            return Ok(());
        };
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
        } = core.step(self.now, event);
        if self.fault(1) && !changes.is_empty() {
            self.broker_crashes("before the commit");
            return Ok(());
        }
        self.check_changes(&changes)?;
        self.broker.records.apply(changes);
        if self.fault(1) {
            self.broker_crashes("after the commit");
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
            let wait = until.since(self.now) + Span::from_millis(1);
            self.broker.held.insert(key.clone(), held);
            self.plan(wait, Coming::Poll(key.clone()));
        } else {
            self.broker_answers(reply, sender_of_poll)?;
        }
        self.plan_broker_tick();
        Ok(())
    }

    fn plan_broker_tick(&mut self) {
        let Some(next) = self.broker.core.as_ref().and_then(Broker::next_wakeup) else {
            return;
        };
        if self.broker.tick.is_none_or(|t| next < t || t < self.now) {
            let at = next.max(self.now + Span::from_millis(1));
            self.broker.tick = Some(at);
            self.plan(at.since(self.now), Coming::BrokerTick);
        }
    }

    pub(super) fn broker_ticks(&mut self) -> Result<(), Box<Violation>> {
        if self.broker.tick.is_some_and(|t| t <= self.now) {
            self.broker.tick = None;
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
                if self.fault(20) {
                    self.summary.lost_messages += 1;
                    return Ok(());
                }
                self.user_hears(number, &view.id)
            }
            (Reply::Registered(reply), Sender::Pilot(pilot, wire)) => {
                self.answer_pilot(pilot, &wire, agent::Event::Registered(*reply));
                Ok(())
            }
            (Reply::Sync(SyncDecision::Answer(reply)), Sender::Pilot(pilot, wire)) => {
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
                    return Err(self.violation(&what, &[order.key.to_string()]));
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
                    return Err(self.violation(&what, &[key.to_string()]));
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
