//! All that can happen to the agent.

use protocol::codes::{ErrorCode, Reason};
use protocol::ids::StateId;
use protocol::messages::{RegisterReply, SyncReply};
use protocol::time::{Mono, Span, Timestamp};

use crate::guest::LeaseKey;
use crate::guest_words::Said;

/// Something that happened. Late and repeated ones are harmless.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The process is ready: the slot file is read, leftovers are swept, the journal is open.
    Started,
    /// The broker knows the slot.
    Registered(RegisterReply),
    /// No answer to the registration.
    RegisterFailed {
        /// What happened, for people.
        text: String,
    },
    /// The broker refused the registration.
    RegisterRefused {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        text: String,
    },
    /// An answer to a sync.
    SyncAnswered {
        /// When the sync was sent.
        sent: Mono,
        /// The answer; its `number` says to which.
        reply: Box<SyncReply>,
    },
    /// No answer to the sync with this number.
    SyncFailed {
        /// Number of the sync.
        number: u64,
        /// What happened, for people.
        text: String,
    },
    /// The broker refused the sync with this number.
    SyncRefused {
        /// Number of the sync.
        number: u64,
        /// Its code.
        code: ErrorCode,
        /// Its words.
        text: String,
    },
    /// The probe ended: an end of the slot, or no answer (which says nothing).
    Probed(Option<Timestamp>),
    /// A signal came.
    Signal {
        /// Which.
        which: Signal,
        /// Who sent it, for people: a process id or `kernel`.
        from: String,
    },
    /// Time has passed.
    Tick,
    /// All that the lease needs is here and verified.
    Staged {
        /// The lease.
        lease: LeaseKey,
    },
    /// It could not be brought here.
    StageFailed {
        /// The lease.
        lease: LeaseKey,
        /// Why.
        reason: Reason,
        /// The same would happen on any node.
        permanent: bool,
    },
    /// The guest runs: booted or resumed.
    Running {
        /// The lease.
        lease: LeaseKey,
    },
    /// The hypervisor could not boot or resume it; nothing of it is left.
    StartFailed {
        /// The lease.
        lease: LeaseKey,
        /// Why.
        reason: Reason,
        /// The same would happen on any node.
        permanent: bool,
    },
    /// The guest stands still, in RAM.
    Paused {
        /// The lease.
        lease: LeaseKey,
    },
    /// The guest runs again.
    Continued {
        /// The lease.
        lease: LeaseKey,
    },
    /// How much a suspend would have to write now.
    Measured {
        /// The lease.
        lease: LeaseKey,
        /// Bytes.
        bytes: u64,
    },
    /// How much console has been captured.
    Console {
        /// The lease.
        lease: LeaseKey,
        /// Bytes, in all.
        bytes: u64,
    },
    /// The guest's agent has something to say.
    GuestSaid {
        /// The lease.
        lease: LeaseKey,
        /// What.
        said: Said,
    },
    /// A complete, verified state is in the store, and the guest is gone.
    Suspended {
        /// The lease.
        lease: LeaseKey,
        /// BLAKE3 of the state's manifest.
        manifest: String,
        /// Bytes of the state.
        bytes: u64,
        /// Bytes that were written for it.
        written: u64,
        /// How long that took.
        took: Span,
    },
    /// There is no state.
    SuspendFailed {
        /// The lease.
        lease: LeaseKey,
        /// Why.
        reason: Reason,
        /// The guest runs on (or is paused, as it was before).
        guest_alive: bool,
    },
    /// A complete, verified checkpoint is in the store, and the guest goes on.
    Checkpointed {
        /// The lease.
        lease: LeaseKey,
        /// Which.
        state: StateId,
        /// BLAKE3 of the state's manifest.
        manifest: String,
        /// Bytes of the state.
        bytes: u64,
        /// Bytes that were written for it.
        written: u64,
        /// How long that took.
        took: Span,
        /// For how much of that the guest stood still.
        paused: Span,
    },
    /// There is no checkpoint.
    CheckpointFailed {
        /// The lease.
        lease: LeaseKey,
        /// Why.
        reason: Reason,
        /// The guest goes on. If not, its [`Event::GuestExited`] follows.
        guest_alive: bool,
    },
    /// The guest's hypervisor is gone. Also the answer to [`super::Effect::Kill`], guest or no
    /// guest. Never sent between a suspend or checkpoint and
    /// its result.
    GuestExited {
        /// The lease.
        lease: LeaseKey,
        /// How.
        how: ExitHow,
    },
    /// The state is no longer in the store, or there is no such state.
    Discarded {
        /// The state.
        state: StateId,
    },
    /// It could not be deleted; the broker will ask again.
    DiscardFailed {
        /// The state.
        state: StateId,
    },
    /// The node is as it was before us, but for so many things.
    CleanedUp {
        /// What could not be removed, for people.
        leftovers: Vec<String>,
    },
}

/// Signals that mean something to the pilot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGXCPU.
    Xcpu,
    /// SIGCONT, after a stop.
    Cont,
    /// SIGHUP.
    Hup,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Term,
        Self::Int,
        Self::Usr1,
        Self::Usr2,
        Self::Xcpu,
        Self::Cont,
        Self::Hup,
    ];

    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Xcpu => "SIGXCPU",
            Self::Cont => "SIGCONT",
            Self::Hup => "SIGHUP",
        }
    }
}

/// How a hypervisor ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExitHow {
    /// The guest switched itself off.
    PoweredOff,
    /// We ended it.
    Killed,
    /// It ended by itself or by somebody else's hand.
    Crashed {
        /// What is known, for people.
        text: String,
    },
}
