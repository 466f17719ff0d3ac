//! All that the agent can have done.

use protocol::codes::Reason;
use protocol::ids::StateId;
use protocol::lease::Order;
use protocol::messages::{PilotEvent, SyncRequest};
use protocol::time::{Mono, Span};

use crate::guest::LeaseKey;
use crate::guest_words::Words;

/// Something to be done. The shell begins each at once, in order, and reports with
/// [`super::Event`]s.
#[must_use]
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Register the slot.
    Register,
    /// Send a sync; one that is under way is given up.
    Sync {
        /// What to send.
        request: Box<SyncRequest>,
        /// How long to wait for the answer.
        timeout: Span,
    },
    /// Ask the probe for the slot's end.
    Probe,
    /// Bring image or state here and verify it.
    Stage {
        /// The lease.
        lease: LeaseKey,
        /// The request and the state.
        order: Box<Order>,
    },
    /// Start the staged guest from its image.
    Boot {
        /// The lease.
        lease: LeaseKey,
    },
    /// Start the staged guest from its state.
    Resume {
        /// The lease.
        lease: LeaseKey,
    },
    /// Stop the guest, keep it in RAM.
    Pause {
        /// The lease.
        lease: LeaseKey,
    },
    /// Let a paused guest run.
    Continue {
        /// The lease.
        lease: LeaseKey,
    },
    /// Begin to bring the guest's memory to the store while it runs on. The suspend after it moves
    /// only what has changed since.
    Flush {
        /// The lease.
        lease: LeaseKey,
    },
    /// Write the guest to the store; on success it is gone, on failure it goes on.
    Suspend {
        /// The lease.
        lease: LeaseKey,
        /// Name of the state.
        state: StateId,
        /// Guest-running time that the state contains.
        run: Span,
        /// [`Effect::AbortSuspend`] comes then, unless the deadline moves.
        abort_at: Mono,
    },
    /// Write a checkpoint of the guest to the store; whatever becomes of it, the guest goes on.
    Checkpoint {
        /// The lease.
        lease: LeaseKey,
        /// Name of the state.
        state: StateId,
        /// Guest-running time that the state contains.
        run: Span,
        /// [`Effect::AbortSuspend`] comes then.
        abort_at: Mono,
    },
    /// Give the suspend or the checkpoint up and discard what it has written. After a suspend, a
    /// [`Effect::Kill`] follows; after a checkpoint the guest goes on.
    AbortSuspend {
        /// The lease.
        lease: LeaseKey,
    },
    /// Ask the guest to switch itself off.
    Shutdown {
        /// The lease.
        lease: LeaseKey,
    },
    /// Say something to the guest; one that does not listen never hears it.
    Tell {
        /// The lease.
        lease: LeaseKey,
        /// What.
        words: Words,
    },
    /// End the guest's hypervisor at once.
    Kill {
        /// The lease.
        lease: LeaseKey,
    },
    /// The lease is over: give up its staging, remove what it has on the node (not its state).
    ReleaseGuest {
        /// The lease.
        lease: LeaseKey,
    },
    /// Delete a state from the site's store; one that is not there is deleted.
    Discard {
        /// The state.
        state: StateId,
    },
    /// Something happened that people may want to read. It is spooled already.
    Record(PilotEvent),
    /// Leave the node as it was: no process, no file.
    CleanUp,
    /// End the process.
    Exit {
        /// One of [`protocol::codes::exit`].
        code: i32,
        /// Why we leave.
        reason: Reason,
    },
}
