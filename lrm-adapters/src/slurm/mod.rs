//! Slurm, 22.05 and later, by its own commands: `sbatch`, `squeue`, `scancel`.
//!
//! * [`SlurmSettings`]: what a site says about its Slurm.
//! * [`Slurm`]: the adapter: renders a pilot job, runs a command, reads what it prints.
//! * [`testing`]: a private cluster of several nodes on this host, for tests.
//!
//! What was measured and why things are done as they are is in `docs/adapters/slurm.md`.

mod adapter;
mod parse;
mod render;
mod states;
pub mod testing;

use std::path::PathBuf;

use protocol::time::Span;

pub use adapter::Slurm;

/// How the pilot is started in its job: decides which endings it hears in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Launch {
    /// As the only task of a step, under `srun`. A step is told of a preemption at the start of
    /// the partition's `GraceTime`, and of every other ending when the batch process is.
    Step,
    /// As the batch process itself. It hears a preemption only when the grace time is over.
    Batch,
}

/// How to reach a site's Slurm, and how pilot jobs are submitted there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlurmSettings {
    /// Where Slurm's commands are, on the submit host and on the nodes; by PATH if none.
    pub bin_dir: Option<PathBuf>,
    /// Its configuration file, on the submit host and on the nodes; Slurm's own way of finding
    /// it if none.
    pub conf: Option<PathBuf>,
    /// `--clusters`: submit to this cluster of several. Its name becomes part of the job ids.
    pub cluster: Option<String>,
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--reservation`.
    pub reservation: Option<String>,
    /// `--nice`: by how much the pilots' priority is lowered.
    pub nice: Option<u32>,
    /// How the pilot is started.
    pub launch: Launch,
    /// Slurm may start a pilot job again under the same id (`--requeue`).
    pub rerunnable: bool,
    /// Further options of `sbatch`, one word each, as `--exclusive=user`.
    pub options: Vec<String>,
    /// Longest wait for each command.
    pub timeout: Span,
    /// Put before every command, as `["ssh", "login1"]`.
    pub prefix: Vec<String>,
}

impl Default for SlurmSettings {
    /// Everything as the cluster has it, pilots as steps that are not started again, a time
    /// limit of 30 s.
    fn default() -> Self {
        Self {
            bin_dir: None,
            conf: None,
            cluster: None,
            partition: None,
            account: None,
            qos: None,
            constraint: None,
            reservation: None,
            nice: None,
            launch: Launch::Step,
            rerunnable: false,
            options: Vec::new(),
            timeout: Span::from_secs(30),
            prefix: Vec::new(),
        }
    }
}
