//! The conformance suite: every rule of `docs/adapters/README.md` that can be tested from
//! outside, over the contract and a [`Rig`].
//!
//! A rule's check submits jobs of its own, waits for conditions with the rig's patience, and
//! ends what it started. It says [`Verdict::Fail`] with what it saw, never panics, and says
//! [`Verdict::NotApplicable`] when the rig cannot do what the rule needs.

mod ends;
mod jobs;
mod rig;
mod silence;
mod submit;
mod watch;

pub use jobs::{STOP_FILE, TestJobs};
pub use rig::{Action, Can, Disturbance, Program, Rig, Shape};

/// The outcome of a rule's check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The rule holds.
    Pass,
    /// It cannot be tested here, and why.
    NotApplicable(String),
    /// It does not hold, and what was seen.
    Fail(String),
}

/// How a check stops early.
#[derive(Debug)]
pub(crate) enum Stop {
    NotApplicable(String),
    Fail(String),
}

pub(crate) type Checked = Result<(), Stop>;

pub(crate) fn fail<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(what.into()))
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $title:literal, $check:path;)*) => {
        /// The rules, numbered as in `docs/adapters/README.md`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its number in the specification.
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// Its name on command lines and in reports. Stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Its title in the specification.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Checks it on a rig.
            pub async fn check(self, rig: &impl Rig) -> Verdict {
                let outcome = match self { $(Self::$name => $check(rig).await,)* };
                rig.calm().await;
                // What a failed check has left must not be the next one's trouble.
                let outcome = match watch::clear(rig).await {
                    Err(stop) if outcome.is_ok() => Err(stop),
                    Ok(()) | Err(_) => outcome,
                };
                match outcome {
                    Ok(()) => Verdict::Pass,
                    Err(Stop::NotApplicable(why)) => Verdict::NotApplicable(why),
                    Err(Stop::Fail(what)) => Verdict::Fail(what),
                }
            }
        }
    };
}

rules! {
    /// An accepted job is found by its key and in the listing.
    FoundByKey = 1, "found-by-key", "an accepted job is found by its key and in the listing", submit::found_by_key;
    /// A refused submit leaves no job.
    RefusedLeavesNothing = 2, "refused-submit", "a refused submit leaves no job", submit::refused_leaves_nothing;
    /// A lost answer to a submit.
    LostAnswer = 3, "lost-answer", "a submit whose answer is lost is no answer, and its job is found by its key", submit::lost_answer;
    /// The job knows its slot.
    SlotFile = 4, "slot-file", "the job gets a slot file that is true, and a probe that tells the end again", submit::slot_file;
    /// Secrets stay in their file.
    NoSecrets = 5, "no-secrets", "nothing that others can read holds a secret", submit::no_secrets;
    /// An exit code is told.
    ExitCode = 6, "exit-code", "a job that ends by itself is listed with its exit code", ends::exit_code;
    /// Cancelling a queued job.
    CancelQueued = 7, "cancel-queued", "a queued job that is cancelled never starts and ends as cancelled", ends::cancel_queued;
    /// Cancelling a running job.
    CancelRunning = 8, "cancel-running", "a running job that is cancelled hears it, and its processes are gone", ends::cancel_running;
    /// Cancelling what is not there.
    CancelUnknown = 9, "cancel-unknown", "cancelling an unknown id is told apart and harms no other job", ends::cancel_unknown;
    /// Walltime.
    Walltime = 10, "walltime", "the end of the walltime is told as such", ends::walltime;
    /// Preemption.
    Preemption = 11, "preemption", "a preempted job is never listed as failed or finished by itself", ends::preemption;
    /// Requeue.
    Requeue = 12, "requeue", "a job that is started again has the same id and another incarnation", ends::requeue;
    /// A moved end.
    MovedEnd = 13, "moved-end", "an end that was moved is seen in the listing", ends::moved_end;
    /// A lost node.
    NodeLost = 14, "node-lost", "a job whose node was lost is never listed as ended by itself", ends::node_lost;
    /// No answer.
    Unreachable = 15, "unreachable", "an LRM that cannot be reached is no answer, never an empty listing", silence::unreachable;
    /// A hung command.
    Hung = 16, "hung-command", "a command that hangs is no answer within the bound", silence::hung;
    /// Garbled output.
    Garbled = 17, "garbled", "output that cannot be read is no answer", silence::garbled;
    /// Missing from the listing.
    Missing = 18, "missing", "a job that is missing from one listing is in the next", silence::missing;
    /// A restarted LRM.
    Restarted = 19, "restart", "a restart of the LRM changes no running job", silence::restarted;
    /// A reused id.
    ReusedId = 20, "reused-id", "an id that was given again does not let us cancel the wrong job", silence::reused_id;
    /// Withdrawing a job that has started.
    Withdraw = 21, "withdraw", "a withdrawal ends a job that waits and does not touch one that has started", ends::withdraw;
    /// Nodes to avoid.
    Avoid = 22, "avoid", "a job that is to avoid a node is not started there", submit::avoid;
}
