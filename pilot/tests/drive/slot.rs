//! A slot in a temporary directory, and the pilot in it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::fake_broker::FakeBroker;

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, within a generous limit.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(holds_soon(&mut condition), "it never came true that {what}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one bounded wait of these tests"
)]
fn holds_soon(condition: &mut dyn FnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Directories and slot file of one slot.
pub struct Slot {
    dir: TempDir,
}

impl Slot {
    /// A slot of `secs` from now, with null guests and a probe that has no answer yet.
    pub fn new(broker: &FakeBroker, secs: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("token"), "wp1.test.token\n").unwrap();
        fs::create_dir(at("node")).unwrap();
        let text = format!(
            r#"version = 1
site = "lab"
submit_key = "wp-1"
incarnation = "lab/1/0"
node = "n1"
[broker]
url = "{}"
token_file = "{}"
[resources]
cores = 4
memory = "2 GiB"
disk = "4 GiB"
[clock]
start = {}
end = {}
notice = "20s"
[probe]
command = ["cat", "{}"]
every = "1s"
[paths]
scratch = "{}"
store = "{}"
[hypervisor]
kind = "null"
"#,
            broker.url(),
            at("token"),
            epoch() - 1,
            epoch() + secs,
            at("end"),
            at("node/scratch"),
            at("store"),
        );
        let slot = Self { dir };
        slot.write_file(&text);
        slot
    }

    pub fn probe_says(&self, secs_from_now: u64) {
        let new = self.dir.path().join("end.new");
        fs::write(&new, format!("{}\n", epoch() + secs_from_now)).unwrap();
        fs::rename(new, self.dir.path().join("end")).unwrap();
    }

    pub fn file_text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    pub fn write_file(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("slot.toml")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn scratch(&self) -> PathBuf {
        self.node().join("scratch")
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// True when nothing of the pilot is on the node: no file but in the store, no process.
    pub fn is_empty(&self) -> bool {
        files(&self.node()).is_empty()
    }

    pub fn assert_empty(&self) {
        assert!(self.is_empty(), "left: {:?}", files(&self.node()));
        let unfinished = |p: &PathBuf| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(".tmp-")
        };
        let found: Vec<_> = files(&self.store())
            .into_iter()
            .filter(unfinished)
            .collect();
        assert!(found.is_empty(), "unfinished: {found:?}");
    }

    pub fn start(&self) -> Pilot {
        self.start_by(Command::new(env!("CARGO_BIN_EXE_pilot")))
    }

    /// The pilot as the first process of a control group that its account may divide.
    pub fn start_in(&self, group: &Path) -> Pilot {
        let mut enter = Command::new("sh");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        enter.args(["-c", script]).arg(group);
        enter.arg(env!("CARGO_BIN_EXE_pilot"));
        self.start_by(enter)
    }

    fn start_by(&self, mut command: Command) -> Pilot {
        let child = command
            .args(["run", "--slot"])
            .arg(self.file())
            .stdin(Stdio::null())
            .stderr(fs::File::create(self.dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        Pilot {
            child,
            stderr: self.dir.path().join("stderr"),
        }
    }
}

/// The pilot; killed when it is dropped.
pub struct Pilot {
    child: Child,
    stderr: PathBuf,
}

impl Pilot {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end; the exit code, or -1 after a signal.
    pub fn wait(&mut self) -> i32 {
        let mut status = None;
        let ended = holds_soon(&mut || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "it never ends:\n{}", self.stderr());
        status.and_then(|s| s.code()).unwrap_or(-1)
    }

    pub fn stderr(&self) -> String {
        let mut text = String::new();
        fs::File::open(&self.stderr)
            .and_then(|mut f| f.read_to_string(&mut text))
            .unwrap();
        text
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

#[expect(
    clippy::disallowed_methods,
    reason = "a slot of the real world has a wall clock"
)]
fn epoch() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
