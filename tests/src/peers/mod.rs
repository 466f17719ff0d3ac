//! What must hold on a real batch system, whatever it does: each scenario is told once, and Slurm and
//! HTCondor differ in [`Peer`] only.
//!
//! * [`Peer`]: a real batch system, what its administrator and its bad luck can do to it.
//! * [`audit`]: at the end of every scenario, nobody has a job or a process too many.
//! * [`cancel`], [`nodes`], [`requeue`], [`silence`], [`walltime`]: the scenarios without guests.
//! * [`guest`]: those that need a real guest.

pub mod audit;
pub mod cancel;
pub mod guest;
pub mod nodes;
mod peer;
pub mod requeue;
pub mod silence;
pub mod walltime;

pub use peer::{Peer, PeerJob, Stage, Trouble};
