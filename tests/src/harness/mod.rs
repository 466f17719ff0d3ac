//! A whole installation in a directory of its own: broker, simulated LRM, users.

mod binaries;
mod checks;
pub mod condor;
mod counter;
pub mod front;
pub(crate) mod installation;
pub mod node;
mod played;
pub mod port;
pub mod process;
pub mod proxy;
pub mod qualify;
mod setup;
pub mod slurm;
pub mod wait;
pub mod wire;
pub mod xen;
pub mod xen_tests;

pub use binaries::Binaries;
pub use checks::{Counting, LrmJob, guest_dir, sound};
pub use counter::{Count, CounterLog};
pub use installation::Installation;
pub use setup::{Batch, Guests, Node, Setup};
