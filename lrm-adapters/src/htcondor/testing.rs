//! A real pool for tests: `scripts/lab/condor` as a child process, ended with the test.
//!
//! A schedd refuses root's jobs and runs the others as their owner, so what a job reads must be
//! owned by the pool's user. A test that is root acts as that user once the pool is up
//! ([`Pool::start`] says how), and becomes root again to clean up.

use std::io::{self, BufRead as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::unistd::{Uid, geteuid, getuid, seteuid};

/// The pool's user, `pilot` there.
pub const USER: u32 = 4001;

/// A pool, and a directory that it sees under the same path.
#[derive(Debug)]
pub struct Pool {
    dir: PathBuf,
    share: PathBuf,
    holder: Child,
}

impl Pool {
    /// True when this process may start one.
    pub fn is_possible() -> bool {
        getuid().is_root()
    }

    /// Starts one with the script at `lab`, below the directory `place`, and waits until it takes
    /// jobs (the first time it is installed, which takes a minute or two). From then on this
    /// process acts as the pool's user: its effective user id is [`USER`].
    ///
    /// # Errors
    /// It cannot be started; the error has its log.
    pub fn start(lab: &Path, place: &Path) -> io::Result<Self> {
        let (dir, share) = (place.join("pool"), place.join("share"));
        std::fs::create_dir_all(&dir)?;
        std::fs::create_dir_all(&share)?;
        open_to_all(place)?;
        open_to_all(&share)?;
        chown(&share, Some(USER), Some(USER))?;
        // Free a moment ago.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let log = place.join("lab.log");
        let mut holder = Command::new(lab)
            .arg("hold")
            .arg(&dir)
            .args(["--port", &port.to_string()])
            .args(["--user-id", &USER.to_string()])
            .arg("--share")
            .arg(&share)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .process_group(0)
            .spawn()?;
        let mut said = String::new();
        if let Some(stdout) = holder.stdout.take() {
            io::BufReader::new(stdout).read_line(&mut said)?;
        }
        let pool = Self { dir, share, holder };
        if said.trim() != "ready" {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("the pool does not run:\n{log}")));
        }
        seteuid(Uid::from_raw(USER))?;
        Ok(pool)
    }

    /// The directory that the pool sees under the same path; the pool's user owns it.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// Goes before a command that is to run in the pool, as the pool's user.
    pub fn prefix(&self) -> Vec<String> {
        vec![self.dir.join("run").display().to_string()]
    }

    /// Runs a command in the pool as its user.
    ///
    /// # Errors
    /// It fails; the error has what it said.
    pub fn command(&self, args: &[&str]) -> io::Result<String> {
        self.run(Command::new(self.dir.join("run")).args(args))
    }

    /// Runs a command in the pool as its administrator.
    ///
    /// # Errors
    /// It fails; the error has what it said.
    pub fn administer(&self, args: &[&str]) -> io::Result<String> {
        self.run(Command::new(self.dir.join("run")).arg("--root").args(args))
    }

    /// Sends a signal (as `STOP`) to all processes of the pool with this name.
    ///
    /// # Errors
    /// It cannot be sent to one of them.
    pub fn signal(&self, name: &str, signal: &str) -> io::Result<()> {
        const SEND: &str = r#"for c in /proc/[0-9]*/comm; do
            read -r name 2>/dev/null <"$c" || continue
            [ "$name" != "$1" ] || { p=${c%/comm}; kill -"$2" "${p#/proc/}"; }
        done"#;
        self.administer(&["sh", "-c", SEND, "sh", name, signal])
            .map(drop)
    }

    /// The end of a daemon's log, as `SchedLog`.
    pub fn log(&self, name: &str) -> String {
        let path = format!("/var/log/condor/{name}");
        self.command(&["tail", "-n", "40", &path])
            .unwrap_or_else(|e| e.to_string())
    }

    fn run(&self, command: &mut Command) -> io::Result<String> {
        let output: Output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(format!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !geteuid().is_root() {
            // Fails only for a process that never was root, and such a one has no pool.
            let _ = seteuid(Uid::from_raw(0));
        }
        // The end of its input is what it waits for.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn open_to_all(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}
