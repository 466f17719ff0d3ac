//! Between pilot and broker: `register` once, then `sync` again and again.
//!
//! A sync carries all that the pilot observes and is answered with all that the broker wants, so
//! a lost or repeated one changes nothing. A pilot has one sync under way at a time. The broker
//! holds the answer back while it has nothing to say.
//!
//! Fencing (invariant 2 in `docs/architecture.md`): each answer extends every lease in it by
//! `lease_ttl`, counted by the broker from when it answers, and by the pilot from
//! `when it sent + held`, on its monotonic clock: never later than the broker. A lease that the
//! pilot reports and the answer leaves out is over: if its guest still runs, it is killed.

use serde::{Deserialize, Serialize};

use crate::codes::Reason;
use crate::ids::{EventSeq, Generation, Incarnation, PilotBoot, StateId, SubmitKey, WorkspaceId};
use crate::lease::{DesiredLease, LeaseReport};
use crate::resources::Resources;
use crate::slot::{HostFacts, SlotFacts, SlotStatus, SlotUse};
use crate::suspend_cost::{CostLine, Sample};
use crate::time::{Span, Timestamp};

/// `POST /v1/pilot/register`: a pilot has started in its slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterRequest {
    /// [`crate::WIRE_VERSION`] of the pilot.
    pub version: u32,
    /// This pilot process.
    pub boot: PilotBoot,
    /// Version of the pilot's program.
    pub pilot_version: String,
    /// The slot.
    pub slot: SlotFacts,
    /// The node.
    pub host: HostFacts,
}

/// Answer to [`RegisterRequest`]. Registering again with the same `boot` gives the same answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterReply {
    /// [`crate::WIRE_VERSION`] of the broker.
    pub version: u32,
    /// How long a lease lives without a sync.
    #[serde(rename = "lease_ttl_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub lease_ttl: Span,
    /// The longest that the broker holds a sync back.
    #[serde(rename = "hold_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub hold: Span,
    /// Leave after so long without a lease; none: stay to the end of the slot.
    #[serde(
        default,
        rename = "idle_limit_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub idle_limit: Option<Span>,
    /// The broker's clock, to measure skew; nothing else may depend on it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub now: Timestamp,
    /// What suspends have cost here before; none when nothing is known, or by an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<KnownCosts>,
}

/// What suspends have cost before this pilot came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KnownCosts {
    /// True for measurements of this very node; false for some of the site's other nodes.
    pub of_node: bool,
    /// How many nodes they are from.
    #[serde(default)]
    pub nodes: u32,
    /// The measurements, oldest first.
    pub samples: Vec<Sample>,
}

/// What suspends have cost in this slot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CostReport {
    /// How many were measured since the pilot registered.
    pub measured: u32,
    /// The latest of those, at most [`CostReport::MOST`], oldest first.
    pub samples: Vec<Sample>,
    /// The time that the pilot sets aside for a suspend, by all that it knows.
    pub budget: CostLine,
}

impl CostReport {
    /// How many samples a sync has: more than are measured between two syncs.
    pub const MOST: usize = 16;
}

/// `POST /v1/pilot/sync`: what the pilot observes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SyncRequest {
    /// [`crate::WIRE_VERSION`] of the pilot.
    pub version: u32,
    /// The pilot job.
    pub submit_key: SubmitKey,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// This pilot process.
    pub boot: PilotBoot,
    /// Number of this sync, from 1; the broker refuses to go back.
    pub number: u64,
    /// Answer at once instead of holding: set when the pilot has news.
    #[serde(default)]
    pub no_hold: bool,
    /// The slot's clock.
    pub slot: SlotStatus,
    /// What is not promised to any lease.
    pub free: Resources,
    /// All leases that the broker has not yet seen the end of.
    #[serde(default)]
    pub leases: Vec<LeaseReport>,
    /// Measured rate of suspends on this node, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_rate: Option<Rate>,
    /// What suspends cost here; none from older pilots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<CostReport>,
    /// Events that are not acknowledged yet, oldest first.
    #[serde(default)]
    pub events: Vec<PilotEvent>,
    /// How the slot has been used so far.
    #[serde(default)]
    pub used: SlotUse,
    /// States of the last answer's `discard` that are no longer in the site's store.
    #[serde(default)]
    pub discarded: Vec<StateId>,
}

/// Answer to [`SyncRequest`]: what the broker wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SyncReply {
    /// [`crate::WIRE_VERSION`] of the broker.
    pub version: u32,
    /// The `number` of the request that this answers.
    pub number: u64,
    /// How long the broker held the request back before it decided this answer.
    #[serde(rename = "held_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub held: Span,
    /// Every lease of `leases` lives so long from `sent + held`.
    #[serde(rename = "lease_ttl_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub lease_ttl: Span,
    /// All leases that this slot has, as they are wanted. One that is missing is over.
    pub leases: Vec<DesiredLease>,
    /// The slot's end by the LRM's latest word to the broker, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub slot_end: Option<Timestamp>,
    /// The LRM answers the broker, which tells a moved end with its next answer: the pilot need
    /// not ask the LRM itself.
    #[serde(default)]
    pub watched: bool,
    /// Take nothing more, evict what runs, leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<Reason>,
    /// Events up to this one are durable here; forget them.
    pub acknowledged: EventSeq,
    /// States in this site's store that nobody needs any more: delete them.
    #[serde(default)]
    pub discard: Vec<StateId>,
}

/// A measured rate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rate {
    /// Mean, bytes a second.
    pub mean: f64,
    /// Standard deviation, bytes a second.
    pub sigma: f64,
    /// Number of measurements.
    pub count: u32,
    /// What the pilot plans with, bytes a second: lower than the mean, the less it has measured.
    /// Older pilots do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<f64>,
}

/// Something that happened in a slot; kept on the node until the broker has it durably.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PilotEvent {
    /// Number in this pilot process's log, from 1, without gaps.
    pub seq: EventSeq,
    /// When, by the node's clock.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    /// Stable name: `slot_started`, `guest_booting`, `deadline_near`, `guest_evicted`, ...
    pub kind: String,
    /// The workspace that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    /// And its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The sentence for people.
    pub text: String,
    /// Numbers for programs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: serde_json::Value,
}

/// `POST /v1/pilot/console/{workspace}/{generation}?offset=N`, body: raw bytes of the guest's
/// console from `offset` on (counted within this lease). Answer: how far the broker has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsoleReply {
    /// Send from here on next time.
    pub next_offset: u64,
}
