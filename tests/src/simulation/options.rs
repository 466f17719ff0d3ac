//! What a simulation is told, and what it says when a promise breaks.

use std::fmt;

use clap::ValueEnum;
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
    /// A rule that the world does not keep, to see that it is found.
    pub breaks: Option<Break>,
}

impl Options {
    /// The command that runs the same again.
    pub fn replay(&self) -> String {
        let breaks = (self.breaks.and_then(|b| b.to_possible_value()))
            .map_or(String::new(), |b| format!(" --break {}", b.get_name()));
        format!(
            "scripts/sim --slots {} --requests {} --seed {} --faults {}{breaks}",
            self.slots, self.requests, self.seed, self.faults
        )
    }
}

/// A rule that is broken on purpose, in the world and not in the cores, to prove that the checks
/// see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Break {
    /// The broker gives workspaces away before the pilots think that their leases are over.
    Fencing,
    /// The broker answers before it has committed, so that a crash forgets what it promised.
    Commit,
    /// Pilots hear neither signals nor that the slot's end has moved.
    Signals,
    /// Guests live on when their pilot dies.
    Guests,
    /// A suspend takes ten times as long as the node's disk needs.
    Suspends,
    /// The broker never looks at the clock: no lease runs out.
    Expiry,
}

/// The promises, as the simulation checks them against what is really there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// No two guests of one workspace at once.
    Alone,
    /// No accepted request is lost; one final state with a reason.
    Kept,
    /// No lease without an owner: none lives on in the broker when its pilot is gone, and no guest
    /// runs for long under a lease that the broker does not have.
    Owned,
    /// Nothing of ours is there at the LRM's SIGKILL if we were told in time.
    InTime,
    /// Nothing is left on a node when its pilot is gone.
    Clean,
    /// No guest is killed without a state that could have been suspended.
    Saved,
    /// A suspend takes no longer than was set aside for it.
    Budget,
    /// A state is what its guest was, and is there as long as it is needed.
    Complete,
    /// One pilot job per decision, and never more than the site allows.
    Polite,
    /// Everything ends.
    Ends,
}

impl Promise {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "a guest never runs twice at once",
            Self::Kept => "an accepted request is never lost",
            Self::Owned => "no lease is without an owner",
            Self::InTime => "nothing outlives the slot",
            Self::Clean => "nothing is left on the node",
            Self::Saved => "no guest is lost that could have been suspended",
            Self::Budget => "a suspend takes no longer than its budget",
            Self::Complete => "a state is complete or does not exist",
            Self::Polite => "one pilot job per decision, within the site's limits",
            Self::Ends => "every request ends",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, thiserror::Error, Serialize)]
#[error("promise broken: {promise}\n{what}\nthe story, latest last:\n{story}replay: {replay}")]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// When and how.
    pub what: String,
    /// The command that does it again.
    pub replay: String,
    /// What happened before, as far as it concerns what broke.
    pub story: String,
}
