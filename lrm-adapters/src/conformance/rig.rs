//! What a test needs to do to an LRM from outside.

use std::time::Duration;

use protocol::ids::{LrmJobId, NodeName, SubmitKey};
use protocol::lrm::PilotJob;
use protocol::time::Span;

use super::Stop;
use crate::contract::LocalResourceManager;

/// What a test job is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Its walltime.
    pub walltime: Span,
    /// It takes a whole node, so that a second one has to wait when there is one node.
    pub whole_node: bool,
    /// How it behaves.
    pub program: Program,
}

/// How a test job behaves; [`TestJobs`](super::TestJobs) makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// Ends with this code at once.
    Exits(i32),
    /// Runs until SIGTERM, then ends with code 0.
    Obeys,
    /// Runs until SIGKILL.
    Ignores,
}

impl Shape {
    /// A small job that obeys SIGTERM, with a walltime that is long enough for any check.
    pub fn obeying() -> Self {
        Self {
            walltime: Span::from_mins(10),
            whole_node: false,
            program: Program::Obeys,
        }
    }
}

/// What happens to the LRM from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// An administrator preempts a job.
    Preempt(LrmJobId),
    /// An administrator has a job started again.
    Requeue(LrmJobId),
    /// An administrator takes walltime from a job.
    Shorten(LrmJobId, Span),
    /// The LRM loses its daemon on a node.
    LoseNode(NodeName),
    /// The LRM's own daemons are killed and started again.
    Restart,
    /// The LRM loses the job that it accepted last, and gives its id again.
    LoseNewestJob,
}

/// How the LRM misbehaves until [`Rig::calm`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Disturbance {
    /// The answer to the next submit is lost after the LRM has taken the job.
    LoseSubmitAnswer,
    /// Commands print what cannot be read.
    Garble,
    /// A job is not in the listing.
    Hide(LrmJobId),
    /// Commands hang.
    Hang,
    /// The LRM cannot be reached.
    Unreachable,
}

/// `Err` says why it cannot be done here.
pub type Can = Result<(), String>;

/// An LRM under test, and a hand on it from outside.
#[expect(
    async_fn_in_trait,
    reason = "used with static dispatch in tests that need no Send"
)]
pub trait Rig {
    /// The adapter under test.
    type Lrm: LocalResourceManager;

    /// The adapter under test.
    fn lrm(&self) -> &Self::Lrm;

    /// A pilot job of this shape with a key that was never used, its directory and token made.
    ///
    /// # Errors
    /// Why a job of this shape cannot be had here.
    fn job(&self, shape: &Shape) -> Result<PilotJob, String>;

    /// The keys of all jobs that this rig has made.
    fn keys(&self) -> Vec<SubmitKey>;

    /// A job that this LRM refuses at the submit.
    ///
    /// # Errors
    /// Why there is none.
    fn impossible_job(&self) -> Result<PilotJob, String>;

    /// True while the job with this key has live processes.
    ///
    /// # Errors
    /// Why that cannot be known here.
    async fn is_alive(&self, key: &SubmitKey) -> Result<bool, String>;

    /// Does it to the LRM.
    async fn act(&self, action: Action) -> Can;

    /// Makes the LRM misbehave.
    async fn disturb(&self, disturbance: Disturbance) -> Can;

    /// Undoes every disturbance, and brings lost nodes back.
    async fn calm(&self);

    /// How long to wait for what has to happen.
    fn patience(&self) -> Duration;

    /// How long a job may wait in the queue: when it is still there after that, its rule is not
    /// applicable. None: the LRM has nothing else to do, so a job has to start within the
    /// patience.
    fn queue_limit(&self) -> Option<Duration> {
        None
    }
}

/// Turns what a rig cannot do into the end of a check.
pub(super) fn need<T>(can: Result<T, String>) -> Result<T, Stop> {
    can.map_err(Stop::NotApplicable)
}
