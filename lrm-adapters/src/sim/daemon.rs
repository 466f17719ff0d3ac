//! The daemon: the model, with real processes for its jobs and a unix socket for its commands.
//!
//! One task owns the state. What it decides is on disk before anything of it happens, so that a
//! daemon that is killed and started again goes on with the same jobs: each job has a
//! supervisor of its own, which outlives the daemon and writes down how the job ended.
//!
//! ```text
//! DIR/socket          where the command and supervisors reach the daemon
//! DIR/lock            held while a daemon serves this directory
//! DIR/state.json      model, what is still to be carried out, faults
//! DIR/runs/N/         one start of a job: spec, script, pid, exit
//! ```

mod clock;
mod config;
pub mod faults;
mod orders;
mod processes;
mod rows;
mod runs;
mod serve;
mod state;
mod supervise;
mod sweep;

pub use config::DaemonConfig;
pub use serve::{ServeError, serve};
pub use supervise::{SuperviseError, launch, supervise};
pub use sweep::{processes_of, sweep};
