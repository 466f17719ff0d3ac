//! The lease: the right of one workspace to run in one slot, with a generation and an expiry.

use serde::{Deserialize, Serialize};

use crate::codes::Reason;
use crate::ids::{Generation, SiteName, StateId, WorkspaceId};
use crate::time::{Span, Timestamp};
use crate::workspace::WorkspaceSpec;

/// A suspended state that is complete and verified. It lies in one site's store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StateRef {
    /// Name of its directory in the store.
    pub id: StateId,
    /// BLAKE3 of its manifest, in hex: who has this can tell whether the state is the right one.
    pub manifest: String,
    /// The site whose store has it.
    pub site: SiteName,
    /// Bytes of memory, devices and writable disk together.
    pub bytes: u64,
    /// Guest-running time that the state contains, over all slots.
    #[serde(rename = "run_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub run: Span,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
}

/// What the broker wants of a lease. Level-triggered: repeating it changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Goal {
    /// Propagate the image and no more; the lease ends as [`EndOutcome::Staged`].
    Stage,
    /// Boot, or resume from the lease's state, and run.
    Run,
    /// Keep it in RAM, stopped.
    Pause,
    /// Suspend to the store; the lease ends as [`EndOutcome::Suspended`].
    Suspend {
        /// Why.
        reason: Reason,
    },
    /// Shut the guest down, kill it if it does not obey; its state is not kept.
    Stop {
        /// Why.
        reason: Reason,
    },
}

/// A lease as the broker wants it; part of every sync answer while the lease lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DesiredLease {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The fencing number.
    pub generation: Generation,
    /// What is wanted.
    #[serde(flatten)]
    pub goal: Goal,
    /// The whole request; sent until the pilot reports the lease, then left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Box<Order>>,
}

/// What a pilot needs to start a lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Order {
    /// The request.
    pub spec: WorkspaceSpec,
    /// The state to resume from; none boots from the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateRef>,
    /// Guest-running time that the workspace already has (that of `state`, else zero).
    #[serde(rename = "run_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub run: Span,
    /// How often the workspace has been suspended so far.
    pub suspends: u32,
}

/// Where a lease is, by its pilot's word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LeasePhase {
    /// Image or state is being brought to the node and verified.
    Staging,
    /// In place, not started.
    Staged,
    /// The hypervisor starts the guest from its image.
    Booting,
    /// The hypervisor loads the guest from its state.
    Resuming,
    /// The guest runs.
    Running,
    /// The guest is in RAM, stopped, at the owner's wish.
    Paused,
    /// The guest is being written to the store.
    Suspending,
    /// The guest was told to shut down.
    Stopping,
    /// Over: no guest of this lease runs here or ever will again.
    Ended {
        /// How.
        outcome: EndOutcome,
    },
}

/// How a lease ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EndOutcome {
    /// The image is in the site's store, as was asked.
    Staged,
    /// The workspace has what it wanted (powered off by itself, or its run time is used).
    Finished {
        /// Which of the two.
        reason: Reason,
    },
    /// A complete, verified state exists.
    Suspended {
        /// The state.
        state: StateRef,
        /// Why it was suspended.
        reason: Reason,
    },
    /// The guest was ended without a state; what it did since the last state, or checkpoint, is
    /// lost.
    Killed {
        /// Why.
        reason: Reason,
    },
    /// It could not be started or died by itself.
    Failed {
        /// Why.
        reason: Reason,
        /// True when the same would happen on any node (a missing or corrupt image): another
        /// slot is no use. A corrupt state is not permanent: the broker falls back.
        permanent: bool,
    },
    /// The pilot did not take it (no time, no room); nothing was started.
    Declined {
        /// Why.
        reason: Reason,
    },
}

impl EndOutcome {
    /// The reason of the end.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Staged => None,
            Self::Finished { reason }
            | Self::Suspended { reason, .. }
            | Self::Killed { reason }
            | Self::Failed { reason, .. }
            | Self::Declined { reason } => Some(reason),
        }
    }
}

/// A lease as its pilot sees it; part of every sync until the broker has taken its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseReport {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The fencing number.
    pub generation: Generation,
    /// Where it is.
    #[serde(flatten)]
    pub phase: LeasePhase,
    /// Guest-running time of the workspace over all slots, as far as this lease knows.
    #[serde(rename = "run_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub run: Span,
    /// Bytes of the guest's console that this pilot has captured under this lease.
    #[serde(default)]
    pub console_bytes: u64,
    /// The newest checkpoint of this lease: a state from which the workspace can go on if this
    /// guest is lost. Older pilots make none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<StateRef>,
}
