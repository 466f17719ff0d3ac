//! Drivers of hypervisors behind one contract. Owner: the hypervisor drivers.
//!
//! # The contract
//!
//! `stage -> start -> (pause <-> cont)* -> suspend | shutdown | kill`
//!
//! 1. **stage** verifies every artefact and every byte of the state before anything is started,
//!    and lays out the guest's writable disks in its own directory. It starts nothing that
//!    outlives the call.
//! 2. **start** returns when the guest runs (its processors have been let go), or leaves nothing
//!    running. It must be called on the thread that lives as long as the pilot: the guest's
//!    process dies with that thread.
//! 3. **pause** and **cont** are idempotent. A paused guest keeps its memory and executes nothing.
//! 4. **shutdown** asks the guest to switch itself off, as its power button would; it returns at
//!    once, may be repeated, and the guest may ignore it. **kill** ends the process whatever
//!    state it is in (also hung or stopped), returns when it is gone, and may be repeated.
//! 5. **suspend** makes a complete, verified, durable state and ends the guest; or it makes
//!    nothing at all (no file is left of it) and says whether the guest is alive, in which case it
//!    runs on. It ends within its budget, however the hypervisor behaves. A state is never
//!    changed after it is made and can be resumed any number of times.
//! 6. **resume** (start of a staged state) goes on exactly where the suspend stopped: same
//!    memory, same disk, same boot. It refuses a state that does not fit the node.
//! 7. Each guest has exactly one [`GuestEvent::Exited`], the last of its events, for every way
//!    that it can end.
//! 8. The console is a file of this lease alone; it grows only.
//! 9. The process carries the lease's marker among its arguments, and dies with the pilot.
//!
//! One conformance suite, `tests/hypervisor_conformance.rs`, runs on every driver.

mod errors;
mod types;

pub use errors::{ControlError, StageError, StartError, SuspendError};
pub use types::{
    ExitHow, GuestEvent, GuestId, Setup, StageRequest, SuspendOrder, Suspended, WhenLate,
};

// Being written, signatures are settled:
//
// Hypervisor::new(section: &HypervisorSection, setup: Setup) -> Result<Hypervisor, SetupError>   (cheap, sync; Clone)
// hypervisor.stage(StageRequest).await -> Result<StagedGuest, StageError>
// hypervisor.start(StagedGuest).await -> Result<(Guest, GuestEvents), StartError>   boot or resume
// hypervisor.discard(&StateId).await -> Result<(), io::Error>                       idempotent
// hypervisor.state_tmp(&StateId) -> PathBuf                                         for the journal, before suspend
//
// StagedGuest: is_resume(), bytes_to_load()
// GuestEvents: next().await -> Option<GuestEvent>     (hand it to one task)
// Guest (Clone; all &self): pause().await, cont().await, shutdown().await -> Result<(), ControlError>
//   kill().await                       returns when the process is gone; never fails
//   suspend(SuspendOrder).await -> Result<Suspended, SuspendError>; abort_suspend()
//   resident_bytes() -> u64 (upper bound of what a suspend writes), pid() -> Option<u32>
//   console_path() -> &Path, id() -> &GuestId
