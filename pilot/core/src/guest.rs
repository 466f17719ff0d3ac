//! A lease in this slot and its guest: one enum of stages, each owning what it needs.
//!
//! ```text
//! Staging -> Staged -> Starting -> Running <-> Paused
//!                                     |          |
//!                        Suspending <-+----------+-> Stopping -> Killing
//!                             |                         |           |
//!                             +--------> Ended <--------+-----------+
//! Running <-> Checkpointing
//! ```
//! Owner: [`crate::agent::Agent`]. Every lease reaches `Ended` exactly once and stays there until
//! the broker has taken its end.

use std::fmt;

use protocol::codes::Reason;
use protocol::ids::{Generation, StateId, WorkspaceId};
use protocol::lease::{DesiredLease, EndOutcome, Goal, LeasePhase, LeaseReport, Order, StateRef};
use protocol::time::{Mono, Span};
use protocol::workspace::{OnEviction, WorkspaceSpec};

use crate::checkpoint::Checkpoints;
use crate::guest_words::Talk;

/// Which lease: the workspace and the fencing number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseKey {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The lease's generation.
    pub generation: Generation,
}

impl LeaseKey {
    /// The key of a lease as the broker wants it.
    pub fn of(desired: &DesiredLease) -> Self {
        Self {
            workspace: desired.workspace.clone(),
            generation: desired.generation,
        }
    }

    /// Name of the state that a suspend of this lease makes; none when the workspace's id is too
    /// long to make one.
    pub fn state_id(&self) -> Option<StateId> {
        StateId::of_lease(&self.workspace, self.generation).ok()
    }

    /// Name of this lease's checkpoint of this number; none when it would be too long.
    pub fn checkpoint_id(&self, number: u32) -> Option<StateId> {
        StateId::of_checkpoint(&self.workspace, self.generation, number).ok()
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.g{}", self.workspace, self.generation)
    }
}

/// Where a lease is in its life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Image or state is brought here and verified.
    Staging,
    /// In place, not started.
    Staged,
    /// Boots, or loads its state.
    Starting {
        /// From a state.
        resuming: bool,
    },
    /// Runs.
    Running {
        /// Since when.
        since: Mono,
        /// The hypervisor was told to pause it.
        pausing: bool,
    },
    /// In RAM, stopped.
    Paused {
        /// The hypervisor was told to continue it.
        continuing: bool,
    },
    /// A checkpoint of it is written to the store; it stands still for that, for some of the time
    /// at least, and goes on.
    Checkpointing {
        /// Since when.
        since: Mono,
        /// Surely complete then, if all goes as it should.
        expected: Mono,
        /// If it has not ended then, it is given up.
        abort_at: Mono,
        /// It was given up: told so again then.
        given_up: Option<Mono>,
    },
    /// Is being written to the store.
    Suspending {
        /// Why.
        reason: Reason,
        /// It was paused before.
        was_paused: bool,
    },
    /// Was told to shut down.
    Stopping {
        /// What the lease ends as.
        outcome: EndOutcome,
        /// Killed then, if it has not obeyed.
        kill_at: Mono,
        /// Told again then.
        ask_again: Mono,
    },
    /// Its hypervisor was told to end at once.
    Killing {
        /// What the lease ends as.
        outcome: EndOutcome,
        /// Told again then.
        again_at: Mono,
    },
    /// No guest of this lease runs here or ever will again.
    Ended {
        /// How.
        outcome: EndOutcome,
    },
}

/// By what means a guest is got rid of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// Into the store.
    Suspend,
    /// By its power button.
    Shutdown,
    /// At once.
    Kill,
}

impl Means {
    /// As events have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Shutdown => "shutdown",
            Self::Kill => "kill",
        }
    }
}

/// How a guest is got rid of: what was foreseen, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departure {
    /// The means by which it began.
    pub first: Means,
    /// The means that were used last.
    pub last: Means,
    /// When it began.
    pub begun: Mono,
    /// How long it was expected to take; none where that is the guest's business.
    pub expected: Option<Span>,
    /// The time that was set aside for it.
    pub budget: Span,
    /// The time that was left then until whatever still runs is killed.
    pub left: Span,
    /// The bytes that a suspend was expected to write at most.
    pub bytes: Option<u64>,
    /// What a suspend has written, and how long that took by its own clock.
    pub written: Option<(u64, Span)>,
}

/// A lease that this slot has, or had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Which.
    pub key: LeaseKey,
    /// The request.
    pub spec: WorkspaceSpec,
    /// The state that it resumes from.
    pub state: Option<StateRef>,
    /// What the broker wants of it, by its last answer.
    pub goal: Goal,
    /// Where it is.
    pub stage: Stage,
    /// The lease's end on our clock, unless a sync extends it.
    pub expiry: Mono,
    /// Left out of an answer while it was alive.
    pub lost: bool,
    /// Its expiry passed while it had a guest: that guest is dead or dies, whatever an answer
    /// that was on its way says.
    pub expired: bool,
    /// Guest-running time up to the last time that it stopped running.
    pub ran: Span,
    /// What a suspend would have to write, as last measured.
    pub bytes: Option<u64>,
    /// By how much that had grown since the time before.
    pub grown: u64,
    /// The plan's moment to get rid of it has come. Stays so while the plan is refined, until the
    /// slot's end moves away.
    pub due: bool,
    /// Its memory was told to be brought to the store ahead of its suspend.
    pub flushed: bool,
    /// How it is being got rid of, once that has begun.
    pub departure: Option<Departure>,
    /// Bytes of console captured.
    pub console_bytes: u64,
    /// Failed suspends in a row.
    pub failed_suspends: u32,
    /// A failed suspend is not tried again before this.
    pub retry_at: Mono,
    /// Its checkpoints.
    pub checkpoints: Checkpoints,
    /// Number of the first sync that carried its end.
    pub end_told_in: Option<u64>,
    /// What its guest was told and said.
    pub talk: Talk,
}

impl Lease {
    /// A lease that was just taken.
    pub fn new(key: LeaseKey, order: Order, goal: Goal, expiry: Mono) -> Self {
        Self {
            key,
            spec: order.spec,
            state: order.state,
            goal,
            stage: Stage::Staging,
            expiry,
            lost: false,
            expired: false,
            ran: order.run,
            bytes: None,
            grown: 0,
            due: false,
            flushed: false,
            departure: None,
            console_bytes: 0,
            failed_suspends: 0,
            retry_at: Mono::default(),
            checkpoints: Checkpoints::new(order.run),
            end_told_in: None,
            talk: Talk::default(),
        }
    }

    /// True while something of it may be on the node.
    pub fn is_alive(&self) -> bool {
        !matches!(self.stage, Stage::Ended { .. })
    }

    /// True while a hypervisor may be there for it.
    pub fn has_guest(&self) -> bool {
        match self.stage {
            Stage::Staging | Stage::Staged | Stage::Ended { .. } => false,
            Stage::Starting { .. }
            | Stage::Running { .. }
            | Stage::Paused { .. }
            | Stage::Checkpointing { .. }
            | Stage::Suspending { .. }
            | Stage::Stopping { .. }
            | Stage::Killing { .. } => true,
        }
    }

    /// Guest-running time over all slots, as of now. That of a checkpoint's making is known at its
    /// end.
    pub fn ran_at(&self, now: Mono) -> Span {
        match self.stage {
            Stage::Running { since, .. } => self.ran + now.since(since),
            Stage::Staging
            | Stage::Staged
            | Stage::Starting { .. }
            | Stage::Paused { .. }
            | Stage::Checkpointing { .. }
            | Stage::Suspending { .. }
            | Stage::Stopping { .. }
            | Stage::Killing { .. }
            | Stage::Ended { .. } => self.ran,
        }
    }

    /// Guest-running time that is still wanted.
    pub fn remaining(&self, now: Mono) -> Span {
        self.spec.run_time.minus(self.ran_at(now))
    }

    /// Moves to `stage`, keeping the count of guest-running time.
    pub fn enter(&mut self, now: Mono, stage: Stage) {
        self.ran = self.ran_at(now);
        self.stage = stage;
    }

    /// True when the end of a slot means a suspend for it.
    pub fn is_suspendable(&self) -> bool {
        match self.spec.policy.on_eviction {
            OnEviction::Suspend => true,
            OnEviction::Restart | OnEviction::Fail => false,
        }
    }

    /// Takes what a suspend would have to write now.
    pub fn measured(&mut self, bytes: u64) {
        self.grown = self.bytes.map_or(0, |before| bytes.saturating_sub(before));
        self.bytes = Some(bytes);
    }

    /// An upper bound of what a suspend writes: as measured, and once more what it has grown by;
    /// or all of the guest's memory.
    pub fn bytes_bound(&self) -> u64 {
        let measured = self
            .bytes
            .map_or(u64::MAX, |b| b.saturating_add(self.grown));
        memory_bound(&self.spec).min(measured)
    }

    /// Guest-running time that is lost without a state of now.
    pub fn at_stake(&self, now: Mono) -> Span {
        let kept = self.state.as_ref().map_or(Span::ZERO, |s| s.run);
        self.ran_at(now).minus(kept)
    }

    /// The lease as the broker gets it.
    pub fn report(&self, now: Mono) -> LeaseReport {
        let phase = match &self.stage {
            Stage::Staging => LeasePhase::Staging,
            Stage::Staged => LeasePhase::Staged,
            Stage::Starting { resuming: false } => LeasePhase::Booting,
            Stage::Starting { resuming: true } => LeasePhase::Resuming,
            Stage::Running { .. } | Stage::Checkpointing { .. } => LeasePhase::Running,
            Stage::Paused { .. } => LeasePhase::Paused,
            Stage::Suspending { .. } => LeasePhase::Suspending,
            Stage::Stopping { .. } | Stage::Killing { .. } => LeasePhase::Stopping,
            Stage::Ended { outcome } => LeasePhase::Ended {
                outcome: outcome.clone(),
            },
        };
        LeaseReport {
            workspace: self.key.workspace.clone(),
            generation: self.key.generation,
            phase,
            run: self.ran_at(now),
            console_bytes: self.console_bytes,
            checkpoint: self.checkpoints.newest.clone(),
        }
    }
}

/// All of a guest's memory and a little for its devices, in bytes.
pub fn memory_bound(spec: &WorkspaceSpec) -> u64 {
    protocol::notice::most_bytes(spec.resources.memory_mib)
}
