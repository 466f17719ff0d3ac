//! The record of a live lease. There is one per workspace at most: the workspace is its key.

use protocol::ids::{
    Generation, Incarnation, NodeName, PilotBoot, StateId, SubmitKey, WorkspaceId,
};
use protocol::lease::LeasePhase;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// A live lease. It is deleted when it is over: by its pilot's word, or by expiry with margin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// [`super::RECORD_VERSION`].
    pub version: u32,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The fencing number.
    pub generation: Generation,
    /// The pilot job that has it.
    pub slot: SubmitKey,
    /// Which start of that job.
    pub incarnation: Incarnation,
    /// Which pilot process: a later one of the same job does not have it.
    pub boot: PilotBoot,
    /// On which node.
    pub node: NodeName,
    /// When it was given.
    pub granted: Timestamp,
    /// When it is over without a further sync; the margin comes on top.
    pub expiry: Timestamp,
    /// The longest that an answer to its pilot let it live. None: an older broker gave it.
    #[serde(default)]
    pub life: Option<Span>,
    /// Where it is by its pilot's word; none until the pilot has reported it.
    pub phase: Option<LeasePhase>,
    /// Guest-running time of the workspace by its pilot's word.
    pub run: Span,
    /// The same, when it was given.
    #[serde(default)]
    pub run_before: Span,
    /// What it holds.
    pub resources: Resources,
    /// The state that it started from; none: the image.
    pub resumed_from: Option<StateId>,
    /// Number of its newest checkpoint, which is the workspace's `saved`; 0 before the first.
    #[serde(default)]
    pub checkpoint: u32,
    /// Whether its pilot still has it.
    pub hold: Hold,
    /// Bytes of console that the pilot has captured.
    pub console_bytes: u64,
}

/// Whether a lease is still renewed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Hold {
    /// Its pilot has it; each answer extends it.
    Held,
    /// Its pilot was replaced, or no longer speaks of it: it is in no answer any more and is over
    /// at its expiry with margin.
    Orphaned {
        /// Why.
        why: String,
    },
}
