//! What the `sim-lrm` command and its daemon say to each other: one JSON line each way over a
//! unix socket. Both ends are the same program of the same version.

use std::path::{Path, PathBuf};

use protocol::ids::{NodeName, SubmitKey};
use protocol::lrm::{JobEnd, ObservedJob};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::daemon::faults::Fault;
use super::model::{JobNumber, JobRequest, NodeState};

/// Where the daemon of a directory listens.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("socket")
}

/// What a job runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The script's text; starts with `#!`.
    pub script: String,
    /// File that gets stdout and stderr, appended; none throws them away.
    pub output: Option<PathBuf>,
    /// Working directory; `/` if none.
    pub directory: Option<PathBuf>,
}

/// A question or order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Submit a job.
    Submit {
        /// What it asks for.
        request: JobRequest,
        /// What it runs.
        task: Task,
    },
    /// List jobs.
    List {
        /// Ended ones too.
        all: bool,
        /// Only those with this key.
        key: Option<SubmitKey>,
    },
    /// List nodes.
    Nodes,
    /// Do something to a job.
    Job {
        /// Which.
        job: JobNumber,
        /// Only if it carries this key.
        key: Option<SubmitKey>,
        /// What.
        order: JobOrder,
    },
    /// Do something to a node.
    Node {
        /// Which.
        node: NodeName,
        /// What.
        order: NodeOrder,
    },
    /// When does a job end?
    End {
        /// Which.
        job: JobNumber,
    },
    /// Answer when a job is over.
    Wait {
        /// Which.
        job: JobNumber,
    },
    /// Misbehave from now on.
    AddFault(Fault),
    /// Behave again.
    ClearFaults,
    /// How is it misbehaving?
    Faults,
    /// Lose the newest job, as a controller does that crashes.
    Crash,
    /// A supervisor says: look at the runs.
    Poke,
}

/// What can be done to a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOrder {
    /// End it.
    Cancel,
    /// End it if it waits.
    Withdraw,
    /// Take its node for somebody else.
    Preempt,
    /// Start it again.
    Requeue,
    /// Keep it from starting.
    Hold,
    /// Let it start.
    Release,
    /// Give it more walltime.
    Extend(Span),
    /// Take walltime from it.
    Shorten(Span),
}

/// What can be done to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOrder {
    /// No new jobs.
    Drain,
    /// Takes jobs again.
    Undrain,
    /// Declared down by an administrator.
    Down,
    /// Its LRM daemon is lost.
    Lost,
    /// Its power is lost.
    PowerLoss,
    /// It is back.
    Restore,
    /// No job may run past this.
    Close(Option<Timestamp>),
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Done,
    /// Accepted under this id.
    Submitted(JobNumber),
    /// No.
    Refused(String),
    /// No such job.
    NoSuchJob,
    /// The job runs: it was not withdrawn.
    Started,
    /// No such node.
    NoSuchNode,
    /// The jobs.
    Jobs(Vec<JobRow>),
    /// The nodes.
    Nodes(Vec<NodeRow>),
    /// A job's end, if it has one.
    End(Option<Timestamp>),
    /// How a job ended.
    Over(JobEnd),
    /// The faults.
    Faults(Vec<Fault>),
    /// What a broken command prints, word for word.
    Garbled(String),
    /// The daemon could not do it, or pretends so.
    Failed(String),
}

/// A job in the listing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobRow {
    /// As the contract has it.
    pub seen: ObservedJob,
    /// Its name.
    pub name: String,
    /// Its queue.
    pub queue: String,
    /// What it asked for, on each node.
    pub resources: Resources,
    /// Nodes that it asked for.
    pub nodes: u32,
    /// How long.
    pub walltime: Span,
    /// Since when the LRM has it.
    pub submitted: Timestamp,
}

/// A node in the listing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: NodeName,
    /// Its state.
    pub state: NodeState,
    /// What it has.
    pub resources: Resources,
    /// What of that is taken.
    pub used: Resources,
    /// Closed from then on.
    pub closes_at: Option<Timestamp>,
    /// Jobs that run on it.
    pub jobs: Vec<JobNumber>,
}
