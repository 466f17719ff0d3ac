//! `pilot-broker doctor`: tries a site with one canary job, through the same adapter, from the
//! same directory and with the same rendered job as pilots, and says what it found.
//!
//! ```text
//! listing? ─► submit (no answer: look up by key, never repeat) ─► waits ─► started
//!    ─► clocks, store, the canary's own findings ─► cancel ─► signals, kill ─► job's end
//!    ─► does its child survive? ─► everything removed
//! ```
//!
//! At most one job per run. Its directory is `<state_dir>/doctor/pilot-jobs/<key>/`; what a doctor
//! that was killed has left there is dealt with by the next one. A running broker ignores the job:
//! the key is not one of its own.

mod canary;
mod earlier;
mod evidence;
mod judge;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lrm_adapters::LocalResourceManager;
use protocol::finding::{Finding, Level, worst};
use protocol::ids::SiteName;
use protocol::lrm::Observation;
use protocol::time::Span;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::Settings;
use crate::jobs::JobDirs;
use crate::preview::{PreviewError, Target, target};
use crate::serve::{ServeError, prepare_state_dir};
use canary::Canary;

/// How long the broker's own port may take to be connected to.
const CONNECT: Duration = Duration::from_secs(2);

/// The doctor could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The site can't be tried.
    #[error(transparent)]
    Site(#[from] PreviewError),
    /// The state directory can't be used.
    #[error(transparent)]
    StateDir(#[from] ServeError),
    /// The canary's directory can't be made.
    #[error("cannot make the doctor's directory `{}`", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two at once would take each other's canaries for leftovers.
    #[error(
        "cannot begin: another doctor of this broker is at work. help: wait until it has ended"
    )]
    Busy,
}

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the canary may wait in the queue before it is withdrawn.
    pub wait: Span,
}

/// What the doctor found; `--json` prints it. Stable.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The site.
    pub site: SiteName,
    /// Its LRM.
    pub lrm: &'static str,
    /// Its version, in its own words; null where it did not tell.
    pub lrm_version: Option<String>,
    /// The worst of all findings.
    pub level: Level,
    /// In the order in which they were made.
    pub findings: Vec<Finding>,
}

/// What all parts of the doctor need.
struct Ward<'a> {
    settings: &'a Settings,
    target: Target<'a>,
    dirs: JobDirs,
    clock: Clock,
    /// Becomes true when the doctor is told to stop.
    interrupted: &'a AtomicBool,
    say: &'a (dyn Fn(&str) + Sync),
}

/// Tries the site. `say` is told what happens meanwhile, for people who wait. When `interrupted`
/// becomes true, the canary is withdrawn and the findings so far are given.
///
/// # Errors
/// It could not begin; nothing was submitted.
pub async fn examine(
    settings: &Settings,
    name: &SiteName,
    options: Options,
    interrupted: &AtomicBool,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Report, DoctorError> {
    let target = target(settings, name)?;
    prepare_state_dir(&settings.state_dir)?;
    let root = settings.state_dir.join("doctor");
    let directory = |source| DoctorError::Directory {
        path: root.clone(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .map_err(directory)?;
    let _lock = lock(&root)?;
    let ward = Ward {
        settings,
        target,
        dirs: JobDirs::open(&root).map_err(directory)?,
        clock: Clock::new(),
        interrupted,
        say,
    };
    let (findings, lrm_version) = ward.findings(options).await;
    Ok(Report {
        site: name.clone(),
        lrm: ward.target.lrm.capabilities().name,
        lrm_version,
        level: worst(&findings),
        findings,
    })
}

fn lock(root: &Path) -> Result<File, DoctorError> {
    let path = root.join("lock");
    let fail = |source| DoctorError::Directory {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DoctorError::Busy),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

impl Ward<'_> {
    /// What was found, and the LRM's version.
    async fn findings(&self, options: Options) -> (Vec<Finding>, Option<String>) {
        let mut found = Vec::new();
        let version = self.target.lrm.version().await;
        (self.say)("asking the LRM for its listing");
        let before = self.clock.now();
        let observation = self.target.lrm.observe().await;
        let took = self.clock.now().since(before);
        let answers = match observation {
            Observation::NoAnswer(why) => {
                found.push(judge::no_answer(&why));
                return (found, version.ok());
            }
            Observation::Listing(jobs) => jobs.len(),
        };
        let name = self.target.lrm.capabilities().name;
        found.push(judge::answers(name, answers, took));
        found.push(judge::version(name, &version));
        let version = version.ok();
        found.extend(earlier::deal_with(self).await);
        if self.is_interrupted() {
            return (found, version);
        }
        match Canary::submit(self).await {
            Err(findings) => found.extend(findings),
            Ok((canary, submitted)) => {
                found.push(submitted);
                let evidence = canary.follow(options.wait).await;
                found.extend(judge::all(&evidence, &self.circumstances()));
                found.extend(canary.clean_up(&evidence).await);
            }
        }
        (found, version)
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn circumstances(&self) -> judge::Circumstances {
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        judge::Circumstances {
            uid: uid.as_raw(),
            user: user.map_or_else(|| uid.to_string(), |user| user.name),
            notice: self.target.site.notice,
            margin: self.target.site.margin,
            broker_runs: listens(self.settings.listen),
            has_prefix: !self.target.site.command_prefix.is_empty(),
        }
    }
}

/// True when something takes connections where the broker is to serve.
fn listens(at: SocketAddr) -> bool {
    let mut at = at;
    if at.ip().is_unspecified() {
        match at {
            SocketAddr::V4(_) => at.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => at.set_ip(Ipv6Addr::LOCALHOST.into()),
        }
    }
    TcpStream::connect_timeout(&at, CONNECT).is_ok()
}
