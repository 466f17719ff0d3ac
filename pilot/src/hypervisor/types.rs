//! What goes into a driver and what comes out of it: orders, answers, events.

use std::fmt;
use std::path::PathBuf;

use pilot_core::guest_words::Said;
use protocol::codes::Reason;
use protocol::ids::{Generation, IdError, SiteName, StateId, WorkspaceId};
use protocol::lease::StateRef;
use protocol::time::{Span, Timestamp};
use protocol::workspace::WorkspaceSpec;

use crate::exec_guest::Trampoline;
use crate::journal::Marker;

/// Which guest: one workspace under one lease. Shown as `<workspace>.g<generation>`, which is
/// also the name of the state that its suspend makes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GuestId {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The lease's fencing number.
    pub generation: Generation,
}

impl GuestId {
    /// The name of the state that a suspend of this guest makes.
    ///
    /// # Errors
    /// The workspace's id is so long that the name would not be a [`StateId`].
    pub fn state_id(&self) -> Result<StateId, IdError> {
        StateId::of_lease(&self.workspace, self.generation)
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.g{}", self.workspace, self.generation)
    }
}

/// Where a driver works; the same for all guests of a slot.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The site; goes into the [`StateRef`]s.
    pub site: SiteName,
    /// Root of the site's store of artefacts and states. Made if missing.
    pub store: PathBuf,
    /// Starts the guests' processes so that they die with the pilot.
    pub trampoline: Trampoline,
}

/// A guest that is to be brought to the node.
#[derive(Clone, Debug)]
pub struct StageRequest {
    /// Which.
    pub guest: GuestId,
    /// The request.
    pub spec: WorkspaceSpec,
    /// The state to resume from; none boots from the image.
    pub state: Option<StateRef>,
    /// Directory of this guest alone, inside the slot's scratch. The caller has it in its
    /// journal, the driver makes it, the caller removes it when the guest is gone.
    pub dir: PathBuf,
    /// The journal's mark for the guest's process; ask the journal for it before staging. It
    /// also stands in the guest's name among the arguments of its process.
    pub marker: Marker,
}

/// How and by when to suspend, or to make a checkpoint.
#[derive(Clone, Debug)]
pub struct SuspendOrder {
    /// Name of the state.
    pub state: StateId,
    /// Guest-running time that the state will contain, over all slots.
    pub run: Span,
    /// Now, by the wall clock; goes into the manifest.
    pub at: Timestamp,
    /// From now; a suspend that is not durable by then is discarded whole.
    pub budget: Span,
    /// What becomes of the guest when the budget is used up or the suspend is aborted.
    pub when_late: WhenLate,
}

/// What becomes of a guest whose suspend took too long or was aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenLate {
    /// It runs on.
    Continue,
    /// It is killed at once.
    Kill,
}

/// A suspend that is durable: the guest's process is gone. Or a checkpoint: the guest goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspended {
    /// The state, complete and verified.
    pub state: StateRef,
    /// Bytes that were written for it; those of layers that were only linked do not count.
    pub written: u64,
    /// From the order to durable.
    pub took: Span,
    /// For how much of that the guest stood still.
    pub paused: Span,
}

/// Something that a guest does without being told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuestEvent {
    /// The guest is stopped because its disk can't be written; `cont` tries again.
    IoError(Reason),
    /// Its agent said something on its lease port.
    Said(Said),
    /// A pass of its flush is through: what its suspend has still to write is less now
    /// ([`super::Guest::resident_bytes`]).
    Flushed,
    /// Over. Always the last event, exactly one.
    Exited(ExitHow),
}

/// How a guest's run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExitHow {
    /// It switched itself off cleanly (also when [`super::Guest::shutdown`] had asked for it).
    PoweredOff,
    /// It reset itself, or its process ended without our doing.
    Crashed(Reason),
    /// Killed on our order, or gone after its suspend.
    EndedByUs,
}
