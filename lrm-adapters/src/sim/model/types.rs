//! What goes into the model and comes out of it.

use std::collections::BTreeSet;
use std::fmt;

use protocol::ids::{NodeName, SubmitKey};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sim::profiles::{Launch, Leftovers, Profile, ProfileName, Signal, Target};

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

numbers! {
    /// A job's id in the simulated LRM. May be given again after [`Event::CrashLosingNewest`].
    JobNumber;
    /// One start of a job; never given again.
    RunNumber;
}

/// How the batch system is built.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Its nodes.
    pub nodes: Vec<NodeConfig>,
    /// Its queues; a request names one.
    pub queues: Vec<QueueConfig>,
    /// Whose signals it sends.
    pub profile: ProfileName,
    /// The site's wait between SIGTERM and SIGKILL; the measured default if none.
    pub kill_wait: Option<Span>,
    /// The site's preemption grace; the measured default if none.
    pub grace: Option<Span>,
    /// How much of the measured lateness is played, in percent; 100 is what was measured.
    pub lateness_percent: u32,
    /// How long a requeued job waits; the measured value if none.
    pub requeue_hold_off: Option<Span>,
    /// How long after it lost a node the LRM writes its jobs off; the measured value if none.
    pub node_timeout: Option<Span>,
    /// How long an ended job stays in the listing.
    pub min_job_age: Span,
    /// Seed of all chance.
    pub seed: u64,
}

impl ModelConfig {
    /// Nodes that are all alike, named `n1` and so on, a queue `pilots` that can be preempted and
    /// a queue `site` that preempts it, and everything else as measured.
    ///
    /// # Panics
    /// Never: the names are right.
    pub fn uniform(profile: ProfileName, nodes: u32, resources: Resources, seed: u64) -> Self {
        let node = |i: u32| NodeConfig {
            name: NodeName::new(&format!("n{i}")).expect("a node name of letters and digits"),
            resources,
        };
        Self {
            nodes: (1..=nodes).map(node).collect(),
            queues: QueueConfig::default_pair(),
            profile,
            kill_wait: None,
            grace: None,
            lateness_percent: 100,
            requeue_hold_off: None,
            node_timeout: None,
            min_job_age: Span::from_mins(5),
            seed,
        }
    }

    /// The profile with this site's settings.
    pub fn profile(&self) -> Profile {
        let mut profile = Profile::measured(self.profile);
        profile.kill_wait = self.kill_wait.unwrap_or(profile.kill_wait);
        profile.grace = self.grace.unwrap_or(profile.grace);
        profile.lateness_percent = self.lateness_percent;
        profile
    }

    /// The queue of this name.
    pub fn queue(&self, name: &str) -> Option<&QueueConfig> {
        self.queues.iter().find(|q| q.name == name)
    }
}

/// A node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// What it has.
    pub resources: Resources,
}

/// A queue (partition).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Its name.
    pub name: String,
    /// Higher goes first.
    pub priority: i32,
    /// Its jobs may take nodes from jobs of preemptable queues of lower priority.
    pub preempts: bool,
    /// Its jobs may be preempted.
    pub preemptable: bool,
    /// The longest walltime that it takes.
    pub max_walltime: Option<Span>,
    /// The most jobs, queued and running together, that it takes.
    pub max_jobs: Option<u32>,
}

impl QueueConfig {
    /// `pilots`, preemptable, and `site`, which preempts it.
    pub fn default_pair() -> Vec<Self> {
        let queue = |name: &str, priority, preempts| Self {
            name: name.to_owned(),
            priority,
            preempts,
            preemptable: !preempts,
            max_walltime: None,
            max_jobs: None,
        };
        vec![queue("pilots", 0, false), queue("site", 100, true)]
    }
}

/// What a job asks for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobRequest {
    /// For people.
    pub name: String,
    /// Our key, for a pilot job.
    pub key: Option<SubmitKey>,
    /// Which queue.
    pub queue: String,
    /// On each node.
    pub resources: Resources,
    /// On how many different nodes, at least 1; a process is started on each.
    #[serde(default = "one")]
    pub nodes: u32,
    /// How long.
    pub walltime: Span,
    /// The walltime may be cut down to this so that the job starts before its node closes.
    pub min_walltime: Option<Span>,
    /// Does not start before this.
    pub begin: Option<Timestamp>,
    /// Nodes that it is not started on.
    #[serde(default)]
    pub exclude: BTreeSet<NodeName>,
    /// Higher goes first within its queue.
    pub priority: i32,
    /// How its first process is started.
    pub launch: Launch,
    /// It may be started again under the same id.
    pub rerunnable: bool,
}

/// What was written before there were jobs on several nodes.
const fn one() -> u32 {
    1
}

impl JobRequest {
    /// A pilot job in the queue `pilots`.
    pub fn pilot(key: SubmitKey, resources: Resources, walltime: Span) -> Self {
        Self {
            name: key.to_string(),
            key: Some(key),
            queue: "pilots".to_owned(),
            resources,
            nodes: 1,
            walltime,
            min_walltime: None,
            begin: None,
            exclude: BTreeSet::new(),
            priority: 0,
            launch: Launch::Step,
            rerunnable: true,
        }
    }

    /// A job of the site itself in the queue `site`.
    pub fn site(resources: Resources, walltime: Span) -> Self {
        Self {
            name: "site-job".to_owned(),
            key: None,
            queue: "site".to_owned(),
            resources,
            nodes: 1,
            walltime,
            min_walltime: None,
            begin: None,
            exclude: BTreeSet::new(),
            priority: 0,
            launch: Launch::Batch,
            rerunnable: false,
        }
    }
}

/// What happens to the batch system.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// Somebody submits a job.
    Submit(JobRequest),
    /// Somebody cancels a job.
    Cancel(JobNumber),
    /// Somebody cancels a job if it waits.
    Withdraw(JobNumber),
    /// Somebody preempts a job by hand.
    Preempt(JobNumber),
    /// Somebody tells a running job to start again.
    Requeue(JobNumber),
    /// A queued job shall not start.
    Hold(JobNumber),
    /// A held job may start.
    Release(JobNumber),
    /// A running job's end is moved.
    SetEnd {
        /// Which.
        job: JobNumber,
        /// To when.
        end: Timestamp,
    },
    /// A node takes no new jobs.
    Drain(NodeName),
    /// A drained node takes jobs again.
    Undrain(NodeName),
    /// An administrator declares a node down.
    NodeDown(NodeName),
    /// The LRM's daemon on a node is lost; processes run on.
    NodeLost(NodeName),
    /// A node loses power: its processes are gone, and the LRM finds out late.
    NodePowerLoss(NodeName),
    /// A node is back.
    NodeRestore(NodeName),
    /// No job may run on a node past this instant (maintenance); `None` lifts it.
    CloseNode {
        /// Which.
        node: NodeName,
        /// From when.
        at: Option<Timestamp>,
    },
    /// A run's first process has ended.
    Exited {
        /// Which.
        run: RunNumber,
        /// Its exit code; 128 + n for signal n.
        code: i32,
    },
    /// A run's first process could not be started.
    LaunchFailed {
        /// Which.
        run: RunNumber,
    },
    /// The controller crashes and forgets the job that it accepted last; its id is used again.
    CrashLosingNewest,
}

/// What the batch system says to an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done, or nothing to do.
    Done,
    /// The job has this id.
    Submitted(JobNumber),
    /// No, with the reason.
    Refused(String),
    /// There is no such job (any more).
    NoSuchJob,
    /// The job runs, and was to be ended only while it waits.
    Started,
    /// There is no such node.
    NoSuchNode,
}

/// What the owner has to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Effect {
    /// Start a job's first process.
    Start(Start),
    /// Send a signal.
    Signal {
        /// To a process of this run.
        run: RunNumber,
        /// To which.
        target: Target,
        /// What.
        signal: Signal,
    },
    /// The first process has ended: do this with what it left.
    CleanUp {
        /// Which run.
        run: RunNumber,
        /// What to do.
        leftovers: Leftovers,
    },
    /// The LRM has lost track of this run; its processes are left alone.
    Forget {
        /// Which run.
        run: RunNumber,
    },
}

/// A start of a job, on one of its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Which job.
    pub job: JobNumber,
    /// This start of it.
    pub run: RunNumber,
    /// How often it was started before.
    pub restarts: u32,
    /// This node's number in the job, from 0.
    #[serde(default)]
    pub rank: u32,
    /// How many nodes the job has.
    #[serde(default = "one")]
    pub nodes: u32,
    /// Where.
    pub node: NodeName,
    /// With what.
    pub resources: Resources,
    /// When.
    pub start: Timestamp,
    /// Until when, as known now.
    pub end: Timestamp,
}

/// Answer and effects of one step.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Step {
    /// To the event.
    pub answer: Answer,
    /// In order.
    pub effects: Vec<Effect>,
}

/// State of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Takes jobs.
    Up,
    /// Takes no new jobs.
    Draining,
    /// Declared down.
    Down,
    /// The LRM has lost it.
    Lost,
}

/// A node as the model shows it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// What it has.
    pub resources: Resources,
    /// What its jobs have of that, strays not counted.
    pub used: Resources,
    /// Its state.
    pub state: NodeState,
    /// From when on it is closed.
    pub closes_at: Option<Timestamp>,
}

/// What the model waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) enum Timer {
    /// The next signal of a run's ending.
    Beat(RunNumber),
    /// A run's walltime.
    End(RunNumber),
    /// A run whose node is lost is given up.
    WriteOff(RunNumber),
    /// A queued job may start.
    Eligible(JobNumber),
    /// An ended job leaves the listing.
    Forget(JobNumber),
}

/// The seeded generator of all chance (SplitMix64).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A span from `min` to `max`, both included.
    pub(super) fn between(&mut self, min: Span, max: Span) -> Span {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        min + Span::from_millis(z % (max.minus(min).as_millis() + 1))
    }
}
