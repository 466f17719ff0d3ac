//! A private Slurm cluster for a test: real daemons with several virtual nodes on this host, all
//! gone when the test is. The work is done by `scripts/lab/slurm`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::SlurmSettings;

/// A cluster in a directory of its own.
#[derive(Debug)]
pub struct Cluster {
    script: PathBuf,
    dir: PathBuf,
}

/// True when Slurm's daemons are installed here.
pub fn is_installed() -> bool {
    ["slurmctld", "slurmd", "munged"]
        .iter()
        .all(|name| Path::new("/usr/sbin").join(name).exists())
}

impl Cluster {
    /// Starts a cluster with the script at `script` in `dir`, whose path must be plain, and
    /// waits until its nodes are idle. `options` are the script's. The cluster ends when this is
    /// dropped, and also when this process is killed.
    ///
    /// # Errors
    /// It does not start; the error has what the script said.
    pub fn start(script: &Path, dir: &Path, options: &[&str]) -> io::Result<Self> {
        let cluster = Self {
            script: script.to_owned(),
            dir: std::path::absolute(dir)?,
        };
        let me = std::process::id().to_string();
        let keep = ["--while", &me];
        cluster.run("start", &[options, &keep].concat())?;
        Ok(cluster)
    }

    /// Starts its controller and the daemon of this node again, if they do not run, and waits
    /// until the node is ready.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn revive(&self, node: &str) -> io::Result<()> {
        self.run("start", &["--only", node])
    }

    fn run(&self, what: &str, options: &[&str]) -> io::Result<()> {
        let output = Command::new(&self.script)
            .arg(what)
            .arg(&self.dir)
            .args(options)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!(
            "{} {what} {}: {said}",
            self.script.display(),
            self.dir.display()
        )))
    }

    /// Its configuration file.
    pub fn conf(&self) -> PathBuf {
        self.dir.join("etc/slurm.conf")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An adapter's settings for it: pilots in the partition that the partition `site` preempts.
    pub fn settings(&self) -> SlurmSettings {
        SlurmSettings {
            conf: Some(self.conf()),
            partition: Some("pilots".to_owned()),
            ..SlurmSettings::default()
        }
    }

    /// Runs one of Slurm's commands on it, as an administrator does.
    ///
    /// # Errors
    /// It cannot be started, or says no; the error has its words.
    pub fn command(&self, program: &str, args: &[&str]) -> io::Result<String> {
        let output: Output = Command::new(program)
            .args(args)
            .env("SLURM_CONF", self.conf())
            .env("SLURM_TIME_FORMAT", "%s")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{program} {args:?}: {said}")))
    }

    /// Sends a signal to a daemon: `slurmctld`, or `slurmd.n1`.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, daemon: &str, signal: Signal) -> io::Result<()> {
        kill(self.pid(daemon)?, signal).map_err(io::Error::from)
    }

    /// Ends a daemon by this signal and waits until it is gone.
    ///
    /// # Errors
    /// It does not run, or lives on.
    pub fn end(&self, daemon: &str, signal: Signal) -> io::Result<()> {
        let pid = self.pid(daemon)?;
        kill(pid, signal).map_err(io::Error::from)?;
        for _ in 0..4000 {
            if !lives(pid) {
                return Ok(());
            }
            pause();
        }
        Err(io::Error::other(format!(
            "{daemon} lives on after {signal}"
        )))
    }

    fn pid(&self, daemon: &str) -> io::Result<Pid> {
        let file = self.dir.join(format!("run/{daemon}.pid"));
        let text = std::fs::read_to_string(&file)?;
        let pid = text.trim().parse().map(Pid::from_raw);
        let wrong = |e| io::Error::other(format!("{} holds no pid: {e}", file.display()));
        let pid = pid.map_err(wrong)?;
        if lives(pid) {
            Ok(pid)
        } else {
            Err(io::Error::other(format!("{daemon} does not run")))
        }
    }

    /// Returns when the controller has saved its state with everything that has happened before
    /// this call: what it has not saved it forgets when it crashes.
    ///
    /// # Errors
    /// A command fails, or nothing is saved in time.
    pub fn wait_until_saved(&self) -> io::Result<()> {
        let mark = format!(
            "mark-{}",
            self.command("squeue", &["-h", "-t", "all"])?.len()
        );
        let wrap = format!("--job-name={mark}");
        let args = ["--hold", "--output=/dev/null", &wrap, "--wrap=true"];
        self.command("sbatch", &args)?;
        for _ in 0..6000 {
            let saved = std::fs::read(self.dir.join("state/job_state"))?;
            if saved.windows(mark.len()).any(|w| w == mark.as_bytes()) {
                self.command("scancel", &[&format!("--name={mark}")])?;
                return Ok(());
            }
            pause();
        }
        Err(io::Error::other("the controller does not save its state"))
    }

    /// The end of the controller's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log/slurmctld.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(e) = self.run("stop", &[]) {
            tracing::warn!(error = %e, "failed to stop a test cluster");
        }
    }
}

/// A zombie is gone, too: nobody but init reaps daemons.
fn lives(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("").starts_with('Z'))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bounded wait for a daemon, in a helper that has no runtime"
)]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(5));
}
