//! The summary: what the demo proves, for people and as JSON.

use std::fmt;

use protocol::slot::SlotUse;
use protocol::time::Span;
use serde::Serialize;

/// One slot's use, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SlotSummary {
    /// From lease to running guest.
    pub boot_s: f64,
    /// With a guest running.
    pub run_s: f64,
    /// Spent on suspending.
    pub suspend_s: f64,
    /// With no guest at all.
    pub idle_s: f64,
    /// Past the slot's end; must be 0.
    pub overrun_s: f64,
}

impl From<SlotUse> for SlotSummary {
    fn from(used: SlotUse) -> Self {
        let s = Span::as_secs_f64;
        Self {
            boot_s: s(used.boot),
            run_s: s(used.run),
            suspend_s: s(used.suspend),
            idle_s: s(used.idle),
            overrun_s: s(used.overrun),
        }
    }
}

/// The whole demo.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// All that was queued has finished.
    pub finished: bool,
    /// The slots, in order.
    pub slots: Vec<SlotSummary>,
    /// States that were made.
    pub suspends: u32,
    /// Starts from a state.
    pub resumes: u32,
    /// How often the counter in the guest's memory went back, skipped or started again.
    pub counter_restarts: u64,
    /// Its first value.
    pub counter_first: u64,
    /// Its last value.
    pub counter_last: u64,
    /// Rate of the suspends over the rate of plain writes of the same bytes to the same disk.
    pub suspend_rate_ratio: f64,
    /// Suspends' rates, MB/s.
    pub suspend_mb_s: Vec<f64>,
    /// Plain writes' rates, MB/s.
    pub plain_write_mb_s: Vec<f64>,
    /// Slots in which we were still there after the end.
    pub overruns: usize,
    /// Time from the preemption's signal to the empty slot, seconds.
    pub preempted_to_empty_s: f64,
    /// The notice that the site gives, seconds.
    pub notice_s: f64,
    /// What was found on the node after the slots; must be empty.
    pub leftovers: Vec<String>,
    /// Lines with which a guest says that its memory or disk is not what it was.
    pub complaints: Vec<String>,
}

impl Summary {
    /// What is not as it must be, in sentences.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |good: bool, what: String| {
            if !good {
                faults.push(what);
            }
        };
        must(
            self.finished,
            "not everything that was queued has finished".into(),
        );
        must(
            self.suspends >= 2 && self.resumes >= 2,
            format!(
                "{} suspends, {} resumes: wanted two of each",
                self.suspends, self.resumes
            ),
        );
        must(
            self.counter_restarts == 0,
            format!("the counter broke {} times", self.counter_restarts),
        );
        must(
            self.overruns == 0,
            format!("{} slots were overrun", self.overruns),
        );
        must(
            self.leftovers.is_empty(),
            format!("left on the node: {}", self.leftovers.join(", ")),
        );
        must(
            self.complaints.is_empty(),
            format!("the guest complains: {}", self.complaints.join(", ")),
        );
        faults
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  slot    boot     run  suspend    idle  overrun   (seconds)"
        )?;
        for (i, s) in self.slots.iter().enumerate() {
            writeln!(
                f,
                "  {:>4} {:>7.1} {:>7.1} {:>8.2} {:>7.1} {:>8.1}",
                i + 1,
                s.boot_s,
                s.run_s,
                s.suspend_s,
                s.idle_s,
                s.overrun_s
            )?;
        }
        let rates = |r: &[f64]| {
            r.iter()
                .map(|x| format!("{x:.0}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        writeln!(f, "  suspends {}, resumes {}", self.suspends, self.resumes)?;
        writeln!(
            f,
            "  counter in memory: {} to {}, broken {} times",
            self.counter_first, self.counter_last, self.counter_restarts
        )?;
        writeln!(
            f,
            "  suspended at {} MB/s; plain writes of the same bytes: {} MB/s; ratio {:.2}",
            rates(&self.suspend_mb_s),
            rates(&self.plain_write_mb_s),
            self.suspend_rate_ratio
        )?;
        writeln!(
            f,
            "  preempted: slot empty {:.1}s after the first signal; the site kills after {:.0}s",
            self.preempted_to_empty_s, self.notice_s
        )?;
        let left = if self.leftovers.is_empty() {
            "nothing".to_owned()
        } else {
            self.leftovers.join(", ")
        };
        write!(f, "  overruns {}; left on the node: {left}", self.overruns)
    }
}
