//! What the broker needs from a site's batch system (LRM), and the batch systems that it can
//! talk to.
//!
//! * [`contract`]: the one contract, [`LocalResourceManager`](contract::LocalResourceManager),
//!   and [`Lrm`](contract::Lrm), the closed set of its implementations.
//! * [`command`]: how an LRM's own commands are run: bounded, scrubbed, in their own group.
//! * [`htcondor`]: the adapter to HTCondor.
//! * [`pbs`]: OpenPBS, PBS Pro and Torque.
//! * [`sim`]: the simulated LRM that ships with the product, and its adapter.
//! * [`slurm`]: the adapter to Slurm.
//! * [`conformance`]: the tests that every implementation has to pass;
//!   `docs/adapters/README.md` is the specification that they check.
#![forbid(unsafe_code)]

mod ask;
pub mod command;
pub mod conformance;
pub mod contract;
pub mod htcondor;
mod job_script;
pub mod pbs;
pub mod sim;
pub mod slurm;

pub use contract::{Capabilities, LocalResourceManager, Lrm};
