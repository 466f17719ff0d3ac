//! Undoing what is in a journal: at any crash point, any number of times, and nothing else.
//!
//! Who calls it: the pilot at its own end ([`finish`]); the warden after the pilot's death; the
//! next pilot of the account at its start ([`sweep`]); a site's prologue or epilogue
//! (`pilot reclaim`, [`command`]).
//!
//! Order: processes first, so that nothing writes any more; then the entries, latest first; the
//! scratch directory; the node entry last, so that a reclaim that is itself killed is found and
//! finished by the next one. Where something cannot be undone, journal and node entry stay too.
//!
//! What keeps it from touching what is not ours:
//! * a process is killed only by a marker that begins with the slot's unguessable name, or by
//!   number *and* start time, on the same boot and process-number namespace;
//! * a path has to lie inside the slot's scratch directory and is not followed through symbolic
//!   links or into mounted file systems; in the store only names of unfinished things are taken;
//! * nothing is undone while the pilot lives, or on another node.

pub mod command;
mod custody;
mod files;
mod report;
mod unbegun;
mod undo;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use report::{Leftover, Report, SlotName};
pub use unbegun::unbegun;

use crate::broker_client::chain;
use crate::hypervisor::Helper;
use crate::journal::{
    Holder, JOURNAL_FILE, Journal, Recorded, default_node_state, node_entries, read,
    read_node_entry,
};
use custody::Custody;

/// Why nothing was undone.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// The pilot of the slot lives.
    #[error("reclaim {}: its pilot (process {pid}) lives; end the job first, or use --force to kill the pilot", scratch.display())]
    PilotAlive {
        /// The slot's scratch directory.
        scratch: PathBuf,
        /// The pilot.
        pid: i32,
    },
    /// The pilot was to be killed and did not die.
    #[error("reclaim {}: its pilot (process {pid}) could not be killed", scratch.display())]
    PilotUnkillable {
        /// The slot's scratch directory.
        scratch: PathBuf,
        /// The pilot.
        pid: i32,
    },
    /// Somebody holds the lock: a pilot that is not visible from here, or another reclaim.
    #[error("reclaim {}: somebody holds its lock: a pilot in another process namespace, or another reclaim; try again", path.display())]
    Busy {
        /// The locked file.
        path: PathBuf,
    },
    /// The slot is another node's.
    #[error("reclaim {}: it is a slot of node {node}; run the command there", scratch.display())]
    OtherNode {
        /// The slot's scratch directory.
        scratch: PathBuf,
        /// The node by its journal.
        node: String,
    },
    /// The journal is of another directory.
    #[error("reclaim {}: its journal is that of {}; a copied or moved slot is left alone", found.display(), written.display())]
    Moved {
        /// Where the journal is.
        found: PathBuf,
        /// Where it says that it is.
        written: PathBuf,
    },
    /// There is no journal in the directory, but there are other things in it.
    #[error("reclaim {}: it has no journal and is not empty, so it is not a slot's directory; remove it by hand if it is yours", path.display())]
    NotASlot {
        /// The directory.
        path: PathBuf,
    },
    /// A journal or entry can't be read.
    #[error("read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How long, and how hard.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How long to wait for each process to die, and for another reclaim to end.
    pub limit: Duration,
    /// Kill the pilot too if it lives.
    pub force: bool,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(10),
            force: false,
        }
    }
}

/// What became of one entry of a sweep.
#[derive(Debug)]
pub enum Swept {
    /// Its pilot is dead: this was undone.
    Reclaimed(Report),
    /// Its pilot lives, or it is another node's; left alone.
    LeftAlone(ReclaimError),
    /// It could not be looked at.
    Failed(ReclaimError),
}

/// Undoes everything of the running pilot's own slot, as its last act before it leaves.
/// `limit` bounds the wait for each process to die.
pub fn finish(journal: &Journal, limit: Duration) -> Report {
    let holder = journal.holder();
    let recorded = match read(&holder.scratch.join(JOURNAL_FILE)) {
        Ok(Some(recorded)) => recorded,
        // Undone before, or spoilt: the processes and the directory are known without it.
        Ok(None) | Err(_) => Recorded {
            began: true,
            ..Recorded::nothing(holder.clone())
        },
    };
    undo::undo(&recorded, limit)
}

/// Undoes the slot with this scratch directory. A directory that is not there has nothing left.
///
/// # Errors
/// Nothing was touched, for the reason in the error.
pub fn reclaim(scratch: &Path, effort: Effort) -> Result<Report, ReclaimError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ReclaimError::Read { path, source }
    };
    let scratch = match fs::canonicalize(scratch) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return orphaned_entry(scratch, effort).unwrap_or_else(|| Ok(Report::empty(scratch)));
        }
        Err(e) => return Err(unreadable(scratch)(e)),
    };
    let path = scratch.join(JOURNAL_FILE);
    match read(&path).map_err(unreadable(&path))? {
        Some(recorded) if recorded.holder.scratch == scratch => undo_as(&recorded.holder, effort),
        Some(recorded) => Err(ReclaimError::Moved {
            found: scratch,
            written: recorded.holder.scratch,
        }),
        None => match orphaned_entry(&scratch, effort) {
            Some(result) => result,
            None if files::is_unclaimed_slot(&scratch) => Ok(undo::remove_unclaimed(&scratch)),
            // An empty directory is nobody's slot: nothing of ours is left in it.
            None if files::holds_nothing_of_others(&scratch) => Ok(Report::empty(&scratch)),
            None => Err(ReclaimError::NotASlot { path: scratch }),
        },
    }
}

/// The slot of a pilot that died before its journal began, or after it was removed, known by the
/// node entry alone.
fn orphaned_entry(scratch: &Path, effort: Effort) -> Option<Result<Report, ReclaimError>> {
    let parent = fs::canonicalize(default_node_state(scratch)).ok()?;
    let scratch = parent.join(scratch.file_name()?);
    let entry = entries(&parent).ok()?.into_iter().find(
        |path| matches!(read_node_entry(path), Ok(Some(holder)) if holder.scratch == scratch),
    )?;
    reclaim_entry(&entry, effort).transpose()
}

/// Looks at all slots of this account that have an entry in the node-state directory and undoes
/// those whose pilot is dead.
///
/// # Errors
/// The directory of the entries can't be read. That it is missing is no error.
pub fn sweep(node_state: &Path, effort: Effort) -> Result<Vec<Swept>, ReclaimError> {
    let paths = entries(node_state)?;
    Ok(paths
        .iter()
        .filter_map(|path| match reclaim_entry(path, effort) {
            Ok(report) => Some(Swept::Reclaimed(report?)),
            Err(e @ (ReclaimError::PilotAlive { .. } | ReclaimError::OtherNode { .. })) => {
                Some(Swept::LeftAlone(e))
            }
            Err(e) => Some(Swept::Failed(e)),
        })
        .collect())
}

/// Destroys this account's Xen domains whose helper was killed, also those of slots whose journal is
/// lost; as root, everybody's. `None`: this is no Xen host with a helper at that path.
pub fn sweep_domains(helper: &Path) -> Option<Report> {
    if !helper.is_file() || !is_control_domain() {
        return None;
    }
    let mut report = Report::empty(helper);
    match Helper::at(helper).sweep_now() {
        Ok(done) => report.reclaimed(done),
        Err(e) => report.left("domains", chain(&e)),
    }
    Some(report)
}

/// True in a domain that may control Xen.
pub(crate) fn is_control_domain() -> bool {
    fs::read_to_string("/proc/xen/capabilities")
        .is_ok_and(|text| text.split_whitespace().any(|word| word == "control_d"))
}

fn entries(node_state: &Path) -> Result<Vec<PathBuf>, ReclaimError> {
    let directory = node_entries(node_state);
    let listing = match fs::read_dir(&directory) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(ReclaimError::Read {
                path: directory,
                source,
            });
        }
    };
    let mut paths: Vec<PathBuf> = listing
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    Ok(paths)
}

/// `None`: there was nothing to undo but, at most, an entry that its pilot did not finish writing.
fn reclaim_entry(entry: &Path, effort: Effort) -> Result<Option<Report>, ReclaimError> {
    match read_node_entry(entry) {
        Ok(Some(holder)) => undo_as(&holder, effort).map(Some),
        Ok(None) => {
            custody::remove_torn_entry(entry);
            Ok(None)
        }
        Err(source) => Err(ReclaimError::Read {
            path: entry.to_owned(),
            source,
        }),
    }
}

fn undo_as(holder: &Holder, effort: Effort) -> Result<Report, ReclaimError> {
    let _custody = Custody::take(holder, effort)?;
    // Read under the lock: the pilot may have written until its end, and another reclaim may
    // have undone everything while this one waited.
    let path = holder.scratch.join(JOURNAL_FILE);
    let recorded = match read(&path) {
        Ok(Some(recorded)) if recorded.holder.slot == holder.slot => recorded,
        // The directory was taken by a later pilot: only the entry is ours.
        Ok(Some(_)) => return Ok(undo::remove_stale_entry(holder)),
        Ok(None) => Recorded::nothing(holder.clone()),
        Err(source) => return Err(ReclaimError::Read { path, source }),
    };
    Ok(undo::undo(&recorded, effort.limit))
}
