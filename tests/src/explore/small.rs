//! A small world: its machines, what is under way between them, and what is really there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use broker_core::records::{Log, Meta};
use broker_core::{
    Broker, BrokerConfig, Caller, Changes, Event, ProvisionPolicy, Records, Reply, SiteConfig,
};
use pilot_core::agent::Agent;
use pilot_core::guest::LeaseKey;
use protocol::ids::{SiteName, StateId, SubmitKey, UserName, WorkspaceId};
use protocol::resources::Resources;
use protocol::time::{Mono, Span, Timestamp};
use protocol::workspace::{Artefact, Image, OnEviction, Policy, WorkspaceSpec};

use super::messages::{Held, Message};
use super::search::{Begin, Bounds};
use crate::simulation::Break;

/// When it begins.
pub(super) const BEGIN: Timestamp = Timestamp::from_secs(1_800_000_000);
/// How long a lease lives: short, so that few steps lead to its end.
const TTL: Span = Span::from_secs(20);

/// A pilot process.
#[derive(Clone, Debug)]
pub(super) struct Pilot {
    /// None once it is gone.
    pub agent: Option<Agent>,
    /// Its pilot job.
    pub key: SubmitKey,
    /// It hangs; its warden ends its guests then.
    pub hangs: Option<Option<Mono>>,
    /// A later start of its job is there.
    pub replaced: bool,
}

/// A suspend under way.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub pilot: usize,
    pub lease: LeaseKey,
    pub state: StateId,
    /// It takes so long that time passes.
    pub late: bool,
}

/// What a promise that was broken says.
pub(super) type Checked = Result<(), String>;

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Small {
    pub now: Timestamp,
    pub broker: Broker,
    /// What is durable.
    pub records: Records,
    pub pilots: Vec<Pilot>,
    pub messages: Vec<Message>,
    pub held: BTreeMap<SubmitKey, Held>,
    pub writing: Vec<Writing>,
    /// The guests that exist.
    pub guests: BTreeSet<(usize, LeaseKey)>,
    /// The states in the store.
    pub states: BTreeSet<StateId>,
    /// Requests that were accepted.
    pub accepted: Vec<WorkspaceId>,
    /// So many requests are still to be made.
    pub to_come: u32,
    /// The broker crashes over the next answer it has held back that changes something.
    pub doomed: bool,
    /// So many things may still go wrong.
    pub faults_left: u32,
    /// A rule that is broken on purpose.
    pub breaks: Option<Break>,
    /// What happened, when somebody wants to know.
    pub log: Option<Vec<String>>,
}

pub(super) fn admin() -> Caller {
    Caller::Admin(UserName::new("root").expect("a user name"))
}

pub(super) fn site() -> SiteName {
    SiteName::new("lab").expect("a site name")
}

pub(super) fn room() -> Resources {
    Resources {
        cores: 2,
        memory_mib: 2048,
        disk_mib: 10_000,
    }
}

pub(super) fn config() -> BrokerConfig {
    BrokerConfig {
        lease_ttl: TTL,
        hold: Span::from_secs(6),
        lease_margin: Span::from_secs(5),
        sites: vec![SiteConfig {
            name: site(),
            preference: 0,
            lrm: None,
            slot: room(),
            nodes: 1,
            walltime_min: Span::from_mins(10),
            walltime_max: Span::from_mins(60),
            notice: Span::from_secs(30),
            margin: Span::from_secs(2),
            overhead: Span::from_secs(1),
            max_queued: 2,
            max_running: 2,
            idle_limit: None,
            enabled: true,
        }],
        provision: ProvisionPolicy {
            round: Span::from_mins(10),
            ..ProvisionPolicy::default()
        },
        ..BrokerConfig::default()
    }
}

fn spec() -> WorkspaceSpec {
    WorkspaceSpec {
        name: "small".into(),
        image: Image {
            kernel: Some(Artefact {
                url: "/images/vmlinux".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib: 256,
            disk_mib: 1024,
        },
        run_time: Span::from_mins(2),
        policy: Policy {
            on_eviction: OnEviction::Suspend,
            max_suspends: 50,
            max_restarts: 50,
            may_be_killed: true,
            checkpoint_every: None,
        },
        advance_to: protocol::workspace::AdvanceTo::default(),
        network: protocol::workspace::Network::default(),
        context: protocol::workspace::Context::default(),
    }
}

impl Small {
    /// Two pilots have registered. The requests are accepted and their guests run, or they are
    /// still to come.
    pub(super) fn new(bounds: &Bounds) -> Result<Self, String> {
        let records = Records::empty(Meta::new("small"));
        let mut world = Self {
            now: BEGIN,
            broker: Broker::load(config(), records.clone()),
            records,
            pilots: Vec::new(),
            messages: Vec::new(),
            held: BTreeMap::new(),
            writing: Vec::new(),
            guests: BTreeSet::new(),
            states: BTreeSet::new(),
            accepted: Vec::new(),
            to_come: bounds.workspaces,
            doomed: false,
            faults_left: bounds.faults,
            breaks: bounds.breaks,
            log: None,
        };
        world.broker_step(Event::Started, None)?;
        if bounds.begin == Begin::Running {
            world.ask_all()?;
        }
        for _ in 0..2 {
            world.announce_pilot()?;
            while world.deliver_first()? {}
        }
        Ok(world)
    }

    /// A user makes the next request.
    pub(super) fn ask(&mut self) -> Checked {
        self.to_come -= 1;
        let id = WorkspaceId::new(&format!("ws-{}", self.accepted.len())).expect("an id");
        self.accepted.push(id.clone());
        let event = Event::Submit {
            id,
            owner: UserName::new("ada").expect("a user name"),
            key: None,
            spec: Box::new(spec()),
        };
        self.broker_step(event, None)
    }

    /// All requests that are still to be made are made.
    pub(super) fn ask_all(&mut self) -> Checked {
        (0..self.to_come).try_for_each(|_| self.ask())
    }

    /// An administrator starts a pilot by hand.
    pub(super) fn announce_pilot(&mut self) -> Checked {
        let step = self.broker.step(
            self.now,
            Event::HandPilot {
                site: site(),
                by: admin(),
            },
        );
        self.commit(&step.changes)?;
        let Reply::HandPilot { key } = step.reply else {
            return Err("no pilot may be started by hand".into());
        };
        self.pilot_lands(key)
    }

    /// Makes changes durable, and checks that they keep what was promised.
    pub(super) fn commit(&mut self, changes: &Changes) -> Checked {
        for event in &changes.events {
            let of = match &event.log {
                Log::Workspace(id) => id.to_string(),
                Log::Pilot(key) => key.to_string(),
            };
            self.tell(|| format!("broker [{of}] {}: {}", event.kind, event.text));
        }
        for (id, new) in &changes.workspaces {
            let old = self.records.workspaces.iter().find(|w| w.id == *id);
            if old.is_some_and(|o| o.state.is_final() && o.state != new.state) {
                return Err(format!("{id} left its final state for {}", new.state));
            }
        }
        self.records.apply(changes);
        Ok(())
    }

    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let since = self.now.since(BEGIN).as_millis();
            log.push(format!(
                "{:>3}.{:03} s  {}",
                since / 1000,
                since % 1000,
                line()
            ));
        }
    }

    /// What holds in every state.
    pub(super) fn check(&self) -> Checked {
        let mut seen: BTreeMap<&WorkspaceId, usize> = BTreeMap::new();
        for (pilot, lease) in &self.guests {
            if let Some(other) = seen.insert(&lease.workspace, *pilot) {
                return Err(format!(
                    "two guests of {} at once: in pilot {other} and, as {lease}, in pilot {pilot}",
                    lease.workspace
                ));
            }
            if self.pilots[*pilot].agent.is_none() {
                return Err(format!("{lease} is there and its pilot {pilot} is not"));
            }
        }
        for id in &self.accepted {
            let Some(w) = self.records.workspaces.iter().find(|w| w.id == *id) else {
                return Err(format!("{id} was accepted and is lost"));
            };
            if let Some(saved) = &w.saved
                && !self.states.contains(&saved.id)
            {
                return Err(format!(
                    "{id} is to go on from {}, which does not exist",
                    saved.id
                ));
            }
        }
        self.broker.check()
    }

    /// What the world is, in 64 bits.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = Digest(DefaultHasher::new());
        // Writing to a hasher cannot fail.
        let _ = write!(
            hasher,
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{},{},{}",
            self.now,
            self.records,
            self.broker.next_wakeup(),
            self.pilots,
            self.messages,
            self.held,
            self.writing,
            self.guests,
            self.states,
            self.faults_left,
            self.to_come,
            self.doomed
        );
        hasher.0.finish()
    }
}

/// Hashes what is written, without keeping it.
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
