//! What can go wrong in a driver, a variant per kind, each with the stable reason for the broker.

use image_store::StateError;
use protocol::codes::{Reason, ReasonCode};

/// A driver can't be set up on this node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetupError {
    /// QEMU needs to be told its accelerator.
    #[error(
        "the slot file names no accelerator for QEMU; write `accelerator = \"tcg\"` or \"kvm\""
    )]
    NoAccelerator,
    /// A key contradicts the driver.
    #[error("the slot file contradicts itself: {0}")]
    Contradiction(String),
    /// QEMU takes paths as UTF-8 only.
    #[error("the path {} is not UTF-8", .0.display())]
    OddPath(std::path::PathBuf),
    /// The store can't be used.
    #[error("the store can't be used: {0}")]
    Store(String),
}

/// A guest could not be brought to the node. Nothing was started.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StageError {
    /// An artefact can't be found or read.
    #[error("{0}")]
    ImageMissing(String),
    /// The artefact's server or file system does not answer now; another time it may.
    #[error("{0}")]
    Unreachable(String),
    /// An artefact is not what its digest says.
    #[error("{0}")]
    ImageCorrupt(String),
    /// The state is missing, cut short or altered.
    #[error("{0}")]
    StateCorrupt(String),
    /// The state can't run on this node's hypervisor, or not with this request.
    #[error("{0}")]
    StateIncompatible(String),
    /// No room for the artefacts or the guest's disks.
    #[error("{0}")]
    DiskFull(String),
    /// The node or this program is at fault.
    #[error("{0}")]
    Node(String),
}

impl StageError {
    /// The reason as the broker gets it.
    pub fn reason(&self) -> Reason {
        let code = match self {
            Self::ImageMissing(_) | Self::Unreachable(_) => ReasonCode::ImageMissing,
            Self::ImageCorrupt(_) => ReasonCode::ImageCorrupt,
            Self::StateCorrupt(_) => ReasonCode::StateCorrupt,
            Self::StateIncompatible(_) => ReasonCode::StateIncompatible,
            Self::DiskFull(_) => ReasonCode::DiskFull,
            Self::Node(_) => ReasonCode::Internal,
        };
        Reason::new(code, self.to_string())
    }

    /// True when the same would happen on any node of the site.
    pub const fn permanent(&self) -> bool {
        match self {
            Self::ImageMissing(_) | Self::ImageCorrupt(_) => true,
            Self::Unreachable(_)
            | Self::StateCorrupt(_)
            | Self::StateIncompatible(_)
            | Self::DiskFull(_)
            | Self::Node(_) => false,
        }
    }
}

/// A staged guest could not be started. Nothing runs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// The hypervisor could not start the guest.
    #[error("{0}")]
    BootFailed(String),
    /// The hypervisor does not take the state.
    #[error("{0}")]
    StateIncompatible(String),
    /// The hypervisor can't read the state.
    #[error("{0}")]
    StateCorrupt(String),
}

impl StartError {
    /// The reason as the broker gets it.
    pub fn reason(&self) -> Reason {
        let code = match self {
            Self::BootFailed(_) => ReasonCode::BootFailed,
            Self::StateIncompatible(_) => ReasonCode::StateIncompatible,
            Self::StateCorrupt(_) => ReasonCode::StateCorrupt,
        };
        Reason::new(code, self.to_string())
    }
}

impl From<StateError> for StartError {
    /// A state that can't be read now may be read elsewhere: only one that is altered is corrupt.
    fn from(e: StateError) -> Self {
        let text = e.to_string();
        match e {
            StateError::Missing { .. } | StateError::Corrupt { .. } => Self::StateCorrupt(text),
            StateError::UnknownVersion { .. } => Self::StateIncompatible(text),
            StateError::NoSpace { .. }
            | StateError::Exists { .. }
            | StateError::CalledOff { .. }
            | StateError::Io { .. } => Self::BootFailed(text),
        }
    }
}

/// A suspend or checkpoint that made no state: whatever it had written is gone again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SuspendError {
    /// Why: `suspend_too_slow`, `disk_full`, `suspend_failed` or `guest_crashed`.
    pub reason: Reason,
    /// True: the guest runs on as before. False: it is dead, and its event says so.
    pub guest_alive: bool,
}

/// An order to a running guest that was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    /// The guest is gone.
    #[error("the guest is gone")]
    Gone,
    /// The hypervisor did not answer in time; it may or may not have obeyed.
    #[error("the hypervisor did not answer `{command}` within {seconds} s")]
    NoAnswer {
        /// What it was told.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The hypervisor refused.
    #[error("the hypervisor refused `{command}`: {text}")]
    Refused {
        /// What it was told.
        command: String,
        /// What it said.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_state_that_can_t_be_read_now_is_not_taken_for_corrupt() {
        let unread = StateError::Io {
            operation: "read",
            path: PathBuf::from("/store/states/ws-1.g1/memory"),
            source: io::Error::other("stale file handle"),
        };
        let altered = StateError::Corrupt {
            id: "ws-1.g1".to_owned(),
            file: "memory".to_owned(),
            what: "was altered".to_owned(),
        };
        let code = |e: StateError| StartError::from(e).reason().code;
        assert_eq!(code(unread), ReasonCode::BootFailed);
        assert_eq!(code(altered), ReasonCode::StateCorrupt);
    }
}
