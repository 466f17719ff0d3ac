//! What a simulation is told, and what it tells in the end.

use std::fmt;

use serde::Serialize;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At least so many slots are given to pilots.
    pub slots: u32,
    /// At least so many requests are queued.
    pub requests: u32,
    /// Decides everything.
    pub seed: u64,
    /// How often things go wrong, in percent of the usual; 0: never.
    pub faults: u64,
}

impl Options {
    /// The command that runs the same again.
    pub fn replay(&self) -> String {
        format!(
            "sim --slots {} --requests {} --seed {} --faults {}",
            self.slots, self.requests, self.seed, self.faults
        )
    }
}

/// What happened, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
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
    /// Starts of guests.
    pub starts: u32,
    /// States that were made.
    pub suspends: u32,
    /// Checkpoints made of guests that went on.
    pub checkpoints: u32,
    /// Leases that started from a checkpoint.
    pub from_checkpoints: u32,
    /// Starts from a state.
    pub resumes: u32,
    /// Guests that were killed without a state.
    pub kills: u32,
    /// Signals that LRMs sent to pilots.
    pub signals: u32,
    /// Pilots that were killed with SIGKILL, whether by an LRM or by a fault.
    pub pilots_killed: u32,
    /// Crashes of the broker.
    pub broker_crashes: u32,
    /// Messages that were lost.
    pub lost_messages: u32,
    /// Answers of LRMs that lied or were missing.
    pub lrm_lies: u32,
    /// Virtual seconds.
    pub virtual_s: u64,
    /// Steps of all machines together.
    pub steps: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} slots, {} requests ({} done, {} cancelled, {} failed), {} starts, {} suspends, {} checkpoints, {} resumes ({} from checkpoints), \
             {} kills, {} signals, {} pilots killed, {} broker crashes, {} messages lost, {} lies of LRMs, \
             {:.1} h in {} steps",
            self.slots,
            self.requests,
            self.done,
            self.cancelled,
            self.failed,
            self.starts,
            self.suspends,
            self.checkpoints,
            self.resumes,
            self.from_checkpoints,
            self.kills,
            self.signals,
            self.pilots_killed,
            self.broker_crashes,
            self.lost_messages,
            self.lrm_lies,
            self.virtual_s as f64 / 3600.0,
            self.steps
        )
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, thiserror::Error)]
#[error("promise broken: {what}\nreplay: {replay}\nthe story, latest last:\n{story}")]
pub struct Violation {
    /// Which, and how.
    pub what: String,
    /// The command that does it again.
    pub replay: String,
    /// What happened before.
    pub story: String,
}
