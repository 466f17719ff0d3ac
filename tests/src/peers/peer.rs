//! A real batch system: what is done to it, in words that both understand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::harness::condor::CondorSite;
use crate::harness::front::Front;
use crate::harness::slurm::{Again, SlurmSite};
use crate::harness::wait::{PATIENCE, until};
use crate::harness::{Guests, Installation, Setup};

/// The only node of a pool, as the pool calls it.
const SLOT: &str = "slot1@wp-condor";

/// A real batch system.
#[derive(Debug)]
pub enum Peer {
    /// Slurm, with nodes `n1`, `n2`, ...
    Slurm(Box<SlurmSite>),
    /// HTCondor, with one node.
    Htcondor(Box<CondorSite>),
}

/// Where a pilot job is, by the batch system's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a node.
    Waits,
    /// It has one, and its processes run.
    Runs,
    /// It has one still, and its processes may live.
    Leaves,
    /// It is over, and has no node.
    Over,
}

/// A pilot job in the batch system's own listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerJob {
    /// The batch system's id.
    pub id: String,
    /// Its submit key.
    pub key: String,
    /// Where it is.
    pub stage: Stage,
    /// The batch system's own word for that.
    pub word: String,
    /// How often it was started again.
    pub restarts: u32,
}

/// What can befall the daemon that knows the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It hangs: commands connect and wait.
    Hangs,
    /// It is stopped: commands find nobody.
    Stopped,
}

impl Peer {
    /// A Slurm with these options of its lab; none where there cannot be one.
    ///
    /// # Errors
    /// It does not start.
    pub fn slurm(options: &[&str]) -> Result<Option<Self>> {
        // The notice of the installations here, and what the KILL comes early.
        let usual = ["--kill-wait", "9", "--grace", "6"];
        let site = SlurmSite::start(&[&usual, options].concat())?;
        Ok(site.map(|s| Self::Slurm(Box::new(s))))
    }

    /// An HTCondor pool that sees this guest; none where there cannot be one.
    ///
    /// # Errors
    /// It does not start.
    pub fn htcondor(guest: Option<&Path>) -> Result<Option<Self>> {
        Ok(CondorSite::start(guest)?.map(|s| Self::Htcondor(Box::new(s))))
    }

    /// An installation on it.
    pub fn setup(&self, guests: Guests, again: Again) -> Setup {
        let base = match self {
            Self::Slurm(site) => Setup {
                batch: Some(site.lrm(again)),
                ..Setup::new(guests)
            },
            Self::Htcondor(site) => {
                let mut setup = site.setup(guests, "shared");
                if let Some(batch) = &mut setup.batch {
                    let rerunnable = again == Again::Requeued;
                    batch.section += &format!("\nrerunnable = {rerunnable}\njob_lease = \"20s\"");
                }
                setup
            }
        };
        Setup {
            walltime: "3m",
            idle_limit: "2s",
            overhead: "1s",
            provision_extra: "avoid_node_after = 100\npause_after_died_young = 100",
            ..base
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn install(&self, setup: &Setup) -> Result<Installation> {
        match self {
            Self::Slurm(_) => Installation::start(setup).await,
            Self::Htcondor(site) => Installation::start_with(setup, site.binaries.clone()).await,
        }
    }

    /// A guest's files where the nodes see them.
    pub fn guest(&self, guest: PathBuf) -> PathBuf {
        match self {
            Self::Slurm(_) => guest,
            Self::Htcondor(site) => site.guest.clone().unwrap_or(guest),
        }
    }

    /// What stands before its commands.
    pub fn front(&self) -> &Front {
        match self {
            Self::Slurm(site) => &site.front,
            Self::Htcondor(site) => &site.front,
        }
    }

    /// The command that submits.
    pub const fn submit_command(&self) -> &'static str {
        match self {
            Self::Slurm(_) => "sbatch",
            Self::Htcondor(_) => "condor_submit",
        }
    }

    /// The command that lists.
    pub const fn list_command(&self) -> &'static str {
        match self {
            Self::Slurm(_) => "squeue",
            Self::Htcondor(_) => "condor_q",
        }
    }

    /// The command that cancels.
    pub const fn cancel_command(&self) -> &'static str {
        match self {
            Self::Slurm(_) => "scancel",
            Self::Htcondor(_) => "condor_rm",
        }
    }

    /// All pilot jobs that it still tells of.
    ///
    /// # Errors
    /// It does not answer.
    pub fn jobs(&self) -> Result<Vec<PeerJob>> {
        match self {
            Self::Slurm(site) => Ok(site
                .pilot_jobs()?
                .into_iter()
                .map(|j| PeerJob {
                    stage: slurm_stage(&j.state),
                    id: j.id,
                    key: j.name,
                    word: j.state,
                    restarts: j.restarts,
                })
                .collect()),
            Self::Htcondor(site) => Ok(site
                .jobs()?
                .into_iter()
                .map(|j| PeerJob {
                    stage: match j.status {
                        2 => Stage::Runs,
                        // Completed. A schedd that crashes then may never take its slot's name away.
                        4 => Stage::Over,
                        _ if j.has_slot => Stage::Leaves,
                        3 => Stage::Over,
                        1 | 5 => Stage::Waits,
                        _ => Stage::Leaves,
                    },
                    id: j.id,
                    key: j.key,
                    word: format!("JobStatus {}", j.status),
                    restarts: j.starts.saturating_sub(1),
                })
                .collect()),
        }
    }

    /// Waits for a job in this stage whose key is not among these, and gives it.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn job_that(&self, stage: Stage, not: &[&PeerJob]) -> Result<PeerJob> {
        until(
            &format!("a pilot job that {stage:?}"),
            PATIENCE,
            async || {
                let fits =
                    |j: &PeerJob| j.stage == stage && not.iter().all(|other| other.key != j.key);
                Ok(self.jobs()?.into_iter().find(fits))
            },
        )
        .await
        .with_context(|| format!("the jobs are {:?}", self.jobs()))
    }

    /// Waits until this job is over.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn is_over(&self, job: &PeerJob) -> Result<()> {
        until(
            &format!("job {} to be over", job.id),
            PATIENCE,
            async || {
                let jobs = self.jobs()?;
                let now = jobs.iter().find(|j| j.key == job.key);
                Ok((now.is_some_and(|j| j.stage == Stage::Over)).then_some(()))
            },
        )
        .await
        .with_context(|| format!("the jobs are {:?}", self.jobs()))
    }

    /// Somebody at the site cancels a job behind the broker's back.
    ///
    /// # Errors
    /// The batch system refuses.
    pub fn cancel(&self, job: &PeerJob) -> Result<()> {
        match self {
            Self::Slurm(site) => site.cluster.command("scancel", &[&job.id]).map(drop)?,
            Self::Htcondor(site) => site.pool.command(&["condor_rm", &job.id]).map(drop)?,
        }
        Ok(())
    }

    /// The batch system takes a running job's node and queues it again.
    ///
    /// # Errors
    /// The batch system refuses.
    pub fn requeue(&self, job: &PeerJob) -> Result<()> {
        match self {
            Self::Slurm(site) => site.cluster.command("scontrol", &["requeue", &job.id])?,
            Self::Htcondor(site) => site.pool.command(&["condor_vacate_job", &job.id])?,
        };
        Ok(())
    }

    /// Lets a requeued job that waits start again soon; true when that is taken.
    ///
    /// # Errors
    /// The batch system does not answer.
    pub fn hurry(&self, job: &PeerJob) -> Result<bool> {
        match self {
            // Two minutes of its own accord. What starts in the second of the requeue is taken for
            // the job that was ended; and one that is still ending cannot be moved.
            Self::Slurm(site) => {
                let job = format!("jobid={}", job.id);
                let args = ["update", &job, "StartTime=now+5"];
                Ok(site.cluster.command("scontrol", &args).is_ok())
            }
            Self::Htcondor(_) => Ok(true),
        }
    }

    /// Takes the first node out of service, as an administrator does.
    ///
    /// # Errors
    /// The batch system refuses.
    pub fn drain(&self) -> Result<()> {
        match self {
            Self::Slurm(site) => site.cluster.command(
                "scontrol",
                &["update", "nodename=n1", "state=drain", "reason=test"],
            )?,
            Self::Htcondor(site) => site.pool.administer(&["condor_drain", SLOT])?,
        };
        Ok(())
    }

    /// Takes it into service again.
    ///
    /// # Errors
    /// The batch system refuses.
    pub fn undrain(&self) -> Result<()> {
        match self {
            Self::Slurm(site) => {
                let args = ["update", "nodename=n1", "state=resume"];
                site.cluster.command("scontrol", &args)?
            }
            Self::Htcondor(site) => site.pool.administer(&["condor_drain", "-cancel", SLOT])?,
        };
        Ok(())
    }

    /// Brings trouble to the daemon that knows the jobs.
    ///
    /// # Errors
    /// It does not run.
    pub fn trouble(&self, trouble: Trouble) -> Result<()> {
        match (self, trouble) {
            (Self::Slurm(site), Trouble::Hangs) => {
                site.cluster.signal("slurmctld", Signal::SIGSTOP)?;
            }
            (Self::Slurm(site), Trouble::Stopped) => {
                site.cluster.end("slurmctld", Signal::SIGTERM)?;
            }
            (Self::Htcondor(site), Trouble::Hangs) => {
                site.pool.signal("condor_schedd", "STOP")?;
            }
            // Its master would start it again.
            (Self::Htcondor(site), Trouble::Stopped) => {
                site.pool.signal("condor_master", "STOP")?;
                site.pool.signal("condor_schedd", "KILL")?;
            }
        }
        Ok(())
    }

    /// Ends that trouble.
    ///
    /// # Errors
    /// The daemon does not come back.
    pub fn relieve(&self, trouble: Trouble) -> Result<()> {
        match (self, trouble) {
            (Self::Slurm(site), Trouble::Hangs) => {
                site.cluster.signal("slurmctld", Signal::SIGCONT)?;
            }
            (Self::Slurm(site), Trouble::Stopped) => site.cluster.revive("n1")?,
            (Self::Htcondor(site), Trouble::Hangs) => {
                site.pool.signal("condor_schedd", "CONT")?;
            }
            (Self::Htcondor(site), Trouble::Stopped) => {
                site.pool.signal("condor_master", "CONT")?;
            }
        }
        Ok(())
    }

    /// The daemon crashes and is started again. What it has not saved it may forget: that is
    /// waited for first.
    ///
    /// # Errors
    /// It does not come back.
    pub fn crash(&self) -> Result<()> {
        match self {
            Self::Slurm(site) => {
                site.cluster.wait_until_saved()?;
                site.cluster.end("slurmctld", Signal::SIGKILL)?;
                site.cluster.revive("n1")?;
            }
            Self::Htcondor(site) => site.pool.signal("condor_schedd", "KILL")?,
        }
        Ok(())
    }

    /// The batch system loses sight of a node: its daemon is gone, and what it has started runs on.
    ///
    /// # Errors
    /// The daemon does not run.
    pub fn lose_daemon(&self, node: &str) -> Result<()> {
        match self {
            Self::Slurm(site) => {
                site.cluster
                    .end(&format!("slurmd.{node}"), Signal::SIGKILL)?;
            }
            Self::Htcondor(site) => {
                site.pool.signal("condor_master", "STOP")?;
                site.pool.signal("condor_startd", "KILL")?;
                site.pool.signal("condor_starter", "KILL")?;
            }
        }
        Ok(())
    }

    /// A node loses its power. No other node may run a pilot.
    ///
    /// # Errors
    /// Its daemon does not run, or a process outlives its kill.
    pub async fn power_off(&self, node: &str, it: &Installation) -> Result<()> {
        match self {
            Self::Slurm(site) => site.power_off(node)?,
            Self::Htcondor(_) => self.lose_daemon(node)?,
        }
        it.kill_everything_in_slots().await?;
        ensure!(it.pilots().is_empty(), "a pilot survived the power");
        Ok(())
    }

    /// The node's daemon is there again, if nothing else runs without it: a pool has one node only,
    /// a Slurm goes on with its others.
    ///
    /// # Errors
    /// It does not come back.
    pub fn bring_back_if_it_is_the_only(&self) -> Result<()> {
        match self {
            Self::Slurm(_) => {}
            Self::Htcondor(site) => site.pool.signal("condor_master", "CONT")?,
        }
        Ok(())
    }

    /// The ends of its daemons' logs.
    pub fn log(&self) -> String {
        match self {
            Self::Slurm(site) => site.log(),
            Self::Htcondor(site) => ["SchedLog", "NegotiatorLog", "StartLog"]
                .map(|name| format!("end of {name}:\n{}", site.pool.log(name)))
                .join("\n"),
        }
    }
}

/// Slurm's words for a job that can still run; every other one is an end.
fn slurm_stage(word: &str) -> Stage {
    match word {
        "PENDING" => Stage::Waits,
        "RUNNING" => Stage::Runs,
        "COMPLETING" | "CONFIGURING" | "SUSPENDED" | "STOPPED" | "SIGNALING" => Stage::Leaves,
        _ => Stage::Over,
    }
}
