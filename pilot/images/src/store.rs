//! The store's directories, and what one process remembers of files that it has read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use protocol::ids::StateId;

use crate::blobs::Stamp;
use crate::digest::{Algorithm, Digest};
use crate::durable::{remove_dir, sync_dir};
use crate::error::{ImageError, StateError};

/// A site's store. Cheap to clone; clones share what they remember.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    states: PathBuf,
    known: Mutex<BTreeMap<(Stamp, Algorithm), Digest>>,
}

/// Name prefix of what is under construction.
pub(crate) const TMP: &str = ".tmp-";

impl Store {
    /// Opens the store at `root`; makes its directories if they are missing.
    ///
    /// # Errors
    /// They can't be made.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let (blobs, states) = (root.join("blobs"), root.join("states"));
        for dir in [&blobs, &states] {
            fs::create_dir_all(dir).map_err(|e| ImageError::io("make the directory", dir, e))?;
        }
        Ok(Self(Arc::new(Inner {
            blobs,
            states,
            known: Mutex::default(),
        })))
    }

    pub(crate) fn blobs_dir(&self) -> &Path {
        &self.0.blobs
    }

    /// The directory of all states.
    pub fn states_dir(&self) -> &Path {
        &self.0.states
    }

    /// Where a state is when it exists.
    pub fn state_dir(&self, id: &StateId) -> PathBuf {
        self.0.states.join(id.as_str())
    }

    /// Where a state is while it is under construction.
    pub fn state_tmp(&self, id: &StateId) -> PathBuf {
        self.0.states.join(format!("{TMP}{id}"))
    }

    pub(crate) fn remembered(&self, stamp: Stamp, algorithm: Algorithm) -> Option<Digest> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(stamp, algorithm)).cloned()
    }

    pub(crate) fn remember(&self, stamp: Stamp, digest: Digest) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((stamp, digest.algorithm()), digest);
    }

    /// Removes a state, whole or under construction. One that is not there is fine.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn discard(&self, id: &StateId) -> Result<(), StateError> {
        let (dir, tmp) = (self.state_dir(id), self.state_tmp(id));
        let failed = |path: &Path, e| StateError::io("remove", path, e);
        // Out of sight in one step, so that a state is never seen half removed.
        let gone = self.0.states.join(format!("{TMP}{id}.gone"));
        remove_dir(&gone).map_err(|e| failed(&gone, e))?;
        match fs::rename(&dir, &gone) {
            Ok(()) => {
                sync_dir(&self.0.states).map_err(|e| failed(&self.0.states, e))?;
                remove_dir(&gone).map_err(|e| failed(&gone, e))?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&dir, e)),
        }
        remove_dir(&tmp).map_err(|e| failed(&tmp, e))
    }

    /// Removes what was under construction and has not been touched for `age`: the leftovers
    /// of pilots that died. Says what it removed.
    ///
    /// # Errors
    /// The store can't be listed, or something in it can't be removed.
    pub fn sweep_tmp(&self, age: Duration, now: SystemTime) -> Result<Vec<PathBuf>, StateError> {
        let mut removed = Vec::new();
        for dir in [&self.0.states, &self.0.blobs] {
            let list = fs::read_dir(dir).map_err(|e| StateError::io("list", dir, e))?;
            for entry in list.filter_map(Result::ok) {
                let path = entry.path();
                if !entry.file_name().to_string_lossy().starts_with(TMP) || !idle(&path, age, now) {
                    continue;
                }
                let gone = if path.is_dir() {
                    remove_dir(&path)
                } else {
                    fs::remove_file(&path)
                };
                gone.map_err(|e| StateError::io("remove", &path, e))?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// True when neither `path` nor, if it is a directory, anything in it was changed within `age`.
fn idle(path: &Path, age: Duration, now: SystemTime) -> bool {
    let old = |p: &Path| {
        fs::symlink_metadata(p)
            .and_then(|m| m.modified())
            .is_ok_and(|t| now.duration_since(t).is_ok_and(|d| d >= age))
    };
    old(path)
        && fs::read_dir(path).map_or(true, |list| {
            list.filter_map(Result::ok).all(|e| old(&e.path()))
        })
}
