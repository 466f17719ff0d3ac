//! What the broker's decisions and the LRM adapters say to each other.
//!
//! Every answer is three-valued: yes, no, and "no answer", which is never read as either.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{LrmJobId, NodeName, SiteName, SubmitKey};
use crate::resources::Resources;
use crate::slot_file::{BrokerAccess, HypervisorSection};
use crate::time::{Span, Timestamp};

/// A pilot job to submit, all that an adapter needs to render it.
#[derive(Clone, PartialEq, Debug)]
pub struct PilotJob {
    /// Findable in the LRM afterwards: in the job's name or comment.
    pub key: SubmitKey,
    /// Site, for the slot file.
    pub site: SiteName,
    /// The pilot's program as nodes see it.
    pub program: PathBuf,
    /// Directory of this pilot job, as nodes see it: holds the token (mode 0600), gets the
    /// job's output.
    pub directory: PathBuf,
    /// What to ask the LRM for, on each node.
    pub resources: Resources,
    /// On how many nodes, at least 1. On more than one a pilot starts on each, as the member
    /// `KEY.RANK` ([`SubmitKey::member`]) with the token in `token_file` + `.RANK`.
    pub nodes: u32,
    /// How long to ask for.
    pub walltime: Span,
    /// The shortest that is of use, for LRMs that can shrink a request to fit.
    pub min_walltime: Option<Span>,
    /// The notice that the site guarantees.
    pub notice: Span,
    /// Safety before every deadline.
    pub margin: Span,
    /// How the pilot reaches the broker; `token_file` lies in `directory`. With more than one
    /// node that is the beginning of the files' names.
    pub broker: BrokerAccess,
    /// What runs guests on the site's nodes.
    pub hypervisor: HypervisorSection,
    /// Scratch directory on a node; a directory named after the job is made in it.
    pub scratch: PathBuf,
    /// The site's store.
    pub store: PathBuf,
    /// Nodes that it is better not started on: what ran there lately has failed. An LRM that has
    /// no words for this starts it anywhere.
    pub avoid: Vec<NodeName>,
}

/// Answer to a submit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubmitAnswer {
    /// The LRM has the job.
    Accepted(LrmJobId),
    /// The LRM said no; there is no job.
    Refused(String),
    /// Timed out, cut off or unreadable: the job may exist. Look it up by its key.
    NoAnswer(String),
}

/// Answer to a bulk observation or a look-up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observation {
    /// The LRM answered with these jobs of ours. A job that is not among them is *not known to
    /// have ended*.
    Listing(Vec<ObservedJob>),
    /// The LRM gave no answer that could be read.
    NoAnswer(String),
}

/// Answer to a cancel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CancelAnswer {
    /// The LRM has taken the wish; the job may live on for its notice.
    Taken,
    /// It was to be ended only while it waits, and it does not wait: nothing was done to it.
    Started,
    /// The LRM knows no such job. Not a proof that its processes are gone.
    NoSuchJob,
    /// The LRM said no.
    Refused(String),
    /// No answer that could be read.
    NoAnswer(String),
}

/// One job in the LRM's listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObservedJob {
    /// The LRM's id.
    pub id: LrmJobId,
    /// Our key, when the job carries one that we can read.
    pub key: Option<SubmitKey>,
    /// Its state.
    pub state: JobState,
    /// The LRM's own words on why (pending reason, vacate reason), for people.
    pub detail: String,
    /// When it started, if it did.
    pub start: Option<Timestamp>,
    /// When it will end by the LRM's latest word (EndTime, never time-left arithmetic).
    pub end: Option<Timestamp>,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// How often it was started again under the same id.
    pub restarts: u32,
}

/// State of a job in its LRM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits.
    Queued,
    /// Waits and will not start by itself.
    Held,
    /// Has a node; its processes start or run.
    Running,
    /// Stopped by the LRM; its processes exist and get no processor.
    Suspended,
    /// Told to end, or ended and being cleaned up: its processes may live.
    Ending,
    /// Over by the LRM's word.
    Ended(JobEnd),
    /// A state that this adapter does not know: alive, as far as we know.
    Unknown(String),
}

/// Why a job is over, by its LRM's word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnd {
    /// Its processes ended by themselves with this exit code.
    Exited(i32),
    /// Somebody cancelled it.
    Cancelled,
    /// Its walltime was over.
    Walltime,
    /// The LRM took the node for another job.
    Preempted,
    /// The LRM lost the node. The processes may still run there.
    NodeLost,
    /// It could not be started.
    LaunchFailed,
    /// Over, reason not told.
    Other(String),
}
