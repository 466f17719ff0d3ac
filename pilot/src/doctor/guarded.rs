//! A slot's life in small: claim, journal, warden, probe, and everything undone again. And what
//! others have left on this node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use protocol::finding::Finding;
use protocol::time::Span;

use super::Subject;
use crate::broker_client::chain;
use crate::effects::probe;
use crate::exec_guest::Trampoline;
use crate::journal::{Claim, Journal, NODE_ENTRIES_PREFIX, NodeIdentity, read_node_entry};
use crate::reclaim;
use crate::warden::Warden;

/// How long undoing one thing, and the warden's start and end, may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The warden would undo the claim after so long, should this process be stopped.
const WARDEN_TIME: Duration = Duration::from_secs(120);
/// The probe and the slot file may differ by so much, for LRMs that count in whole minutes.
const PROBE_SLACK: Span = Span::from_secs(60);

/// Claims the subject's scratch directory, starts a warden, asks the probe, undoes all of it.
pub(super) async fn look(subject: &Subject) -> Vec<Finding> {
    let store = subject.store.as_deref().unwrap_or(subject.scratch_parent());
    let claim = Claim {
        submit_key: &subject.key,
        incarnation: &subject.incarnation,
        scratch: &subject.scratch,
        store,
        node_state: &subject.node_state,
    };
    let journal = match Journal::create(&claim) {
        Ok(journal) => journal,
        Err(e) => {
            return vec![Finding::problem(
                "claim",
                format!("a slot cannot be claimed here: {}", chain(&e)),
                "a pilot must be able to write to scratch, store and node state; see the findings \
                 about them",
            )];
        }
    };
    let mut found = Vec::new();
    let trampoline = Trampoline::of_this_program();
    let warden = Warden::start(trampoline.pilot(), &journal, WARDEN_TIME, LIMIT);
    found.push(match &warden {
        Ok(_) => Finding::ok("warden", "a warden starts and leaves the job's session"),
        Err(e) => Finding::problem(
            "warden",
            format!("no warden can be started: {}", chain(e)),
            "a pilot does not run without it; is the number of processes limited (`ulimit -u`)?",
        ),
    });
    if let Some(slot) = &subject.slot {
        let told = match &slot.probe {
            None => None,
            Some(section) => Some(probe::ask(section, &trampoline, &journal.tool_marker()).await),
        };
        found.push(judge_probe(told, slot.clock.end));
    }
    let report = reclaim::finish(&journal, LIMIT);
    if let Ok(warden) = warden {
        warden.goodbye(LIMIT);
    }
    found.push(if report.is_clean() {
        Finding::ok(
            "claim",
            "a slot can be claimed, and is gone without a trace",
        )
    } else {
        let left: Vec<String> = report.leftovers.iter().map(ToString::to_string).collect();
        Finding::problem(
            "claim",
            format!("not everything could be removed: {}", left.join("; ")),
            "remove it by hand, and see why this account could not",
        )
    });
    found
}

/// `told`: none when there is no probe.
fn judge_probe(
    told: Option<Option<protocol::time::Timestamp>>,
    end: protocol::time::Timestamp,
) -> Finding {
    let check = "probe";
    match told {
        None => Finding::ok(
            check,
            "the node cannot ask the batch system for the slot's end; the broker tells the pilot",
        ),
        Some(None) => Finding::warning(
            check,
            "the command that tells the slot's end again has no answer",
            "run `probe.command` of the slot file in a job by hand; without it the pilot learns of \
             a changed end from the broker only",
        ),
        Some(Some(at)) => {
            let apart = at.since(end).max(end.since(at));
            if apart <= PROBE_SLACK {
                Finding::ok(
                    check,
                    format!("the batch system tells the same end again: {at}"),
                )
            } else {
                Finding::warning(
                    check,
                    format!("the slot file says that the slot ends at {end}, the probe {at}"),
                    "the earlier one holds; if nobody has changed the job's end meanwhile, one of \
                     the two is wrong",
                )
            }
        }
    }
}

/// What dead pilots have left on this node, as far as this account can see.
pub(super) fn leftovers(subject: &Subject) -> Finding {
    let check = "leftovers";
    let (mut alive, mut dead, mut others) = (0, Vec::new(), 0);
    let own = format!("{NODE_ENTRIES_PREFIX}{}", nix::unistd::geteuid());
    for directory in list(&subject.node_state) {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if name == *own {
            for entry in list(&directory) {
                match read_node_entry(&entry) {
                    Ok(Some(holder)) if lives(&holder) => alive += 1,
                    Ok(Some(holder)) => dead.push(holder.scratch.display().to_string()),
                    Ok(None) | Err(_) => dead.push(entry.display().to_string()),
                }
            }
        } else if name.starts_with(NODE_ENTRIES_PREFIX) {
            others += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let count = dead.len() as f64;
    let finding = if dead.is_empty() {
        Finding::ok(
            check,
            format!(
                "nothing of a dead pilot; {alive} pilots of this account live here, {others} other \
                 accounts have pilots"
            ),
        )
    } else {
        Finding::warning(
            check,
            format!("dead pilots have left something: {}", dead.join(", ")),
            format!(
                "the next pilot removes it, or now: pilot reclaim --node-state {}",
                subject.node_state.display()
            ),
        )
    };
    finding.with("dead", count)
}

fn list(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// An entry of another node, or of before this boot, is not judged: it is alive as far as we know
/// unless it is this node's and its process is gone.
fn lives(holder: &crate::journal::Holder) -> bool {
    match NodeIdentity::here() {
        Ok(here) if here == holder.node => holder.pilot.is_alive(),
        Ok(here) if here.host == holder.node.host => here.boot == holder.node.boot,
        Ok(_) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use protocol::finding::Level;
    use protocol::time::Timestamp;

    use super::*;

    #[test]
    fn a_probe_is_judged_by_the_slot_file() {
        let end = Timestamp::from_secs(1000);
        let level = |told| judge_probe(told, end).level;
        assert_eq!(level(None), Level::Ok);
        assert_eq!(level(Some(None)), Level::Warning);
        assert_eq!(level(Some(Some(Timestamp::from_secs(1030)))), Level::Ok);
        assert_eq!(level(Some(Some(Timestamp::from_secs(900)))), Level::Warning);
    }
}
