//! What jobs of a directory have left on this machine, found without its daemon.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::processes::with_environment;
use super::runs::RunDir;

/// Live processes that jobs of this directory have started, unless they cleaned their
/// environment.
pub fn processes_of(dir: &Path) -> Vec<i32> {
    with_environment(dir)
}

/// Kills everything that jobs of this directory have started, supervisors included. For when
/// the daemon is gone for good.
pub fn sweep(dir: &Path) {
    for _ in 0..50 {
        let mut found = processes_of(dir);
        let runs = std::fs::read_dir(dir.join("runs")).into_iter().flatten();
        for run in runs.flatten() {
            let supervisor = RunDir::at(run.path()).supervisor();
            found.extend(supervisor.filter(|s| s.is_alive()).map(|s| s.pid));
        }
        if found.is_empty() {
            return;
        }
        for pid in found {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
