//! The slot's write-ahead journal: everything that the pilot creates is named here, on disk,
//! before it is created, so that [`crate::reclaim`] can undo it at any crash point.
//!
//! Owner: the pilot, through one [`Journal`]. Two files, made in this order:
//! 1. `<node state>/workspace-pilot-<uid>/<submit key>.<incarnation>.json`, the *node entry*: who holds
//!    the slot and where its scratch directory is. Later pilots of the account find leftovers by it.
//! 2. `<scratch>/journal`: JSON lines ([`Line`]); the first repeats the node entry.
//!
//! The pilot holds a lock on both while it lives, and the kernel drops the locks with it: who
//! gets them knows that the pilot is gone, also where process numbers mean nothing.
//!
//! ```text
//! intend ──► (made, processes only) ──► gone        a crash between any two is what reclaim undoes
//! ```

mod claim;
mod line;
mod read;

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use claim::check_bounds;
pub use claim::{
    Claim, JOURNAL_FILE, NODE_ENTRIES_PREFIX, SLOT_FILE, SLOT_FILE_NEW, default_node_state,
    node_entries,
};
pub use line::{Holder, Line, Marker, NodeIdentity, VERSION, What};
pub use read::{Damage, Open, Recorded, read, read_node_entry};

use crate::host::processes::ProcessId;

/// Why the journal could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The scratch directory has files in it that are not ours.
    #[error(
        "claim scratch directory {}: `{found}` is in it; give each slot an empty directory of its own",
        scratch.display()
    )]
    ScratchNotEmpty {
        /// The directory.
        scratch: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Another pilot's start, or an earlier one of this, left its journal here.
    #[error(
        "claim {}: it is held by another pilot or was left by one; `pilot reclaim` undoes what a dead one left",
        path.display()
    )]
    Held {
        /// The journal or node entry that exists.
        path: PathBuf,
    },
    /// A directory that must exist does not, or can't be used.
    #[error("use {role} {}; it must be an existing directory that this account can write", path.display())]
    Directory {
        /// Which directory it is.
        role: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file could not be made or made durable.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A path that reclaim would refuse to touch, so it must not be created either.
    #[error("journal {what}: {rule}")]
    OutOfBounds {
        /// What was to be created.
        what: What,
        /// Which bound it breaks.
        rule: &'static str,
    },
    /// A process that was just started is not to be seen in `/proc`.
    #[error("find out when process {pid} started; is /proc mounted?")]
    NoSuchProcess {
        /// Its number.
        pid: i32,
    },
    /// This node does not say who it is.
    #[error("identify this node and process; is /proc mounted?")]
    Identity {
        /// The system's answer.
        source: io::Error,
    },
}

/// The open journal of the running pilot. Clones are the same journal.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    holder: Holder,
    path: PathBuf,
    // Its lock, like the journal's own, says that the pilot lives.
    _node_entry: File,
    writer: Mutex<Writer>,
}

struct Writer {
    file: File,
    // How much of the file is whole lines.
    good: u64,
    last_entry: u64,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Claims the slot: writes the node entry, makes the scratch directory where it is missing,
    /// and opens the journal in it. A crash anywhere in here is undone by reclaim like any other.
    ///
    /// # Errors
    /// Something else is there, or the directories can't be used; what was made until then is
    /// removed again.
    pub fn create(claim: &Claim) -> Result<Self, JournalError> {
        let claimed = claim::take(claim)?;
        let journal = Self {
            shared: Arc::new(Shared {
                path: claimed.holder.scratch.join(JOURNAL_FILE),
                holder: claimed.holder.clone(),
                _node_entry: claimed.node_entry,
                writer: Mutex::new(Writer {
                    file: claimed.journal,
                    good: 0,
                    last_entry: 0,
                }),
            }),
        };
        let begun = journal
            .append(&Line::Open(claimed.holder))
            .and_then(|()| claim::sync_directory(&journal.shared.holder.scratch));
        if begun.is_err() {
            claim::give_up(&journal.shared.holder);
        }
        begun.map(|()| journal)
    }

    /// Who holds the slot, and where.
    pub fn holder(&self) -> &Holder {
        &self.shared.holder
    }

    /// The slot's scratch directory.
    pub fn scratch(&self) -> &Path {
        &self.shared.holder.scratch
    }

    /// A marker for short-lived tools that get no entry of their own; reclaim finds them too.
    pub fn tool_marker(&self) -> Marker {
        Marker::new(&self.shared.holder.slot, "tool")
    }

    /// Writes down what is about to be created. It may be created when this has returned.
    ///
    /// # Errors
    /// It lies where reclaim does not reach, or the journal can't be written: create nothing then.
    pub fn intend(&self, what: What) -> Result<Entry, JournalError> {
        if let Err(rule) = check_bounds(&self.shared.holder, &what) {
            return Err(JournalError::OutOfBounds { what, rule });
        }
        let mut writer = self.writer();
        let entry = writer.last_entry + 1;
        self.write(&mut writer, &Line::Intend { entry, what })?;
        writer.last_entry = entry;
        drop(writer);
        Ok(Entry {
            journal: self.clone(),
            entry,
        })
    }

    /// Writes down the warden's process.
    ///
    /// # Errors
    /// The journal can't be written.
    pub(crate) fn record_warden(&self, process: ProcessId) -> Result<(), JournalError> {
        self.append(&Line::Warden { process })
    }

    fn append(&self, line: &Line) -> Result<(), JournalError> {
        self.write(&mut self.writer(), line)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.shared
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, writer: &mut Writer, line: &Line) -> Result<(), JournalError> {
        writer.append(line).map_err(|source| JournalError::Write {
            path: self.shared.path.clone(),
            source,
        })
    }
}

impl Writer {
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        // What a failed write left behind is cut off, or it would spoil the next line.
        if self.file.stream_position()? != self.good {
            self.file.set_len(self.good)?;
            self.file.seek(io::SeekFrom::Start(self.good))?;
        }
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.good += text.len() as u64;
        Ok(())
    }
}

/// One thing in the journal. Dropping it changes nothing: the thing stays written down until
/// [`Entry::gone`].
#[derive(Debug)]
#[must_use = "keep it to be able to say that the thing is gone"]
pub struct Entry {
    journal: Journal,
    entry: u64,
}

impl Entry {
    /// The marker that a process of this entry has to be started with.
    pub fn marker(&self) -> Marker {
        Marker::new(&self.journal.shared.holder.slot, self.entry)
    }

    /// Writes down the process that was started for this entry.
    ///
    /// # Errors
    /// It is not there any more and not waited for either, or the journal can't be written.
    /// Reclaim finds the process by its marker nevertheless.
    pub fn made(&self, pid: u32) -> Result<ProcessId, JournalError> {
        let pid = pid.cast_signed();
        let process = ProcessId::of(pid).ok_or(JournalError::NoSuchProcess { pid })?;
        let entry = self.entry;
        self.journal.append(&Line::Made { entry, process })?;
        Ok(process)
    }

    /// Writes down that the thing is gone. Say it only after it is.
    ///
    /// # Errors
    /// The journal can't be written; harmless, reclaim finds nothing to undo then.
    pub fn gone(self) -> Result<(), JournalError> {
        let entry = self.entry;
        self.journal.append(&Line::Gone { entry })
    }
}
