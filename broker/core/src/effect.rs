//! What a step answers and what it wants done.

use protocol::api::{SiteView, WorkspaceView};
use protocol::codes::{ErrorBody, ErrorCode};
use protocol::ids::{LrmJobId, NodeName, SiteName, SubmitKey};
use protocol::messages::{RegisterReply, SyncReply};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use crate::changes::Changes;

/// Outcome of one step. Commit `changes`, then release `reply` and carry out `effects`.
#[must_use]
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What to write, in one transaction (may be merged with that of other steps).
    pub changes: Changes,
    /// What to do afterwards, in order.
    pub effects: Vec<Effect>,
    /// The answer to whoever sent the event.
    pub reply: Reply,
}

/// The answer to an event's sender.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// Nobody waits for one.
    None,
    /// The workspace, after the step.
    Workspace(Box<WorkspaceView>),
    /// The site, after the step.
    Site(Box<SiteView>),
    /// The key of a pilot that is to be started by hand; the shell makes its token.
    HandPilot {
        /// Goes into the slot file and the token.
        key: SubmitKey,
    },
    /// A pilot is registered.
    Registered(Box<RegisterReply>),
    /// A sync is decided.
    Sync(SyncDecision),
    /// Old records were forgotten: so many. There may be more when it is as many as were allowed.
    Forgotten {
        /// How many.
        records: usize,
    },
    /// No, and why. Nothing was changed.
    Refused(ErrorBody),
}

impl Reply {
    /// A refusal without help.
    pub fn refused(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::Refused(ErrorBody {
            code,
            detail: detail.into(),
            help: None,
        })
    }
}

/// What becomes of a sync.
#[derive(Clone, PartialEq, Debug)]
pub enum SyncDecision {
    /// Send this.
    Answer(Box<SyncReply>),
    /// Nothing to say. Send [`crate::Event::SyncPoll`] when an [`Effect::Wake`] names the pilot,
    /// and at `until` at the latest.
    Hold {
        /// The end of the hold.
        until: Timestamp,
    },
}

/// What the shell is to do. All but `SubmitPilot` come again by themselves until their outcome
/// is known, so one that is lost in a crash is not missed.
#[must_use]
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Make the pilot job's directory and its token, or tokens, submit it, send `LrmSubmitted`. Comes once per
    /// key, never again: a shell that crashed in between does not repeat it.
    SubmitPilot(PilotOrder),
    /// Ask the LRM for the job by its key, send `LrmFound`.
    LookUp {
        /// Where.
        site: SiteName,
        /// Which.
        key: SubmitKey,
    },
    /// Cancel the job, send `LrmCancelled`.
    CancelPilot {
        /// Where.
        site: SiteName,
        /// Which, to us.
        key: SubmitKey,
        /// Which, to the LRM.
        job: LrmJobId,
        /// What it may hit.
        scope: CancelScope,
    },
    /// The pilots' held syncs have news: poll those that are held.
    Wake(Vec<SubmitKey>),
}

/// What a cancel may hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CancelScope {
    /// The job, whatever it does.
    Whatever,
    /// The job while it waits; one that has started goes on.
    WhileQueued,
}

/// The part of a [`protocol::lrm::PilotJob`] that is decided here; the rest is configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PilotOrder {
    /// Unique for ever.
    pub key: SubmitKey,
    /// Where.
    pub site: SiteName,
    /// What to ask for, on each node.
    pub resources: Resources,
    /// On how many nodes, at least 1.
    pub nodes: u32,
    /// How long to ask for.
    pub walltime: Span,
    /// The shortest that is of use.
    pub min_walltime: Span,
    /// Nodes that it is better not started on, those that are avoided longest first.
    pub avoid: Vec<NodeName>,
}
