//! The record of a pilot job, with the slot of the pilot that registered for it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::api::PilotState;
use protocol::codes::Reason;
use protocol::ids::{
    EventSeq, Generation, LrmJobId, NodeName, PilotBoot, SiteName, StateId, SubmitKey, WorkspaceId,
};
use protocol::lease::Goal;
use protocol::lrm::JobState;
use protocol::messages::Rate;
use protocol::resources::Resources;
use protocol::slot::{HostFacts, SlotFacts, SlotStatus, SlotUse};
use protocol::suspend_cost::CostLine;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// A pilot job. `submitting -> queued -> started -> active <-> lost -> ended`.
///
/// A job on several nodes has one record for the job itself, which has no slot (`submitting ->
/// queued -> started -> ended`), and one for each of its pilots once that has registered
/// (`active <-> lost -> ended`); see `members.rs`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PilotRecord {
    /// [`super::RECORD_VERSION`].
    pub version: u32,
    /// Our key.
    pub key: SubmitKey,
    /// Where.
    pub site: SiteName,
    /// True for one that an administrator starts by hand, outside the LRM.
    pub by_hand: bool,
    /// When it was decided.
    pub created: Timestamp,
    /// What was asked for, on each node.
    pub resources: Resources,
    /// Nodes that were asked for.
    #[serde(default = "one")]
    pub nodes: u32,
    /// The job that it is a pilot of, for one of several.
    #[serde(default)]
    pub member_of: Option<SubmitKey>,
    /// How long was asked for.
    pub walltime: Span,
    /// Where it is.
    pub state: PilotState,
    /// Since when.
    pub since: Timestamp,
    /// What is known about it, or why it ended.
    pub reason: Option<Reason>,
    /// The LRM's id, once known.
    pub job: Option<LrmJobId>,
    /// How its submit goes.
    pub submit: SubmitProgress,
    /// How its cancel goes.
    pub cancel: CancelProgress,
    /// What the LRM says.
    pub lrm: LrmSide,
    /// The pilot that registered last.
    pub slot: Option<SlotRecord>,
    /// Pilot processes that were replaced: never let in again.
    pub fenced: BTreeSet<PilotBoot>,
    /// True once the pilot has said goodbye.
    pub goodbye: bool,
    /// True once a lease of it ran, or failed by no fault of the slot: it was not for nothing.
    #[serde(default)]
    pub fruitful: bool,
    /// When the LRM's first signal to its pilot was told.
    #[serde(default)]
    pub signalled: Option<Timestamp>,
    /// True once what this slot was good for, and what it cost the site, is on the site's record.
    #[serde(default)]
    pub settled: bool,
    /// True once its job is taken to be gone from the LRM after its pilot's goodbye, though the
    /// LRM never said so: it no longer counts against the site's limits.
    #[serde(default)]
    pub closed: bool,
    /// Number of the last event in the pilot job's own log.
    pub last_seq: EventSeq,
}

/// Records of jobs on one node do not say so.
const fn one() -> u32 {
    1
}

impl PilotRecord {
    /// True for the record of a job on several nodes: its pilots have records of their own.
    pub const fn is_shared(&self) -> bool {
        self.nodes > 1
    }
}

/// How a submit goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "submit", rename_all = "snake_case")]
pub enum SubmitProgress {
    /// Asked for; no answer yet.
    Asked,
    /// The LRM may or may not have it: it is looked up by its key.
    LookingUp {
        /// Look-ups so far.
        tries: u32,
        /// When to look again.
        next: Timestamp,
        /// Listings in a row that were readable and did not have it.
        absent: u32,
        /// The first of those.
        absent_since: Option<Timestamp>,
    },
    /// The LRM has, or had, it; or there is no LRM.
    Known,
}

/// How a cancel goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cancel", rename_all = "snake_case")]
pub enum CancelProgress {
    /// Nobody wants one.
    No,
    /// It is to be cancelled.
    Wanted {
        /// Why.
        reason: Reason,
        /// Tries so far.
        tries: u32,
        /// When to try (again).
        next: Timestamp,
    },
    /// The LRM has taken the wish.
    Taken {
        /// Why.
        reason: Reason,
    },
}

/// What the LRM says about a pilot job.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LrmSide {
    /// Its last word on the state.
    pub state: Option<JobState>,
    /// Its own words on why, for people.
    pub detail: String,
    /// When it started.
    pub start: Option<Timestamp>,
    /// When it will end.
    pub end: Option<Timestamp>,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// How often it was started again.
    pub restarts: u32,
    /// When it was last in a listing.
    pub seen: Option<Timestamp>,
    /// Since when readable listings do not have it. Not a proof of anything.
    pub missing_since: Option<Timestamp>,
}

/// A registered pilot and what it said last.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The pilot process.
    pub boot: PilotBoot,
    /// The slot.
    pub facts: SlotFacts,
    /// The node.
    pub host: HostFacts,
    /// When it registered.
    pub registered: Timestamp,
    /// When it was last heard.
    pub heard: Timestamp,
    /// Number of its last sync; 0 before the first.
    pub number: u64,
    /// Its clock, by the last sync.
    pub status: SlotStatus,
    /// What it has free, by the last sync.
    pub free: Resources,
    /// How it was used, by the last sync.
    pub used: SlotUse,
    /// Measured rate of suspends.
    pub suspend_rate: Option<Rate>,
    /// What it sets aside for a suspend, by the last sync.
    #[serde(default)]
    pub suspend_budget: Option<CostLine>,
    /// How many of the suspends that it has measured are on its node's record.
    #[serde(default)]
    pub costs_measured: u32,
    /// The last of its events that is stored.
    pub acknowledged: EventSeq,
    /// What it was told last; only something else is news.
    pub told: Option<Told>,
    /// Workspaces that it did not take, not offered again for a while.
    pub declined: BTreeMap<WorkspaceId, Decline>,
    /// It has said that it is too small for a guest, for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Full>,
}

/// A slot that declined a guest because of its time or of what its other guests need: it would decline
/// every other one of that size as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Full {
    /// Memory of the smallest guest that it declined, MiB.
    pub memory_mib: u64,
    /// It may be asked again then.
    pub until: Timestamp,
}

/// The news in a sync answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Number of the request that was answered.
    pub number: u64,
    /// The leases and their goals.
    pub leases: BTreeMap<WorkspaceId, (Generation, Goal)>,
    /// The end by the LRM's word.
    pub slot_end: Option<Timestamp>,
    /// The wish to leave.
    pub leave: Option<Reason>,
    /// The acknowledged event.
    pub acknowledged: EventSeq,
    /// The states to delete.
    pub discard: BTreeSet<StateId>,
}

/// A workspace that a pilot did not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decline {
    /// How often.
    pub times: u32,
    /// Not offered again before.
    pub until: Timestamp,
}
