//! How an LRM's commands are run: with a hard time limit, in a process group of their own that
//! is killed whole when the limit is reached or the caller gives up, with a scrubbed
//! environment, nothing on stdin and a bound on what they may print.

use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use protocol::time::Span;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// The most that is read of each output stream; an LRM's listing of 10,000 jobs has about 4 MB.
pub const OUTPUT_LIMIT: usize = 32 * 1024 * 1024;

/// How long output is still read after the command has ended: a process that it left behind may
/// hold the pipe open for ever.
const LINGER: std::time::Duration = std::time::Duration::from_millis(500);

/// Where and how commands are run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runner {
    /// Put before every command, as `["ssh", "login1"]`.
    pub prefix: Vec<String>,
    /// The command is killed and has given no answer after this long.
    pub timeout: Span,
    /// The PATH that it gets.
    pub path: String,
    /// Further variables that it gets.
    pub env: Vec<(String, String)>,
}

impl Runner {
    /// No prefix, this time limit, the system's PATH.
    pub fn new(timeout: Span) -> Self {
        Self {
            prefix: Vec::new(),
            timeout,
            path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
            env: Vec::new(),
        }
    }

    /// The whole argument list, prefix included.
    pub fn argv(&self, args: &[String]) -> Vec<String> {
        self.prefix.iter().chain(args).cloned().collect()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// It could not be started, did not end in time, or printed more than [`OUTPUT_LIMIT`]. In
    /// none of these cases is it known what it has done.
    pub async fn run(&self, args: &[String]) -> Result<Output, CommandError> {
        let argv = self.argv(args);
        let Some((program, rest)) = argv.split_first() else {
            return Err(CommandError::Empty);
        };
        let mut command = Command::new(program);
        command
            .args(rest)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", &self.path)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(|source| CommandError::Start {
            program: program.into(),
            source,
        })?;
        let group = Group(child.id());
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let mut out = Stream::default();
        let mut err = Stream::default();
        let work = async {
            // Reading ends with the streams, or a little after the command itself.
            let reading = async {
                tokio::join!(out.read(stdout), err.read(stderr));
            };
            tokio::pin!(reading);
            tokio::select! {
                () = &mut reading => child.wait().await,
                status = child.wait() => {
                    tokio::select! {
                        () = &mut reading => {}
                        () = sleep(LINGER) => {}
                    }
                    status
                }
            }
        };
        let status = timeout(self.timeout.as_duration(), work).await;
        let ended = matches!(status, Ok(Ok(_)));
        // A command that has ended may have left processes on purpose (qsub does); one that has
        // not is killed with all that it started.
        group.release_if(ended);
        let name = || shell_words::join(&argv);
        match status {
            Err(_) => Err(CommandError::Timeout {
                command: name(),
                after: self.timeout,
                stderr: err.text(),
            }),
            Ok(Err(source)) => Err(CommandError::Wait {
                command: name(),
                source,
            }),
            Ok(Ok(_)) if out.cut || err.cut => Err(CommandError::TooMuchOutput { command: name() }),
            Ok(Ok(status)) => Ok(Output {
                code: status.code(),
                stdout: out.text(),
                stderr: err.text(),
            }),
        }
    }
}

/// What a command that ended in time has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// The first line that says which version it is.
    ///
    /// # Errors
    /// There is none; with what was said.
    pub(crate) fn version(&self, is_version: impl Fn(&str) -> bool) -> Result<String, String> {
        let mut lines = self.stdout.lines().chain(self.stderr.lines());
        let found = lines.find(|line| is_version(line.trim()));
        found.map(|line| line.trim().to_owned()).ok_or_else(|| {
            let said = self.complaint();
            format!("no version could be read in what the command said ({said})")
        })
    }

    /// Exit code and complaint in one line, for people.
    pub fn complaint(&self) -> String {
        let said = if self.stderr.trim().is_empty() {
            self.stdout.trim()
        } else {
            self.stderr.trim()
        };
        let said: String = said
            .chars()
            .take(400)
            .collect::<String>()
            .replace('\n', "; ");
        match self.code {
            Some(code) => format!("exit code {code}: {said}"),
            None => format!("ended by a signal: {said}"),
        }
    }
}

/// A command that has given no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nothing to run.
    #[error("the command is empty; name a program")]
    Empty,
    /// It could not be started.
    #[error("could not start `{}`; is it installed on the broker's host?", program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It did not end in time and was killed.
    #[error("`{command}` did not end within {after} and was killed; it said: `{stderr}`")]
    Timeout {
        /// What was run.
        command: String,
        /// The limit.
        after: Span,
        /// What it had complained about until then.
        stderr: String,
    },
    /// Its end could not be waited for.
    #[error("could not wait for `{command}`")]
    Wait {
        /// What was run.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It printed too much to be believed.
    #[error("`{command}` printed more than {OUTPUT_LIMIT} bytes")]
    TooMuchOutput {
        /// What was run.
        command: String,
    },
}

impl CommandError {
    /// True when the command was never started, so that it has done nothing.
    pub const fn did_nothing(&self) -> bool {
        match self {
            Self::Empty | Self::Start { .. } => true,
            Self::Timeout { .. } | Self::Wait { .. } | Self::TooMuchOutput { .. } => false,
        }
    }
}

/// Kills a command's process group when dropped, unless it was released.
struct Group(Option<u32>);

impl Group {
    fn release_if(mut self, ended: bool) {
        if ended {
            self.0 = None;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|p| i32::try_from(p).ok()) {
            // The group may be gone already, which is what is wanted.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// One output stream, bounded.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    cut: bool,
}

impl Stream {
    async fn read(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else {
            return;
        };
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            let room = OUTPUT_LIMIT - self.bytes.len();
            self.cut |= n > room;
            self.bytes.extend_from_slice(&chunk[..n.min(room)]);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[cfg(test)]
mod tests;
