//! Children of a test: started with their output in a file, ended by pid, never left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program whose output goes to a log file.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: tokio::process::Child,
    pid: Pid,
    log: PathBuf,
}

impl Program {
    /// Starts `binary` with `args`, its output appended to `log`.
    ///
    /// # Errors
    /// The log can't be opened or the program can't be started.
    pub fn start(name: &str, binary: &Path, args: &[&str], log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("failed to open {}", log.display()))?;
        let child = tokio::process::Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {}", binary.display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id().context("the child has no pid")?)?);
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_owned(),
        })
    }

    /// The process id.
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("failed to send {signal} to {}", self.name))
    }

    /// Kills it at once and waits until it is gone.
    ///
    /// # Errors
    /// It can't be waited for.
    pub async fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("failed to kill {}", self.name))
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// It is not gone after [`super::wait::PATIENCE`].
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        tokio::time::timeout(super::wait::PATIENCE, self.child.wait())
            .await
            .with_context(|| {
                format!(
                    "{} did not end after SIGTERM; log: {}",
                    self.name,
                    self.log.display()
                )
            })?
            .with_context(|| format!("failed to wait for {}", self.name))
    }

    /// Its exit status, when it has ended.
    ///
    /// # Errors
    /// It can't be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}
