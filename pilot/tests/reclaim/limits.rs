//! What reclaim must not do.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use pilot::host::processes::ProcessId;
use pilot::journal::{JournalError, What, node_entries};
use pilot::reclaim::command::Outcome;
use pilot::reclaim::{Effort, ReclaimError, Swept, reclaim, sweep};

use crate::node::{Node, claim};
use crate::role::{Actor, Part};

const NEVER: Part = Part::Script {
    die_after: usize::MAX,
};

/// A slot whose pilot is dead, with a line of our own choice at the end of its journal.
fn dead_slot_with(node: &Node, line: &str) {
    Actor::start(node.root(), Part::Script { die_after: 4 }).wait_ended();
    let journal = node.slot().join("journal");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(journal, format!("{text}{line}\n")).unwrap();
}

fn quick() -> Effort {
    Effort {
        limit: Duration::from_millis(200),
        force: false,
    }
}

/// Ends with the test, whatever becomes of it.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.0.id().cast_signed()).unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn outcome(output: &Output) -> Outcome {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn a_process_that_has_only_the_number_of_a_guest_is_left_alone() {
    let stranger = Stranger::start();
    let id = stranger.id();
    let node = Node::new();
    let line = format!(
        r#"{{"op":"intend","entry":9,"what":{{"kind":"process","program":"qemu"}}}}
{{"op":"made","entry":9,"process":{{"pid":{},"start":{}}}}}"#,
        id.pid,
        id.start - 1
    );
    dead_slot_with(&node, &line);
    let report = reclaim(&node.slot(), Effort::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(id.is_alive());
    // The same line with the right start time is a guest: the test would notice.
    dead_slot_with(
        &node,
        &line.replace(&(id.start - 1).to_string(), &id.start.to_string()),
    );
    reclaim(&node.slot(), Effort::default()).unwrap();
    assert!(!id.is_alive());
}

#[test]
fn a_path_out_of_bounds_is_reported_and_not_touched() {
    for path in [
        "outside/precious",
        "scratch/key-1.0/../of-a-user",
        "store/states/other.g3",
        "store/blobs/.tmp-other",
    ] {
        let node = Node::new();
        let root = node.root().display();
        dead_slot_with(
            &node,
            &format!(
                r#"{{"op":"intend","entry":9,"what":{{"kind":"directory","path":"{root}/{path}"}}}}"#
            ),
        );
        let slot = node.slot();
        let output = node.reclaim_command(&["--slot", slot.to_str().unwrap(), "--json"]);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let outcome = outcome(&output);
        assert_eq!(outcome.slots[0].leftovers.len(), 1, "{outcome:?}");
        assert!(node.root().join(path).exists(), "{path}");
        // Journal and entry stay, so that whoever looks next knows.
        assert!(slot.join("journal").exists());
        assert!(
            node_entries(&node.node_state())
                .join("key-1.0.json")
                .exists()
        );
    }
}

#[test]
fn a_store_entry_reaches_unfinished_things_only() {
    for path in [
        "store/states/other.g3",
        "store/states/.tmp-other.g4/memory",
        "outside/precious",
    ] {
        let node = Node::new();
        let root = node.root().display();
        dead_slot_with(
            &node,
            &format!(
                r#"{{"op":"intend","entry":9,"what":{{"kind":"store_tmp","path":"{root}/{path}"}}}}"#
            ),
        );
        let report = reclaim(&node.slot(), Effort::default()).unwrap();
        assert!(!report.is_clean(), "{path}");
        assert!(node.root().join(path).exists(), "{path}");
    }
}

#[test]
fn the_pilot_itself_cannot_journal_what_reclaim_would_not_undo() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    let path = node.root().join("outside/new");
    let e = journal.intend(What::File { path }).unwrap_err();
    assert!(matches!(e, JournalError::OutOfBounds { .. }), "{e}");
    let path = journal.scratch().to_owned();
    let e = journal.intend(What::Directory { path }).unwrap_err();
    assert!(matches!(e, JournalError::OutOfBounds { .. }), "{e}");
}

#[test]
fn a_symbolic_link_in_the_way_is_not_followed() {
    let node = Node::new();
    let slot = node.slot().display().to_string();
    dead_slot_with(
        &node,
        &format!(
            r#"{{"op":"intend","entry":9,"what":{{"kind":"file","path":"{slot}/link/precious"}}}}"#
        ),
    );
    std::os::unix::fs::symlink(node.root().join("outside"), node.slot().join("link")).unwrap();
    let report = reclaim(&node.slot(), Effort::default()).unwrap();
    assert!(!report.is_clean(), "{report}");
    assert!(node.root().join("outside/precious").exists());
    // The link itself went with the directory, so now there is nothing in the way.
    let report = reclaim(&node.slot(), Effort::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(node.root().join("outside/precious").exists());
}

#[test]
fn a_line_that_cannot_be_read_is_a_leftover_that_names_it() {
    let node = Node::new();
    dead_slot_with(
        &node,
        r#"{"op":"intend","entry":9,"what":{"kind":"wormhole"}}"#,
    );
    let report = reclaim(&node.slot(), Effort::default()).unwrap();
    assert!(report.to_string().contains("wormhole"), "{report}");
}

#[test]
fn while_the_pilot_lives_nothing_is_touched_unless_forced() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), NEVER);
    let guest = ProcessId::of(actor.settled().unwrap()).unwrap();
    let before = node.snapshot();
    let e = reclaim(&node.slot(), quick()).unwrap_err();
    assert!(matches!(e, ReclaimError::PilotAlive { .. }), "{e}");
    let swept = sweep(&node.node_state(), quick()).unwrap();
    assert!(
        matches!(
            swept.as_slice(),
            [Swept::LeftAlone(ReclaimError::PilotAlive { .. })]
        ),
        "{swept:?}"
    );
    let state = node.node_state();
    let output = node.reclaim_command(&["--node-state", state.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let slot = node.slot();
    let output = node.reclaim_command(&["--slot", slot.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(outcome(&output).left_alone[0].contains("--force"));
    assert_eq!(node.snapshot(), before);
    assert!(guest.is_alive());

    let output = node.reclaim_command(&["--slot", slot.to_str().unwrap(), "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!guest.is_alive());
    actor.child.wait().unwrap();
    assert!(!slot.exists());
    assert_eq!(node.processes().len(), 0, "{:?}", node.processes());
}

/// A pilot in another process namespace is not to be seen, but its locks are.
#[test]
fn a_pilot_that_cannot_be_seen_is_known_by_its_locks() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), NEVER);
    actor.settled().unwrap();
    let journal = node.slot().join("journal");
    for file in [
        journal,
        node_entries(&node.node_state()).join("key-1.0.json"),
    ] {
        let text = fs::read_to_string(&file).unwrap();
        // Written in place: the lock is on the file, not on its name.
        fs::write(&file, text.replace("pid:[", "pid:[1")).unwrap();
    }
    let before = node.snapshot();
    let e = reclaim(&node.slot(), quick()).unwrap_err();
    assert!(matches!(e, ReclaimError::Busy { .. }), "{e}");
    assert_eq!(node.snapshot(), before);
    actor.kill();
    let report = reclaim(&node.slot(), Effort::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(node.processes().len(), 0, "{:?}", node.processes());
}

#[test]
fn the_slot_of_another_node_is_left_alone() {
    let node = Node::new();
    Actor::start(node.root(), Part::Script { die_after: 4 }).wait_ended();
    for file in [
        node.slot().join("journal"),
        node_entries(&node.node_state()).join("key-1.0.json"),
    ] {
        let text = fs::read_to_string(&file).unwrap();
        let text = text
            .replace(r#""boot":""#, r#""boot":"x"#)
            .replace(r#""host":""#, r#""host":"x"#);
        fs::write(&file, text).unwrap();
    }
    let before = node.snapshot();
    let e = reclaim(&node.slot(), quick()).unwrap_err();
    assert!(matches!(e, ReclaimError::OtherNode { .. }), "{e}");
    let swept = sweep(&node.node_state(), quick()).unwrap();
    assert!(
        matches!(swept.as_slice(), [Swept::LeftAlone(_)]),
        "{swept:?}"
    );
    assert_eq!(node.snapshot(), before);
}

#[test]
fn a_directory_without_a_journal_is_nobodys_slot() {
    let node = Node::new();
    let e = reclaim(&node.root().join("outside"), quick()).unwrap_err();
    assert!(matches!(e, ReclaimError::NotASlot { .. }), "{e}");
    assert!(node.root().join("outside/precious").exists());
    let e = claim_in(&node, "outside").unwrap_err();
    assert!(matches!(e, JournalError::ScratchNotEmpty { .. }), "{e}");
    assert!(!node_entries(&node.node_state()).exists());
}

#[test]
fn a_copied_slot_is_left_alone() {
    let node = Node::new();
    Actor::start(node.root(), Part::Script { die_after: 4 }).wait_ended();
    let copy = node.root().join("outside/copy");
    fs::rename(node.slot(), &copy).unwrap();
    let e = reclaim(&copy, quick()).unwrap_err();
    assert!(matches!(e, ReclaimError::Moved { .. }), "{e}");
    assert!(copy.join("journal").exists());
}

#[test]
fn a_slot_is_claimed_once() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    let e = claim(node.root()).unwrap_err();
    assert!(matches!(e, JournalError::Held { .. }), "{e}");
    assert!(journal.scratch().join("journal").exists());
}

#[test]
fn without_anything_to_do_the_command_says_so() {
    let node = Node::new();
    let before = node.snapshot();
    let (slot, state) = (node.slot(), node.node_state());
    for arguments in [
        ["--slot", slot.to_str().unwrap()],
        ["--node-state", state.to_str().unwrap()],
    ] {
        let output = node.reclaim_command(&arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert_eq!(node.reclaim_command(&[]).status.code(), Some(2));
    assert_eq!(node.snapshot(), before);
}

#[test]
fn a_claim_that_fails_half_way_leaves_the_node_as_it_was() {
    let node = Node::new();
    let before = node.snapshot();
    let said = Actor::start(node.root(), Part::FullDisk).wait_ended();
    assert!(said.contains("not claimed"), "{said}");
    assert_eq!(node.snapshot(), before, "{said}");
}

/// Epilogues run as root, and a journal is its user's to forge.
#[test]
fn run_by_root_a_users_journal_reaches_no_further_than_the_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can try this");
        return;
    }
    const NOBODY: u32 = 65534;
    let stranger = Stranger::start();
    let id = stranger.id();
    let node = Node::new();
    let line = format!(
        r#"{{"op":"intend","entry":9,"what":{{"kind":"process","program":"qemu"}}}}
{{"op":"made","entry":9,"process":{{"pid":{},"start":{}}}}}"#,
        id.pid, id.start
    );
    dead_slot_with(&node, &line);
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    for path in [node.root().to_owned(), node.node_state()] {
        fs::set_permissions(path, Clone::clone(&everyone)).unwrap();
    }
    let mut owned = vec![node.slot()];
    owned.extend(
        fs::read_dir(node.slot())
            .unwrap()
            .flatten()
            .map(|e| e.path()),
    );
    for path in owned {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let slot = node.slot();
    let output = node.reclaim_command(&["--slot", slot.to_str().unwrap(), "--json"]);
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    assert!(id.is_alive(), "root killed for a user: {output:?}");
}

fn claim_in(node: &Node, directory: &str) -> Result<pilot::journal::Journal, JournalError> {
    pilot::journal::Journal::create(&pilot::journal::Claim {
        submit_key: &protocol::ids::SubmitKey::new("key-2").unwrap(),
        incarnation: &protocol::ids::Incarnation::new("0").unwrap(),
        scratch: &node.root().join(directory),
        store: &node.root().join("store"),
        node_state: &node.node_state(),
    })
}

#[test]
fn a_job_that_was_killed_before_its_pilot_began_is_found_without_an_entry_when_it_is_old() {
    let node = Node::new();
    let slot = node.node_state().join("key-1.r0");
    fs::create_dir(&slot).unwrap();
    fs::write(slot.join("slot.toml"), "version = 1\n").unwrap();
    let state = node.node_state().display().to_string();
    let run = || node.reclaim_command(&["--node-state", &state]);
    assert!(run().status.success());
    assert!(slot.exists(), "its pilot may be about to begin");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let directory = fs::File::open(&slot).unwrap();
    directory.set_modified(old).unwrap();
    let output = run();
    assert!(output.status.success() && !slot.exists(), "{output:?}");
}
