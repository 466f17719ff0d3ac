//! The workspace: a user's VM request, and the states of its life.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resources::Resources;
use crate::time::Span;

/// What a user asks for, checked and complete. Made from a [`crate::workspace_file`], or by a
/// program as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkspaceSpec {
    /// For people; need not be unique. 1 to 64 printable characters.
    pub name: String,
    /// What boots.
    pub image: Image,
    /// What the guest needs; its cores and memory are the guest's, its disk is the room for its
    /// writable layer.
    pub resources: Resources,
    /// Guest-running time that is needed, over all slots. When it is used, the guest is shut
    /// down and the workspace is done; a guest that powers itself off before is done then.
    #[serde(rename = "run_time_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub run_time: Span,
    /// What may be done to it.
    #[serde(default)]
    pub policy: Policy,
    /// How far to go.
    #[serde(default)]
    pub advance_to: AdvanceTo,
    /// Its network.
    #[serde(default)]
    pub network: Network,
    /// What it is told at boot.
    #[serde(default)]
    pub context: Context,
}

/// What boots: a kernel with what it needs, or the first disk's own boot loader.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// Kernel to boot directly (bzImage or PVH vmlinux).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Artefact>,
    /// Its initial ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Artefact>,
    /// Its command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Disks, in order. The guest writes to a layer of its own above each.
    #[serde(default)]
    pub disks: Vec<Disk>,
}

impl Image {
    /// Everything that has to be brought to the node.
    pub fn artefacts(&self) -> impl Iterator<Item = &Artefact> {
        self.kernel
            .iter()
            .chain(&self.initrd)
            .chain(self.disks.iter().filter_map(|d| d.base.as_ref()))
    }
}

/// A file that is part of an image.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Artefact {
    /// Absolute path that the site's nodes can read, or an `https://` (`http://` with a digest) URL.
    pub url: String,
    /// `blake3:` or `sha256:` and the hex digest. Without it the first copy that is staged is
    /// pinned by the state that is made from it, but nobody vouches for that copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// One disk of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Disk {
    /// Read-only base; none starts with an empty disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Artefact>,
    /// Format of the base.
    #[serde(default)]
    pub format: DiskFormat,
    /// Size as the guest sees it in MiB; that of the base if left out, and never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_mib: Option<u64>,
}

/// Formats of a base.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DiskFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// QEMU's.
    Qcow2,
}

/// What may be done to a workspace, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Policy {
    /// What happens at the end of a slot.
    pub on_eviction: OnEviction,
    /// After so many suspends it fails instead of being queued again.
    pub max_suspends: u32,
    /// After so many starts from the image beyond the first it fails.
    pub max_restarts: u32,
    /// True: may be placed where a suspend would not fit the site's notice; a preemption then
    /// kills it and costs the run time since its last state.
    pub may_be_killed: bool,
    /// A checkpoint is made each time that the guest has run for so long since its last state; none
    /// makes none. What a kill then costs is the run time since the newest one, wherever the guest
    /// is placed: it may be placed like one that `may_be_killed`. At least
    /// [`Policy::LEAST_CHECKPOINT_EVERY`]; a pilot waits longer where checkpoints take long.
    #[serde(
        rename = "checkpoint_every_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub checkpoint_every: Option<Span>,
}

impl Policy {
    /// The shortest `checkpoint_every` that is taken.
    pub const LEAST_CHECKPOINT_EVERY: Span = Span::from_secs(10);

    /// True when the request bears a kill without a suspend: it said so, or its checkpoints bound
    /// what that costs.
    pub const fn bears_a_kill(&self) -> bool {
        self.may_be_killed || self.checkpoint_every.is_some()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            on_eviction: OnEviction::Suspend,
            max_suspends: 1000,
            max_restarts: 3,
            may_be_killed: false,
            checkpoint_every: None,
        }
    }
}

/// What happens to a guest at the end of its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnEviction {
    /// Suspended, queued again with its state.
    #[default]
    Suspend,
    /// Shut down, queued again from its image.
    Restart,
    /// Shut down; the workspace has failed.
    Fail,
}

/// How far a workspace is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AdvanceTo {
    /// Only bring the image to a site.
    Staged,
    /// Run to the end.
    #[default]
    Finished,
}

/// The guest's network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Network {
    /// No network card.
    #[default]
    None,
    /// One card behind the node's user-mode address translation; outbound only.
    User,
}

/// What a guest is told at boot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Context {
    /// Host name; made from the workspace's id if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Handed to the guest as it is (fw_cfg `opt/guest/user-data`), at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

/// What is wrong with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecFault {
    /// Where it stands in a request file, dotted: `resources.memory`, `image.disk.0.digest`.
    pub key: String,
    /// The sentence.
    pub message: String,
}

impl SpecFault {
    fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

impl WorkspaceSpec {
    /// Says what is wrong with a request that a program made.
    ///
    /// # Errors
    /// The first thing that no slot of any site could do, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        self.fault().map_or(Ok(()), |f| Err(f.message))
    }

    /// The first thing that no slot of any site could do, and where it stands.
    pub fn fault(&self) -> Option<SpecFault> {
        let fault = |key: &str, message: &str| Some(SpecFault::new(key, message));
        if self.name.is_empty() || self.name.len() > 64 || self.name.chars().any(char::is_control) {
            return fault("name", "`name` must be 1 to 64 printable characters");
        }
        if let Some(fault) = self.image.fault() {
            return Some(fault);
        }
        if self.resources.cores == 0 {
            return fault("resources.cores", "`resources` needs at least 1 core");
        }
        if self.resources.memory_mib == 0 {
            return fault(
                "resources.memory",
                "`resources` needs at least 1 MiB of memory; write how much the guest needs, as in \"512 MiB\"",
            );
        }
        if self.run_time.is_zero() {
            return fault(
                "run_time",
                "`run_time` is zero; say how long the guest needs to run, as in \"2h\"",
            );
        }
        if let Some(fault) = self.policy.fault() {
            return Some(fault);
        }
        let context = &self.context;
        if context.user_data.as_ref().is_some_and(|u| u.len() > 65_536) {
            return fault(
                "context.user_data",
                "`context.user_data` is larger than 64 KiB",
            );
        }
        let name_ok = |h: &String| crate::ids::WorkspaceId::new(h).is_ok();
        if context.hostname.as_ref().is_some_and(|h| !name_ok(h)) {
            return fault(
                "context.hostname",
                "`context.hostname` must be letters, digits, '.' or '-'",
            );
        }
        None
    }
}

impl Policy {
    fn fault(&self) -> Option<SpecFault> {
        let fault = |text: String| Some(SpecFault::new("policy.checkpoint_every", text));
        let every = self.checkpoint_every?;
        if every < Self::LEAST_CHECKPOINT_EVERY {
            return fault(format!(
                "`policy.checkpoint_every` is {every}, and the least is {}: the guest stands still while a checkpoint is made; write for instance \"10m\"",
                Self::LEAST_CHECKPOINT_EVERY
            ));
        }
        match self.on_eviction {
            OnEviction::Suspend => None,
            OnEviction::Restart | OnEviction::Fail => fault(
                "`policy.checkpoint_every` needs `on_eviction = \"suspend\"`: a request that restarts from its image or fails never goes on from a checkpoint"
                    .to_owned(),
            ),
        }
    }
}

impl Image {
    fn fault(&self) -> Option<SpecFault> {
        if self.kernel.is_none() && self.disks.iter().all(|d| d.base.is_none()) {
            return Some(SpecFault::new(
                "image",
                "`image` has neither a kernel nor a disk with a base: nothing to boot; add `kernel = \"/path/to/vmlinux\"`, or `[[image.disk]]` with a `base`",
            ));
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.cmdline.is_some()) {
            return Some(SpecFault::new(
                "image",
                "`image.initrd` and `image.cmdline` need an `image.kernel`",
            ));
        }
        if self.disks.len() > 8 {
            return Some(SpecFault::new(
                "image.disk",
                "`image` has more than 8 disks",
            ));
        }
        let kernel = self.kernel.iter().map(|a| ("image.kernel".to_owned(), a));
        let initrd = self.initrd.iter().map(|a| ("image.initrd".to_owned(), a));
        for (key, artefact) in kernel.chain(initrd) {
            let digest_key = format!("{key}_digest");
            if let Some(fault) = artefact.fault(key, digest_key) {
                return Some(fault);
            }
        }
        for (i, disk) in self.disks.iter().enumerate() {
            let key = |name: &str| format!("image.disk.{i}.{name}");
            let fault = match &disk.base {
                Some(base) => base.fault(key("base"), key("digest")),
                None if disk.size_mib.is_none_or(|s| s == 0) => Some(SpecFault::new(
                    key("size"),
                    "a disk without a `base` needs a `size`, as in \"4 GiB\"",
                )),
                None => None,
            };
            if fault.is_some() {
                return fault;
            }
        }
        None
    }
}

impl Artefact {
    fn fault(&self, url_key: String, digest_key: String) -> Option<SpecFault> {
        let url = &self.url;
        if url.chars().any(char::is_control) {
            let message = format!("`{}` has control characters", url.escape_debug());
            return Some(SpecFault::new(url_key, message));
        }
        let digest_ok = match self.digest.as_deref().map(|d| d.split_once(':')) {
            None => true,
            Some(Some(("blake3" | "sha256", hex))) => {
                hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
            }
            Some(_) => false,
        };
        if !digest_ok {
            let message =
                format!("the digest of `{url}` must be `blake3:` or `sha256:` and 64 hex digits");
            return Some(SpecFault::new(digest_key, message));
        }
        if url.starts_with('/') || url.starts_with("https://") {
            None
        } else if url.starts_with("http://") {
            self.digest.is_none().then(|| {
                let message = format!(
                    "`{url}` is plain http and has no digest; add its digest, as in \"sha256:...\""
                );
                SpecFault::new(url_key, message)
            })
        } else {
            let message = format!("`{url}` must be an absolute path or an https:// URL");
            Some(SpecFault::new(url_key, message))
        }
    }
}

/// Where a workspace is in its life, as users see it.
///
/// `queued -> claimed -> staging -> staged -> booting -> running <-> paused -> suspending ->
/// suspended (-> queued, with state) -> resuming -> running -> stopping -> staging_out -> done`;
/// from anywhere `cancelled` and `failed`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WorkspaceState {
    /// Waits for a slot; may have a state to resume from.
    Queued,
    /// Has a lease; its pilot has not yet taken it up.
    Claimed,
    /// Its image or state is brought to the node.
    Staging,
    /// All is in place on the node.
    Staged,
    /// Starts from its image.
    Booting,
    /// Runs.
    Running,
    /// In RAM, stopped, by its owner's wish.
    Paused,
    /// Is being written to the store.
    Suspending,
    /// Has a state and stays out of the queue, by its owner's wish.
    Suspended,
    /// Loads its state.
    Resuming,
    /// Shuts down.
    Stopping,
    /// Its results are brought away.
    StagingOut,
    /// Final: it had what it asked for.
    Done,
    /// Final: its owner ended it.
    Cancelled,
    /// Final: it could not be done; the reason says why.
    Failed,
}

impl WorkspaceState {
    /// All states, in order.
    pub const ALL: [Self; 15] = [
        Self::Queued,
        Self::Claimed,
        Self::Staging,
        Self::Staged,
        Self::Booting,
        Self::Running,
        Self::Paused,
        Self::Suspending,
        Self::Suspended,
        Self::Resuming,
        Self::Stopping,
        Self::StagingOut,
        Self::Done,
        Self::Cancelled,
        Self::Failed,
    ];

    /// True for the three states that nothing leaves.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }

    /// The word in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Staging => "staging",
            Self::Staged => "staged",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::StagingOut => "staging_out",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for WorkspaceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for WorkspaceState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| {
                let all = Self::ALL.map(Self::as_str).join(", ");
                format!("`{text}` is not a state; the states are {all}")
            })
    }
}
