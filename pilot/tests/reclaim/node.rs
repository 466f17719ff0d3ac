//! A node of a site in a temporary directory, and what is on it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use protocol::ids::{Incarnation, SubmitKey};

use pilot::journal::{Claim, Journal, JournalError};

use crate::kernel;

/// Waits for a condition; fails the test when it does not come true within a minute.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where tests wait, bounded and on a condition"
)]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: not within a minute");
}

/// A node with a scratch area and a site's store, both with things of others in them.
pub struct Node {
    _place: tempfile::TempDir,
    root: PathBuf,
}

impl Node {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        for directory in [
            "scratch",
            "store/states/other.g3",
            "store/states/.tmp-other.g4",
            "store/blobs",
            "outside",
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in [
            "scratch/of-a-user",
            "store/states/other.g3/manifest.json",
            "store/states/.tmp-other.g4/memory",
            "store/blobs/.tmp-other",
            "store/blobs/blake3-00",
            "outside/precious",
        ] {
            fs::write(root.join(file), file).unwrap();
        }
        Self {
            _place: place,
            root,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The slot's scratch directory; does not exist at first.
    pub fn slot(&self) -> PathBuf {
        slot_of(&self.root)
    }

    /// The parent of the slot's directory is the node-state directory too.
    pub fn node_state(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// What the rendered job does before it starts the pilot.
    pub fn render_job(&self) {
        fs::create_dir(self.slot()).unwrap();
        fs::write(self.slot().join("slot.toml"), "version = 1\n").unwrap();
    }

    /// Everything on the node that a slot here could have changed: paths with what they hold,
    /// mounts, processes that have to do with this place, and what the kernel keeps beside them.
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        walk(&self.root, &mut found);
        let here = self.root.to_str().unwrap();
        for line in fs::read_to_string("/proc/self/mounts").unwrap().lines() {
            if line.contains(here) {
                found.insert(format!("mount {line}"), String::new());
            }
        }
        for (pid, command) in self.processes() {
            found.insert(format!("process {pid}"), command);
        }
        for thing in kernel::things_of(&self.root) {
            found.insert(thing, String::new());
        }
        found
    }

    /// Living processes, this one excepted, that name this place in their arguments or environment.
    pub fn processes(&self) -> BTreeMap<i32, String> {
        let here = self.root.to_str().unwrap();
        let own = std::process::id().to_string();
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().to_str()?.to_owned();
                let pid = name.parse().ok().filter(|_| name != own)?;
                let read = |file: &str| {
                    let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).replace('\0', " ")
                };
                let command = read("cmdline");
                (command.contains(here) || read("environ").contains(here)).then_some((pid, command))
            })
            .collect()
    }

    /// Runs the real `pilot reclaim`.
    pub fn reclaim_command(&self, arguments: &[&str]) -> Output {
        Command::new(pilot_program())
            .arg("reclaim")
            .args(arguments)
            .current_dir("/")
            .output()
            .unwrap()
    }
}

impl Drop for Node {
    /// Also where a test fails, nothing of it stays.
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        for line in fs::read_to_string("/proc/self/mounts")
            .unwrap_or_default()
            .lines()
        {
            let point = line.split(' ').nth(1).map(PathBuf::from);
            if let Some(point) = point.filter(|point| point.starts_with(&self.root)) {
                let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

/// Name of the memory of a guest of this place.
pub fn memory_name(root: &Path) -> String {
    let place = root.file_name().unwrap().to_string_lossy();
    format!("guest-memory-{place}")
}

pub fn slot_of(root: &Path) -> PathBuf {
    root.join("scratch/key-1.0")
}

pub fn claim(root: &Path) -> Result<Journal, JournalError> {
    Journal::create(&Claim {
        submit_key: &SubmitKey::new("key-1").unwrap(),
        incarnation: &Incarnation::new("0").unwrap(),
        scratch: &slot_of(root),
        store: &root.join("store"),
        node_state: &root.join("scratch"),
    })
}

pub fn pilot_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pilot"))
}

fn walk(directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        let content = if kind.is_dir() {
            walk(&path, found);
            "directory".to_owned()
        } else if kind.is_socket() {
            "socket".to_owned()
        } else if kind.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().display())
        } else {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        };
        found.insert(path.display().to_string(), content);
    }
}
