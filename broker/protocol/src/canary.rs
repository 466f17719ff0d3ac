//! What a canary job and `pilot-broker doctor` say to each other, by files in the job's directory.
//!
//! A canary is an ordinary pilot job whose submit key begins with [`KEY_PREFIX`]. `pilot run`
//! then starts no guest and speaks to no broker: it looks at the node, writes down the signals
//! that it gets, and lives until it is killed, within bounds.
//!
//! ```text
//! canary                                            doctor
//!   Started, Found*, ──── canary.jsonl ─────────────► reads
//!                    ◄─── ping (a word) ───────────── writes, notes the time
//!   Pong (that word, the node's time) ──────────────► the clocks' difference, within the round trip
//!   Ready, Alive* ──────────────────────────────────► cancels the job
//!   Signal, Alive* ─────────────────────────────────► the last Alive: how long it was left alive
//!   its child: Alive* ─── canary-child.jsonl ───────► survived the job's end, or not
//!                    ◄─── stop ────────────────────── both leave at once
//! ```
//!
//! The same lines are printed to the job's output with [`OUTPUT_MARK`] before them, for LRMs that
//! bring the output back where nodes do not see the directory.

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::ids::SubmitKey;
use crate::slot::SlotFacts;
use crate::time::Timestamp;

/// What a canary's submit key begins with. The broker's own keys never do: what follows their
/// `wp-` is hexadecimal.
pub const KEY_PREFIX: &str = "wp-canary-";
/// The canary's lines.
pub const REPORT_FILE: &str = "canary.jsonl";
/// The lines of its child, which left the job's session on purpose.
pub const CHILD_FILE: &str = "canary-child.jsonl";
/// A word that the canary answers.
pub const PING_FILE: &str = "ping";
/// When it is there, canary and child leave.
pub const STOP_FILE: &str = "stop";
/// Before each line in the job's output.
pub const OUTPUT_MARK: &str = "canary: ";
/// The canary's file in the store, within `blobs`, while it looks whether the broker's host sees
/// the same store: this and its submit key. Pilots remove such a file when it is an hour old.
pub const STORE_MARK: &str = ".tmp-";

/// True for the submit key of a canary.
pub fn is_canary(key: &SubmitKey) -> bool {
    key.as_str().starts_with(KEY_PREFIX)
}

/// One line of a report. Times are the node's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum CanaryLine {
    /// It runs, and has read its slot file.
    Started {
        /// When.
        at: Timestamp,
        /// The account's number on the node.
        uid: u32,
        /// The account's name there; its number where it has none.
        user: String,
        /// The node's name by its own kernel.
        host: String,
        /// The slot file.
        slot: SlotFacts,
    },
    /// It looked at something.
    Found(Finding),
    /// All is looked at; from now on it waits for signals.
    Ready {
        /// When.
        at: Timestamp,
    },
    /// The answer to a ping.
    Pong {
        /// The word.
        ping: String,
        /// When it was seen.
        at: Timestamp,
    },
    /// A signal came.
    Signal {
        /// When, by the clock.
        at: Timestamp,
        /// When, by the node's monotonic clock, milliseconds.
        mono_ms: u64,
        /// Which, as `SIGTERM`.
        name: String,
        /// True where a batch system ends a job by it; false for those that say something else.
        ends: bool,
        /// Who sent it, for people.
        from: String,
    },
    /// It lives.
    Alive {
        /// When, by the clock.
        at: Timestamp,
        /// When, by the node's monotonic clock, milliseconds.
        mono_ms: u64,
    },
    /// It leaves by itself.
    Ended {
        /// When.
        at: Timestamp,
        /// Why, in words.
        why: String,
    },
}

/// The lines in a report; a last one that is not whole yet, and what is not ours, are left out.
pub fn read_lines(text: &str) -> Vec<CanaryLine> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| line.strip_prefix(OUTPUT_MARK).unwrap_or(line))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_from_both_files_and_torn_ones_are_not() {
        let line = CanaryLine::Alive {
            at: Timestamp::from_secs(1),
            mono_ms: 7,
        };
        let json = serde_json::to_string(&line).unwrap();
        let found = CanaryLine::Found(Finding::ok("warden", "starts"));
        let text = format!(
            "{json}\nnoise\n{OUTPUT_MARK}{}\n{json}",
            serde_json::to_string(&found).unwrap()
        );
        assert_eq!(read_lines(&text), [line, found]);
        assert_eq!(read_lines(""), []);
    }

    #[test]
    fn the_brokers_own_keys_are_no_canaries() {
        assert!(is_canary(&SubmitKey::new("wp-canary-12ab34cd").unwrap()));
        assert!(!is_canary(&SubmitKey::new("wp-deac44a8-000001").unwrap()));
    }
}
