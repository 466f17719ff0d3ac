//! A simulated LRM for tests: the daemon as a child process, with everything that it started
//! gone when the test is.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::{processes_of, sweep};
use super::{SimLrm, SimLrmSettings, wire};

/// A daemon that serves a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    dir: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts the `sim-lrm` at `binary` on `dir` with this configuration (TOML), and waits until
    /// it listens. Its log is `dir/daemon.log`.
    ///
    /// # Errors
    /// It cannot be started, or does not listen within 10 s; the error has its log.
    pub fn start(binary: &Path, dir: &Path, config: &str) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = std::fs::canonicalize(dir)?;
        let file = dir.join("sim-lrm.toml");
        std::fs::write(&file, config)?;
        let mut daemon = Self {
            binary: binary.to_owned(),
            dir,
            config: file,
            child: None,
        };
        daemon.run()?;
        Ok(daemon)
    }

    /// Kills the daemon (not its jobs) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`kill`](Self::kill), on the same directory.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn run(&mut self) -> io::Result<()> {
        self.kill();
        let socket = wire::socket_path(&self.dir);
        // A child of the one that was killed may hold the old socket open for a moment: a
        // connection to that would be taken for the new daemon.
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut child = Command::new(&self.binary)
            .arg("--dir")
            .arg(&self.dir)
            .args(["serve", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        for _ in 0..2000 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                self.child = Some(child);
                return Ok(());
            }
            if child.try_wait()?.is_some() {
                break;
            }
            pause();
        }
        let _ = child.kill();
        let _ = child.wait();
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        Err(io::Error::other(format!("sim-lrm does not listen: {log}")))
    }

    /// Stops it in its tracks (SIGSTOP): it answers nobody.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|c| i32::try_from(c.id()).ok());
        if let Some(pid) = pid {
            // A daemon that is gone needs no signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// The daemon's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Runs its command as a person does.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn command(&self, args: &[&str]) -> io::Result<Output> {
        Command::new(&self.binary)
            .arg("--dir")
            .arg(&self.dir)
            .args(args)
            .stdin(Stdio::null())
            .output()
    }

    /// What an adapter needs to reach it.
    pub fn settings(&self) -> SimLrmSettings {
        SimLrmSettings::new(self.binary.clone(), self.dir.clone())
    }

    /// An adapter to it.
    pub fn adapter(&self) -> SimLrm {
        SimLrm::new(self.settings())
    }

    /// All processes that its jobs have started and that live, survivors of ended jobs included,
    /// unless they cleaned their environment.
    pub fn job_processes(&self) -> Vec<i32> {
        processes_of(&self.dir)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        sweep(&self.dir);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bounded wait for the socket, in a helper that has no runtime"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
