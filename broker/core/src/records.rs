//! What is stored: everything that the broker knows, as versioned records.
//!
//! Fields that are added later get `#[serde(default)]`, so that old rows are still read.

mod costs;
mod lease;
mod pilot;
mod site;
mod workspace;

pub use costs::{CostRecord, EvictionLedger};
pub use lease::{Hold, LeaseRecord};
pub use pilot::{
    CancelProgress, Decline, Full, LrmSide, PilotRecord, SlotRecord, SubmitProgress, Told,
};
pub use site::{CourtesyLedger, NodeTrouble, Refusal, Refused, SiteRecord, SuspendRate, Terms};
pub use workspace::{PastLease, Wish, WorkspaceRecord};

use protocol::ids::{
    EventSeq, Generation, IdempotencyKey, SiteName, StateId, SubmitKey, UserName, WorkspaceId,
};
use protocol::time::Timestamp;
use protocol::workspace::WorkspaceState;
use serde::{Deserialize, Serialize};

/// Version of the records that this program writes.
pub const RECORD_VERSION: u32 = 1;

/// Counters and identity of the broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Part of every submit key, so that two brokers at one site never meet: 1 to 16 letters
    /// and digits, made by the shell at the first start and kept.
    pub instance: String,
    /// Number of the last submit key.
    pub last_submit: u64,
    /// Number of the last workspace: the order of acceptance.
    pub last_workspace: u64,
}

impl Meta {
    /// That of a broker that has never run.
    pub fn new(instance: impl Into<String>) -> Self {
        Self {
            version: RECORD_VERSION,
            instance: instance.into(),
            last_submit: 0,
            last_workspace: 0,
        }
    }
}

/// A submit that can be repeated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// Who used the key.
    pub owner: UserName,
    /// The key.
    pub key: IdempotencyKey,
    /// The workspace that it made; its record has the request to compare with.
    pub workspace: WorkspaceId,
}

/// A state that nobody needs any more and some pilot of its site is to delete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiscardRecord {
    /// The state.
    pub state: StateId,
    /// Where it lies.
    pub site: SiteName,
    /// The pilot that was told, and when; after a while another is told.
    pub told: Option<(SubmitKey, Timestamp)>,
}

/// Which log an event belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Log {
    /// That of a workspace; its owner reads it.
    Workspace(WorkspaceId),
    /// That of a pilot job.
    Pilot(SubmitKey),
}

/// One event of a log. Appended, never changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    /// The log.
    pub log: Log,
    /// Number in the log, from 1, without gaps.
    pub seq: EventSeq,
    /// When, by the clock of who saw it.
    pub at: Timestamp,
    /// Stable name of the kind.
    pub kind: String,
    /// The workspace's state after it, when it is a transition.
    pub state: Option<WorkspaceState>,
    /// The lease that it belongs to.
    pub generation: Option<Generation>,
    /// The slot that it happened in.
    pub slot: Option<SubmitKey>,
    /// The sentence for people.
    pub text: String,
    /// Numbers for programs.
    pub data: serde_json::Value,
}
