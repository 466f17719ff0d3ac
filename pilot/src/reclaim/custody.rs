//! The right to undo a slot: its pilot is dead, and nobody else is undoing it.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use super::{Effort, ReclaimError};
use crate::host::processes::{KillOutcome, ProcessId, holds_within};
use crate::journal::{Holder, JOURNAL_FILE, NodeIdentity, read, read_node_entry};

/// How the place where a journal was written relates to here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Its process numbers mean the same here.
    SameView,
    /// The same boot of the same node, but its process numbers mean nothing here.
    OtherNamespace,
    /// The node was booted since: none of its processes can be there any more.
    EarlierBoot,
    /// Another node.
    Elsewhere,
}

impl Place {
    pub(super) fn of(node: &NodeIdentity) -> Self {
        match NodeIdentity::here() {
            Ok(here) if here.boot == node.boot && here.pid_namespace == node.pid_namespace => {
                Self::SameView
            }
            Ok(here) if here.boot == node.boot => Self::OtherNamespace,
            Ok(here) if here.host == node.host => Self::EarlierBoot,
            Ok(_) | Err(_) => Self::Elsewhere,
        }
    }
}

/// The locks of a dead pilot's slot.
pub(super) struct Custody {
    _locks: Vec<File>,
}

impl Custody {
    pub(super) fn take(holder: &Holder, effort: Effort) -> Result<Self, ReclaimError> {
        let place = Place::of(&holder.node);
        match place {
            Place::SameView => end_pilot(holder, effort)?,
            Place::OtherNamespace | Place::EarlierBoot => {}
            Place::Elsewhere => {
                return Err(ReclaimError::OtherNode {
                    scratch: holder.scratch.clone(),
                    node: holder.node.host.clone(),
                });
            }
        }
        let journal = holder.scratch.join(JOURNAL_FILE);
        let mut to_lock = vec![holder.node_entry.clone()];
        let mut warden = None;
        match read(&journal) {
            // The directory was taken by a later pilot: its journal is not ours to lock.
            Ok(Some(recorded)) if recorded.holder.slot != holder.slot => {}
            Ok(Some(recorded)) => {
                to_lock.push(journal);
                warden = recorded.warden.filter(|_| place == Place::SameView);
            }
            Ok(None) | Err(_) => to_lock.push(journal),
        }
        let mut locks = Vec::new();
        for path in to_lock {
            locks.extend(lock(&path, warden, effort.limit)?);
        }
        // With the locks here there is nothing left for the warden to do, and it must not stay.
        end_warden(warden, effort.limit);
        Ok(Self { _locks: locks })
    }
}

fn end_pilot(holder: &Holder, effort: Effort) -> Result<(), ReclaimError> {
    let pilot = holder.pilot;
    let scratch = || holder.scratch.clone();
    if !pilot.is_alive() {
        return Ok(());
    }
    if !effort.force || Some(pilot) == ProcessId::own() {
        return Err(ReclaimError::PilotAlive {
            scratch: scratch(),
            pid: pilot.pid,
        });
    }
    match pilot.kill(effort.limit) {
        KillOutcome::WasGone | KillOutcome::Killed => Ok(()),
        KillOutcome::Stuck | KillOutcome::Refused(_) => Err(ReclaimError::PilotUnkillable {
            scratch: scratch(),
            pid: pilot.pid,
        }),
    }
}

/// `None`: the file is not there, so there is nothing to lock.
fn lock(
    path: &Path,
    warden: Option<ProcessId>,
    limit: Duration,
) -> Result<Option<File>, ReclaimError> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(ReclaimError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    if holds_within(limit, || file.try_lock().is_ok()) {
        return Ok(Some(file));
    }
    // A warden that is stopped or hangs would keep the lock for ever.
    end_warden(warden, limit);
    if file.try_lock().is_ok() {
        return Ok(Some(file));
    }
    Err(ReclaimError::Busy {
        path: path.to_owned(),
    })
}

fn end_warden(warden: Option<ProcessId>, limit: Duration) {
    if let Some(warden) = warden
        && Some(warden) != ProcessId::own()
        && let KillOutcome::Refused(e) = warden.kill(limit)
    {
        tracing::warn!(process.pid = warden.pid, error = %e, "could not end a dead pilot's warden");
    }
}

/// Removes a node entry that has no content, if its writer is dead. Nothing else was created
/// before the entry was whole.
pub(super) fn remove_torn_entry(path: &Path) {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
        return;
    };
    // Looked at again under the lock: the writer may have finished it in between.
    if file.try_lock().is_ok() && matches!(read_node_entry(path), Ok(None)) {
        let _ = fs::remove_file(path);
        if let Some(directory) = path.parent() {
            let _ = fs::remove_dir(directory);
        }
    }
}
