//! What happened in a simulation, in numbers.

use std::fmt;

use serde::Serialize;

use super::fault::{Fault, Faults};

/// What happened, in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Summary {
    /// Slots that pilots had.
    pub slots: u32,
    /// Requests that were accepted.
    pub requests: u32,
    /// Requests that ended as done.
    pub done: u32,
    /// Requests that their owners cancelled.
    pub cancelled: u32,
    /// Requests that failed.
    pub failed: u32,
    /// Starts of guests; each was found to be the only one of its workspace.
    pub starts: u32,
    /// Starts from a state.
    pub resumes: u32,
    /// Checkpoints made of guests that went on.
    pub checkpoints: u32,
    /// Of the starts from a state, those from a checkpoint.
    pub from_checkpoints: u32,
    /// Guests whose memory was brought to the store while they ran.
    pub flushes: u32,
    /// Suspends, by how they ended.
    pub suspends: Suspends,
    /// Guests that ended without a state, by why.
    pub kills: Kills,
    /// Pilots to whom the LRM said that the slot ends.
    pub evictions: u32,
    /// Of those, pilots that were there when they had to be gone, each explained by a fault.
    pub overruns: u32,
    /// Jobs that the LRM started again.
    pub requeues: u32,
    /// Signals that LRMs sent to pilots.
    pub signals: u32,
    /// Suspends that no fault slowed down: actual time in thousandths of the budget.
    pub actual_of_budget: Spread,
    /// The same where the pilot had measured before: budget in thousandths of the actual time.
    pub learned_budget_of_actual: Spread,
    /// What went wrong, and how often.
    pub faults: Faults,
    /// Virtual seconds.
    pub virtual_s: u64,
    /// Steps of all machines together.
    pub steps: u64,
}

/// Suspends by how they ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Suspends {
    /// With a state.
    pub made: u32,
    /// Failed by a fault.
    pub failed: u32,
    /// Given up by the pilot because its time was over.
    pub given_up: u32,
}

/// Guests that ended without a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Kills {
    /// Their owner wanted it, or they were not to be suspended.
    pub wanted: u32,
    /// They had gained nothing: they were not up yet.
    pub unstarted: u32,
    /// The time from when the end was known was less than what their suspends would have needed.
    pub no_time: u32,
    /// Of those, the ones that a planner which knew the node's rate could have suspended.
    pub avoidable: u32,
    /// A fault explains it.
    pub excused: u32,
    /// With their pilot.
    pub with_pilot: u32,
}

impl Kills {
    /// All together.
    pub const fn total(&self) -> u32 {
        self.wanted + self.unstarted + self.no_time + self.excused + self.with_pilot
    }
}

/// How numbers are spread: percentiles of all that were taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// Half are no more.
    pub p50: u64,
    /// Nine in ten are no more.
    pub p90: u64,
    /// Ninety-nine in a hundred are no more.
    pub p99: u64,
    /// The most.
    pub most: u64,
}

impl Spread {
    /// Of these numbers.
    pub fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let at = |percent: usize| {
            let index = (all.len() * percent).div_ceil(100).saturating_sub(1);
            all.get(index).copied().unwrap_or_default()
        };
        Self {
            count: all.len(),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            most: at(100),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |n: u64| format!("{}.{:02}", n / 1000, n % 1000 / 10);
        write!(
            f,
            "p50 {} p90 {} p99 {} most {} of {}",
            times(self.p50),
            times(self.p90),
            times(self.p99),
            times(self.most),
            self.count
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, k) = (&self.suspends, &self.kills);
        writeln!(
            f,
            "{} slots, {} requests ({} done, {} cancelled, {} failed), {:.1} h in {} steps",
            self.slots,
            self.requests,
            self.done,
            self.cancelled,
            self.failed,
            self.virtual_seconds() / 3600.0,
            self.steps
        )?;
        writeln!(
            f,
            "  {} starts ({} from a state, {} of them from a checkpoint), {} suspends ({} failed, {} given up), \
             {} checkpoints, {} flushes",
            self.starts,
            self.resumes,
            self.from_checkpoints,
            s.made,
            s.failed,
            s.given_up,
            self.checkpoints,
            self.flushes
        )?;
        writeln!(
            f,
            "  {} guests killed: {} as was wanted, {} before they were up, {} with their pilot, {} by a fault, {} for want of time ({} with the rate known in advance would not)",
            k.total(),
            k.wanted,
            k.unstarted,
            k.with_pilot,
            k.excused,
            k.no_time,
            k.avoidable
        )?;
        writeln!(
            f,
            "  {} pilots told to go, {} too late by a fault; {} signals, {} jobs started again",
            self.evictions, self.overruns, self.signals, self.requeues
        )?;
        writeln!(
            f,
            "  suspends, actual/budget: {}; learned, budget/actual: {}",
            self.actual_of_budget, self.learned_budget_of_actual
        )?;
        write!(f, "  {}", self.faults)
    }
}

impl Summary {
    fn virtual_seconds(&self) -> f64 {
        std::time::Duration::from_secs(self.virtual_s).as_secs_f64()
    }

    /// How often the broker crashed.
    pub fn broker_crashes(&self) -> u64 {
        self.faults.of(Fault::CrashBeforeCommit) + self.faults.of(Fault::CrashAfterCommit)
    }
}
