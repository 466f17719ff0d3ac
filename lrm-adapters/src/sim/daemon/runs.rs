//! The directory of a run: what its supervisor is told and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::processes::{Identity, Marks};
use crate::sim::model::RunNumber;
use crate::sim::profiles::Leftovers;

/// What a supervisor has to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The run.
    pub run: RunNumber,
    /// The LRM's directory.
    pub dir: PathBuf,
    /// The whole environment of the job.
    pub env: BTreeMap<String, String>,
    /// Where stdout and stderr go.
    pub output: Option<PathBuf>,
    /// Working directory.
    pub directory: Option<PathBuf>,
    /// What to do with processes that are left when the first has ended.
    pub leftovers: Leftovers,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// With this code; 128 + n for signal n.
    Exited(i32),
    /// It could not be started.
    LaunchFailed,
}

/// A run's directory.
#[derive(Clone, Debug)]
pub(super) struct RunDir(PathBuf);

impl RunDir {
    pub(super) fn new(dir: &Path, run: RunNumber) -> Self {
        Self(dir.join("runs").join(run.to_string()))
    }

    pub(super) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn script(&self) -> PathBuf {
        self.0.join("job.sh")
    }

    /// Makes the directory with all that a supervisor needs; harmless when repeated.
    pub(super) fn prepare(&self, spec: &Spec, script: &str) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        write_whole(&self.script(), script.as_bytes(), 0o700)?;
        write_json(&self.0.join("spec.json"), spec)
    }

    pub(super) fn spec(&self) -> io::Result<Spec> {
        read_json(&self.0.join("spec.json"))
    }

    /// Makes the caller this run's only supervisor; false when there is one already.
    pub(super) fn claim(&self) -> io::Result<bool> {
        let made = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.0.join("claim"));
        match made {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e),
        }
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let me = Identity::of(pid).ok_or_else(|| io::Error::other("no /proc entry of our own"))?;
        write_json(&self.0.join("supervisor"), &me)?;
        Ok(true)
    }

    pub(super) fn set_first(&self, first: Identity) -> io::Result<()> {
        write_json(&self.0.join("pid"), &first)
    }

    pub(super) fn first(&self) -> Option<Identity> {
        read_json(&self.0.join("pid")).ok()
    }

    pub(super) fn supervisor(&self) -> Option<Identity> {
        read_json(&self.0.join("supervisor")).ok()
    }

    pub(super) fn set_ended(&self, ended: Ended) -> io::Result<()> {
        write_json(&self.0.join("exit"), &ended)
    }

    /// How the run ended, once it has. A supervisor that was killed cannot tell; its job is over
    /// when its first process is gone.
    pub(super) fn ended(&self) -> Option<Ended> {
        if let Ok(ended) = read_json(&self.0.join("exit")) {
            return Some(ended);
        }
        let supervisor = self.supervisor()?;
        if supervisor.is_alive() || self.first().is_some_and(Identity::is_alive) {
            return None;
        }
        // It may have written its last word between the two looks.
        Some(read_json(&self.0.join("exit")).unwrap_or(Ended::Exited(255)))
    }

    pub(super) fn remove(&self) {
        // Left behind, it only takes a little room.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The runs that have a directory.
pub(super) fn all(dir: &Path) -> io::Result<BTreeSet<RunNumber>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir.join("runs"))? {
        let number = entry?.file_name().to_str().and_then(|n| n.parse().ok());
        found.extend(number.map(RunNumber));
    }
    Ok(found)
}

/// How the processes of a run are recognised.
pub(super) fn marks<'a>(
    dir: &'a Path,
    environment: &'a str,
    first: Identity,
    supervisor: Option<Identity>,
) -> Marks<'a> {
    Marks {
        supervisor: supervisor.filter(|s| s.is_alive()).map(|s| s.pid),
        first: first.pid,
        environment,
        dir,
    }
}

/// The variable by which a run's processes are known.
pub(super) fn environment_mark(run: RunNumber) -> String {
    format!("SIMLRM_RUN={run}")
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    write_whole(path, &bytes, 0o600)
}

/// Writes a file whole or not at all, and durably.
pub(super) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // A script that is open for writing cannot be executed (ETXTBSY): it gets its name when closed.
    drop(file);
    fs::rename(&new, path)?;
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A script that is open for writing cannot be executed, and a daemon that was killed writes
    /// the script of a run again whose supervisor may be about to execute it.
    #[test]
    fn a_file_is_not_open_any_more_when_it_has_its_name() {
        let home = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(home.path()).unwrap().join("job.sh");
        let done = AtomicBool::new(false);
        let seen_open = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
                    let mut named = open.filter_map(|fd| fs::read_link(fd.path()).ok());
                    if named.any(|name| name == path) {
                        return true;
                    }
                }
                false
            });
            for _ in 0..40 {
                write_whole(&path, b"#!/bin/sh\n", 0o700).unwrap();
            }
            done.store(true, Ordering::Release);
            watcher.join().unwrap()
        });
        assert!(!seen_open, "{} was open under its name", path.display());
    }
}
