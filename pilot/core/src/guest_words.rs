//! What a pilot and a guest say to each other over the guest's lease port: lines of plain text.
//!
//! | from | line | meaning |
//! |---|---|---|
//! | guest | `hello 1` | I listen from now on; `1` is the version of these words that I know |
//! | guest | `ready` | I have put my things in order: evict me now rather than later |
//! | pilot | `hello 1` | answer to `hello`, and first of all after a resume: what came before is old |
//! | pilot | `time-left SECONDS REASON` | so long until you are suspended or switched off |
//! | pilot | `suspend-soon SECONDS REASON` | you are about to be suspended; `0`: now |
//! | pilot | `stop-soon SECONDS REASON` | you are about to be switched off for good; `0`: now |
//! | pilot | `resumed SECONDS UNIX-TIME` | you stood still for so long; the time now, UTC |
//!
//! `REASON` is one of [`ReasonCode`]. The words and their order never change within a version;
//! more words may follow in a line, and more kinds of lines may come: a reader skips what it does
//! not know. `docs/guests/time-left.md` is the same for people who build images.

use std::fmt;

use protocol::codes::ReasonCode;
use protocol::time::{Mono, Span, Timestamp};

/// Version of these words.
pub const VERSION: u32 = 1;

/// Name of the virtio-serial port in the guest: `/dev/virtio-ports/<this>`.
pub const PORT: &str = "org.workspace.lease.0";

/// A line to a guest; its text is what `Display` gives, without the line's end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Words {
    /// The answer to its `hello`, and the first line after a resume.
    Hello,
    /// When it will be suspended or switched off.
    TimeLeft {
        /// So long from now.
        left: Span,
        /// Why then.
        reason: ReasonCode,
    },
    /// It is about to be suspended.
    SuspendSoon {
        /// So long from now; zero: now.
        left: Span,
        /// Why.
        reason: ReasonCode,
    },
    /// It is about to be switched off and not resumed.
    StopSoon {
        /// So long from now; zero: now.
        left: Span,
        /// Why.
        reason: ReasonCode,
    },
    /// It runs again.
    Resumed {
        /// How long it stood still.
        away: Span,
        /// The time now.
        now: Timestamp,
    },
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whole seconds, rounded down: a guest must not think that it has longer than it has.
        let secs = |span: &Span| span.as_millis() / 1000;
        match self {
            Self::Hello => write!(f, "hello {VERSION}"),
            Self::TimeLeft { left, reason } => write!(f, "time-left {} {reason}", secs(left)),
            Self::SuspendSoon { left, reason } => write!(f, "suspend-soon {} {reason}", secs(left)),
            Self::StopSoon { left, reason } => write!(f, "stop-soon {} {reason}", secs(left)),
            Self::Resumed { away, now } => write!(
                f,
                "resumed {} {}",
                secs(away),
                now.as_millis().div_euclid(1000)
            ),
        }
    }
}

/// A line from a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// Its agent listens, from now on.
    Hello,
    /// It may be evicted at once.
    Ready,
}

impl Said {
    /// Reads a line; none for one that means nothing here. What follows the first word is for
    /// later versions.
    pub fn parse(line: &str) -> Option<Self> {
        match line.split_ascii_whitespace().next()? {
            "hello" => Some(Self::Hello),
            "ready" => Some(Self::Ready),
            _ => None,
        }
    }
}

/// How far the talk with the guest of a lease is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Talk {
    /// Somebody in the guest listens, or may: it said so, or was suspended with its agent.
    pub listens: bool,
    /// It has just said `ready`.
    pub says_ready: bool,
    /// It said so near its eviction: that begins as soon as its turn has come.
    pub ready: bool,
    /// Since when it has been standing still, when it does and is still here.
    pub still_since: Option<Mono>,
    /// What it was told last.
    pub told: Option<Told>,
}

/// What a guest was told last of its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// When it has to go.
    pub at: Mono,
    /// How many of the marks were reached then, its going itself included.
    pub reached: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lines_that_a_shell_can_read() {
        let reason = ReasonCode::SlotEnding;
        let left = Span::from_millis(59_999);
        for (words, line) in [
            (Words::Hello, "hello 1"),
            (Words::TimeLeft { left, reason }, "time-left 59 slot_ending"),
            (
                Words::SuspendSoon { left, reason },
                "suspend-soon 59 slot_ending",
            ),
            (
                Words::StopSoon {
                    left: Span::ZERO,
                    reason: ReasonCode::RunTimeUsed,
                },
                "stop-soon 0 run_time_used",
            ),
            (
                Words::Resumed {
                    away: Span::from_secs(3661),
                    now: Timestamp::from_millis(1_800_000_000_900),
                },
                "resumed 3661 1800000000",
            ),
        ] {
            assert_eq!(words.to_string(), line);
        }
    }

    #[test]
    fn what_a_guest_says_is_understood_or_skipped() {
        for (line, said) in [
            ("hello 1", Some(Said::Hello)),
            ("hello 7 and more\r", Some(Said::Hello)),
            ("  ready  ", Some(Said::Ready)),
            ("", None),
            ("Ready", None),
            ("already", None),
            ("time-left 5", None),
        ] {
            assert_eq!(Said::parse(line), said, "{line:?}");
        }
    }
}
