//! Calls of the helper: by sudo, or directly by root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use protocol::slot_file::{HypervisorSection, XEN_HELPER};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use xen_helper::{Info, Reclaimed};

/// For what the helper answers in seconds.
const INFO: Duration = Duration::from_secs(60);
/// Destroying a domain that hangs takes the helper's own patience.
const RECLAIM: Duration = Duration::from_secs(180);

/// The helper of this node. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Helper {
    path: PathBuf,
}

/// The helper did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("`{command}`: {why}; `pilot doctor` says what is missing here")]
pub struct HelperError {
    command: String,
    why: String,
}

impl Helper {
    /// The one that a slot's file names.
    pub fn of(section: &HypervisorSection) -> Self {
        Self::at(section.binary.as_deref().unwrap_or(Path::new(XEN_HELPER)))
    }

    /// The one at this path.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A call. It leads a process group of its own: what a terminal or a batch system sends to ours
    /// is not for it.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = if nix::unistd::geteuid().is_root() {
            Command::new(&self.path)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg("-n").arg("--").arg(&self.path);
            sudo
        };
        command.args(arguments).current_dir("/").process_group(0);
        command
    }

    fn error(&self, verb: &str, why: impl Into<String>) -> HelperError {
        HelperError {
            command: format!("{} {verb}", self.path.display()),
            why: why.into(),
        }
    }

    /// What Xen says of itself.
    ///
    /// # Errors
    /// It can't be called, or Xen does not answer.
    pub async fn info(&self) -> Result<Info, HelperError> {
        self.ask(&["info"], INFO).await
    }

    /// Destroys this account's domain of this marker; where it ends with a dot, all whose marker begins
    /// so. Bounded.
    ///
    /// # Errors
    /// It can't be called; nothing is known then.
    pub async fn reclaim(&self, marker: &str) -> Result<Reclaimed, HelperError> {
        self.ask(&["reclaim", marker], RECLAIM).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<T, HelperError> {
        let verb = arguments[0];
        let mut command: tokio::process::Command = self.command(arguments).into();
        // Dropped when it does not answer, and left to itself: it must not be killed half-way.
        let output = command.stdin(Stdio::null()).output();
        match timeout(limit, output).await {
            Err(_) => Err(self.error(verb, format!("no answer within {} s", limit.as_secs()))),
            Ok(output) => self.answer(verb, output),
        }
    }

    fn answer<T: DeserializeOwned>(
        &self,
        verb: &str,
        output: std::io::Result<std::process::Output>,
    ) -> Result<T, HelperError> {
        let output = output.map_err(|e| self.error(verb, e.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; ");
        if !output.status.success() {
            return Err(self.error(verb, format!("{}: {said}", output.status)));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|e| self.error(verb, format!("its answer is not understood: {e} {said}")))
    }

    /// As [`Self::reclaim`], for those who have no runtime.
    ///
    /// # Errors
    /// It can't be called, or hangs; nothing is known then.
    pub fn reclaim_now(&self, marker: &str) -> Result<Reclaimed, HelperError> {
        self.ask_now(&["reclaim", marker])
    }

    /// Destroys this account's domains whose helper is dead; nobody else could give them back.
    ///
    /// # Errors
    /// It can't be called, or hangs; nothing is known then.
    pub fn sweep_now(&self) -> Result<Reclaimed, HelperError> {
        self.ask_now(&["sweep"])
    }

    fn ask_now(&self, arguments: &[&str]) -> Result<Reclaimed, HelperError> {
        let verb = arguments[0];
        let mut command = self.command(arguments);
        let (send, answer) = std::sync::mpsc::channel();
        // One that hangs is left to itself: it must not be killed half-way.
        let asking = std::thread::Builder::new().name("helper".to_owned());
        let asked = asking.spawn(move || drop(send.send(command.stdin(Stdio::null()).output())));
        asked.map_err(|e| self.error(verb, e.to_string()))?;
        match answer.recv_timeout(RECLAIM) {
            Ok(output) => self.answer(verb, output),
            Err(_) => Err(self.error(verb, format!("no answer within {} s", RECLAIM.as_secs()))),
        }
    }
}
