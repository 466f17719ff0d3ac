//! Jobs, their runs, and nodes as the model keeps them.

use std::collections::VecDeque;

use protocol::ids::NodeName;
use protocol::lrm::JobEnd;
use protocol::resources::Resources;
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::types::{JobNumber, JobRequest, NodeState, RunNumber};
use crate::sim::profiles::{Cause, Launch, Signal, Target};

/// A job.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub number: JobNumber,
    /// When it was accepted.
    pub submitted: Timestamp,
    /// What it asked for.
    pub request: JobRequest,
    /// How often it was started.
    pub starts: u32,
    /// Where it is in its life.
    pub phase: JobPhase,
}

/// Where a job is in its life.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// Waits.
    Queued {
        /// Not to be started before this (after a requeue).
        not_before: Option<Timestamp>,
    },
    /// Waits for a release.
    Held {
        /// Why, for people.
        why: String,
    },
    /// Its first process runs, perhaps towards an end. On several nodes: the run of the first.
    Running(RunNumber),
    /// Over.
    Over {
        /// Why.
        end: JobEnd,
        /// Since when.
        at: Timestamp,
        /// Where it ran last, and since when.
        last: Option<(NodeName, Timestamp)>,
    },
}

impl Job {
    pub(super) fn new(number: JobNumber, submitted: Timestamp, request: JobRequest) -> Self {
        Self {
            number,
            submitted,
            request,
            starts: 0,
            phase: JobPhase::Queued { not_before: None },
        }
    }

    /// True once it is over.
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, JobPhase::Over { .. })
    }

    /// The run that the LRM connects with it, on several nodes that of the first.
    pub const fn run(&self) -> Option<RunNumber> {
        match self.phase {
            JobPhase::Running(run) => Some(run),
            JobPhase::Queued { .. } | JobPhase::Held { .. } | JobPhase::Over { .. } => None,
        }
    }
}

/// One start of a job, on one of its nodes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Of which job.
    pub job: JobNumber,
    /// Which of the job's nodes it is, from 0.
    #[serde(default)]
    pub rank: u32,
    /// On which node.
    pub node: NodeName,
    /// With what.
    pub resources: Resources,
    /// How its first process was started.
    pub launch: Launch,
    /// Since when.
    pub start: Timestamp,
    /// Until when, by its walltime.
    pub end: Timestamp,
    /// False for a stray: its job was written off while its processes lived.
    pub attached: bool,
    /// Its processes have ended, and those on other nodes of the job have not: how, and whether
    /// they were made to.
    #[serde(default)]
    pub(super) gone: Option<(JobEnd, Option<Cause>)>,
    /// Its processes ended while the LRM could not hear of it.
    pub(super) unheard_exit: Option<i32>,
    /// The way to its end, once there is one.
    pub(super) doom: Option<Doom>,
}

impl Run {
    /// Why it is being ended, if it is.
    pub fn cause(&self) -> Option<Cause> {
        self.doom.as_ref().map(|d| d.cause)
    }
}

/// A run on the way to its end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Doom {
    /// Why.
    pub cause: Cause,
    /// Signals to come, in order.
    pub beats: VecDeque<Due>,
    /// How many were sent.
    pub sent: usize,
    /// The first so many come while the listing calls the job running.
    pub listed_running: usize,
    /// The end that the listing shows meanwhile.
    pub shown_end: Option<Timestamp>,
    /// When the job is written off whether or not its processes are gone.
    pub written_off: Option<Timestamp>,
}

impl Doom {
    /// When the SIGKILL comes.
    pub(super) fn kill_at(&self) -> Option<Timestamp> {
        let kill = self.beats.iter().find(|b| b.signal == Signal::Kill);
        kill.map(|b| b.at)
    }
}

/// A signal to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Due {
    /// When.
    pub at: Timestamp,
    /// To whom.
    pub who: Target,
    /// What.
    pub signal: Signal,
}

/// A node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub resources: Resources,
    pub used: Resources,
    pub state: NodeState,
    pub closes_at: Option<Timestamp>,
}

impl Node {
    pub(super) const fn new(resources: Resources) -> Self {
        Self {
            resources,
            used: Resources {
                cores: 0,
                memory_mib: 0,
                disk_mib: 0,
            },
            state: NodeState::Up,
            closes_at: None,
        }
    }

    pub(super) const fn free(&self) -> Resources {
        self.resources.minus(&self.used)
    }
}
