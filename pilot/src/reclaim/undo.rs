//! The undoing itself, by one who has the right to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::custody::Place;
use super::files::{
    OF_THE_BEGINNING, absent_is_fine, holds_nothing_of_others, remove_inside, remove_tree, unmount,
};
use super::report::Report;
use crate::broker_client::chain;
use crate::host::cgroup;
use crate::host::processes::{KillOutcome, ProcessId, marked};
use crate::hypervisor::Helper;
use crate::journal::{Holder, JOURNAL_FILE, NodeIdentity, Open, Recorded, What, check_bounds};

/// A dying process may start another; after so many rounds something keeps on starting them.
const ROUNDS: u32 = 20;

/// Undoes what `recorded` says.
pub(super) fn undo(recorded: &Recorded, limit: Duration) -> Report {
    let holder = &recorded.holder;
    let mut report = Report::of(holder);
    kill_groups(recorded);
    // Before their disks, which are files of the slot.
    destroy_domains(recorded, &mut report);
    kill_all(recorded, limit, &mut report);
    for open in &recorded.open {
        undo_entry(holder, open, limit, &mut report);
    }
    remove_own_blobs(holder, &mut report);
    for damage in &recorded.damage {
        let what = format!("line {} of the journal", damage.line);
        report.left(what, format!("it can't be read ({})", damage.why));
    }
    remove_scratch(holder, recorded.began, &mut report);
    if report.is_clean() {
        remove_entry(holder, &mut report);
    }
    report
}

/// Removes the directory of a job whose pilot died before it wrote anything.
pub(super) fn remove_unclaimed(scratch: &Path) -> Report {
    let mut report = Report::empty(scratch);
    let what = format!("directory {}", scratch.display());
    let emptied = OF_THE_BEGINNING
        .into_iter()
        .try_for_each(|name| absent_is_fine(fs::remove_file(scratch.join(name))).map(drop));
    report.note(
        what,
        emptied.and_then(|()| absent_is_fine(fs::remove_dir(scratch))),
    );
    report
}

/// Removes a node entry whose directory has become another slot's.
pub(super) fn remove_stale_entry(holder: &Holder) -> Report {
    let mut report = Report::of(holder);
    remove_entry(holder, &mut report);
    report
}

/// All at once, also what has lost its mark.
fn kill_groups(recorded: &Recorded) {
    for open in &recorded.open {
        if let What::Group { path } = &open.what
            && check_bounds(&recorded.holder, &open.what).is_ok()
        {
            cgroup::kill(path);
        }
    }
}

/// The guests' own helpers do it when their pilot is dead; this waits for them, and does it itself
/// where they are dead too.
fn destroy_domains(recorded: &Recorded, report: &mut Report) {
    let holder = &recorded.holder;
    for open in &recorded.open {
        let What::Domains { helper } = &open.what else {
            continue;
        };
        // Domains do not outlive a boot.
        let there = NodeIdentity::here().is_ok_and(|here| here.boot == holder.node.boot);
        if !there || check_bounds(holder, &open.what).is_err() {
            continue;
        }
        match Helper::at(helper).reclaim_now(&holder.marker_prefix()) {
            Ok(done) => report.reclaimed(done),
            Err(e) => report.left(&open.what, chain(&e)),
        }
    }
}

fn kill_all(recorded: &Recorded, limit: Duration, report: &mut Report) {
    let prefix = recorded.holder.marker_prefix();
    let mut targets: BTreeSet<ProcessId> = marked(&prefix).into_iter().collect();
    if Place::of(&recorded.holder.node) == Place::SameView {
        targets.extend(recorded.open.iter().filter_map(|open| open.process));
    }
    let mut given_up = BTreeSet::new();
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        // Twice, because one that was born while we looked may have been overlooked.
        quiet = if targets.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return;
        }
        for target in targets {
            let what = format!("process {}{}", target.pid, name_of(target.pid));
            match target.kill(limit) {
                KillOutcome::WasGone => continue,
                KillOutcome::Killed => {
                    report.removed(what);
                    continue;
                }
                KillOutcome::Stuck => report.left(what, "killed, but has not ended yet"),
                KillOutcome::Refused(e) => report.left(what, e),
            }
            given_up.insert(target);
        }
        targets = marked(&prefix)
            .into_iter()
            .filter(|id| !given_up.contains(id))
            .collect();
    }
    for target in targets {
        let what = format!("process {}{}", target.pid, name_of(target.pid));
        report.left(
            what,
            "others like it are started as fast as they are killed",
        );
    }
}

fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|name| format!(" ({})", name.trim()))
        .unwrap_or_default()
}

fn undo_entry(holder: &Holder, open: &Open, limit: Duration, report: &mut Report) {
    let what = &open.what;
    if let Err(rule) = check_bounds(holder, what) {
        report.left(what, rule);
        return;
    }
    let scratch = &holder.scratch;
    match what {
        What::Process { .. } | What::Domains { .. } => {}
        What::Directory { path } | What::File { path } | What::Socket { path } => {
            report.note(what, remove_inside(scratch, path));
        }
        What::StoreTmp { path } => report.note(what, remove_tree(path)),
        What::Group { path } => report.note(what, cgroup::remove(path, limit)),
        What::Mount { path } => {
            // A mount belongs to the boot that it was made in.
            let there = NodeIdentity::here().is_ok_and(|here| here.boot == holder.node.boot);
            if there {
                report.note(what, unmount(path));
            }
        }
    }
}

/// Blobs under construction need no entry each: their names begin with the slot's.
fn remove_own_blobs(holder: &Holder, report: &mut Report) {
    let prefix = holder.blob_tmp_prefix();
    let Ok(entries) = fs::read_dir(holder.store.join("blobs")) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            let what = format!("unfinished {}", entry.path().display());
            report.note(what, remove_tree(&entry.path()));
        }
    }
}

/// The whole directory, the journal last; with leftovers the journal stays, so that the next
/// reclaim knows about them.
fn remove_scratch(holder: &Holder, began: bool, report: &mut Report) {
    let scratch = &holder.scratch;
    let what = format!("scratch directory {}", scratch.display());
    if !began && !holds_nothing_of_others(scratch) {
        match fs::symlink_metadata(scratch) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => report.left(what, "it has no journal, and files that are not ours"),
        }
        return;
    }
    let entries = match fs::read_dir(scratch) {
        Ok(entries) => entries,
        Err(e) => return report.note(what, absent_is_fine(Err(e))),
    };
    for entry in entries.flatten() {
        if entry.file_name() == JOURNAL_FILE {
            continue;
        }
        if let Err(e) = remove_inside(scratch, &entry.path()) {
            report.left(entry.path().display(), e);
        }
    }
    if report.is_clean() {
        let removed = absent_is_fine(fs::remove_file(scratch.join(JOURNAL_FILE)))
            .and_then(|_| absent_is_fine(fs::remove_dir(scratch)));
        report.note(what, removed);
    }
}

fn remove_entry(holder: &Holder, report: &mut Report) {
    let path = &holder.node_entry;
    let what = format!("node entry {}", path.display());
    report.note(what, absent_is_fine(fs::remove_file(path)));
    // Others' entries may be in the directory; then it stays, and that is right.
    if let Some(directory) = path.parent() {
        let _ = fs::remove_dir(directory);
    }
}
