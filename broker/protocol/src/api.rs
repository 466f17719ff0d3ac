//! Bodies of the users' and administrators' HTTP API under `/v1`.
//!
//! | call | body -> answer | who |
//! |---|---|---|
//! | `POST /v1/workspaces` (header `Idempotency-Key`) | [`WorkspaceSpec`] -> [`WorkspaceView`] | user |
//! | `GET /v1/workspaces?state=&name=&limit=&after=` | -> [`Page`]`<WorkspaceView>` | user: own; admin: all |
//! | `GET /v1/workspaces/{id}` | -> [`WorkspaceView`] | owner, admin |
//! | `POST /v1/workspaces/{id}/cancel`, `/suspend`, `/resume`, `/pause` | -> [`WorkspaceView`] | owner, admin |
//! | `GET /v1/workspaces/{id}/events?after=&limit=&wait_ms=` | -> [`Page`]`<EventView>` | owner, admin |
//! | `GET /v1/workspaces/{id}/explain` | -> [`Explanation`] | owner, admin |
//! | `GET /v1/workspaces/{id}/console?offset=&wait_ms=` | -> raw bytes, header `Console-Next-Offset` | owner, admin |
//! | `GET /v1/sites`, `/v1/sites/{name}/explain` | -> [`Page`]`<SiteView>`, [`Explanation`] | user |
//! | `POST /v1/sites/{name}/drain`, `/undrain` | -> [`SiteView`] | admin |
//! | `GET /v1/pilots?site=&limit=&after=` | -> [`Page`]`<PilotView>` | user |
//! | `POST /v1/pilots` | [`HandPilotRequest`] -> [`HandPilot`] | admin |
//! | `GET /v1/slots?site=&limit=&after=` | -> [`Page`]`<SlotView>` | user |
//! | `GET /v1/health` | -> `{"status":"ok"}` | anyone |
//! | `GET /v1/openapi.json` | -> the generated description | anyone |
//! | `POST /v1/pilot/register`, `/sync`, `/console/{ws}/{generation}` | see [`crate::messages`] | pilot |

use serde::{Deserialize, Serialize};

use crate::codes::Reason;
use crate::ids::{
    EventSeq, Generation, Incarnation, LrmJobId, NodeName, SiteName, SubmitKey, UserName,
    WorkspaceId,
};
use crate::lease::StateRef;
use crate::resources::Resources;
use crate::slot::{HostFacts, SlotStatus, SlotUse};
use crate::time::{Span, Timestamp};
use crate::workspace::{WorkspaceSpec, WorkspaceState};

/// Header of a submit: the same key finds the same workspace again.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Header of a console answer: the offset to ask for next.
pub const CONSOLE_NEXT_OFFSET: &str = "Console-Next-Offset";

/// A part of a list. `next` is the `after` of the next part; none at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A workspace as its owner sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkspaceView {
    /// Id.
    pub id: WorkspaceId,
    /// Owner.
    pub owner: UserName,
    /// Where it is.
    pub state: WorkspaceState,
    /// Why it is there: the last transition's reason. Always there for final states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When it was accepted.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub accepted: Timestamp,
    /// When it came into its state.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub since: Timestamp,
    /// Its latest lease's number; 0 before the first.
    pub generation: Generation,
    /// The slot that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SubmitKey>,
    /// And that slot's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The last good suspended state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<StateRef>,
    /// Guest-running time so far.
    #[serde(rename = "run_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub run: Span,
    /// How often it was suspended.
    pub suspends: u32,
    /// How often it started from its image beyond the first time.
    pub restarts: u32,
    /// The request.
    pub spec: WorkspaceSpec,
}

/// One event of a workspace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventView {
    /// Number in the workspace's log.
    pub seq: EventSeq,
    /// When, by the clock of who saw it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    /// Stable name of the kind.
    pub kind: String,
    /// The state after it, when it is a transition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkspaceState>,
    /// The lease that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The slot that it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SubmitKey>,
    /// The sentence for people.
    pub text: String,
    /// Numbers for programs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: serde_json::Value,
}

/// Why something is as it is, in sentences, most important first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// The sentences.
    pub sentences: Vec<String>,
}

/// A site.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SiteView {
    /// Name.
    pub name: SiteName,
    /// Kind of LRM: `sim`, `slurm`, `pbs`, `htcondor`, or `none` (pilots by hand only).
    pub lrm: String,
    /// True while no pilots are submitted there and those that run leave.
    pub draining: bool,
    /// Pilot jobs queued.
    pub queued: u32,
    /// Pilot jobs running.
    pub running: u32,
    /// Largest slot that the site gives.
    pub slot: Resources,
    /// Longest walltime that we ask for.
    #[serde(rename = "walltime_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub walltime: Span,
    /// What keeps pilots that would be of use from being submitted right now; none at a site that
    /// is well, also when nothing waits or enough pilots are on their way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<Reason>,
    /// One sentence on why pilots are, or are not, being submitted.
    #[serde(default)]
    pub why: String,
    /// Seconds that our pilots overran their slots, ever.
    #[serde(rename = "overrun_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub overrun: Span,
    /// What else they have cost the site.
    #[serde(default)]
    pub courtesy: Courtesy,
}

/// What our pilots have cost a site, beside the overrun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Courtesy {
    /// Slots that are over.
    pub slots: u32,
    /// Of those, with a pilot that was still there after the slot's end.
    pub overruns: u32,
    /// The longest of those overruns.
    #[serde(rename = "longest_overrun_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub longest_overrun: Span,
    /// Times that something of ours was left on a node.
    pub leftovers: u32,
    /// Slots that the LRM asked back early and whose pilot said when it was done.
    pub signalled: u32,
    /// In those, time from the first signal to the pilot's last word, summed.
    #[serde(rename = "notice_used_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub notice_used: Span,
    /// The longest of those.
    #[serde(rename = "longest_notice_used_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub longest_notice_used: Span,
    /// So often the site's limits are halved because of what we did to it; 0: not at all.
    pub owed: u32,
}

/// Where a pilot job is, as far as we know. "Not in the listing" is not a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PilotState {
    /// Decided and recorded; the LRM may or may not have it yet.
    Submitting,
    /// In the LRM's queue.
    Queued,
    /// Started by the LRM's word; its pilot has not registered.
    Started,
    /// Registered and syncing.
    Active,
    /// Was active; has not synced for longer than a lease lives.
    Lost,
    /// Over, by the pilot's last word or the LRM's.
    Ended,
}

/// A pilot job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PilotView {
    /// Our key.
    pub submit_key: SubmitKey,
    /// Site.
    pub site: SiteName,
    /// Nodes that its job asks for. With more than one this row is the job itself, which is never
    /// `active`; each of its pilots has a row `KEY.0`, `KEY.1` and so on once it has registered.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub nodes: u32,
    /// The LRM's id, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lrm_job_id: Option<LrmJobId>,
    /// Where it is.
    pub state: PilotState,
    /// When it was decided.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created: Timestamp,
    /// Why it ended, or what is known about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_one(nodes: &u32) -> bool {
    *nodes == 1
}

/// A slot: a pilot job that has, or had, a registered pilot; of a job on several nodes, one of its
/// pilots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SlotView {
    /// The pilot job.
    pub submit_key: SubmitKey,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// Site.
    pub site: SiteName,
    /// Node.
    pub node: NodeName,
    /// State of the pilot job.
    pub state: PilotState,
    /// What the slot has.
    pub resources: Resources,
    /// What of it is free.
    pub free: Resources,
    /// When it started.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub start: Timestamp,
    /// Its clock, by the last sync.
    pub status: SlotStatus,
    /// The node.
    pub host: HostFacts,
    /// The workspaces in it.
    pub workspaces: Vec<WorkspaceId>,
    /// How it was used, so far or in the end.
    pub used: SlotUse,
    /// When the pilot was last heard.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub heard: Timestamp,
}

/// Asks for a pilot that an administrator starts by hand, outside any LRM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandPilotRequest {
    /// The site that it is to belong to.
    pub site: SiteName,
}

/// The key and one-slot token for a pilot that is started by hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandPilot {
    /// Goes into the slot file.
    pub submit_key: SubmitKey,
    /// Goes into the slot file's token file. Shown once.
    pub token: String,
}
