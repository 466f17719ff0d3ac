//! A site with a real HTCondor pool of one node (`scripts/lab/condor`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lrm_adapters::htcondor::testing::Pool;
use tempfile::TempDir;

use super::binaries::Binaries;
use super::front::Front;
use super::setup::{Batch, Guests, Setup};
use super::wait::{PATIENCE, until};

/// The pool, and what it needs of ours where it can see it. From its start this process acts as
/// the pool's user.
#[derive(Debug)]
pub struct CondorSite {
    // Dropped in this order: the pool before its directory.
    /// The pool.
    pub pool: Pool,
    /// What reaches it, and what is to go wrong there.
    pub front: Front,
    /// The programs, where the pool sees them.
    pub binaries: Binaries,
    /// The test guest there; none if none was wanted.
    pub guest: Option<PathBuf>,
    _place: TempDir,
}

/// A job as `condor_q` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CondorJob {
    /// Its id.
    pub id: String,
    /// Its submit key.
    pub key: String,
    /// Its state, HTCondor's number.
    pub status: u32,
    /// Why it lost its slot, HTCondor's number; 0 if it did not.
    pub vacated: u32,
    /// How often it was started.
    pub starts: u32,
    /// It has a slot, where its processes may live.
    pub has_slot: bool,
}

impl CondorSite {
    /// Starts a pool that sees the programs and this guest; none when this machine cannot have a
    /// pool.
    ///
    /// # Errors
    /// It does not start; or the files cannot be copied.
    pub fn start(guest: Option<&Path>) -> Result<Option<Self>> {
        if !Pool::is_possible() {
            println!("NOT TESTED: a pool needs root");
            return Ok(None);
        }
        let place = tempfile::Builder::new()
            .prefix("wp-condor-")
            .tempdir()
            .context("failed to make a directory")?;
        let copies = place.path().join("share/bin");
        let mut binaries = Binaries::find()?;
        for program in [
            &mut binaries.pilot,
            &mut binaries.broker,
            &mut binaries.submit,
        ] {
            *program = copy(program, &copies)?;
        }
        let guest = guest
            .map(|from| {
                let to = place.path().join("share/guest");
                for name in ["vmlinux", "initrd.cpio", "disk.raw"] {
                    copy(&from.join(name), &to)?;
                }
                anyhow::Ok(to)
            })
            .transpose()?;
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab/condor");
        let pool = Pool::start(&lab, place.path()).context("failed to start a pool")?;
        let front = pool.share().join("front");
        fs::create_dir(&front).context("failed to make a directory")?;
        let front = Front::new(&front)?;
        Ok(Some(Self {
            pool,
            front,
            binaries,
            guest,
            _place: place,
        }))
    }

    /// An installation that uses it; `transfer` is that of the site's section.
    pub fn setup(&self, guests: Guests, transfer: &str) -> Setup {
        Setup {
            walltime: "120s",
            batch: Some(Batch {
                lrm: "htcondor",
                prefix: std::iter::once(self.front.program())
                    .chain(self.pool.prefix())
                    .collect(),
                section: format!("[site.lab.htcondor]\ntransfer = \"{transfer}\""),
                place: Some(self.pool.share().to_owned()),
            }),
            ..Setup::new(guests)
        }
    }

    /// What `lrm-conformance` needs of an administrator here.
    pub fn administrator(&self) -> Vec<String> {
        let pool = self.pool.prefix().join(" ");
        // By name within the pool, which has process numbers of its own.
        let signal = |daemon: &str, signal: &str| {
            format!(
                "for c in /proc/[0-9]*/comm; do read -r name 2>/dev/null < $c || continue; \
                 [ $name != {daemon} ] || {{ p=${{c%/comm}}; kill -{signal} ${{p#/proc/}}; }}; done"
            )
        };
        let stop = signal("condor_master", "STOP") + "; " + &signal("condor_schedd", "KILL");
        let start = signal("condor_master", "CONT");
        let given = [
            (
                "--preempt-command",
                format!("{pool} condor_vacate_job {{id}}"),
            ),
            (
                "--shorten-command",
                format!("{pool} condor_qedit {{id}} AllowedJobDuration {{seconds}}"),
            ),
            ("--stop-command", format!("{pool} --root sh -c '{stop}'")),
            ("--start-command", format!("{pool} --root sh -c '{start}'")),
            // The lab's schedd refuses jobs of more than 64 cores.
            ("--refused-cores", "100".to_owned()),
        ];
        given
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect()
    }

    /// All jobs that the pool still knows, in the order of their submits.
    ///
    /// # Errors
    /// It does not answer.
    pub fn jobs(&self) -> Result<Vec<CondorJob>> {
        let words = [
            "condor_q",
            "-allusers",
            "-af",
            "ClusterId",
            "WorkspacePilotKey",
            "JobStatus",
            "ifThenElse(VacateReasonCode =?= undefined, 0, VacateReasonCode)",
            "ifThenElse(NumJobStarts =?= undefined, 0, NumJobStarts)",
            "RemoteHost =!= undefined",
        ];
        let said = self.pool.command(&words)?;
        let job = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [id, key, status, vacated, starts, has_slot] = words[..] else {
                anyhow::bail!("cannot read `{line}`");
            };
            Ok(CondorJob {
                id: format!("{id}.0"),
                key: key.to_owned(),
                status: status.parse()?,
                vacated: vacated.parse()?,
                starts: starts.parse()?,
                has_slot: has_slot == "true",
            })
        };
        said.lines().map(job).collect()
    }

    /// The only job that runs now.
    ///
    /// # Errors
    /// None runs, or more than one.
    pub fn running_job(&self) -> Result<CondorJob> {
        let jobs = self.jobs()?;
        let running: Vec<&CondorJob> = jobs.iter().filter(|j| j.status == 2).collect();
        ensure!(running.len() == 1, "not one job runs: {jobs:?}");
        Ok(running[0].clone())
    }

    /// Waits until no job waits, runs or is held, and checks that every key had one job.
    ///
    /// # Errors
    /// One lives on; or a key had two.
    pub async fn has_no_living_job(&self) -> Result<Vec<CondorJob>> {
        let jobs = until("all pilot jobs to be over", PATIENCE, async || {
            let jobs = self.jobs()?;
            Ok(jobs
                .iter()
                .all(|j| matches!(j.status, 3 | 4))
                .then_some(jobs))
        })
        .await
        .with_context(|| format!("{:?}\n{}", self.jobs(), self.pool.log("SchedLog")))?;
        let mut keys: Vec<&str> = jobs.iter().map(|j| j.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        ensure!(keys.len() == jobs.len(), "a key has two jobs: {jobs:?}");
        Ok(jobs)
    }
}

fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::create_dir_all(to).context("failed to make a directory")?;
    let to = to.join(from.file_name().context("a file without a name")?);
    fs::copy(from, &to)
        .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
    Ok(to)
}
