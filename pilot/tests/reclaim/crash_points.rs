//! kill -9 at every step of a slot's life, then reclaim, then compare the node with before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use pilot::host::processes::ProcessId;
use pilot::journal::JOURNAL_FILE;
use pilot::reclaim::{Effort, Report, Swept, reclaim, sweep};

use crate::groups::JobGroup;
use crate::node::{Node, claim};
use crate::role::{Actor, Part};

/// Who cleans up after the crash.
#[derive(Clone, Copy, Debug)]
enum By {
    Slot,
    Sweep,
    Command,
}

fn reports(node: &Node, by: By) -> Vec<Report> {
    match by {
        By::Slot => vec![reclaim(&node.slot(), Effort::default()).unwrap()],
        By::Sweep => sweep(&node.node_state(), Effort::default())
            .unwrap()
            .into_iter()
            .map(|swept| match swept {
                Swept::Reclaimed(report) => report,
                Swept::LeftAlone(e) | Swept::Failed(e) => panic!("{e:?}"),
            })
            .collect(),
        By::Command => {
            let slot = node.slot();
            let output = node.reclaim_command(&["--slot", slot.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            Vec::new()
        }
    }
}

/// A state that was committed stays, whole; that is no leftover.
fn without_committed(mut found: BTreeMap<String, String>, node: &Node) -> BTreeMap<String, String> {
    let state = node.root().join("store/states/ws.g1");
    let memory = state.join("memory");
    if let Some(content) = found.remove(memory.to_str().unwrap()) {
        assert_eq!(content, "ws.g1");
        assert!(found.remove(state.to_str().unwrap()).is_some());
    }
    found
}

fn crash_everywhere(by: By, job_was_rendered: bool, job: Option<&JobGroup>) {
    for die_after in 0.. {
        let node = Node::new();
        // What a sweep knows it knows from the node entry: where the pilot died before that, the
        // rendered job's directory is the epilogue's to remove.
        let bare = node.snapshot();
        if job_was_rendered {
            node.render_job();
        }
        let part = Part::Script { die_after };
        let mut actor = Actor::start_in(node.root(), part, job.map(JobGroup::path));
        let last = actor.settled().is_some();
        if last {
            actor.kill();
        } else {
            let status = actor.child.wait().unwrap();
            assert_eq!(status.signal(), Some(9), "step {die_after}: {status}");
        }
        let expected = if die_after == 0 && matches!(by, By::Sweep) && job_was_rendered {
            with_rendered_job(&node, bare)
        } else {
            bare
        };
        for attempt in 1..=2 {
            for report in reports(&node, by) {
                assert!(report.is_clean(), "step {die_after}, {by:?}: {report}");
                assert!(
                    attempt == 1 || report.removed.is_empty(),
                    "step {die_after}, {by:?}, again: {report}"
                );
            }
            assert_eq!(
                without_committed(node.snapshot(), &node),
                expected,
                "step {die_after}, {by:?}, attempt {attempt}"
            );
            let groups = job.map(JobGroup::inner).unwrap_or_default();
            assert!(groups.is_empty(), "step {die_after}, {by:?}: {groups:?}");
        }
        if last {
            assert!(die_after > 20, "the script has only {die_after} steps");
            return;
        }
    }
}

fn with_rendered_job(node: &Node, mut bare: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let slot = node.slot();
    bare.insert(
        slot.join("slot.toml").display().to_string(),
        "version = 1\n".to_owned(),
    );
    bare.insert(slot.display().to_string(), "directory".to_owned());
    bare
}

#[test]
fn killed_at_any_step_the_slot_is_reclaimed_by_its_directory() {
    crash_everywhere(By::Slot, false, None);
}

#[test]
fn killed_at_any_step_the_slots_control_group_goes_too() {
    if let Some(job) = JobGroup::new() {
        crash_everywhere(By::Slot, false, Some(&job));
    }
}

#[test]
fn killed_at_any_step_the_next_pilot_sweeps_it() {
    crash_everywhere(By::Sweep, true, None);
}

#[test]
fn killed_at_any_step_an_epilogue_reclaims_it() {
    crash_everywhere(By::Command, true, None);
}

/// The steps inside the claim: what they leave is what a later step leaves, cut short.
#[test]
fn killed_within_the_claim_the_slot_is_reclaimed() {
    let all = |node: &Node| {
        let first = reports(node, By::Sweep);
        let second = vec![reclaim(&node.slot(), Effort::default()).unwrap()];
        [first, second].concat()
    };
    type Cut = (&'static str, fn(&Node));
    let cuts: [Cut; 4] = [
        ("the journal is not there yet", |node| {
            fs::remove_file(node.slot().join(JOURNAL_FILE)).unwrap();
        }),
        ("the scratch directory is not there yet", |node| {
            fs::remove_dir_all(node.slot()).unwrap();
        }),
        ("the node entry is torn", |node| {
            fs::remove_dir_all(node.slot()).unwrap();
            let text = fs::read_to_string(entry(node)).unwrap();
            fs::write(entry(node), &text[..text.len() / 2]).unwrap();
        }),
        ("the node entry is empty", |node| {
            fs::remove_dir_all(node.slot()).unwrap();
            fs::write(entry(node), "").unwrap();
        }),
    ];
    for (what, cut) in cuts {
        let node = Node::new();
        let before = node.snapshot();
        Actor::start(node.root(), Part::Script { die_after: 1 }).wait_ended();
        cut(&node);
        for report in all(&node) {
            assert!(report.is_clean(), "{what}: {report}");
        }
        assert_eq!(node.snapshot(), before, "{what}");
    }
}

#[test]
fn a_journal_torn_within_its_last_line_is_reclaimed() {
    let length = {
        let node = Node::new();
        Actor::start(node.root(), Part::Script { die_after: 1 }).wait_ended();
        fs::read(node.slot().join(JOURNAL_FILE)).unwrap().len()
    };
    for cut in [0, 1, length / 2, length - 1] {
        let node = Node::new();
        let before = node.snapshot();
        Actor::start(node.root(), Part::Script { die_after: 1 }).wait_ended();
        let file = fs::File::options()
            .write(true)
            .open(node.slot().join(JOURNAL_FILE))
            .unwrap();
        file.set_len(cut as u64).unwrap();
        for report in reports(&node, By::Slot) {
            assert!(report.is_clean(), "cut at {cut}: {report}");
        }
        assert_eq!(node.snapshot(), before, "cut at {cut}");
    }
}

/// A reclaim that was itself killed: the directory is gone, the node entry is not, or the other
/// way round.
#[test]
fn a_reclaim_that_was_killed_is_finished_by_the_next() {
    let node = Node::new();
    let before = node.snapshot();
    Actor::start(node.root(), Part::Script { die_after: 4 }).wait_ended();
    fs::remove_dir_all(node.slot()).unwrap();
    reports(&node, By::Slot);
    assert_eq!(node.snapshot(), before, "without the directory");

    Actor::start(node.root(), Part::Script { die_after: 4 }).wait_ended();
    fs::remove_file(entry(&node)).unwrap();
    reports(&node, By::Slot);
    assert_eq!(node.snapshot(), before, "without the node entry");
}

/// The pilot of a slot may be started anew in a directory that was cleaned by hand.
#[test]
fn the_entry_of_a_slot_whose_directory_is_taken_anew_goes_alone() {
    let node = Node::new();
    Actor::start(node.root(), Part::Script { die_after: 4 }).wait_ended();
    let stale = entry(&node).with_file_name("key-0.0.json");
    fs::rename(entry(&node), &stale).unwrap();
    let text = fs::read_to_string(&stale).unwrap();
    let renamed = text.replace("key-1.0.json", "key-0.0.json");
    fs::write(&stale, renamed).unwrap();
    fs::remove_dir_all(node.slot()).unwrap();
    let journal = claim(node.root()).unwrap();
    let swept = sweep(&node.node_state(), Effort::default()).unwrap();
    assert!(
        swept
            .iter()
            .any(|s| matches!(s, Swept::Reclaimed(r) if r.removed.len() == 1)),
        "{swept:?}"
    );
    assert!(!stale.exists());
    assert!(journal.scratch().join(JOURNAL_FILE).exists());
    assert_eq!(
        journal.holder().pilot,
        ProcessId::own().unwrap(),
        "the living pilot's journal is untouched"
    );
}

fn entry(node: &Node) -> std::path::PathBuf {
    pilot::journal::node_entries(&node.node_state()).join("key-1.0.json")
}
