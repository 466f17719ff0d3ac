//! The record of a workspace.

use protocol::codes::Reason;
use protocol::ids::{
    EventSeq, Generation, IdempotencyKey, NodeName, SiteName, SubmitKey, UserName, WorkspaceId,
};
use protocol::lease::StateRef;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use serde::{Deserialize, Serialize};

/// A workspace. Where it is follows from `state`: `queued` is in the queue, `suspended` is parked
/// by its owner's wish, final states are left by nothing, all others have a live lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// [`super::RECORD_VERSION`].
    pub version: u32,
    /// Id.
    pub id: WorkspaceId,
    /// Order of acceptance.
    pub number: u64,
    /// Owner.
    pub owner: UserName,
    /// The key that it was submitted with.
    pub key: Option<IdempotencyKey>,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// The request.
    pub spec: WorkspaceSpec,
    /// What its owner wants of it now.
    pub wish: Wish,
    /// Where it is.
    pub state: WorkspaceState,
    /// Since when.
    pub since: Timestamp,
    /// Why; always there for final states.
    pub reason: Option<Reason>,
    /// Number of its latest lease; 0 before the first.
    pub generation: Generation,
    /// Its last good state: of its last suspend, or the newest checkpoint of its lease.
    pub saved: Option<StateRef>,
    /// Guest-running time that is safe: that of `saved`, or all of it when it is done.
    pub run: Span,
    /// How often it was suspended.
    pub suspends: u32,
    /// How often it started from its image.
    pub image_starts: u32,
    /// Leases that started from `saved` and failed, before or after their guest ran.
    pub resume_failures: u32,
    /// Where it was last.
    pub last_lease: Option<PastLease>,
    /// Number of the last event in its log.
    pub last_seq: EventSeq,
}

impl WorkspaceRecord {
    /// Starts from the image beyond the first.
    pub const fn restarts(&self) -> u32 {
        self.image_starts.saturating_sub(1)
    }

    /// Guest-running time that it still needs when it starts from what is safe.
    pub const fn remaining(&self) -> Span {
        self.spec.run_time.minus(self.run)
    }
}

/// What the owner wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// That it gets on.
    Run,
    /// That it stays in RAM, stopped.
    Pause,
    /// That it is suspended and stays out of the queue.
    Suspend {
        /// Who asked, in words.
        reason: Reason,
    },
    /// That it ends.
    Cancel {
        /// Who asked, in words.
        reason: Reason,
    },
}

/// A lease that is over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PastLease {
    /// Its number.
    pub generation: Generation,
    /// Where it was.
    pub slot: SubmitKey,
    /// On which node.
    pub node: NodeName,
    /// The site in whose store its pilot may have made a state without a word of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<SiteName>,
}
