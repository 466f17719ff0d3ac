//! What is on the node: to prove that a slot was left as it was found.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One thing found on the node that a slot should not have left behind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// A process whose command line, environment or open files name the place.
    Process {
        /// Its id.
        pid: i32,
        /// Its command line.
        command: String,
    },
    /// A file or directory.
    Path(PathBuf),
    /// A network interface.
    Interface(String),
    /// A mount point.
    Mount(String),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command } => write!(f, "process {pid}: {command}"),
            Self::Path(p) => write!(f, "path {}", p.display()),
            Self::Interface(i) => write!(f, "network interface {i}"),
            Self::Mount(m) => write!(f, "mount {m}"),
        }
    }
}

/// The node as it is now, as far as a slot under `place` could have changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<Found>);

impl Snapshot {
    /// Looks at all processes that have to do with `place` (not this one), everything below
    /// `place`, and the node's interfaces and mounts.
    pub fn take(place: &Path) -> Self {
        let mut found = BTreeSet::new();
        processes(place, &mut found);
        paths(place, &mut found);
        for entry in fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten()
        {
            found.insert(Found::Interface(
                entry.file_name().to_string_lossy().into_owned(),
            ));
        }
        for line in fs::read_to_string("/proc/self/mounts")
            .unwrap_or_default()
            .lines()
        {
            found.extend(line.split(' ').nth(1).map(|m| Found::Mount(m.to_owned())));
        }
        Self(found)
    }

    /// Everything that was found.
    pub fn iter(&self) -> impl Iterator<Item = &Found> {
        self.0.iter()
    }

    /// What is here and was not there `before`.
    pub fn since(&self, before: &Self) -> Vec<Found> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Kills all processes that have to do with `place` (not this one), unheard; they end a moment
/// later. False when there were none.
pub fn end_all(place: &Path) -> bool {
    let mut any = false;
    for found in Snapshot::take(place).iter() {
        if let Found::Process { pid, .. } = found {
            // One that has ended meanwhile is as good.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            any = true;
        }
    }
    any
}

fn processes(place: &Path, found: &mut BTreeSet<Found>) {
    let needle = place.as_os_str().as_encoded_bytes();
    let me = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if name.to_str() == Some(&me) {
            continue;
        }
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let command = read("cmdline");
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if contains(&command, needle)
            || contains(&read("environ"), needle)
            || cwd.starts_with(place)
        {
            let command = String::from_utf8_lossy(&command)
                .replace('\0', " ")
                .trim()
                .to_owned();
            if !command.is_empty() {
                found.insert(Found::Process { pid, command });
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

fn paths(place: &Path, found: &mut BTreeSet<Found>) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            paths(&path, found);
        }
        found.insert(Found::Path(path));
    }
}
