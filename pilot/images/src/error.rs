//! What can go wrong with artefacts and states; callers choose by variant.

use std::io;
use std::path::{Path, PathBuf};

/// An artefact can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be found or read.
    #[error("the artefact {what} can't be read: {source}")]
    Missing {
        /// Path or URL.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Its bytes are not those of its digest.
    #[error("the artefact {what} is not what its digest says: expected {expected}, found {found}")]
    Corrupt {
        /// Path or URL.
        what: String,
        /// What was asked for.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The digest itself is malformed.
    #[error("the digest of {what} is malformed: {text}")]
    BadDigest {
        /// Path or URL.
        what: String,
        /// What is wrong with it.
        text: String,
    },
    /// The store's disk is full.
    #[error("no space left in the store at {}", path.display())]
    NoSpace {
        /// Where it was written.
        path: PathBuf,
    },
    /// The store can't be written or read.
    #[error("can't {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) {
            Self::NoSpace { path }
        } else {
            Self::Io {
                operation,
                path,
                source,
            }
        }
    }
}

/// A state can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no such state in this store.
    #[error("there is no state {id} in the store")]
    Missing {
        /// Its name.
        id: String,
    },
    /// A part of it is missing, cut short or altered.
    #[error("the state {id} is corrupt: {file} {what}")]
    Corrupt {
        /// Its name.
        id: String,
        /// Which of its files.
        file: String,
        /// What is wrong with that.
        what: String,
    },
    /// It was made by a later version of this program.
    #[error(
        "the state {id} has a manifest of version {version}; this program reads version {known}"
    )]
    UnknownVersion {
        /// Its name.
        id: String,
        /// Its version.
        version: u64,
        /// The one that is known here.
        known: u32,
    },
    /// A state of this name is there already.
    #[error("the state {id} exists already")]
    Exists {
        /// Its name.
        id: String,
    },
    /// The making of it was called off.
    #[error("the state {id} was called off")]
    CalledOff {
        /// Its name.
        id: String,
    },
    /// The store's disk is full.
    #[error("no space left in the store at {}", path.display())]
    NoSpace {
        /// Where it was written.
        path: PathBuf,
    },
    /// The store can't be written or read.
    #[error("can't {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl StateError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) {
            Self::NoSpace { path }
        } else {
            Self::Io {
                operation,
                path,
                source,
            }
        }
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
