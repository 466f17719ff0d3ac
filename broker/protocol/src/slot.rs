//! The slot: what the LRM gives one pilot job on one node.

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, LrmJobId, NodeName, SiteName, SubmitKey};
use crate::resources::Resources;
use crate::time::{Span, Timestamp};

/// The facts of a slot as its pilot knows them at its start; sent at registration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SlotFacts {
    /// The site that the slot belongs to.
    pub site: SiteName,
    /// The pilot job, as we know it.
    pub submit_key: SubmitKey,
    /// Which start of that job this is.
    pub incarnation: Incarnation,
    /// The pilot job, as its LRM knows it; none for a pilot that was started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lrm_job_id: Option<LrmJobId>,
    /// The node's name.
    pub node: NodeName,
    /// What the LRM lets us use there.
    pub resources: Resources,
    /// When the slot started.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub start: Timestamp,
    /// The end that was known at the start.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub end: Timestamp,
    /// Seconds that the site guarantees between its first signal and its SIGKILL; may be zero.
    #[serde(rename = "notice_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub notice: Span,
    /// Safety kept before every deadline.
    #[serde(rename = "margin_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub margin: Span,
}

/// Who told us an end of the slot. The slot's end is the earliest of all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EndSource {
    /// The slot file, written when the job started.
    SlotFile,
    /// The probe command on the node.
    Probe,
    /// The LRM through the broker.
    Broker,
    /// A signal of the LRM: it ends now plus what the profile guarantees.
    Signal,
    /// The site's own policy.
    SitePolicy,
    /// The end of the pilot's credential.
    Credential,
    /// An administrator's drain.
    Drain,
}

/// What the slot's pilot says about its clock in each sync.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SlotStatus {
    /// The earliest end that anyone has told.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub end: Timestamp,
    /// Who told it.
    pub end_source: EndSource,
    /// Where the pilot is in its own life.
    pub phase: PilotPhase,
    /// Guest time that a lease granted now could still get, after boot or resume and before the
    /// eviction has to begin. Zero when nothing more is taken.
    #[serde(rename = "useful_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub useful: Span,
}

/// The life of a pilot, as it reports it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PilotPhase {
    /// Takes leases.
    Open,
    /// Takes no more; the guests that it has run on until their own last moments.
    Closing,
    /// Evicts all guests.
    Evicting,
    /// Has no guests, cleans up, and will not sync again after this.
    Leaving,
}

/// What a node can run; sent at registration, kept with each suspended state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostFacts {
    /// `qemu`, `null`, later `xen`.
    pub hypervisor: String,
    /// Its version, as `7.2.22`.
    pub hypervisor_version: String,
    /// `tcg` or `kvm`; empty where there is no choice.
    pub accelerator: String,
    /// The host processor's name.
    pub cpu_model: String,
    /// Free space in the scratch directory, MiB.
    pub scratch_free_mib: u64,
    /// The file system of the site's store as this node has it, as `/shared nfs4 server:/export`:
    /// what suspends cost is kept for each. Empty when it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store_filesystem: String,
}

/// How the slot was used; sent with the last sync, kept by the broker for accounting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SlotUse {
    /// From lease to running guest (staging, boot, resume), summed over guests.
    #[serde(rename = "boot_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub boot: Span,
    /// With at least one guest running.
    #[serde(rename = "run_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub run: Span,
    /// Spent on suspending, summed over guests.
    #[serde(rename = "suspend_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub suspend: Span,
    /// With no guest at all.
    #[serde(rename = "idle_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub idle: Span,
    /// How long past the slot's end we were still there; must be zero.
    #[serde(rename = "overrun_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub overrun: Span,
}
