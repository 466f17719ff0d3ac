//! What can go wrong with a call, told apart by what it means for the caller.

use std::path::PathBuf;

use protocol::codes::{ErrorBody, ErrorCode, exit};

/// A client that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The broker's address is not one.
    #[error("`{url}` is not a broker's address: {why}")]
    Address {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The token can't be sent.
    #[error("the token is empty or has characters that no token has")]
    Token,
    /// The authorities' file can't be read.
    #[error("failed to read the authorities in `{path}`")]
    CaRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The authorities' file has no certificates.
    #[error("`{path}` has no PEM certificates that can be used")]
    CaContent {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client can't be made.
    #[error("failed to set up TLS")]
    Tls {
        /// Why.
        source: reqwest::Error,
    },
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker refused. Nothing was done.
    #[error("failed to {call}: {}", body.detail)]
    Refused {
        /// What was tried, in words.
        call: String,
        /// Code, particulars, help.
        body: ErrorBody,
    },
    /// No answer came in time; the broker may or may not have acted.
    #[error("failed to {call}: no answer from the broker at {broker}: {why}")]
    NoAnswer {
        /// What was tried, in words.
        call: String,
        /// The broker's address.
        broker: String,
        /// The particulars.
        why: String,
        /// True when the call surely never reached the broker.
        not_sent: bool,
    },
    /// The other side could not show that it is the broker; nothing was sent.
    #[error("failed to {call}: the broker at {broker} can't be trusted: {why}")]
    Untrusted {
        /// What was tried, in words.
        call: String,
        /// The broker's address.
        broker: String,
        /// The particulars.
        why: String,
    },
    /// An answer came that is none of this API; the broker may or may not have acted.
    #[error("failed to {call}: the answer from {broker} (HTTP {status}) can't be read: {why}")]
    Unreadable {
        /// What was tried, in words.
        call: String,
        /// The broker's address.
        broker: String,
        /// Its HTTP status.
        status: u16,
        /// The particulars.
        why: String,
    },
}

impl ClientError {
    /// The code, when the broker refused.
    pub fn refused(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { body, .. } => Some(body.code),
            Self::NoAnswer { .. } | Self::Untrusted { .. } | Self::Unreadable { .. } => None,
        }
    }

    /// True when the same call may succeed later: nobody answered, or not now.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { body, .. } => body.code.is_transient(),
            Self::NoAnswer { .. } => true,
            Self::Untrusted { .. } => false,
            // What stands between us and a broker that restarts answers so.
            Self::Unreadable { status, .. } => *status >= 500,
        }
    }

    /// True when the broker surely did not act.
    pub fn surely_not_done(&self) -> bool {
        match self {
            // An internal fault may have struck after the deed.
            Self::Refused { body, .. } => body.code != ErrorCode::Internal,
            Self::NoAnswer { not_sent, .. } => *not_sent,
            Self::Untrusted { .. } => true,
            Self::Unreadable { .. } => false,
        }
    }

    /// What to do about it, when the broker or this client knows.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Refused { body, .. } => body.help.as_deref(),
            Self::NoAnswer { .. } => {
                Some("check the address (`--broker`), and that the broker runs")
            }
            Self::Untrusted { .. } => Some(
                "check the address (`--broker`) and the authorities (`--ca-file`); ask the broker's administrator for them",
            ),
            Self::Unreadable { .. } => {
                Some("check that `--broker` is the address of a pilot-broker of this version")
            }
        }
    }

    /// The exit code that goes with it, from [`protocol::codes::exit`].
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Refused { body, .. } => match body.code {
                ErrorCode::Unauthenticated | ErrorCode::Forbidden => exit::DENIED,
                ErrorCode::NotFound => exit::NOT_FOUND,
                ErrorCode::BadRequest
                | ErrorCode::WrongState
                | ErrorCode::KeyReused
                | ErrorCode::Fenced
                | ErrorCode::TooLarge
                | ErrorCode::Impossible
                | ErrorCode::VersionTooOld
                | ErrorCode::TooMany
                | ErrorCode::Internal
                | ErrorCode::Unavailable => exit::FAILED,
            },
            Self::NoAnswer { .. } | Self::Untrusted { .. } | Self::Unreadable { .. } => {
                exit::NO_ANSWER
            }
        }
    }
}
