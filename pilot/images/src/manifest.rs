//! What a state says about itself.

use protocol::ids::{Generation, StateId, WorkspaceId};
use protocol::time::{Span, Timestamp};
use protocol::workspace::DiskFormat;
use serde::{Deserialize, Serialize};

/// Version of the manifest that is written here.
pub(crate) const VERSION: u32 = 2;

/// Name of the manifest in a state's directory.
pub(crate) const FILE: &str = "manifest.json";

/// `manifest.json`: all that has to be known before a guest is started from the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub version: u32,
    /// The state's own name.
    pub state: StateId,
    /// The workspace whose guest it is.
    pub workspace: WorkspaceId,
    /// The lease under which it was made.
    pub generation: Generation,
    /// What it ran on, and can run on again.
    pub platform: Platform,
    /// Its processors.
    pub cores: u32,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its devices, in the order of their creation.
    pub devices: Vec<String>,
    /// Its disks, in order.
    pub disks: Vec<DiskEntry>,
    /// Guest-running time that it contains.
    #[serde(rename = "run_ms")]
    pub run: Span,
    /// When it was made.
    pub created: Timestamp,
    /// All other files of the state.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// Bytes of all files together, without the manifest and without holes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(FileEntry::data_bytes).sum()
    }

    /// The entry of a file.
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|f| f.name == name)
    }
}

/// What a guest depends on that a node may have otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// `qemu`, `xen` or `null`.
    pub hypervisor: String,
    /// Its version; for people, a different one may read the state.
    pub version: String,
    /// Pinned machine type.
    pub machine: String,
    /// CPU model.
    pub cpu: String,
    /// `tcg` or `kvm`; empty where there is no choice.
    pub accelerator: String,
}

impl Platform {
    /// The first thing in which `node` differs so that the guest could not run there, in words.
    pub fn mismatch(&self, node: &Self) -> Option<String> {
        [
            ("hypervisor", &self.hypervisor, &node.hypervisor),
            ("machine type", &self.machine, &node.machine),
            ("cpu model", &self.cpu, &node.cpu),
            ("accelerator", &self.accelerator, &node.accelerator),
        ]
        .into_iter()
        .find(|(_, state, node)| state != node)
        .map(|(what, state, node)| {
            format!("it needs the {what} `{state}`, this node is set up for `{node}`")
        })
    }
}

/// A disk of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskEntry {
    /// Its size as the guest sees it.
    pub size_bytes: u64,
    /// The artefact at its bottom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BasePin>,
    /// Its qcow2 layers above the base, lowest first: names of files of the state.
    pub layers: Vec<String>,
}

/// Which base a disk's layers were made on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BasePin {
    /// Where it came from.
    pub url: String,
    /// Its format.
    pub format: DiskFormat,
    /// Its length.
    pub bytes: u64,
    /// Its digest. None when it was too large to be read before the state was needed; then
    /// only length and time of change stand for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its last change, milliseconds since 1970, when it was used in place without a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ms: Option<i64>,
}

/// A file of a state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the state's directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 in hex; where it has `chunks`, the BLAKE3 of their digests.
    pub blake3: String,
    /// Set for a memory image, which is hashed in chunks and has holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Chunks>,
}

impl FileEntry {
    /// What it holds beside holes.
    pub fn data_bytes(&self) -> u64 {
        self.chunks.as_ref().map_or(self.bytes, |c| c.data_bytes)
    }
}

/// How a memory image is hashed: the digest of a chunk is its BLAKE3, or 32 zeros when it is all
/// zero.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunks {
    /// Length of a chunk.
    pub chunk_bytes: u64,
    /// Length of all chunks together that are not all zero.
    pub data_bytes: u64,
}

/// True for a name that can't lead out of the state's directory.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/') && name != FILE
}
