//! End-to-end: real binaries, a simulated LRM, real guests; the drivers of `scripts/demo` and
//! `scripts/bench`; and the whole-system simulation on a virtual clock.
//!
//! * [`chaos`]: a campaign of faults against a whole installation, drawn from a seed.
//! * [`harness`] starts and stops a whole installation in a directory of its own and looks at
//!   the node for leftovers.
//! * [`peers`]: what must hold on a real batch system, told once for Slurm and HTCondor.
//! * [`simulation`] runs both cores and the model of the LRM in one thread.

pub mod bench;
pub mod chaos;
pub mod demo;
pub mod explore;
pub mod harness;
pub mod peers;
pub mod requests;
pub mod simulation;
