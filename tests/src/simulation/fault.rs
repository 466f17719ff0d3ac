//! What goes wrong in a simulation, by name, so that a run can say how often each thing happened
//! and a test can demand that it did.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

macro_rules! faults {
    ($($(#[doc = $doc:expr])+ $name:ident => $text:literal,)+) => {
        /// Something that goes wrong.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// In words, after a number.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

faults! {
    /// A request of a pilot never arrives.
    RequestLost => "requests of pilots lost",
    /// An answer to a pilot never arrives.
    AnswerLost => "answers to pilots lost",
    /// An answer to a user never arrives; the user sends the request again.
    UserAnswerLost => "answers to users lost",
    /// A request of a pilot arrives a second time, later.
    RequestRepeated => "requests repeated",
    /// An answer to a pilot arrives a second time, later.
    AnswerRepeated => "answers repeated",
    /// An answer takes a second and more, so that others overtake it.
    AnswerLate => "answers late",
    /// A pilot's network is cut for seconds or minutes.
    NetworkCut => "networks cut",
    /// The broker crashes and the transaction of its last step is lost.
    CrashBeforeCommit => "broker crashes before a commit",
    /// The broker crashes with its last step recorded and neither answered nor acted upon.
    CrashAfterCommit => "broker crashes after a commit",
    /// The broker stays away for minutes.
    BrokerAway => "long absences of the broker",
    /// The broker's host has another time when the broker comes back.
    BrokerClockJump => "jumps of the broker's clock",
    /// A node's wall clock jumps while its pilot runs.
    NodeClockJump => "jumps of a node's clock",
    /// A pilot is killed by somebody.
    PilotKilled => "pilots killed",
    /// A pilot hangs (SIGSTOP) for seconds or minutes; its guests run on.
    PilotStopped => "pilots stopped",
    /// A node is out of the LRM's reach; what runs there runs on.
    NodeLost => "nodes lost",
    /// An administrator declares a node down.
    NodeDown => "nodes down",
    /// A node loses its power.
    PowerLoss => "power losses",
    /// A submit is refused.
    SubmitRefused => "submits refused",
    /// A submit is taken and its answer lost.
    SubmitUnanswered => "submits without an answer",
    /// The controller crashes and forgets the newest job; its id is given to another.
    JobForgotten => "jobs forgotten by the LRM",
    /// The LRM gives a job an id that another job had.
    IdReused => "job ids used again",
    /// A look-up finds nothing although the job is there.
    LookUpLied => "look-ups that lied",
    /// A listing leaves a job out.
    ListingShort => "listings with a job missing",
    /// A listing shows a job in a state that nobody knows.
    StateUnknown => "listings with an unknown state",
    /// The LRM answers nothing for seconds or minutes.
    LrmSilent => "silences of an LRM",
    /// A probe on a node gets no answer.
    ProbeUnanswered => "probes without an answer",
    /// A suspend runs at a quarter of the node's rate.
    SuspendSlow => "suspends at a quarter of the rate",
    /// A suspend runs as if the disk were dead.
    SuspendStuck => "suspends on a disk as good as dead",
    /// A suspend fails with its guest alive.
    SuspendFailed => "suspends failed",
    /// A site's store is full for minutes.
    StoreFull => "stores full",
    /// A state that is to be resumed is found to be corrupt.
    StateCorrupt => "states corrupt",
    /// A guest cannot be started.
    StartFailed => "starts failed",
    /// A guest dies by itself.
    GuestCrashed => "guests crashed",
}

/// How often each happened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Faults(BTreeMap<Fault, u64>);

impl Faults {
    /// It has happened once more.
    pub fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// How often it happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (fault, n) in &other.0 {
            *self.0.entry(*fault).or_default() += n;
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no faults");
        }
        for (n, (fault, count)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {}", fault.text())?;
        }
        Ok(())
    }
}
