//! What is known about a canary: what it said, what the LRM said, and when.

use std::fs;
use std::path::Path;

use protocol::canary::{CHILD_FILE, CanaryLine, REPORT_FILE, read_lines};
use protocol::finding::Finding;
use protocol::lrm::{CancelAnswer, JobState, ObservedJob, PilotJob};
use protocol::slot::SlotFacts;
use protocol::time::{Span, Timestamp};

/// The job's output.
pub(super) const OUTPUT_FILE: &str = "pilot.log";

/// Everything that a report is judged by. Times are those of the broker's host unless a line of
/// the canary says them.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// The job as it was submitted.
    pub job: PilotJob,
    /// When the LRM had taken it.
    pub submitted: Timestamp,
    /// What the LRM said of it last.
    pub listed: Option<ObservedJob>,
    /// What it said itself since its last start.
    pub lines: Vec<CanaryLine>,
    /// When its first line was seen.
    pub seen: Option<Timestamp>,
    /// The clocks' difference.
    pub skew: Option<Skew>,
    /// Whether the canary's file in the store was visible here; none if it could not be looked
    /// for.
    pub store_seen: Option<bool>,
    /// The last answer to a cancel, and when the first one was sent.
    pub cancelled: Option<(Timestamp, CancelAnswer)>,
    /// When the job was found to be over, if it was.
    pub over: Option<Timestamp>,
    /// Why it was given up before its time.
    pub given_up: Option<GivenUp>,
    /// True when its child lived after it was over; none when that could not be seen.
    pub survivor: Option<bool>,
}

/// The node's clock against that of the broker's host.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Skew {
    /// By how much the node's clock is ahead, milliseconds; negative: behind.
    pub ahead_ms: i64,
    /// It may be so much more or less.
    pub error: Span,
}

/// Why the doctor did not wait longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GivenUp {
    /// It did not start.
    Queued,
    /// It runs by the LRM's word and says nothing.
    Silent,
    /// It does not get ready.
    NotReady,
    /// It was cancelled and does not end.
    NotOver,
    /// A person stopped the doctor.
    Interrupted,
}

impl Evidence {
    pub(super) const fn new(job: PilotJob, submitted: Timestamp) -> Self {
        Self {
            job,
            submitted,
            listed: None,
            lines: Vec::new(),
            seen: None,
            skew: None,
            store_seen: None,
            cancelled: None,
            over: None,
            given_up: None,
            survivor: None,
        }
    }

    /// Reads what the canary has said by now. Of a job that was started again only the last start
    /// counts.
    pub(super) fn read(&mut self, now: Timestamp) {
        let lines = said(&self.job.directory);
        let last = lines
            .iter()
            .rposition(|line| matches!(line, CanaryLine::Started { .. }));
        if let Some(last) = last {
            self.lines = lines[last..].to_vec();
            self.seen.get_or_insert(now);
        }
    }

    /// When it started, as whom, and what its slot file says.
    pub(super) fn started(&self) -> Option<(u32, &str, &str, &SlotFacts)> {
        self.lines.iter().find_map(|line| match line {
            CanaryLine::Started {
                uid,
                user,
                host,
                slot,
                ..
            } => Some((*uid, user.as_str(), host.as_str(), slot)),
            CanaryLine::Found(_)
            | CanaryLine::Ready { .. }
            | CanaryLine::Pong { .. }
            | CanaryLine::Signal { .. }
            | CanaryLine::Alive { .. }
            | CanaryLine::Ended { .. } => None,
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        (self.lines.iter()).any(|line| matches!(line, CanaryLine::Ready { .. }))
    }

    /// Why it left by itself, if it did.
    pub(super) fn left(&self) -> Option<&str> {
        self.lines.iter().find_map(|line| match line {
            CanaryLine::Ended { why, .. } => Some(why.as_str()),
            CanaryLine::Started { .. }
            | CanaryLine::Found(_)
            | CanaryLine::Ready { .. }
            | CanaryLine::Pong { .. }
            | CanaryLine::Signal { .. }
            | CanaryLine::Alive { .. } => None,
        })
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.lines.iter().filter_map(|line| match line {
            CanaryLine::Found(finding) => Some(finding),
            CanaryLine::Started { .. }
            | CanaryLine::Ready { .. }
            | CanaryLine::Pong { .. }
            | CanaryLine::Signal { .. }
            | CanaryLine::Alive { .. }
            | CanaryLine::Ended { .. } => None,
        })
    }

    pub(super) fn pong(&self, ping: &str) -> Option<Timestamp> {
        self.lines.iter().find_map(|line| match line {
            CanaryLine::Pong { ping: of, at } if of == ping => Some(*at),
            CanaryLine::Pong { .. }
            | CanaryLine::Started { .. }
            | CanaryLine::Found(_)
            | CanaryLine::Ready { .. }
            | CanaryLine::Signal { .. }
            | CanaryLine::Alive { .. }
            | CanaryLine::Ended { .. } => None,
        })
    }

    /// True when the LRM says that the job is over.
    pub(super) fn is_listed_ended(&self) -> bool {
        self.listed
            .as_ref()
            .is_some_and(|job| matches!(job.state, JobState::Ended(_)))
    }
}

/// The canary's lines: from its file, or where nodes do not see that, from the job's output.
fn said(directory: &Path) -> Vec<CanaryLine> {
    let of = |name: &str| {
        let bytes = fs::read(directory.join(name)).unwrap_or_default();
        read_lines(&String::from_utf8_lossy(&bytes))
    };
    let lines = of(REPORT_FILE);
    if lines.is_empty() {
        of(OUTPUT_FILE)
    } else {
        lines
    }
}

/// The last line of the canary's child.
pub(super) fn child(directory: &Path) -> Option<CanaryLine> {
    let bytes = fs::read(directory.join(CHILD_FILE)).unwrap_or_default();
    read_lines(&String::from_utf8_lossy(&bytes)).pop()
}

/// The end of the job's output without the canary's own lines, for people.
pub(super) fn output_tail(directory: &Path) -> String {
    let bytes = fs::read(directory.join(OUTPUT_FILE)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(protocol::canary::OUTPUT_MARK) && !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
