//! The typed client of the broker's API: every call that users and administrators can make.
//!
//! Rules: every call is bounded in time; only a call that changes nothing, or that the broker
//! recognises when it is repeated, is repeated by itself when no answer came; the error says
//! whether the broker refused (and with which code), gave no answer (and may have acted), or
//! gave an answer that can't be read. Owner of the connection: [`transport::Transport`].

mod calls;
mod error;
mod transport;

pub use calls::{ConsolePart, PageRequest, WorkspaceAction, WorkspaceFilter};
pub use error::{ClientError, SetupError};
pub use transport::Retry;

use std::path::PathBuf;
use std::time::Duration;

use transport::Transport;

/// How to reach a broker.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// As `https://broker.example.org:8443`; plain `http` only to a loopback address.
    pub broker: String,
    /// The bearer token; without one only health and the API's description can be asked.
    pub token: Option<Token>,
    /// PEM file with the authorities to trust instead of the machine's own.
    pub ca_file: Option<PathBuf>,
    /// How often and how long calls that may be repeated are repeated.
    pub retry: Retry,
    /// The longest wait for one answer, beyond the time that the call itself asks the broker
    /// to hold it.
    pub answer_timeout: Duration,
}

impl ClientSettings {
    /// Settings for a broker, with the usual time limits, no token and the machine's authorities.
    pub fn new(broker: impl Into<String>) -> Self {
        Self {
            broker: broker.into(),
            token: None,
            ca_file: None,
            retry: Retry::default(),
            answer_timeout: Duration::from_secs(30),
        }
    }
}

/// A bearer token. Never shown, also not by `Debug`.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the text of a token; white space around it is dropped.
    ///
    /// # Errors
    /// Empty, or with characters that can't stand in a header.
    pub fn new(text: &str) -> Result<Self, SetupError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SetupError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// A client of one broker. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// The address, the authorities' file or the TLS set-up is no good.
    pub fn new(settings: &ClientSettings) -> Result<Self, SetupError> {
        Ok(Self {
            transport: Transport::new(settings)?,
        })
    }

    /// The same client, but every call is tried once only: for callers that show each failure.
    #[must_use]
    pub fn once(&self) -> Self {
        let mut client = self.clone();
        client.transport.set_retry(Retry::never());
        client
    }
}
