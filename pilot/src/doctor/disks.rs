//! Whether scratch, store and node state can be written, how fast, and what that means for the
//! suspending of guests.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use protocol::finding::Finding;
use protocol::time::Span;

use super::Subject;
use crate::clock;
use crate::host::free_mib;

/// Bytes that are written at most to measure a rate, MiB.
const MOST_MIB: u64 = 64;
/// No more is begun after so long.
const LONGEST: Span = Span::from_secs(3);
const MIB: usize = 1024 * 1024;

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let mut found = vec![scratch(subject)];
    found.extend(subject.store.as_deref().map(|path| store(subject, path)));
    if subject.node_state != subject.scratch_parent() {
        found.push(match writable(&subject.node_state) {
            Ok(()) => Finding::ok(
                "node-state",
                format!("{} can be written", subject.node_state.display()),
            ),
            Err(e) => Finding::problem(
                "node-state",
                format!("{} cannot be written: {e}", subject.node_state.display()),
                "make the directory on every node, writable for the pilots' account",
            ),
        });
    }
    found
}

fn scratch(subject: &Subject) -> Finding {
    let (check, dir) = ("disk.scratch", subject.scratch_parent());
    let rate = match rate(dir) {
        Ok(rate) => rate,
        Err(e) => {
            return Finding::problem(
                check,
                format!("scratch {} cannot be written: {e}", dir.display()),
                "make the directory on every node, writable for the pilots' account, or change \
                 `scratch`",
            );
        }
    };
    let free = free_mib(dir).unwrap_or(0);
    let text = format!(
        "scratch {} writes {rate:.0} MiB/s and has {free} MiB free",
        dir.display()
    );
    let wanted = subject.slot.as_ref().map_or(0, |s| s.resources.disk.0);
    let finding = if free < wanted {
        Finding::warning(
            check,
            format!("{text}; the slot promises {wanted} MiB"),
            "ask for less disk in `slot.disk`, or free some: guests whose disks do not fit fail",
        )
    } else {
        Finding::ok(check, text)
    };
    figures(finding, rate, free)
}

fn store(subject: &Subject, dir: &Path) -> Finding {
    let check = "disk.store";
    let refuse = |e: io::Error| {
        Finding::problem(
            check,
            format!("the store {} cannot be written: {e}", dir.display()),
            "make the directory, shared by all nodes and writable for the pilots' account, or \
             change `store`",
        )
    };
    // As a pilot does at its start.
    if let Err(e) = fs::create_dir_all(dir) {
        return refuse(e);
    }
    let rate = match rate(dir) {
        Ok(rate) => rate,
        Err(e) => return refuse(e),
    };
    let free = free_mib(dir).unwrap_or(0);
    let text = format!(
        "the store {} writes {rate:.0} MiB/s and has {free} MiB free",
        dir.display()
    );
    let Some(slot) = &subject.slot else {
        return figures(Finding::ok(check, text), rate, free);
    };
    let facts = slot.facts();
    figures(
        suspends_in(
            check,
            &text,
            rate,
            slot.resources.memory.0,
            facts.notice.minus(facts.margin),
        ),
        rate,
        free,
    )
}

/// Whether guests that fill the slot's memory could be suspended in `time`.
fn suspends_in(check: &str, text: &str, rate: f64, memory_mib: u64, time: Span) -> Finding {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let need = Span::from_secs_f64(memory_mib as f64 / rate.max(0.001));
    if need <= time {
        return Finding::ok(
            check,
            format!("{text}; all memory of the slot is written in about {need}"),
        );
    }
    Finding::warning(
        check,
        format!(
            "{text}; all memory of the slot takes about {need} to write, the notice less the \
             margin is {time}"
        ),
        "nothing is lost by it, but guests too large for the notice are only taken if their owner \
         allows that they are killed: a faster store, a longer notice or smaller slots help",
    )
}

fn figures(finding: Finding, rate: f64, free_mib: u64) -> Finding {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let free = free_mib as f64;
    finding
        .with("write_mib_per_s", (rate * 10.0).round() / 10.0)
        .with("free_mib", free)
}

/// Writes a byte to a file without a name.
pub(super) fn writable(dir: &Path) -> io::Result<()> {
    tempfile::tempfile_in(dir)?.write_all(b"x")
}

/// MiB per second to the disk itself, with a file without a name: nothing stays, whenever this is
/// killed.
fn rate(dir: &Path) -> io::Result<f64> {
    let mut file: File = tempfile::tempfile_in(dir)?;
    // Nothing that a file system could make smaller.
    let mut chunk = vec![0; MIB];
    blake3::Hasher::new()
        .update(b"rate")
        .finalize_xof()
        .fill(&mut chunk);
    let began = clock::now().mono;
    let mut written = 0_u32;
    while u64::from(written) < MOST_MIB && clock::now().mono.since(began) < LONGEST {
        file.write_all(&chunk)?;
        written += 1;
    }
    file.sync_data()?;
    let took = clock::now().mono.since(began).max(Span::from_millis(1));
    Ok(f64::from(written) / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use protocol::finding::Level;

    use super::*;

    #[test]
    fn a_rate_is_measured_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert!(rate(dir.path()).unwrap() > 0.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(rate(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_store_too_slow_for_the_notice_is_told() {
        let judge = |rate, secs| suspends_in("disk.store", "t", rate, 1000, Span::from_secs(secs));
        assert_eq!(judge(100.0, 10).level, Level::Ok);
        let slow = judge(50.0, 10);
        assert_eq!(slow.level, Level::Warning);
        assert!(
            slow.text.contains("20s") && slow.text.contains("10s"),
            "{slow}"
        );
        assert_eq!(judge(0.0, 10).level, Level::Warning);
    }
}
