//! How a command ends that did not succeed: message, help and exit code.

use std::io;
use std::path::PathBuf;

use protocol::codes::exit;
use protocol::text::FileError;

use crate::client::{ClientError, SetupError};
use crate::config::ConfigError;
use crate::output::{Detail, Output, warn, words};

/// Exit code of a command that Ctrl-C ended while the workspace goes on.
pub const DETACHED: i32 = 130;

/// Why a command ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A request file.
    #[error(transparent)]
    Request(#[from] FileError),
    /// A call.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A submit that had no answer, which must be repeated with the same key.
    #[error("{error}")]
    Submit {
        /// Why.
        error: ClientError,
        /// How to repeat it.
        help: String,
    },
    /// Something on the command line that only the broker could tell to be wrong.
    #[error("{message}")]
    Usage {
        /// What.
        message: String,
        /// What to write instead.
        help: String,
    },
    /// A file can't be read or written.
    #[error("failed to {what} `{}`", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The standard output can't be written.
    #[error("failed to write the result")]
    Output(#[from] io::Error),
    /// Ctrl-C before the broker had answered.
    #[error("interrupted")]
    Interrupted {
        /// How to go on.
        help: String,
    },
    /// The runtime can't be started.
    #[error("failed to start")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

impl From<SetupError> for Failure {
    fn from(e: SetupError) -> Self {
        Self::Config(ConfigError::Client(e))
    }
}

impl Failure {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Config(_) | Self::Request(_) | Self::Usage { .. } | Self::File { .. } => {
                exit::USAGE
            }
            Self::Client(e) | Self::Submit { error: e, .. } => e.exit_code(),
            // The reader of a pipe has had enough: all is well.
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => exit::OK,
            Self::Output(_) => exit::FAILED,
            Self::Interrupted { .. } => DETACHED,
            Self::Runtime { .. } => exit::INTERNAL,
        }
    }

    /// A stable word: the broker's code where it refused.
    fn code(&self) -> String {
        match self {
            Self::Client(e) | Self::Submit { error: e, .. } => match e {
                ClientError::Refused { body, .. } => serde_json::to_value(body.code)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default(),
                ClientError::NoAnswer { .. } => "no_answer".into(),
                ClientError::Untrusted { .. } => "untrusted_broker".into(),
                ClientError::Unreadable { .. } => "unreadable_answer".into(),
            },
            Self::Config(_) => "settings".into(),
            Self::Request(_) => "request_file".into(),
            Self::Usage { .. } => "usage".into(),
            Self::File { .. } => "file".into(),
            Self::Output(_) => "output".into(),
            Self::Interrupted { .. } => "interrupted".into(),
            Self::Runtime { .. } => "internal".into(),
        }
    }

    fn help(&self) -> Option<&str> {
        match self {
            Self::Config(e) => e.help(),
            Self::Client(e) => e.help(),
            Self::Submit { help, .. } | Self::Usage { help, .. } | Self::Interrupted { help } => {
                Some(help)
            }
            Self::Request(_) | Self::File { .. } | Self::Output(_) | Self::Runtime { .. } => None,
        }
    }

    /// The message with its causes, joined by colons.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            text = format!("{text}: {e}");
            cause = e.source();
        }
        text
    }

    /// Prints it on the standard error output.
    pub fn print(&self, output: &Output) {
        if matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe) {
            return;
        }
        let exit = self.exit_code();
        match output.detail {
            Detail::Json => warn(
                &serde_json::json!({"error": {
                    "code": self.code(), "detail": self.chain(), "help": self.help(), "exit": exit,
                }})
                .to_string(),
            ),
            Detail::Human | Detail::Quiet => {
                warn(&format!("error: {}", words::printable(&self.chain())));
                if let Some(help) = self.help() {
                    warn(&format!("help: {}", words::printable(help)));
                }
            }
        }
    }
}
