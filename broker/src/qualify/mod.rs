//! `lrm-conformance`: the conformance suite of `docs/adapters/README.md` against the real LRM of a
//! configured site, within the limits of its administrator.
//!
//! ```text
//! earlier run's jobs ─► listing? ─► rule ─► rule ─► ... ─► every job over? ─► directories removed
//!                                    │  interrupted                ▲
//!                                    └── calm the LRM, cancel ─────┘
//! ```
//!
//! The adapter is the broker's own, made from the same configuration, and the jobs are rendered by
//! it; only the program in the pilot's place is a small script. Their directories are
//! `<state_dir>/conformance/pilot-jobs/<key>/`: what a run that was killed has left there is dealt
//! with by the next one. A running broker ignores the jobs: their keys are not its own.

pub mod cli;
mod front;
mod hooks;
mod report;
mod rig;
mod sweep;
mod watched;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use broker_core::PilotOrder;
use lrm_adapters::LocalResourceManager as _;
use lrm_adapters::command::Runner;
use lrm_adapters::conformance::{Rig as _, Rule, TestJobs, Verdict};
use protocol::ids::{SiteName, SubmitKey};
use protocol::lrm::Observation;
use protocol::time::Span;
use tokio::sync::watch;

use crate::config::{Settings, Site, SiteLrm};
use crate::jobs::JobDirs;
use crate::pilot_jobs;
use crate::preview::{PreviewError, Target, broker_url, target};
use crate::serve::{ServeError, prepare_state_dir};
use front::Front;
pub use hooks::{Hook, Hooks};
pub use report::{Outcome, Report, RuleReport};
use rig::SiteRig;
pub use watched::Calls;
use watched::Watched;

/// More cores than any node has, in a number that LRMs can read.
const TOO_MANY_CORES: u32 = 60_000;

/// Why a rule was not checked.
const INTERRUPTED: &str = "interrupted";

/// It could not begin; nothing was submitted.
#[derive(Debug, thiserror::Error)]
pub enum QualifyError {
    /// The site can't be tried.
    #[error(transparent)]
    Site(#[from] PreviewError),
    /// The state directory can't be used.
    #[error(transparent)]
    StateDir(#[from] ServeError),
    /// The test jobs' directory can't be made.
    #[error("cannot use the directory `{}`", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two at once would take each other's jobs for leftovers.
    #[error(
        "another lrm-conformance with this state directory is at work\nhelp: wait until it has ended"
    )]
    Busy,
    /// There is nothing to check.
    #[error("the LRM of site `{site}` gives no listing: {why}")]
    NoAnswer {
        /// The site.
        site: SiteName,
        /// The adapter's words.
        why: String,
    },
    /// A name was not one.
    #[error("cannot name a test job: {why}")]
    Name {
        /// Why.
        why: String,
    },
}

/// What is checked, and the limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// These rules, in this order.
    pub rules: Vec<Rule>,
    /// One rule submits so many jobs at most; so no more than that exist at a time.
    pub max_jobs: u32,
    /// Walltime of the test jobs; the site's `walltime_max` if that is less.
    pub walltime: Span,
    /// How long a job may wait for its start before its rule is given up as not applicable.
    pub max_wait: Span,
    /// How long to wait for anything else, beside twice the site's notice.
    pub patience: Span,
    /// A number of cores for which the LRM refuses a job at its submit.
    pub refused_cores: Option<u32>,
    /// Commands of the administrator.
    pub hooks: Hooks,
}

/// Who is told while it lasts.
pub struct Listener<'a> {
    /// What happens, for people who wait.
    pub say: &'a dyn Fn(&str),
    /// What became of a rule, as soon as it is known.
    pub told: &'a dyn Fn(&RuleReport),
}

/// Checks the rules. When `interrupted` becomes true, everything of this run is cancelled, and
/// the report has the rules that were checked.
///
/// # Errors
/// It could not begin; nothing was submitted.
pub async fn qualify(
    settings: &Settings,
    name: &SiteName,
    options: &Options,
    interrupted: watch::Receiver<bool>,
    listener: &Listener<'_>,
) -> Result<Report, QualifyError> {
    let target = target(settings, name)?;
    prepare_state_dir(&settings.state_dir)?;
    let root = settings.state_dir.join("conformance");
    let directory = |source| QualifyError::Directory {
        path: root.clone(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .map_err(directory)?;
    let _lock = lock(&root)?;
    let dirs = JobDirs::open(&root).map_err(directory)?;
    let front = Front::write(&root, &target.site.lrm).map_err(directory)?;
    let rig = rig(settings, &target, &root, front, options)?;
    (listener.say)("asking the LRM for its listing");
    if let Observation::NoAnswer(why) = sweep::adopt_earlier(&rig, &dirs, listener.say).await {
        return Err(QualifyError::NoAnswer {
            site: name.clone(),
            why,
        });
    }
    if !rig.lrm().open().is_empty() {
        // What lives on all the same stops us after the first rule.
        sweep::sweep(&rig, &dirs, listener.say).await;
    }
    let version = version(target.site).await;
    let rules = check(&rig, options, interrupted, listener).await;
    let left = sweep::sweep(&rig, &dirs, listener.say).await;
    Ok(Report {
        site: name.clone(),
        lrm: rig.lrm().capabilities().name,
        version,
        rules,
        left,
        calls: rig.lrm().calls(),
    })
}

/// Checks one rule after the other, until something keeps it from going on.
async fn check(
    rig: &SiteRig<'_>,
    options: &Options,
    mut interrupted: watch::Receiver<bool>,
    listener: &Listener<'_>,
) -> Vec<RuleReport> {
    let mut reports = Vec::new();
    let mut stop: Option<&'static str> = None;
    for rule in &options.rules {
        let report = match (stop, rig.lacks(*rule)) {
            (Some(why), _) => RuleReport::not_checked(*rule, why),
            (None, Some(why)) => {
                let verdict = Verdict::NotApplicable(why);
                RuleReport::of(*rule, verdict, None, None, None)
            }
            (None, None) => {
                (listener.say)(&format!("rule {}: {}", rule.number(), rule.title()));
                rig.begin();
                let verdict = tokio::select! {
                    biased;
                    () = told_to_stop(rig, &mut interrupted) => None,
                    verdict = rule.check(rig) => Some(verdict),
                };
                stop = why_stop(rig, verdict.as_ref());
                match verdict {
                    None => {
                        let what = "interrupted: cancelling all jobs of this run; wait for it";
                        (listener.say)(what);
                        rig.calm().await;
                        RuleReport::not_checked(*rule, INTERRUPTED)
                    }
                    Some(verdict) => {
                        let (broken, slow) = (rig.broken(), rig.lrm().take_slow());
                        RuleReport::of(*rule, verdict, rig.means(), broken, slow)
                    }
                }
            }
        };
        (listener.told)(&report);
        reports.push(report);
    }
    reports
}

/// Why no further rule is checked.
fn why_stop(rig: &SiteRig<'_>, verdict: Option<&Verdict>) -> Option<&'static str> {
    match verdict {
        None => Some(INTERRUPTED),
        Some(_) if rig.lrm().open().values().any(|job| job.is_listed) => {
            Some("jobs of an earlier rule live on")
        }
        Some(_) => None,
    }
}

/// Returns when we are told to stop and no submit is under way: one that is cut off may have been
/// taken.
async fn told_to_stop(rig: &SiteRig<'_>, interrupted: &mut watch::Receiver<bool>) {
    if interrupted.wait_for(|is| *is).await.is_err() {
        // Nobody is there to tell us any more.
        std::future::pending::<()>().await;
    }
    drop(rig.lrm().between_submits().await);
}

/// The rig: the site's adapter behind the front, and jobs like the site's pilot jobs.
fn rig<'a>(
    settings: &Settings,
    target: &Target<'_>,
    root: &Path,
    front: Front,
    options: &'a Options,
) -> Result<SiteRig<'a>, QualifyError> {
    let no_site = || PreviewError::NoSuchSite {
        site: target.name.clone(),
        known: String::new(),
    };
    let terms = (settings.core.sites.iter())
        .find(|s| s.name == *target.name)
        .ok_or_else(no_site)?;
    let mut site = target.site.clone();
    site.command_prefix = front.prefix(&target.site.command_prefix);
    let (lrm, _) = pilot_jobs::adapter(&site).ok_or_else(no_site)?;
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let prefix = format!("wp-conformance-{}", &unique[..6]);
    let name = |e: protocol::ids::IdError| QualifyError::Name { why: e.to_string() };
    let order = PilotOrder {
        key: SubmitKey::new(&prefix).map_err(name)?,
        site: target.name.clone(),
        resources: terms.slot,
        walltime: options.walltime,
        min_walltime: options.walltime,
        avoid: Vec::new(),
        nodes: 1,
    };
    let dirs = JobDirs::at(root);
    let template =
        pilot_jobs::pilot_job(order, target.site, target.job, &dirs, &broker_url(settings));
    let refused_cores = options.refused_cores.or(match &site.lrm {
        SiteLrm::Sim { .. } | SiteLrm::Slurm { .. } => Some(TOO_MANY_CORES),
        // They take jobs that fit nowhere, unless the site has a limit.
        SiteLrm::None | SiteLrm::Pbs { .. } | SiteLrm::Htcondor { .. } => None,
    });
    let jobs = TestJobs::new(template, terms.slot, dirs.root(), &prefix);
    let lrm = Watched::new(lrm, site.poll);
    Ok(SiteRig::new(
        lrm,
        jobs,
        front,
        options,
        terms,
        refused_cores,
    ))
}

/// What the LRM's command says of its version: its first line.
async fn version(site: &Site) -> Option<String> {
    let tool = |dir: &Option<PathBuf>, name: &str| match dir {
        Some(dir) => dir.join(name).display().to_string(),
        None => name.to_owned(),
    };
    let command = match &site.lrm {
        SiteLrm::None => return None,
        SiteLrm::Sim { program, .. } => vec![program.display().to_string(), "--version".to_owned()],
        // Slurm's commands look for their configuration even for this.
        SiteLrm::Slurm { settings, .. } => std::iter::once("env".to_owned())
            .chain((settings.conf.iter()).map(|conf| format!("SLURM_CONF={}", conf.display())))
            .chain([tool(&settings.bin_dir, "sbatch"), "--version".to_owned()])
            .collect(),
        SiteLrm::Pbs { settings, .. } => {
            vec![tool(&settings.bin_dir, "qstat"), "--version".to_owned()]
        }
        SiteLrm::Htcondor { settings, .. } => vec![tool(&settings.bin_dir, "condor_version")],
    };
    let mut runner = Runner::new(site.command_timeout);
    runner.prefix.clone_from(&site.command_prefix);
    runner.path = format!("{}:/opt/pbs/bin", runner.path);
    let output = runner.run(&command).await.ok()?;
    let said = [output.stdout, output.stderr].join("\n");
    let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
    (output.code == Some(0)).then(|| line.to_owned())
}

fn lock(root: &Path) -> Result<File, QualifyError> {
    let path = root.join("lock");
    let fail = |source| QualifyError::Directory {
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
        Err(TryLockError::WouldBlock) => Err(QualifyError::Busy),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}
