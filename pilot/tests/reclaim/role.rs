//! The pilot's part in these tests, played by this test program in a process of its own: it does
//! what a pilot does, through the real journal, trampoline and warden, and dies where it is told.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};

use pilot::exec_guest::Trampoline;
use pilot::host::cgroup;
use pilot::host::processes::{ProcessId, marked};
use pilot::journal::{Entry, JOURNAL_FILE, Journal, JournalError, Marker, What};
use pilot::warden::Warden;

use crate::node::{claim, eventually, memory_name, pilot_program};

const PLACE: &str = "WP_TEST_PLACE";
const PART: &str = "WP_TEST_PART";
const GROUP: &str = "WP_TEST_GROUP";

/// What the process does.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The whole script without a warden; dies by SIGKILL right after this many steps, or, with
    /// fewer steps in the script, lives on.
    Script { die_after: usize },
    /// The whole script with a warden, then lives on.
    WithWarden { deadline: Duration },
    /// The whole script with a warden, then a fence, and right after it a SIGSTOP; when it is
    /// continued, the clean end.
    Fenced,
    /// The whole script with a warden, then the clean end.
    CleanEnd,
    /// A claim on a disk that is full when the node entry is written and the journal is not.
    FullDisk,
}

impl Part {
    fn to_text(self) -> String {
        match self {
            Self::Script { die_after } => format!("script {die_after}"),
            Self::WithWarden { deadline } => format!("warden {}", deadline.as_millis()),
            Self::Fenced => "fenced 0".to_owned(),
            Self::CleanEnd => "clean 0".to_owned(),
            Self::FullDisk => "full 0".to_owned(),
        }
    }

    fn from_text(text: &str) -> Self {
        let (word, number) = text.split_once(' ').unwrap();
        match word {
            "script" => Self::Script {
                die_after: number.parse().unwrap(),
            },
            "warden" => Self::WithWarden {
                deadline: Duration::from_millis(number.parse().unwrap()),
            },
            "fenced" => Self::Fenced,
            "clean" => Self::CleanEnd,
            "full" => Self::FullDisk,
            other => panic!("no part {other}"),
        }
    }
}

/// The process that plays the pilot.
pub struct Actor {
    pub child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Actor {
    pub fn start(root: &Path, part: Part) -> Self {
        Self::start_in(root, part, None)
    }

    /// The same where the slot may have a control group of its own within `job`.
    pub fn start_in(root: &Path, part: Part, job: Option<&Path>) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "role::pilot_process", "--ignored", "--nocapture"])
            .env(PLACE, root)
            .env(PART, part.to_text())
            .env(GROUP, job.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Waits until the script is at its end, and gives the guest's process number, or until the
    /// process has ended before that.
    pub fn settled(&mut self) -> Option<i32> {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, pid)) = line.trim().split_once("settled with guest ") {
                return Some(pid.parse().unwrap());
            }
            line.clear();
        }
        None
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself; gives what it said.
    pub fn wait_ended(&mut self) -> String {
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        format!("{said}\n{status}")
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "not a test: the pilot's part in the others, started by them"]
fn pilot_process() {
    let root = PathBuf::from(environment(PLACE));
    match Part::from_text(&environment(PART)) {
        Part::Script { die_after } => {
            let mut script = Script::new(&root, die_after);
            script.play();
            settle(&script);
            loop {
                std::thread::park();
            }
        }
        Part::WithWarden { deadline } => {
            let mut script = Script::new(&root, usize::MAX);
            let _warden = script.play_with_warden(deadline);
            settle(&script);
            loop {
                std::thread::park();
            }
        }
        Part::Fenced => {
            let mut script = Script::new(&root, usize::MAX);
            let warden = script.play_with_warden(Duration::from_secs(3600));
            warden.fence(Some(Duration::from_secs(3600))).unwrap();
            warden.fence(None).unwrap();
            warden.fence(Some(Duration::from_millis(300))).unwrap();
            settle(&script);
            raise(Signal::SIGSTOP).unwrap();
            let how = script.children[0].wait().unwrap();
            assert_eq!(how.signal(), Some(9), "{how}");
            warden.fence(None).unwrap();
            end(script, warden);
        }
        Part::CleanEnd => {
            let mut script = Script::new(&root, usize::MAX);
            let warden = script.play_with_warden(Duration::from_secs(3600));
            end(script, warden);
        }
        Part::FullDisk => claim_on_a_full_disk(&root),
    }
}

fn claim_on_a_full_disk(root: &Path) {
    let first = claim(root).unwrap();
    let entry = fs::metadata(&first.holder().node_entry).unwrap().len();
    let report = pilot::reclaim::finish(&first, Duration::from_secs(30));
    assert!(report.is_clean(), "{report}");
    drop(first);
    // A write beyond the limit then fails instead of killing the process.
    let mut too_large = SigSet::empty();
    too_large.add(Signal::SIGXFSZ);
    too_large.thread_block().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    // The journal's first line is the node entry and a word.
    setrlimit(Resource::RLIMIT_FSIZE, entry, hard).unwrap();
    match claim(root) {
        Err(JournalError::Write { path, .. }) if path.ends_with(JOURNAL_FILE) => {
            println!("not claimed");
        }
        other => panic!("{other:?}"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how the tests tell this process its part"
)]
fn environment(name: &str) -> String {
    std::env::var(name).unwrap()
}

fn end(mut script: Script, warden: Warden) {
    let journal = script.journal.take().unwrap();
    let report = pilot::reclaim::finish(&journal, Duration::from_secs(30));
    assert!(report.is_clean(), "{report}");
    warden.goodbye(Duration::from_secs(30));
}

fn settle(script: &Script) {
    println!("settled with guest {}", script.guest);
    std::io::stdout().flush().unwrap();
}

/// Does a slot's life step by step.
struct Script {
    root: PathBuf,
    steps_left: usize,
    journal: Option<Journal>,
    children: Vec<Child>,
    guest: u32,
    trampoline: Trampoline,
}

impl Script {
    fn new(root: &Path, die_after: usize) -> Self {
        let script = Self {
            root: root.to_owned(),
            steps_left: die_after,
            journal: None,
            children: Vec::new(),
            guest: 0,
            trampoline: Trampoline::of(pilot_program()),
        };
        script.die_if_due();
        script
    }

    fn die_if_due(&self) {
        if self.steps_left == 0 {
            raise(Signal::SIGKILL).unwrap();
        }
    }

    fn step<T>(&mut self, done: T) -> T {
        self.steps_left -= 1;
        self.die_if_due();
        done
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    fn intend(&mut self, what: What) -> Entry {
        let entry = self.journal().intend(what).unwrap();
        self.step(entry)
    }

    fn play_with_warden(&mut self, deadline: Duration) -> Warden {
        let journal = claim(&self.root).unwrap();
        let warden =
            Warden::start(pilot_program(), &journal, deadline, Duration::from_secs(30)).unwrap();
        self.journal = Some(journal);
        self.live();
        warden
    }

    fn play(&mut self) {
        let journal = claim(&self.root).unwrap();
        self.journal = Some(journal);
        self.step(());
        self.live();
    }

    fn live(&mut self) {
        let slot = self.journal().scratch().to_owned();
        self.group();
        // A guest's directory with what nobody announces in it, and a link that leads outside.
        let guest_dir = slot.join("guests/ws.g1");
        let path = slot.join("guests");
        let _all = self.intend(What::Directory { path: path.clone() });
        fs::create_dir(&path).unwrap();
        self.step(());
        let path = guest_dir.clone();
        let _own = self.intend(What::Directory { path });
        fs::create_dir(&guest_dir).unwrap();
        self.step(());
        fs::write(guest_dir.join("overlay"), "blocks").unwrap();
        std::os::unix::fs::symlink(self.root.join("outside"), guest_dir.join("link")).unwrap();
        self.step(());
        let path = guest_dir.join("qmp.sock");
        let _socket = self.intend(What::Socket { path: path.clone() });
        let _listener = UnixListener::bind(&path).unwrap();
        self.step(());
        // A file that comes and goes.
        let path = slot.join("events");
        let file = self.intend(What::File { path: path.clone() });
        fs::write(&path, "one").unwrap();
        self.step(());
        fs::remove_file(&path).unwrap();
        self.step(());
        file.gone().unwrap();
        self.step(());
        self.mount(&slot.join("guests/mount"));
        // A guest that, against all rules, leaves a process of its own behind in the background.
        let entry = self.intend(What::Process {
            program: "sh".to_owned(),
        });
        let memory = self.memory();
        self.step(());
        let both = "setsid sleep 600 & exec sleep 600";
        self.guest = self.spawn(&entry.marker(), both, 2, Stdio::from(memory));
        self.step(());
        entry.made(self.guest).unwrap();
        self.step(());
        // A tool that has no entry of its own.
        let tool = self.journal().tool_marker();
        self.spawn(&tool, "exec sleep 600", 1, Stdio::null());
        self.step(());
        // One state that is under construction for ever, one that is committed.
        let states = self.root.join("store/states");
        for (name, commit) in [("ws.g1", true), ("ws.g2", false)] {
            let path = states.join(format!(".tmp-{name}"));
            let entry = self.intend(What::StoreTmp { path: path.clone() });
            fs::create_dir(&path).unwrap();
            self.step(());
            fs::write(path.join("memory"), name).unwrap();
            self.step(());
            if commit {
                fs::rename(&path, states.join(name)).unwrap();
                self.step(());
                entry.gone().unwrap();
                self.step(());
            }
        }
        // A blob under construction needs no entry: its name says whose it is.
        let name = format!("{}abc", self.journal().holder().blob_tmp_prefix());
        fs::write(self.root.join("store/blobs").join(name), "half").unwrap();
        self.step(());
    }

    /// Where the test gives the job a control group, the slot has one of its own in it.
    fn group(&mut self) {
        let job = PathBuf::from(environment(GROUP));
        if job.as_os_str().is_empty() {
            return;
        }
        let path = job.join(&self.journal().holder().slot);
        let _entry = self.intend(What::Group { path: path.clone() });
        cgroup::make(&path).unwrap();
        self.trampoline = self.trampoline.clone().into_group(path);
        self.step(());
    }

    /// Only root may mount; for others the step does nothing.
    fn mount(&mut self, path: &Path) {
        let entry = self.intend(What::Mount {
            path: path.to_owned(),
        });
        fs::create_dir(path).unwrap();
        self.step(());
        let flags = nix::mount::MsFlags::empty();
        match nix::mount::mount(Some("none"), path, Some("tmpfs"), flags, Some("size=64k")) {
            Ok(()) => fs::write(path.join("inside"), "x").unwrap(),
            Err(e) => {
                eprintln!("no mount in this test: {e}");
                entry.gone().unwrap();
            }
        }
        self.step(());
    }

    /// A guest's memory, as the QEMU driver makes it: a file without a name, which the guest gets
    /// as its standard output. Its pages are there until the last process lets go of it.
    fn memory(&self) -> fs::File {
        let name = CString::new(memory_name(&self.root)).unwrap();
        let mut file = fs::File::from(memfd_create(&*name, MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(&vec![1; 4 << 20]).unwrap();
        file
    }

    fn spawn(&mut self, marker: &Marker, script: &str, sleepers: usize, output: Stdio) -> u32 {
        let child = self
            .trampoline
            .command(marker, "sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()
            .unwrap();
        // Until all are what they are to become, the node still changes.
        eventually("the processes sleep", || {
            let all = marked(marker.as_str());
            let sleeps = |id: &ProcessId| {
                fs::read_to_string(format!("/proc/{}/comm", id.pid)).is_ok_and(|c| c == "sleep\n")
            };
            all.len() == sleepers && all.iter().all(sleeps)
        });
        let pid = child.id();
        self.children.push(child);
        pid
    }
}
