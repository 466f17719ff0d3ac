//! The processes of a job, found in `/proc`, and signals to them.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sys::signal::{self, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::sim::profiles::{Signal, Target};

/// A process that is told apart from a later one with the same pid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl Identity {
    /// The process that has this pid now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self {
            pid,
            started: stat.started,
        })
    }

    /// True while it exists and is more than a zombie.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|s| s.started == self.started && !s.zombie)
    }
}

/// What `/proc/PID/stat` says.
struct Stat {
    pid: i32,
    parent: i32,
    session: i32,
    started: u64,
    zombie: bool,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name is in parentheses and may hold anything.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            pid,
            zombie: matches!(fields.first(), Some(&"Z" | &"X")),
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }
}

/// How a job's processes are recognised.
#[derive(Clone, Debug)]
pub(super) struct Marks<'a> {
    /// Its supervisor, to which orphans of the job are given while it lives.
    pub supervisor: Option<i32>,
    /// Its first process; also its session and group.
    pub first: i32,
    /// `NAME=value` that all of its processes have in their environment, unless they cleaned it.
    pub environment: &'a str,
    /// The directory of the LRM, which must be in the environment too.
    pub dir: &'a Path,
}

/// Sends a signal to the chosen processes of a job; says how many there were.
pub(super) fn send(marks: &Marks<'_>, target: Target, signal: Signal) -> usize {
    let signal = match signal {
        Signal::Cont => signal::Signal::SIGCONT,
        Signal::Term => signal::Signal::SIGTERM,
        Signal::Kill => signal::Signal::SIGKILL,
    };
    let to = |pid: i32| usize::from(kill(Pid::from_raw(pid), signal).is_ok());
    match target {
        Target::FirstProcess | Target::Steps => to(marks.first),
        Target::ProcessGroup => usize::from(killpg(Pid::from_raw(marks.first), signal).is_ok()),
        Target::Session | Target::Tree | Target::Everything => {
            members(marks, target).into_iter().map(to).sum()
        }
    }
}

/// Kills the chosen processes until there are none, as a process may fork while it is hunted.
pub(super) fn exterminate(marks: &Marks<'_>, target: Target) {
    for _ in 0..50 {
        if send(marks, target, Signal::Kill) == 0 {
            return;
        }
    }
}

fn members(marks: &Marks<'_>, target: Target) -> BTreeSet<i32> {
    let all = Stat::all();
    let live = || all.iter().filter(|s| !s.zombie);
    match target {
        Target::FirstProcess | Target::Steps | Target::ProcessGroup => [marks.first].into(),
        Target::Session => live()
            .filter(|s| s.session == marks.first)
            .map(|s| s.pid)
            .collect(),
        Target::Tree => {
            let mut tree = descendants(&all, marks.first);
            tree.insert(marks.first);
            tree
        }
        Target::Everything => {
            let mut found: BTreeSet<i32> = live()
                .filter(|s| s.session == marks.first || has_mark(s.pid, marks))
                .map(|s| s.pid)
                .collect();
            if let Some(supervisor) = marks.supervisor {
                found.extend(descendants(&all, supervisor));
                found.remove(&supervisor);
            }
            found
        }
    }
    .into_iter()
    .filter(|pid| all.iter().any(|s| s.pid == *pid && !s.zombie))
    .collect()
}

/// Live processes that any run of this directory has started, by their environment.
pub(super) fn with_environment(dir: &Path) -> Vec<i32> {
    let dir = format!("SIMLRM_DIR={}", dir.display());
    Stat::all()
        .iter()
        .filter(|s| !s.zombie)
        .filter(|s| {
            let environ = std::fs::read(format!("/proc/{}/environ", s.pid)).unwrap_or_default();
            let any = |want: &dyn Fn(&[u8]) -> bool| environ.split(|b| *b == 0).any(want);
            any(&|v| v == dir.as_bytes()) && any(&|v| v.starts_with(b"SIMLRM_RUN="))
        })
        .map(|s| s.pid)
        .collect()
}

fn descendants(all: &[Stat], root: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut front = vec![root];
    while let Some(parent) = front.pop() {
        for child in all.iter().filter(|s| s.parent == parent) {
            if found.insert(child.pid) {
                front.push(child.pid);
            }
        }
    }
    found
}

fn has_mark(pid: i32, marks: &Marks<'_>) -> bool {
    let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let dir = format!("SIMLRM_DIR={}", marks.dir.display());
    let has = |want: &str| environ.split(|b| *b == 0).any(|v| v == want.as_bytes());
    has(&dir) && has(marks.environment)
}
