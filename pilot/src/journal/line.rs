//! The lines of a journal, as they lie on disk.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::processes::ProcessId;

/// Version of the journal's and the node entry's format.
pub const VERSION: u32 = 1;

/// The name that a process of ours carries in its environment: the slot's own unguessable name,
/// a dot, and what the process is within the slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker(String);

impl Marker {
    pub(super) fn new(slot: &str, within: impl fmt::Display) -> Self {
        Self(format!("{slot}.{within}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that is about to be created. Paths are absolute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// A process, started through the trampoline with the marker of its entry.
    Process {
        /// Its program, for people.
        program: String,
    },
    /// A directory with all that will be in it, inside the slot's scratch directory.
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// A file inside the slot's scratch directory.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A socket inside the slot's scratch directory.
    Socket {
        /// Where.
        path: PathBuf,
    },
    /// A file or directory under construction in the site's store: directly in its `states` or
    /// `blobs`, with a name that begins with `.tmp-`.
    StoreTmp {
        /// Where.
        path: PathBuf,
    },
    /// A control group of the slot's own, with the slot's unguessable name.
    Group {
        /// Its directory.
        path: PathBuf,
    },
    /// A file system mounted inside the slot's scratch directory.
    Mount {
        /// Where.
        path: PathBuf,
    },
    /// Xen domains: all whose marker begins with the slot's unguessable name. One entry stands for
    /// those of all the slot's guests.
    Domains {
        /// The helper that knows them.
        helper: PathBuf,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { program } => write!(f, "process {program}"),
            Self::Directory { path } => write!(f, "directory {}", path.display()),
            Self::File { path } => write!(f, "file {}", path.display()),
            Self::Socket { path } => write!(f, "socket {}", path.display()),
            Self::StoreTmp { path } => write!(f, "unfinished {} in the store", path.display()),
            Self::Group { path } => write!(f, "control group {}", path.display()),
            Self::Mount { path } => write!(f, "mount {}", path.display()),
            Self::Domains { helper } => write!(f, "domains of {}", helper.display()),
        }
    }
}

/// Who holds a slot, on which node, and where; the first line of a journal, and the content of
/// the entry in the node-state directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// [`VERSION`] of the pilot that wrote this.
    pub version: u32,
    /// The slot's own unguessable name, with which the markers of its processes begin.
    pub slot: String,
    /// The pilot job.
    pub submit_key: String,
    /// Which start of it.
    pub incarnation: String,
    /// The pilot's process.
    pub pilot: ProcessId,
    /// The account that it runs under.
    pub uid: u32,
    /// Where `pilot` means something.
    pub node: NodeIdentity,
    /// The slot's scratch directory, without symbolic links.
    pub scratch: PathBuf,
    /// The site's store, without symbolic links.
    pub store: PathBuf,
    /// The entry in the node-state directory.
    pub node_entry: PathBuf,
}

impl Holder {
    /// What the markers of the slot's processes begin with.
    pub fn marker_prefix(&self) -> String {
        format!("{}.", self.slot)
    }

    /// What the name of a blob under construction in the site's store begins with. Such a blob
    /// needs no entry: reclaim removes all that begin like this.
    pub fn blob_tmp_prefix(&self) -> String {
        format!(".tmp-{}.", self.slot)
    }
}

/// Which kernel and which view of its processes a process number belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// The node's name by its kernel.
    pub host: String,
    /// Differs after each boot.
    pub boot: String,
    /// The process-number namespace.
    pub pid_namespace: String,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Open(Holder),
    /// The process that undoes all this should the pilot die; not an entry, because it is the
    /// one who reads them.
    Warden {
        /// It.
        process: ProcessId,
    },
    /// Written and on disk before the thing is created.
    Intend {
        /// Number of the entry; from 1.
        entry: u64,
        /// What will be created.
        what: What,
    },
    /// A process was created.
    Made {
        /// The entry.
        entry: u64,
        /// It.
        process: ProcessId,
    },
    /// The thing is gone again.
    Gone {
        /// The entry.
        entry: u64,
    },
}
