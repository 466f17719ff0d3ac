//! Looks at the processes of all slots all the time, and asks nobody: which guests execute, and what
//! is still there after its slot's kill time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::time::Timestamp;

use super::clock;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// What a process of a slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// `pilot run`.
    Pilot,
    /// `pilot warden`.
    Warden,
    /// A hypervisor, of this lease (`WORKSPACE.gN`).
    Guest(String),
    /// Something else.
    Other,
}

/// A process that has to do with a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Clock ticks from boot to its start: the same id may be another process later.
    started: u64,
    /// Not stopped and not dying.
    executes: bool,
    /// What it is.
    pub role: Role,
    /// The site of its slot.
    pub site: String,
    /// The name of its slot's scratch directory, `KEY.rN`.
    pub slot: String,
}

impl Process {
    /// The pilot job's key.
    pub fn key(&self) -> &str {
        key(&self.slot)
    }
}

/// The pilot job's key of a slot's scratch directory.
fn key(slot: &str) -> &str {
    slot.rsplit_once(".r").map_or(slot, |(key, _)| key)
}

/// All processes that name a slot below this directory (`SCRATCH/SITE/SLOT/..`) and are no zombies.
pub fn look(scratch: &Path) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) {
            found.extend(process(scratch, pid));
        }
    }
    found
}

fn process(scratch: &Path, pid: i32) -> Option<Process> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let (_, below) = line.split_once(&format!("{}/", scratch.display()))?;
    let mut below = below.split(['/', '\0', ',', '"']);
    let (site, slot) = (below.next()?.to_owned(), below.next()?.to_owned());
    let guest = (below.next() == Some("guests")).then(|| below.next().unwrap_or_default());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let mut words = line.split('\0');
    let role = match (words.next().unwrap_or_default(), words.next()) {
        (program, _) if program.contains("qemu-system") => {
            Role::Guest(guest.unwrap_or_default().to_owned())
        }
        (_, Some("run")) => Role::Pilot,
        (_, Some("warden")) => Role::Warden,
        (_, _) => Role::Other,
    };
    Some(Process {
        pid,
        started,
        executes: matches!(state, "R" | "S" | "D"),
        role,
        site,
        slot,
    })
}

/// What was seen of one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotNotes {
    /// When nothing of it may be there any more: the end plus the notice, as the slot's file had
    /// them.
    kill_at: Option<Timestamp>,
    /// When its pilot was last seen alive.
    pub pilot_seen: Option<Timestamp>,
    /// A process that was there after that.
    pub overdue: Option<String>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// By scratch directory, `KEY.rN`.
    pub slots: BTreeMap<String, SlotNotes>,
    /// Workspaces of which two guests executed at once.
    pub doubled: Vec<String>,
    /// Most hypervisors at once.
    pub most_guests: usize,
}

/// Looks until it is asked.
#[derive(Debug)]
pub struct Onlooker {
    notes: Arc<Mutex<Notes>>,
    enough: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Onlooker {
    /// Begins to look at the slots below this directory.
    pub fn start(scratch: &Path) -> Self {
        let notes: Arc<Mutex<Notes>> = Arc::default();
        let enough = Arc::new(AtomicBool::new(false));
        let (mine, stop, scratch) = (Arc::clone(&notes), Arc::clone(&enough), scratch.to_owned());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let now = clock::wall();
                let processes = look(&scratch);
                let twice = twice(&scratch, &processes);
                let mut notes = mine.lock().unwrap_or_else(PoisonError::into_inner);
                notes.take(now, &scratch, &processes, twice);
                drop(notes);
                std::thread::park_timeout(EVERY);
            }
        });
        Self {
            notes,
            enough,
            thread: Some(thread),
        }
    }

    /// Ends, and tells what it has seen.
    pub fn finish(mut self) -> Notes {
        self.end();
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.clone()
    }

    fn end(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only looks; it can't have failed.
            let _ = thread.join();
        }
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        self.end();
    }
}

/// The workspace of a guest's lease, `WORKSPACE.gN`.
fn workspace(lease: &str) -> &str {
    lease
        .rsplit_once(".g")
        .map_or(lease, |(workspace, _)| workspace)
}

/// Pairs of guests of one workspace that execute at once. A look takes a while, so those that seem to
/// are looked at again.
fn twice(scratch: &Path, processes: &[Process]) -> Vec<String> {
    let mut first: BTreeMap<&str, &Process> = BTreeMap::new();
    let mut found = Vec::new();
    for process in processes.iter().filter(|p| p.executes) {
        let Role::Guest(lease) = &process.role else {
            continue;
        };
        let Some(other) = first.insert(workspace(lease), process) else {
            continue;
        };
        let still = |p: &Process| self::process(scratch, p.pid).is_some_and(|now| now == *p);
        if still(process) && still(other) && still(process) {
            found.push(format!(
                "{lease} in slot {} (process {}) and {:?} in slot {} (process {})",
                process.slot, process.pid, other.role, other.slot, other.pid
            ));
        }
    }
    found
}

impl Notes {
    fn take(&mut self, now: Timestamp, scratch: &Path, all: &[Process], twice: Vec<String>) {
        self.doubled.extend(twice);
        let guests = all.iter().filter(|p| matches!(p.role, Role::Guest(_)));
        self.most_guests = self.most_guests.max(guests.count());
        for process in all {
            let notes = self.slots.entry(process.slot.clone()).or_default();
            if notes.kill_at.is_none() {
                notes.kill_at = kill_at(&scratch.join(&process.site).join(&process.slot));
            }
            if process.role == Role::Pilot {
                notes.pilot_seen = Some(now);
            }
            if notes.kill_at.is_some_and(|kill| now > kill) && notes.overdue.is_none() {
                notes.overdue = Some(format!(
                    "{:?}, process {}, at {now}",
                    process.role, process.pid
                ));
            }
        }
    }
}

/// When the slot is over for good, by its file.
fn kill_at(slot: &Path) -> Option<Timestamp> {
    let text = fs::read_to_string(slot.join("slot.toml")).ok()?;
    let file: toml::Table = text.parse().ok()?;
    let clock = file.get("clock")?.as_table()?;
    let end = clock.get("end")?;
    let end = end
        .as_float()
        .map_or_else(|| end.to_string(), |f| f.to_string());
    let end = Timestamp::parse(&end).ok()?;
    let notice = protocol::text::parse_span(clock.get("notice")?.as_str()?).ok()?;
    Some(end + notice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_file_says_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = "version = 1\n[clock]\nstart = 1000.5\nend = 1010.250\nnotice = \"7000ms\"\n";
        fs::write(dir.path().join("slot.toml"), file).unwrap();
        let at = kill_at(dir.path());
        assert_eq!(at, Some(Timestamp::from_millis(1_017_250)));
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(key("wp-12-000001.r0"), "wp-12-000001");
        assert_eq!(workspace("ws-1.g12"), "ws-1");
    }

    #[test]
    fn what_is_there_after_its_time_is_noted_once() {
        let dir = tempfile::tempdir().unwrap();
        let slot = dir.path().join("alder/k.r0");
        fs::create_dir_all(&slot).unwrap();
        let file = "[clock]\nend = 1000\nnotice = \"5s\"\n";
        fs::write(slot.join("slot.toml"), file).unwrap();
        let process = Process {
            pid: 1,
            started: 1,
            executes: true,
            role: Role::Pilot,
            site: "alder".to_owned(),
            slot: "k.r0".to_owned(),
        };
        let mut notes = Notes::default();
        let all = [process];
        notes.take(Timestamp::from_secs(1004), dir.path(), &all, Vec::new());
        assert_eq!(notes.slots["k.r0"].overdue, None);
        notes.take(Timestamp::from_secs(1006), dir.path(), &all, Vec::new());
        assert!(notes.slots["k.r0"].overdue.is_some());
        assert_eq!(all[0].key(), "k");
    }
}
