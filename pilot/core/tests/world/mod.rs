//! A small world around one agent, in virtual time: hypervisor, broker and batch system, with
//! every promise checked after every step.
#![allow(
    dead_code,
    unused_imports,
    clippy::allow_attributes,
    reason = "shared by several test programs, none of which uses all of it"
)]

mod broker;
mod effects;
mod guests;
mod promises;
mod specs;

use std::collections::{BTreeMap, BTreeSet};

use pilot_core::agent::{Agent, Event, Signal};
use pilot_core::guest::LeaseKey;
use pilot_core::now::Now;
use pilot_core::settings::Settings;
use protocol::codes::Reason;
use protocol::ids::{Incarnation, NodeName, PilotBoot, SiteName, StateId, SubmitKey};
use protocol::lease::{EndOutcome, Goal, LeasePhase, Order, StateRef};
use protocol::messages::SyncRequest;
use protocol::resources::Resources;
use protocol::slot::{HostFacts, SlotFacts};
use protocol::suspend_cost::Sample;
use protocol::time::{Mono, Span, Timestamp};

pub use specs::{spec, wall, with_checkpoints, with_policy};

pub const EPOCH: i64 = 1_800_000_000;

/// How the world behaves.
#[derive(Clone, Debug)]
pub struct Rules {
    pub end: u64,
    pub notice: u64,
    pub margin: u64,
    pub ttl: u64,
    pub hold: u64,
    pub idle_limit: Option<u64>,
    /// True write rate, bytes a second.
    pub rate: u64,
    /// One in so many suspends fails; 0: none.
    pub suspend_fails: u64,
    /// One in so many answers is lost; 0: none.
    pub answers_lost: u64,
    /// Guests obey an ACPI shutdown.
    pub obedient: bool,
    /// The LRM answers the broker.
    pub watched: bool,
    /// The suspends of this workspace always fail, after two seconds.
    pub broken: Option<&'static str>,
    /// It is measured what suspends have to write.
    pub measures: bool,
    /// The hypervisor can flush.
    pub flushes: bool,
    /// How long a flush takes; as long as its bytes need when not set.
    pub flush_ms: Option<u64>,
    /// What suspends have cost before.
    pub known: Vec<Sample>,
    pub seed: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            end: 600,
            notice: 30,
            margin: 2,
            ttl: 60,
            hold: 20,
            idle_limit: None,
            rate: 400_000_000,
            suspend_fails: 0,
            answers_lost: 0,
            obedient: true,
            watched: false,
            broken: None,
            measures: false,
            flushes: true,
            flush_ms: None,
            known: Vec::new(),
            seed: 1,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Vm {
    Staging,
    Staged,
    Starting,
    Running,
    Paused,
    Checkpointing,
    Suspending,
    Gone,
}

#[derive(Clone, Debug)]
struct Guest {
    vm: Vm,
    killed_at: Option<u64>,
    /// Distinguishes a suspend from an earlier one of the same guest.
    attempt: u64,
    bytes: u64,
    /// The checkpoint that is being made.
    checkpoint: Option<(StateId, Span)>,
    flushed: bool,
}

fn is_alive(guest: &Guest) -> bool {
    matches!(
        guest.vm,
        Vm::Starting | Vm::Running | Vm::Paused | Vm::Checkpointing | Vm::Suspending
    )
}

/// A lease by the broker's book.
#[derive(Clone, Debug)]
pub struct Granted {
    pub goal: Goal,
    pub order: Order,
    pub expiry: Option<u64>,
    pub outcome: Option<EndOutcome>,
}

#[derive(Clone, Debug)]
enum Due {
    Report(Event),
    Answer(Box<SyncRequest>, Mono),
    Vm(LeaseKey, VmEvent),
}

#[derive(Clone, Debug)]
enum VmEvent {
    Staged,
    Started,
    Paused,
    Continued,
    Suspended(u64, u64),
    Checkpointed(u64, u64),
    CalledOff,
    Broken(u64),
    Flushed,
    PoweredOff,
    Dead,
}

pub struct World {
    pub rules: Rules,
    pub agent: Agent,
    pub now: u64,
    /// When the agent was last asked.
    stepped: u64,
    wall_shift: i64,
    due: BTreeMap<(u64, u64), Due>,
    next: u64,
    guests: BTreeMap<LeaseKey, Guest>,
    pub book: BTreeMap<LeaseKey, Granted>,
    pub states: BTreeSet<LeaseKey>,
    /// Checkpoints that were made, with the run time in them.
    pub checkpoints: BTreeMap<StateId, Span>,
    /// The newest that the broker was told of, by lease.
    pub told_checkpoint: BTreeMap<LeaseKey, StateRef>,
    /// Guests that the warden has ended.
    pub fenced: BTreeSet<LeaseKey>,
    pub deaf_until: u64,
    pub end_told: Option<u64>,
    /// How often the LRM was asked on the node.
    pub probes: u32,
    pub leave: Option<Reason>,
    under_way: Option<(Box<SyncRequest>, Mono)>,
    last_sync: u64,
    reported: BTreeMap<LeaseKey, EndOutcome>,
    least_kill_at: Option<Mono>,
    clean_up_at: Option<u64>,
    cleaned: bool,
    pub exit: Option<(i32, Reason)>,
    /// What the guests were told, and when.
    pub told: Vec<(u64, LeaseKey, String)>,
    /// What was recorded of guests that were got rid of.
    pub evicted: BTreeMap<LeaseKey, serde_json::Value>,
    pub log: Vec<String>,
    pub syncs: u64,
    random: u64,
}

impl World {
    pub fn new(rules: Rules) -> Self {
        Self::with(rules, 0)
    }

    /// A world in which the broker never answers.
    pub fn deaf(rules: Rules) -> Self {
        Self::with(rules, u64::MAX)
    }

    fn with(rules: Rules, deaf_until: u64) -> Self {
        let facts = SlotFacts {
            site: SiteName::new("lab").unwrap(),
            submit_key: SubmitKey::new("wp-1").unwrap(),
            incarnation: Incarnation::new("1").unwrap(),
            lrm_job_id: None,
            node: NodeName::new("n1").unwrap(),
            resources: Resources {
                cores: 8,
                memory_mib: 4096,
                disk_mib: 100_000,
            },
            start: Timestamp::from_secs(EPOCH),
            end: wall(rules.end),
            notice: Span::from_secs(rules.notice),
            margin: Span::from_secs(rules.margin),
        };
        let settings = Settings {
            probe_every: Some(Span::from_secs(30)),
            flushes: rules.flushes,
            ..Settings::default()
        };
        let now = Now {
            mono: Mono::from_millis(0),
            wall: wall(0),
        };
        let boot = PilotBoot::new("boot-1").unwrap();
        let agent = Agent::new(now, facts, HostFacts::default(), boot, settings);
        let random = rules.seed | 1;
        let mut world = Self {
            rules,
            agent,
            now: 0,
            stepped: 0,
            wall_shift: 0,
            due: BTreeMap::new(),
            next: 0,
            guests: BTreeMap::new(),
            book: BTreeMap::new(),
            states: BTreeSet::new(),
            checkpoints: BTreeMap::new(),
            told_checkpoint: BTreeMap::new(),
            fenced: BTreeSet::new(),
            deaf_until,
            end_told: None,
            probes: 0,
            leave: None,
            under_way: None,
            last_sync: 0,
            reported: BTreeMap::new(),
            least_kill_at: None,
            clean_up_at: None,
            cleaned: false,
            exit: None,
            told: Vec::new(),
            evicted: BTreeMap::new(),
            log: Vec::new(),
            syncs: 0,
            random,
        };
        world.step(Event::Started);
        world
    }

    pub fn signal(&mut self, which: Signal) {
        self.step(Event::Signal {
            which,
            from: "the kernel".into(),
        });
    }

    pub fn jump_wall(&mut self, by_ms: i64) {
        self.wall_shift += by_ms;
    }

    /// Lets `secs` pass.
    pub fn run(&mut self, secs: u64) {
        self.run_ms(secs * 1000);
    }

    pub fn run_ms(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.exit.is_none() {
            let due = self.due.keys().next().map(|k| k.0);
            let wake = self.agent.next_wakeup().map(|m| m.as_millis());
            if let Some(wake) = wake {
                assert!(
                    wake > self.stepped,
                    "it wants to be woken in the past\n{self}"
                );
            }
            let at = due.into_iter().chain(wake).min().unwrap_or(until);
            if at > until {
                break;
            }
            self.now = self.now.max(at);
            match due.filter(|d| *d <= self.now) {
                Some(_) => {
                    let (_, due) = self.due.pop_first().unwrap();
                    self.happen(due);
                }
                None if wake.is_some() => self.step(Event::Tick),
                None => break,
            }
        }
        if self.exit.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Lets time pass until the pilot has gone, which must be before its kill time.
    pub fn run_to_end(&mut self) {
        for _ in 0..200 {
            if self.exit.is_some() {
                return;
            }
            self.run(30);
        }
        panic!("the pilot never leaves\n{self}");
    }

    /// Runs until `condition` or for `secs` at most; true when it holds.
    pub fn run_until(&mut self, secs: u64, condition: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..secs * 10 {
            if condition(self) {
                return true;
            }
            self.run_ms(100);
        }
        condition(self)
    }

    pub fn outcome(&self, key: &LeaseKey) -> Option<&EndOutcome> {
        self.book[key].outcome.as_ref()
    }

    pub fn phase_of(&self, key: &LeaseKey) -> Option<LeasePhase> {
        let now = Mono::from_millis(self.now);
        let mut leases = self.agent.leases();
        leases.find(|l| l.key == *key).map(|l| l.report(now).phase)
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Report(event) => self.step(event),
            Due::Answer(request, sent) => self.answer(&request, sent),
            Due::Vm(key, event) => self.vm_event(&key, event),
        }
    }

    fn later(&mut self, ms: u64, due: Due) {
        self.next += 1;
        self.due.insert((self.now + ms, self.next), due);
    }

    pub fn step(&mut self, event: Event) {
        if self.exit.is_some() {
            return;
        }
        let now = self.clocks();
        self.stepped = self.now;
        if !matches!(
            event,
            Event::Tick | Event::SyncAnswered { .. } | Event::Probed(_)
        ) {
            self.log.push(format!("{:>9} <- {event:?}", self.now));
        }
        for effect in self.agent.step(now, event) {
            self.carry_out(effect);
        }
        self.check();
    }

    fn clocks(&self) -> Now {
        let ms = i64::try_from(self.now).unwrap();
        Now {
            mono: Mono::from_millis(self.now),
            wall: Timestamp::from_millis(EPOCH * 1000 + ms + self.wall_shift),
        }
    }

    fn any(&mut self, least: u64, most: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        least + (self.random >> 33) % (most - least + 1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.any(1, n) == 1
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "now {} ms, {:?}", self.now, self.rules)?;
        let skip = self.log.len().saturating_sub(60);
        self.log
            .iter()
            .skip(skip)
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}
