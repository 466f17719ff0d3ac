//! What the pilot and its helper for Xen say to each other. The helper is `pilot-xen-helper`, the
//! only part of the pilot that runs as root; docs/hypervisors/xen.md describes it.
//!
//! `pilot-xen-helper guest` reads an [`Order`] on one line of its standard input, the bytes of the
//! state after it if there is one, then lines of [`command`]s; it says [`Told`] on lines of its
//! standard output, and the guest's console on its standard error. It lives as long as the guest,
//! and the guest no longer than it: when its input ends, it destroys the domain.
//!
//! `pilot-xen-helper save UUID` writes the guest's stream to its standard output and a [`Saved`] to
//! its standard error. `info` prints an [`Info`]. `reclaim MARKER` and `sweep` print a [`Reclaimed`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a guest is virtualised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By its own kernel's calls to Xen; any processor.
    Pv,
    /// By the processor, without emulated devices; needs nested paging.
    Pvh,
}

impl Kind {
    /// The word in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
        }
    }
}

/// A guest that is to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What of the domain's name is for people.
    pub workspace: String,
    /// The mark in the pilot's journal.
    pub marker: String,
    /// PV or PVH.
    pub kind: Kind,
    /// Processors.
    pub cores: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel; none in a resume, whose memory has it.
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Raw disks that the guest writes to, in order; they belong to the caller.
    pub disks: Vec<PathBuf>,
    /// Ethernet address of its interface on the helper's bridge; none for no network.
    pub mac: Option<String>,
    /// The guest's name for itself: letters, digits, dots, dashes and underlines.
    pub hostname: String,
    /// Its user's data, 64 KiB at most, in base64.
    pub user_data: String,
    /// Length of the stream that follows; none boots.
    pub state_bytes: Option<u64>,
}

/// What a running guest is told, after a number that comes back in the answer: `7 pause`.
pub mod command {
    /// Stop it in memory.
    pub const PAUSE: &str = "pause";
    /// Let it go on.
    pub const CONTINUE: &str = "continue";
    /// Ask it to switch itself off.
    pub const SHUTDOWN: &str = "shutdown";
    /// Destroy it.
    pub const KILL: &str = "kill";
    /// `tell WORDS`: the words go to its xenstore node, after those that it was told before.
    pub const TELL: &str = "tell";
}

/// What the helper of a guest says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// The guest runs.
    Running {
        /// Its identity.
        uuid: String,
        /// Its domain's name.
        name: String,
    },
    /// There is no guest, and nothing of it is left.
    Failed {
        /// Whose fault.
        why: Why,
        /// In words.
        text: String,
    },
    /// A command was carried out, or not.
    Answer {
        /// Its number.
        number: u64,
        /// Why not.
        error: Option<String>,
    },
    /// The guest's agent said something.
    Said {
        /// One line.
        text: String,
    },
    /// The guest is gone, and nothing of it is left. The last word.
    Exited {
        /// How.
        how: How,
    },
}

/// Why there is no guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The order breaks a rule.
    Refused,
    /// Xen has not that much memory free.
    Memory,
    /// The toolstack did not make it.
    Toolstack,
    /// The stream can't be restored.
    State,
}

/// How a guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It switched itself off.
    PoweredOff,
    /// It wanted to boot anew.
    Reset,
    /// It crashed.
    Crashed,
    /// We destroyed it.
    Destroyed,
    /// Somebody else did.
    Lost,
    /// It could not be destroyed; a reclaim tries again.
    Left,
}

/// How a save ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "saved", rename_all = "snake_case")]
pub enum Saved {
    /// The stream is whole; the guest stands still, paused once.
    Whole,
    /// There is no stream; the guest runs, or is paused, as before.
    Failed {
        /// Why.
        text: String,
    },
    /// There is no stream, and the guest can't go on.
    Stuck {
        /// Why.
        text: String,
    },
    /// There is no such guest.
    Gone,
}

/// What Xen says of itself.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Info {
    /// Its version, `4.17.7`.
    pub version: String,
    /// All memory, MiB.
    pub total_mib: u64,
    /// Memory that no domain has, MiB.
    pub free_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// PVH guests are possible: the processor has nested paging.
    pub pvh: bool,
    /// The hypervisor's command line fixes dom0's memory: `xl` never takes any of it for a guest.
    pub dom0_fixed: bool,
    /// The bridge of guests with a network, if the administrator has named one.
    pub bridge: Option<String>,
    /// xenconsoled runs.
    pub consoles: bool,
}

/// What a reclaim has done.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Reclaimed {
    /// What was there and is gone.
    pub removed: Vec<String>,
    /// What is still there, and why.
    pub left: Vec<(String, String)>,
}
