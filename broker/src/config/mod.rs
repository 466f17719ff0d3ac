//! Configuration: a TOML file as a person writes it ([`raw`]), resolved with the embedded
//! defaults into [`Settings`], which the rest of the broker takes as an argument.
//!
//! Nothing here reads the environment: there are no hidden knobs.

mod raw;
mod resolve;
mod sites;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use broker_core::BrokerConfig;
use lrm_adapters::htcondor::HtcondorSettings;
use lrm_adapters::pbs::PbsSettings;
use lrm_adapters::slurm::SlurmSettings;
use protocol::ids::SiteName;
use protocol::slot_file::HypervisorSection;
use protocol::text::FileError;
use protocol::time::Span;

/// Every key with its default; shown by `pilot-broker show-config --defaults`.
pub const DEFAULT_CONFIG: &str = include_str!("default-config.toml");

/// Everything that the broker is told at its start. Paths are absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where the API is served.
    pub listen: SocketAddr,
    /// Database, secret, pilot jobs' directories, consoles.
    pub state_dir: PathBuf,
    /// Least important messages that are logged.
    pub log: tracing::Level,
    /// Certificate and key; none: plain http on loopback.
    pub tls: Option<Tls>,
    /// Limits of calls.
    pub http: Http,
    /// What the core is told: lease times, limits, provisioning, the sites' terms.
    pub core: BrokerConfig,
    /// Lives of tokens.
    pub tokens: Tokens,
    /// Bytes of a workspace's console that are kept.
    pub console_limit: u64,
    /// How long the directories of ended pilot jobs are kept.
    pub keep_pilot_logs: Span,
    /// How long the records of ended workspaces and pilot jobs are kept.
    pub keep_ended: Span,
    /// How pilots come to the sites; what they agreed to is in `core`.
    pub sites: BTreeMap<SiteName, Site>,
}

/// Files of the https server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub cert: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// Limits of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// Largest body, bytes.
    pub body_limit: usize,
    /// A call that waits for nothing is given up after so long.
    pub request_timeout: Span,
    /// Longest wait of a call that follows something.
    pub max_wait: Span,
}

/// Lives of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Of users and administrators, when nothing else is said.
    pub user: Span,
    /// Of a pilot job, from its submit.
    pub pilot: Span,
}

/// How pilots come to a site, beside what it agreed to.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// How pilots are submitted there.
    pub lrm: SiteLrm,
    /// How often the listing is asked for.
    pub poll: Span,
    /// Bound of each LRM command.
    pub command_timeout: Span,
    /// Put before each LRM command, as `["ssh", "login1"]`.
    pub command_prefix: Vec<String>,
    /// Notice and safety, for the pilot's slot file.
    pub notice: Span,
    /// See there.
    pub margin: Span,
}

/// How pilots come to a site.
#[derive(Clone, Debug, PartialEq)]
pub enum SiteLrm {
    /// Started by hand, with a token from `POST /v1/pilots`.
    None,
    /// Submitted to the simulated LRM.
    Sim {
        /// Where its daemon serves.
        dir: PathBuf,
        /// Its command.
        program: PathBuf,
        /// The queue for pilots.
        queue: String,
        /// Pilot jobs may be started again under the same id.
        rerunnable: bool,
        /// What the pilot jobs need to know.
        job: Box<JobSettings>,
    },
    /// Submitted to HTCondor.
    Htcondor {
        /// Its adapter's settings; time limit and prefix are the site's.
        settings: Box<HtcondorSettings>,
        /// What the pilot jobs need to know.
        job: Box<JobSettings>,
    },
    /// Submitted to Slurm.
    Slurm {
        /// How; time limit and prefix of its commands are the site's.
        settings: Box<SlurmSettings>,
        /// What the pilot jobs need to know.
        job: Box<JobSettings>,
    },
    /// Submitted to PBS.
    Pbs {
        /// How; time limit and prefix of its commands are the site's.
        settings: Box<PbsSettings>,
        /// What the pilot jobs need to know.
        job: Box<JobSettings>,
    },
}

/// What a pilot job is told, beside what the provisioner decides.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSettings {
    /// How nodes reach the broker; none: by the address that it serves.
    pub broker_url: Option<String>,
    /// Authorities that pilots trust.
    pub broker_ca: Option<PathBuf>,
    /// The site's store.
    pub store: PathBuf,
    /// Scratch on the node.
    pub scratch: PathBuf,
    /// The pilot.
    pub program: PathBuf,
    /// What runs guests.
    pub hypervisor: HypervisorSection,
}

impl SiteLrm {
    /// The word in the configuration and in views.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sim { .. } => "sim",
            Self::Htcondor { .. } => "htcondor",
            Self::Slurm { .. } => "slurm",
            Self::Pbs { .. } => "pbs",
        }
    }
}

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what a configuration looks like.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// It can't be read; or it is not TOML, has an unknown key, or values that can't be (with
    /// line and caret where the position is known).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (text, base) = read(path)?;
        Ok(Self::parse(&path.display().to_string(), &base, &text)?)
    }

    /// The same from text; relative paths are taken from `base`, which must be absolute.
    ///
    /// # Errors
    /// As for [`Settings::load`].
    pub fn parse(file: &str, base: &Path, text: &str) -> Result<Self, FileError> {
        resolve::settings(file, base, text)
    }
}

/// The configuration at `path` with all defaults filled in, as TOML that means the same.
///
/// # Errors
/// As for [`Settings::load`].
pub fn show(path: &Path) -> Result<String, ConfigError> {
    let (text, base) = read(path)?;
    Ok(resolve::shown(&path.display().to_string(), &base, &text)?)
}

fn read(path: &Path) -> Result<(String, PathBuf), ConfigError> {
    let fail = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let full = std::path::absolute(path).map_err(fail)?;
    Ok((text, full.parent().unwrap_or(Path::new("/")).to_owned()))
}
