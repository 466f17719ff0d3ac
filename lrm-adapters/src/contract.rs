//! The contract between the broker and a local resource manager.
//!
//! The numbered rules are in `docs/adapters/README.md`; [`crate::conformance`] checks them. In
//! short: every answer is yes, no or *no answer*; every call returns within a bound; a job that
//! is not in a listing is not known to have ended; a submit without an answer is looked up by
//! its key and never repeated blindly.

use std::future::Future;

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, Observation, PilotJob, SubmitAnswer};
use protocol::time::Span;

use crate::htcondor::Htcondor;
use crate::pbs::Pbs;
use crate::sim::SimLrm;
use crate::slurm::Slurm;

/// What an LRM can and cannot do, as its adapter knows it. Data, not promises: a broker may use
/// it to choose, never to skip a safety rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The LRM's name, for people.
    pub name: &'static str,
    /// It can start a job with less than the asked walltime, down to a minimum.
    pub min_walltime: bool,
    /// It may start a job again under the same id.
    pub same_id_restart: bool,
    /// It can be told which nodes a job is not to be started on.
    pub avoids_nodes: bool,
    /// For how long it still lists a job that has ended. Zero: it does not list ended jobs.
    pub ended_listed_for: Span,
    /// The longest that any call of this adapter takes before it returns "no answer".
    pub call_bound: Span,
}

/// Which job a command to end it is meant for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancel {
    /// The job, whatever it does.
    Always,
    /// The job while it waits.
    WhileWaiting,
}

/// A site's batch system.
pub trait LocalResourceManager {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Submits a job. The key is findable by [`find_by_key`](Self::find_by_key) from the moment
    /// that the LRM has the job. Not idempotent: after
    /// [`NoAnswer`](SubmitAnswer::NoAnswer) look the key up before anything else.
    fn submit(&self, job: &PilotJob) -> impl Future<Output = SubmitAnswer> + Send;

    /// All jobs of ours that the LRM tells about, by one command, whatever their number.
    fn observe(&self) -> impl Future<Output = Observation> + Send;

    /// The jobs that carry this key: none or one, as far as we submit. An empty listing right
    /// after a lost answer may still be overtaken by a submit that is under way.
    fn find_by_key(&self, key: &SubmitKey) -> impl Future<Output = Observation> + Send;

    /// Asks the LRM to end the job `id`, if that job carries `key`: an LRM may have given the id
    /// to another job after a crash.
    fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> impl Future<Output = CancelAnswer> + Send;

    /// Asks the LRM to end the job `id`, if that job carries `key`, and only while it waits: one
    /// that has started is answered with [`Started`](CancelAnswer::Started) and goes on. An LRM
    /// that has no such command is asked first; what starts between its answer and the cancel is
    /// ended. A job that started in the same moment may be answered with
    /// [`Taken`](CancelAnswer::Taken).
    fn withdraw(&self, id: &LrmJobId, key: &SubmitKey)
    -> impl Future<Output = CancelAnswer> + Send;

    /// The LRM's own words on which version it is, on one line. Asks the commands, which need no
    /// server for it.
    ///
    /// # Errors
    /// Why they did not tell.
    fn version(&self) -> impl Future<Output = Result<String, String>> + Send;

    /// The exact job and command that [`submit`](Self::submit) would send, for people to read.
    fn submit_preview(&self, job: &PilotJob) -> String;
}

/// The batch systems that this version can talk to.
#[derive(Clone, Debug)]
pub enum Lrm {
    /// The simulated one.
    Sim(SimLrm),
    /// HTCondor.
    Htcondor(Box<Htcondor>),
    /// Slurm.
    Slurm(Slurm),
    /// OpenPBS, PBS Pro or Torque.
    Pbs(Pbs),
}

impl LocalResourceManager for Lrm {
    fn capabilities(&self) -> Capabilities {
        match self {
            Self::Sim(sim) => sim.capabilities(),
            Self::Htcondor(condor) => condor.capabilities(),
            Self::Slurm(slurm) => slurm.capabilities(),
            Self::Pbs(pbs) => pbs.capabilities(),
        }
    }

    async fn submit(&self, job: &PilotJob) -> SubmitAnswer {
        match self {
            Self::Sim(sim) => sim.submit(job).await,
            Self::Htcondor(condor) => condor.submit(job).await,
            Self::Slurm(slurm) => slurm.submit(job).await,
            Self::Pbs(pbs) => pbs.submit(job).await,
        }
    }

    async fn observe(&self) -> Observation {
        match self {
            Self::Sim(sim) => sim.observe().await,
            Self::Htcondor(condor) => condor.observe().await,
            Self::Slurm(slurm) => slurm.observe().await,
            Self::Pbs(pbs) => pbs.observe().await,
        }
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        match self {
            Self::Sim(sim) => sim.find_by_key(key).await,
            Self::Htcondor(condor) => condor.find_by_key(key).await,
            Self::Slurm(slurm) => slurm.find_by_key(key).await,
            Self::Pbs(pbs) => pbs.find_by_key(key).await,
        }
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        match self {
            Self::Sim(sim) => sim.cancel(id, key).await,
            Self::Htcondor(condor) => condor.cancel(id, key).await,
            Self::Slurm(slurm) => slurm.cancel(id, key).await,
            Self::Pbs(pbs) => pbs.cancel(id, key).await,
        }
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        match self {
            Self::Sim(sim) => sim.withdraw(id, key).await,
            Self::Htcondor(condor) => condor.withdraw(id, key).await,
            Self::Slurm(slurm) => slurm.withdraw(id, key).await,
            Self::Pbs(pbs) => pbs.withdraw(id, key).await,
        }
    }

    async fn version(&self) -> Result<String, String> {
        match self {
            Self::Sim(sim) => sim.version().await,
            Self::Htcondor(condor) => condor.version().await,
            Self::Slurm(slurm) => slurm.version().await,
            Self::Pbs(pbs) => pbs.version().await,
        }
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        match self {
            Self::Sim(sim) => sim.submit_preview(job),
            Self::Htcondor(condor) => condor.submit_preview(job),
            Self::Slurm(slurm) => slurm.submit_preview(job),
            Self::Pbs(pbs) => pbs.submit_preview(job),
        }
    }
}
