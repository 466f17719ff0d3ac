//! Why a pilot could not start.

use std::io;
use std::path::PathBuf;

use protocol::codes::exit;
use protocol::text::FileError;

use crate::broker_client::AccessError;
use crate::host::HostError;
use crate::hypervisor::SetupError;
use crate::journal::JournalError;
use crate::warden::WardenError;

/// Why a pilot could not start. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The slot file can't be read.
    #[error("read slot file {}", path.display())]
    ReadSlotFile {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The slot file says something wrong.
    #[error("use the slot file: {0}")]
    SlotFile(FileError),
    /// The broker can't be called.
    #[error("reach the broker")]
    Access {
        /// Why.
        source: AccessError,
    },
    /// A directory can't be made.
    #[error("make {what} {}", path.display())]
    Directory {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The slot can't be claimed.
    #[error("claim the slot")]
    Journal {
        /// Why.
        source: JournalError,
    },
    /// The warden does not run.
    #[error("guard the slot")]
    Warden {
        /// Why.
        source: WardenError,
    },
    /// The node can't run guests.
    #[error("use this node")]
    Host {
        /// Why.
        source: HostError,
    },
    /// The hypervisor can't be used.
    #[error("set up the hypervisor")]
    Hypervisor {
        /// Why.
        source: SetupError,
    },
    /// The process itself could not be set up.
    #[error("set up the process")]
    Runtime {
        /// The system's answer.
        source: io::Error,
    },
}

impl RunError {
    /// The exit code that goes with it.
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::ReadSlotFile { .. }
            | Self::SlotFile(_)
            | Self::Access { .. }
            | Self::Directory { .. }
            | Self::Journal { .. }
            | Self::Hypervisor { .. } => exit::USAGE,
            Self::Warden { .. } | Self::Host { .. } => exit::FAILED,
            Self::Runtime { .. } => exit::INTERNAL,
        }
    }
}
