//! A real Slurm for an installation, and a count of the commands that reach it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lrm_adapters::slurm::testing::{Cluster, is_installed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::front::{Front, write_program};
use super::setup::Batch;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lab/slurm");

/// Is the command.
const FRONT: &str = r#"exec "${0%/*}/front" "/usr/bin/${0##*/}" "$@""#;

/// A job as `squeue` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmJob {
    /// Slurm's id.
    pub id: String,
    /// Slurm's word for its state.
    pub state: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Its name: the submit key of a pilot job, `site` for a job of the site.
    pub name: String,
}

/// Which partition pilot jobs go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// They are never started again.
    Never,
    /// A requeue starts them again under the same id.
    Requeued,
}

/// A cluster with commands of its own in front of Slurm's.
#[derive(Debug)]
pub struct SlurmSite {
    // The cluster is stopped before its directory goes.
    /// The cluster, for what an administrator does to it.
    pub cluster: Cluster,
    /// What reaches it, and what is to go wrong there.
    pub front: Front,
    bin: PathBuf,
    _directory: tempfile::TempDir,
}

impl SlurmSite {
    /// Starts a cluster with these options of `scripts/lab/slurm`. None when Slurm is not
    /// installed here and nobody insists on it.
    ///
    /// # Errors
    /// It does not start; or `WP_REQUIRE_SLURM` is set and Slurm is not installed.
    #[expect(
        clippy::disallowed_methods,
        reason = "the runner says whether a machine without Slurm is good enough"
    )]
    pub fn start(options: &[&str]) -> Result<Option<Self>> {
        if !is_installed() {
            ensure!(
                std::env::var_os("WP_REQUIRE_SLURM").is_none(),
                "Slurm is not installed: run scripts/setup"
            );
            println!("NOT TESTED: Slurm is not installed");
            return Ok(None);
        }
        let directory = tempfile::Builder::new()
            .prefix("wp-slurm-")
            .tempdir()
            .context("failed to make a directory")?;
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).context("failed to make a directory")?;
        let front = Front::new(&bin)?;
        for name in ["sbatch", "squeue", "scancel", "srun"] {
            write_program(&bin.join(name), &format!("#!/bin/sh\n{FRONT}\n"))?;
        }
        let cluster = Cluster::start(Path::new(LAB), &directory.path().join("cluster"), options)?;
        Ok(Some(Self {
            cluster,
            front,
            bin,
            _directory: directory,
        }))
    }

    /// For [`super::Setup`]: pilots in a partition that the site's jobs preempt.
    pub fn lrm(&self, again: Again) -> Batch {
        let partition = match again {
            Again::Never => "pilots",
            Again::Requeued => "pilots-requeue",
        };
        Batch {
            lrm: "slurm",
            prefix: Vec::new(),
            section: format!(
                "[site.lab.slurm]\nconf = \"{}\"\nbin_dir = \"{}\"\npartition = \"{partition}\"\n\
                 rerunnable = {}",
                self.cluster.conf().display(),
                self.bin.display(),
                again == Again::Requeued
            ),
            place: None,
        }
    }

    /// A job of the site that takes all of a node for a moment, and preempts what is there.
    ///
    /// # Errors
    /// Slurm refuses it.
    pub fn preempt(&self, node: &str) -> Result<()> {
        self.site_job(node, 1).map(drop)
    }

    /// Ends a job as a user does.
    ///
    /// # Errors
    /// Slurm refuses it.
    pub fn cancel(&self, id: &str) -> Result<()> {
        self.cluster.command("scancel", &[id])?;
        Ok(())
    }

    /// What `lrm-conformance` needs of an administrator here: a job of the site preempts, and the
    /// daemons are killed and started again by the lab's script.
    pub fn administrator(&self) -> Vec<String> {
        let conf = self.cluster.conf();
        let (conf, dir) = (conf.display(), self.cluster.dir().display());
        let as_admin = format!("env SLURM_CONF={conf}");
        let end = |daemon: &str, signal: &str| {
            format!(
                "sh -c 'p=$(cat {dir}/run/{daemon}.pid); kill -{signal} $p; \
                 while kill -0 $p 2>/dev/null; do sleep 0.1; done'"
            )
        };
        let start = |node: &str| format!("{LAB} start {dir} --only {node}");
        let given = [
            (
                "--preempt-command",
                format!(
                    "{as_admin} sbatch --partition=site --exclusive --time=1 --output=/dev/null \
                     --chdir={dir} --nodelist=n1 '--wrap=sleep 1'"
                ),
            ),
            (
                "--shorten-command",
                format!("{as_admin} scontrol update jobid={{id}} timelimit={{minutes}}"),
            ),
            ("--stop-command", end("slurmctld", "TERM")),
            ("--start-command", start("n1")),
            ("--lose-node-command", end("slurmd.{node}", "KILL")),
            ("--restore-node-command", start("{node}")),
        ];
        given
            .into_iter()
            .flat_map(|(option, command)| [option.to_owned(), command])
            .collect()
    }

    /// All jobs that Slurm tells of.
    ///
    /// # Errors
    /// It does not answer.
    pub fn jobs(&self) -> Result<Vec<SlurmJob>> {
        let fields = "--Format=JobID:@,State:@,RestartCnt:@,Name:@";
        let args = ["--noheader", "--states=all", fields];
        let text = self.cluster.command("squeue", &args)?;
        Ok(text
            .lines()
            .filter_map(|line| {
                let mut words = line.split('@').map(str::to_owned);
                Some(SlurmJob {
                    id: words.next()?,
                    state: words.next()?,
                    restarts: words.next()?.parse().ok()?,
                    name: words.next()?,
                })
            })
            .collect())
    }

    /// The pilot jobs among them.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub fn pilot_jobs(&self) -> Result<Vec<SlurmJob>> {
        let mut jobs = self.jobs()?;
        jobs.retain(|j| j.name != "site" && !j.name.starts_with("mark-"));
        Ok(jobs)
    }

    /// Keeps what the controller has saved until now, for [`forget`](Self::forget).
    ///
    /// # Errors
    /// It does not save, or the copy fails.
    pub fn remember(&self) -> Result<()> {
        self.cluster.wait_until_saved()?;
        let kept = self.cluster.dir().join("state.kept");
        fs::create_dir(&kept).context("failed to make a directory")?;
        for entry in fs::read_dir(self.cluster.dir().join("state"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// The controller crashes and starts with what it had saved at [`remember`](Self::remember): it
    /// has forgotten the jobs since then, and gives their ids again. This node must be in service.
    ///
    /// # Errors
    /// It does not come back.
    pub fn forget(&self, node: &str) -> Result<()> {
        self.cluster.end("slurmctld", Signal::SIGKILL)?;
        let state = self.cluster.dir().join("state");
        for entry in fs::read_dir(self.cluster.dir().join("state.kept"))? {
            let entry = entry?;
            fs::copy(entry.path(), state.join(entry.file_name()))?;
        }
        Ok(self.cluster.revive(node)?)
    }

    /// Submits a job of the site that sleeps for so long on this node; gives its id.
    ///
    /// # Errors
    /// Slurm refuses it.
    pub fn site_job(&self, node: &str, secs: u32) -> Result<String> {
        let node = format!("--nodelist={node}");
        let wrap = format!("--wrap=sleep {secs}");
        let args = [
            "--parsable",
            "--job-name=site",
            "--partition=site",
            "--exclusive",
            "--time=1",
            "--output=/dev/null",
            &node,
            &wrap,
        ];
        Ok(self.cluster.command("sbatch", &args)?.trim().to_owned())
    }

    /// Takes the power from a node: nothing of Slurm or of ours that runs there gets a signal that
    /// it could act upon. The cluster must run no job on another node.
    ///
    /// # Errors
    /// Its daemon does not run.
    pub fn power_off(&self, node: &str) -> Result<()> {
        let daemon = format!("slurmd.{node}");
        self.cluster.end(&daemon, Signal::SIGKILL)?;
        let conf = self.cluster.conf().display().to_string();
        let mark = format!("SLURM_CONF={conf}");
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let is_step = read("comm").starts_with(b"slurmstepd");
            let is_ours = read("environ")
                .split(|b| *b == 0)
                .any(|v| v == mark.as_bytes());
            let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
            if let Some(pid) = pid.filter(|_| is_step && is_ours) {
                // One that has ended meanwhile is as good.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// The end of the controller's log.
    pub fn log(&self) -> String {
        self.cluster.log()
    }
}
