//! Runs a program: everything that it prints goes to the terminal and to the part's log as it comes,
//! and a program that exceeds its time limit is ended.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::{Stopwatch, spoken};

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(30);
/// How long the output may stay open after the program ended; longer means that a child of it lives on.
const LEAK: Duration = Duration::from_secs(10);
/// How often the program is looked at while it prints nothing.
const LOOK: Duration = Duration::from_millis(200);

/// Where the lines go: the terminal, and a file if there is one.
pub struct Log {
    file: Option<File>,
}

impl Log {
    /// Only the terminal.
    pub fn terminal() -> Self {
        Self { file: None }
    }

    /// The terminal and a new file.
    pub fn to_file(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("failed to make {}", directory.display()))?;
        }
        let file =
            File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self { file: Some(file) })
    }

    /// Writes a line. A log that cannot be written does not fail the part: the terminal has the line.
    pub fn line(&mut self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{text}");
        }
    }
}

/// A program to run, with its time limit.
pub struct Step {
    command: Command,
    shown: String,
    limit: Duration,
}

/// `cargo run` sets variables for this program; a cargo that sees them builds anew what it has.
pub fn forget_cargo_run(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ]
        .iter()
        .any(|set| text.starts_with(set))
        {
            command.env_remove(&name);
        }
    }
}

impl Step {
    /// `program` with `arguments` in `directory`, for at most `limit`.
    pub fn new<S: AsRef<str>>(
        directory: &Path,
        program: impl Into<PathBuf>,
        arguments: &[S],
        limit: Duration,
    ) -> Self {
        let program = program.into();
        let mut command = Command::new(&program);
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .current_dir(directory);
        command.env("CARGO_TERM_COLOR", "never");
        forget_cargo_run(&mut command);
        let mut shown = program.display().to_string();
        for argument in arguments {
            shown.push(' ');
            shown.push_str(argument.as_ref());
        }
        Self {
            command,
            shown,
            limit,
        }
    }

    /// Adds to the program's environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs to the end; an exit code other than 0 is an error.
    pub fn run(self, log: &mut Log) -> Result<Vec<String>> {
        let shown = self.shown.clone();
        let (status, lines) = self.outcome(log)?;
        if !status.success() {
            bail!("`{shown}` ended with {status}");
        }
        Ok(lines)
    }

    /// Runs to the end and returns how it ended and what it printed, both streams as they came.
    pub fn outcome(mut self, log: &mut Log) -> Result<(ExitStatus, Vec<String>)> {
        log.line(&format!("$ {}", self.shown));
        let (reader, writer) = pipe().context("failed to make a pipe")?;
        let second = writer.try_clone().context("failed to copy a pipe")?;
        self.command
            .stdin(std::process::Stdio::null())
            .stdout(writer)
            .stderr(second);
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("failed to start `{}`", self.shown))?;
        // The command owns the write ends: without this the output would never end.
        drop(self.command);

        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(length) if length > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        follow(&mut child, &lines, log, &self.shown, self.limit)
    }
}

fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    log: &mut Log,
    shown: &str,
    limit: Duration,
) -> Result<(ExitStatus, Vec<String>)> {
    let watch = Stopwatch::start();
    let mut seen = Vec::new();
    let mut asked_to_end = false;
    let mut ended: Option<(ExitStatus, Stopwatch)> = None;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                log.line(&line);
                seen.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((_, since)) = &ended {
            if since.elapsed() > LEAK {
                bail!(
                    "`{shown}` ended, but a process that it started lives on and holds its output"
                );
            }
        } else if let Some(status) = child.try_wait().context("failed to wait")? {
            ended = Some((status, Stopwatch::start()));
        }
        if ended.is_none() && watch.elapsed() > limit && !asked_to_end {
            log.line(&format!(
                "xtask: over its limit of {}: ending it",
                spoken(limit)
            ));
            let pid = i32::try_from(child.id()).context("pid out of range")?;
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            asked_to_end = true;
        }
        if ended.is_none() && watch.elapsed() > limit + GRACE {
            let _ = child.kill();
        }
    }
    let status = match ended {
        Some((status, _)) => status,
        None => child.wait().context("failed to wait")?,
    };
    if asked_to_end {
        bail!("`{shown}` took longer than its limit of {}", spoken(limit));
    }
    Ok((status, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Step {
        Step::new(Path::new("/"), "/bin/sh", &["-c", script], limit)
    }

    #[test]
    fn returns_both_streams_and_the_exit() {
        let step = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60));
        let (status, lines) = step.outcome(&mut Log::terminal()).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines, ["out", "err"]);
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = shell("exit 3", Duration::from_secs(60))
            .run(&mut Log::terminal())
            .unwrap_err();
        assert!(error.to_string().contains("/bin/sh -c exit 3"), "{error}");
    }

    #[test]
    fn ends_what_exceeds_its_limit() {
        let step = shell("exec sleep 600", Duration::ZERO);
        let error = step.run(&mut Log::terminal()).unwrap_err();
        assert!(
            error.to_string().contains("longer than its limit"),
            "{error}"
        );
    }

    #[test]
    fn a_log_keeps_what_was_printed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/part.log");
        let mut log = Log::to_file(&path).unwrap();
        shell("echo hello", Duration::from_secs(60))
            .run(&mut log)
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "$ /bin/sh -c echo hello\nhello\n");
    }
}
