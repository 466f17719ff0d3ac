//! A real Slurm for an installation, and a count of the commands that reach it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lrm_adapters::slurm::testing::{Cluster, is_installed};

use super::setup::Batch;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lab/slurm");

/// Writes down that it was called, and is the command.
const FRONT: &str = r#"#!/bin/sh
echo "${0##*/}" >> "${0%/*}/calls"
exec "/usr/bin/${0##*/}" "$@"
"#;

/// A job as `squeue` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmJob {
    /// Slurm's id.
    pub id: String,
    /// Slurm's word for its state.
    pub state: String,
    /// Its name: the submit key of a pilot job, `site` for a job of the site.
    pub name: String,
}

/// A cluster with commands of its own in front of Slurm's.
#[derive(Debug)]
pub struct SlurmSite {
    // The cluster is stopped before its directory goes.
    cluster: Cluster,
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
        for name in ["sbatch", "squeue", "scancel", "srun"] {
            fs::write(bin.join(name), FRONT)?;
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let cluster = Cluster::start(Path::new(LAB), &directory.path().join("cluster"), options)?;
        Ok(Some(Self {
            cluster,
            bin,
            _directory: directory,
        }))
    }

    /// For [`super::Setup`]: pilots in the partition that the site's jobs preempt.
    pub fn lrm(&self) -> Batch {
        Batch {
            lrm: "slurm",
            prefix: Vec::new(),
            section: format!(
                "[site.lab.slurm]\nconf = \"{}\"\nbin_dir = \"{}\"\npartition = \"pilots\"",
                self.cluster.conf().display(),
                self.bin.display()
            ),
            place: None,
        }
    }

    /// A job of the site that takes all of a node for a moment, and preempts what is there.
    ///
    /// # Errors
    /// Slurm refuses it.
    pub fn preempt(&self, node: &str) -> Result<()> {
        let node = format!("--nodelist={node}");
        let args = [
            "--job-name=site",
            "--partition=site",
            "--exclusive",
            "--time=1",
            "--output=/dev/null",
            &node,
            "--wrap=sleep 1",
        ];
        self.cluster.command("sbatch", &args)?;
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
        let args = ["--noheader", "--states=all", "--format=%i %T %j"];
        let text = self.cluster.command("squeue", &args)?;
        Ok(text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().map(str::to_owned);
                Some(SlurmJob {
                    id: words.next()?,
                    state: words.next()?,
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
        jobs.retain(|j| j.name != "site");
        Ok(jobs)
    }

    /// How often the broker and the jobs have called a command.
    pub fn calls(&self, name: &str) -> usize {
        let calls = fs::read_to_string(self.bin.join("calls")).unwrap_or_default();
        calls.lines().filter(|call| *call == name).count()
    }

    /// The end of the controller's log.
    pub fn log(&self) -> String {
        self.cluster.log()
    }
}
