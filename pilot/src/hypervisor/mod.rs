//! Drivers of hypervisors behind one contract. Owner: the hypervisor drivers.
//!
//! # The contract
//!
//! `stage -> start -> (pause <-> cont | checkpoint)* -> suspend | shutdown | kill`
//!
//! 1. **stage** verifies every artefact and every byte of the state before anything is started,
//!    and lays out the guest's writable disks in its own directory. It starts nothing that
//!    outlives the call. Memory that goes from the state straight to where the guest has it is left to
//!    **start**, which verifies every byte of it before the guest runs.
//! 2. **start** returns when the guest runs (its processors have been let go), or leaves nothing
//!    running. It must be called on the thread that lives as long as the pilot: the guest's
//!    process dies with that thread.
//! 3. **pause** and **cont** are idempotent. A paused guest keeps its memory and executes nothing.
//! 4. **shutdown** asks the guest to switch itself off, as its power button would, and lets a
//!    paused one go so that it can; it returns at once and the guest may ignore it. **kill** ends the process whatever
//!    state it is in (also hung or stopped), returns when it is gone, and may be repeated.
//! 5. **suspend** makes a complete, verified, durable state and ends the guest; or it makes
//!    nothing at all (no file is left of it) and says whether the guest is alive, in which case it
//!    runs on. It ends within its budget, however the hypervisor behaves. A state is never
//!    changed after it is made and can be resumed any number of times.
//! 6. **checkpoint** makes a state as a suspend does, under the name that its order gives, or
//!    nothing at all; in both cases the guest goes on (or stays paused), also when the checkpoint was
//!    called off. It stands still for some of the time only. The state has no file that the guest
//!    writes to or needs: it may be discarded while the guest runs. A guest has one suspend or
//!    checkpoint under way at most.
//! 7. **resume** (start of a staged state) goes on exactly where the suspend stopped: same
//!    memory, same disk, same boot. It refuses a state that does not fit the node.
//! 8. Each guest has exactly one [`GuestEvent::Exited`], the last of its events, for every way
//!    that it can end.
//! 9. The console is a file of this lease alone; it grows only.
//! 10. The process carries the lease's marker among its arguments, and dies with the pilot.
//! 11. **tell** gives the guest a line on its lease port and never waits for it; what its agent says
//!     there comes as [`GuestEvent::Said`]. A guest without an agent, or that floods the port, costs
//!     nothing. The port goes through suspend and resume.
//! 12. **flush** makes the suspend after it short: memory goes to the store in the background while
//!     the guest runs on, until its suspend or its end. It is idempotent, and each pass that is
//!     through is told ([`GuestEvent::Flushed`]); what it has written is part of no state before a
//!     suspend commits it, and is gone with the guest.
//!
//! One conformance suite, `tests/hypervisor_conformance.rs`, runs on every driver.

mod errors;
mod fetch;
mod lease_port;
mod memory;
mod null;
mod offload;
mod qemu;
mod raw;
mod stage;
mod state;
mod stopwatch;
mod types;
mod xen;

use std::path::{Path, PathBuf};

use image_store::{StateError, Store};
use pilot_core::guest_words::Words;
use protocol::ids::StateId;
use protocol::slot_file::{HypervisorKind, HypervisorSection};
use tokio::sync::mpsc;

use crate::journal::Marker;
pub use errors::{ControlError, SetupError, StageError, StartError, SuspendError};
use null::{NullDriver, NullGuest};
use offload::offload;
use qemu::{QemuDriver, QemuGuest};
use stage::Parts;
pub use types::{
    ExitHow, GuestEvent, GuestId, Setup, StageRequest, SuspendOrder, Suspended, WhenLate,
};
pub use xen::{Helper, HelperError};
use xen::{XenDriver, XenGuest};

/// A hypervisor on this node. Cheap to clone; clones share the driver.
#[derive(Clone, Debug)]
pub struct Hypervisor {
    driver: Driver,
    store: Store,
}

#[derive(Clone, Debug)]
enum Driver {
    Qemu(QemuDriver),
    Xen(XenDriver),
    Null(NullDriver),
}

impl Hypervisor {
    /// The driver that the slot file names. Starts nothing; makes the store's directories.
    ///
    /// # Errors
    /// The section lacks something that the driver needs, or the store can't be used.
    pub fn new(section: &HypervisorSection, setup: Setup) -> Result<Self, SetupError> {
        let store = Store::open(&setup.store).map_err(|e| SetupError::Store(e.to_string()))?;
        let driver = match section.kind {
            HypervisorKind::Qemu => Driver::Qemu(QemuDriver::new(section, setup, store.clone())?),
            HypervisorKind::Xen => Driver::Xen(XenDriver::new(section, setup, store.clone())?),
            HypervisorKind::Null => Driver::Null(NullDriver::new(setup, store.clone())),
        };
        Ok(Self { driver, store })
    }

    /// Brings a guest's files to the node and verifies them (rule 1). Takes as long as the
    /// downloads and hashes take; dropped, it starts nothing more.
    ///
    /// # Errors
    /// Something is missing, altered or does not fit. The guest's directory may have been made.
    pub async fn stage(&self, request: StageRequest) -> Result<StagedGuest, StageError> {
        let parts = match &self.driver {
            Driver::Qemu(d) => d.stage(request).await,
            Driver::Xen(d) => d.stage(request).await,
            Driver::Null(d) => d.stage(request).await,
        };
        parts.map(|parts| StagedGuest { parts })
    }

    /// Returns when nothing runs of a start that was dropped before its end; `marker` is that of its
    /// request.
    pub async fn start_given_up(&self, marker: &Marker) {
        match &self.driver {
            // Killed with the drop.
            Driver::Qemu(_) | Driver::Null(_) => {}
            Driver::Xen(d) => d.start_given_up(marker.as_str()).await,
        }
    }

    /// Boots or resumes a staged guest (rule 2). Call it from the main thread. Dropped before its
    /// end, it kills what it has started.
    ///
    /// # Errors
    /// The guest does not run; nothing of it is left but its directory.
    pub async fn start(&self, staged: StagedGuest) -> Result<(Guest, GuestEvents), StartError> {
        let (kind, events) = match &self.driver {
            Driver::Qemu(d) => {
                let (guest, events) = d.start(staged.parts).await?;
                (Kind::Qemu(guest), events)
            }
            Driver::Xen(d) => {
                let (guest, events) = d.start(staged.parts).await?;
                (Kind::Xen(guest), events)
            }
            Driver::Null(d) => {
                let (guest, events) = d.start(staged.parts)?;
                (Kind::Null(guest), events)
            }
        };
        let over = false;
        Ok((
            Guest { kind },
            GuestEvents {
                receiver: events,
                over,
            },
        ))
    }

    /// Removes a state that nobody needs any more. One that is not there is fine. A guest that
    /// was resumed from it must have ended.
    ///
    /// # Errors
    /// It can't be removed.
    pub async fn discard(&self, id: &StateId) -> Result<(), StateError> {
        let (store, id) = (self.store.clone(), id.clone());
        let path = store.state_dir(&id);
        match offload("discard-state", move || store.discard(&id)).await {
            Ok(result) => result,
            Err(source) => Err(StateError::Io {
                operation: "discard",
                path,
                source,
            }),
        }
    }

    /// Where a suspend or a checkpoint works before its state exists: for the journal.
    pub fn state_tmp(&self, state: &StateId) -> PathBuf {
        self.store.state_tmp(state)
    }

    /// The site's store.
    pub const fn store(&self) -> &Store {
        &self.store
    }
}

/// A guest that is in place and verified, not started.
#[derive(Debug)]
pub struct StagedGuest {
    parts: Parts,
}

impl StagedGuest {
    /// Which.
    pub const fn id(&self) -> &GuestId {
        &self.parts.request.guest
    }

    /// True when it will be resumed from a state, false when it boots from its image.
    pub const fn is_resume(&self) -> bool {
        self.parts.state.is_some()
    }
}

/// What a guest does without being told; ends with [`GuestEvent::Exited`].
#[derive(Debug)]
pub struct GuestEvents {
    receiver: mpsc::UnboundedReceiver<GuestEvent>,
    over: bool,
}

impl GuestEvents {
    /// Waits for the next event; none after the last. Can be dropped and called again.
    pub async fn next(&mut self) -> Option<GuestEvent> {
        if self.over {
            return None;
        }
        let event = self.receiver.recv().await;
        self.over = matches!(event, None | Some(GuestEvent::Exited(_)));
        event
    }
}

/// A running guest. Cheap to clone; clones are handles of the same guest. Dropping the last one
/// does not end the guest.
#[derive(Clone, Debug)]
pub struct Guest {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Qemu(QemuGuest),
    Xen(XenGuest),
    Null(NullGuest),
}

impl Guest {
    /// Which.
    pub fn id(&self) -> &GuestId {
        &self.parts().request.guest
    }

    fn parts(&self) -> &Parts {
        match &self.kind {
            Kind::Qemu(g) => g.parts(),
            Kind::Xen(g) => g.parts(),
            Kind::Null(g) => g.parts(),
        }
    }

    /// File of what the guest says under this lease; grows only.
    pub fn console_path(&self) -> &Path {
        match &self.kind {
            Kind::Qemu(g) => g.console_path(),
            Kind::Xen(g) => g.console_path(),
            Kind::Null(g) => g.console_path(),
        }
    }

    /// Its process, where it is one; for the journal.
    pub fn pid(&self) -> Option<u32> {
        match &self.kind {
            Kind::Qemu(g) => g.pid(),
            // Root's process: reclaim knows the domain by the slot's mark.
            Kind::Xen(_) | Kind::Null(_) => None,
        }
    }

    /// Upper bound of the bytes that a suspend would write now for memory and devices.
    pub async fn resident_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Qemu(g) => g.resident_bytes().await,
            Kind::Xen(g) => g.resident_bytes(),
            Kind::Null(_) => NullGuest::resident_bytes(),
        }
    }

    /// Stops the guest in memory. Idempotent.
    ///
    /// # Errors
    /// It is gone, or the hypervisor refuses or hangs.
    pub async fn pause(&self) -> Result<(), ControlError> {
        match &self.kind {
            Kind::Qemu(g) => g.pause().await,
            Kind::Xen(g) => g.pause().await,
            Kind::Null(g) => g.pause(),
        }
    }

    /// Lets a paused guest, or one that was stopped by an I/O error, go on. Idempotent.
    ///
    /// # Errors
    /// It is gone, or the hypervisor refuses or hangs.
    pub async fn cont(&self) -> Result<(), ControlError> {
        match &self.kind {
            Kind::Qemu(g) => g.cont().await,
            Kind::Xen(g) => g.cont().await,
            Kind::Null(g) => g.cont(),
        }
    }

    /// Presses the guest's power button, again and again while it boots; lets a paused guest go
    /// so that it can obey. Its end comes as an event, or never.
    ///
    /// # Errors
    /// It is gone, or the hypervisor refuses or hangs.
    pub async fn shutdown(&self) -> Result<(), ControlError> {
        match &self.kind {
            Kind::Qemu(g) => g.shutdown().await,
            Kind::Xen(g) => g.shutdown().await,
            Kind::Null(g) => g.shutdown(),
        }
    }

    /// Says something to the guest's agent, if it has one. Returns at once; a guest that does not
    /// read loses the oldest lines.
    pub fn tell(&self, words: &Words) {
        match &self.kind {
            Kind::Qemu(g) => g.tell(words),
            Kind::Xen(g) => g.tell(words),
            Kind::Null(g) => g.tell(words),
        }
    }

    /// Kills the guest; returns when its process is gone. A process that hangs in the kernel (a
    /// dead file server) makes it wait: bound it where time matters.
    pub async fn kill(&self) {
        match &self.kind {
            Kind::Qemu(g) => g.kill().await,
            Kind::Xen(g) => g.kill().await,
            Kind::Null(g) => g.kill(),
        }
    }

    /// Begins to bring the memory of a running guest to the store, under the name under which its
    /// state is worked on (rule 12), so that its suspend has to bring only what has changed since
    /// ([`Guest::resident_bytes`] tells how much that is). Where it can't be done, the suspend does
    /// without.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn flush(&self) -> Result<(), ControlError> {
        match &self.kind {
            Kind::Qemu(g) => g.flush(),
            Kind::Xen(g) => g.flush(),
            Kind::Null(g) => g.flush(),
        }
    }

    /// Suspends the guest to the store (rule 5). On success it is gone. Wait for its end, which
    /// [`Guest::abort_suspend`] brings near: dropped, it leaves the guest stopped.
    ///
    /// # Errors
    /// There is no state, and no file of one; the error says whether the guest runs on.
    pub async fn suspend(&self, order: SuspendOrder) -> Result<Suspended, SuspendError> {
        match &self.kind {
            Kind::Qemu(g) => g.suspend(order).await,
            Kind::Xen(g) => g.suspend(order).await,
            Kind::Null(g) => g.suspend(order).await,
        }
    }

    /// Makes a checkpoint of the guest in the store (rule 6); the guest goes on. Whatever the order
    /// says of one that is late, the guest is not killed for it. Wait for its end, which
    /// [`Guest::abort_suspend`] brings near: dropped, it leaves the guest stopped.
    ///
    /// # Errors
    /// There is no state, and no file of one; the error says whether the guest runs on.
    pub async fn checkpoint(&self, order: SuspendOrder) -> Result<Suspended, SuspendError> {
        match &self.kind {
            Kind::Qemu(g) => g.checkpoint(order).await,
            Kind::Xen(g) => g.checkpoint(order).await,
            Kind::Null(g) => g.checkpoint(order).await,
        }
    }

    /// Calls off the suspend or checkpoint that is under way; it then ends as one that took too
    /// long. Without one, nothing happens.
    pub fn abort_suspend(&self) {
        match &self.kind {
            Kind::Qemu(g) => g.abort_suspend(),
            Kind::Xen(g) => g.abort_suspend(),
            Kind::Null(g) => g.abort_suspend(),
        }
    }
}
