//! PBS: OpenPBS and PBS Pro, and Torque. The adapter renders a pilot job, runs `qsub`, `qstat`
//! and `qdel`, and reads what they print.
//!
//! Which [`Dialect`] it is and which account owns our jobs is asked once, by two commands that
//! need no server. `docs/adapters/pbs.md` is the page for sites.

mod answers;
mod blocks;
mod dialect;
mod render;
mod state;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, JobState, Observation, PilotJob, SubmitAnswer};
use protocol::time::Span;
use tokio::sync::OnceCell;

use crate::ask;
use crate::command::{CommandError, Output, Runner};
use crate::contract::{Cancel, Capabilities, LocalResourceManager};
use answers::{Listed, Look};
pub use dialect::Dialect;

/// The job's variable that holds our key; everybody can read it.
const KEY_VARIABLE: &str = "WP_KEY";

/// Why there are no pilot jobs on several nodes. Measured on OpenPBS: `pbsdsh` starts a task on
/// each node, and its exit code is 0 whatever theirs are. What was not measured is which signals
/// the tasks on the other nodes hear, and how long before they are killed: without that no notice
/// can be promised to the guests there.
pub const ONE_NODE: &str = "pilots on the other nodes of a PBS job are started by its task manager, and which signal they \
     hear before they are killed is not known; submit jobs of one node, as many as are needed";

/// How to use a PBS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PbsSettings {
    /// The queue for pilots; none: the server's default.
    pub queue: Option<String>,
    /// Account to charge (`-A`).
    pub account: Option<String>,
    /// Project (`-P`); OpenPBS only.
    pub project: Option<String>,
    /// Further words for `qsub`, as `["-W", "group_list=pilots"]`.
    pub options: Vec<String>,
    /// Pilot jobs may be started again under the same id (`-r y`).
    pub rerunnable: bool,
    /// Which PBS it is; none: `qstat --version` tells.
    pub dialect: Option<Dialect>,
    /// The account that owns our jobs; none: `id -un` tells.
    pub user: Option<String>,
    /// Directory of the PBS commands, on the submit host and on the nodes; none: they are on the
    /// path or in `/opt/pbs/bin`.
    pub bin_dir: Option<PathBuf>,
    /// Queues to list; empty: all jobs that the server shows.
    pub listed_queues: Vec<String>,
    /// Ended jobs are listed for a while: OpenPBS is asked for them (`qstat -x`) unless its server
    /// says that it keeps none; Torque lists them by itself unless its `keep_completed` is 0.
    pub history: bool,
    /// Longest wait for each command.
    pub timeout: Span,
    /// Put before every command, as `["ssh", "login1"]`.
    pub prefix: Vec<String>,
}

impl PbsSettings {
    /// The server's default queue, jobs that are not started again, everything else asked for, a
    /// time limit of 20 s.
    pub fn new() -> Self {
        Self {
            queue: None,
            account: None,
            project: None,
            options: Vec::new(),
            rerunnable: false,
            dialect: None,
            user: None,
            bin_dir: None,
            listed_queues: Vec::new(),
            history: true,
            timeout: Span::from_secs(20),
            prefix: Vec::new(),
        }
    }
}

impl Default for PbsSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// The adapter.
#[derive(Clone, Debug)]
pub struct Pbs {
    settings: PbsSettings,
    runner: Runner,
    known: Arc<Known>,
}

/// What was learned about the PBS.
#[derive(Debug, Default)]
struct Known {
    probed: OnceCell<Probed>,
    /// The server has said that it keeps no history.
    no_history: AtomicBool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Probed {
    dialect: Dialect,
    user: String,
}

impl Pbs {
    /// An adapter with these settings; nothing is run yet.
    pub fn new(settings: PbsSettings) -> Self {
        let mut runner = Runner::new(settings.timeout);
        runner.prefix.clone_from(&settings.prefix);
        runner.path = format!("{}:/opt/pbs/bin", runner.path);
        Self {
            settings,
            runner,
            known: Arc::new(Known::default()),
        }
    }

    async fn run(&self, argv: &[String]) -> Result<Output, CommandError> {
        self.runner.run(argv).await
    }

    /// Dialect and account: asked until they were told once.
    async fn probed(&self) -> Result<&Probed, String> {
        self.known.probed.get_or_try_init(|| self.probe()).await
    }

    async fn probe(&self) -> Result<Probed, String> {
        let ask = async |argv: &[String]| self.run(argv).await.map_err(|e| e.to_string());
        let dialect = match self.settings.dialect {
            Some(dialect) => dialect,
            None => dialect::read(&ask(&render::version(&self.settings)).await?)?,
        };
        let user = match &self.settings.user {
            Some(user) => user.clone(),
            None => dialect::read_user(&ask(&["id", "-un"].map(str::to_owned)).await?)?,
        };
        tracing::info!(pbs.dialect = dialect.as_str(), pbs.user = %user, "probed the PBS");
        Ok(Probed { dialect, user })
    }

    fn asks_for_history(&self) -> bool {
        self.settings.history && !self.known.no_history.load(Ordering::Relaxed)
    }

    async fn listing(&self) -> Observation {
        let probed = match self.probed().await {
            Ok(probed) => probed,
            Err(why) => return Observation::NoAnswer(why),
        };
        // A second round only once, when the server says that it keeps no history.
        for history in [self.asks_for_history(), false] {
            let argv = render::listing(&self.settings, probed.dialect, history);
            let output = match self.run(&argv).await {
                Ok(output) => output,
                Err(e) => return Observation::NoAnswer(e.to_string()),
            };
            match answers::listing(&output, probed.dialect, &probed.user) {
                Listed::Answer(observation) => return observation,
                Listed::NoHistory => self.known.no_history.store(true, Ordering::Relaxed),
            }
        }
        Observation::NoAnswer("the server speaks of history although it was not asked".to_owned())
    }

    /// A look, and then the `qdel`: it hits whatever the job does by then, also where it was
    /// meant for one that waits. PBS has no command that does both.
    async fn end(&self, id: &LrmJobId, key: &SubmitKey, how: Cancel) -> CancelAnswer {
        let probed = match self.probed().await {
            Ok(probed) => probed,
            Err(why) => return CancelAnswer::NoAnswer(why),
        };
        let look = match self.run(&render::look(&self.settings, id)).await {
            Ok(output) => answers::look(&output, probed.dialect, &probed.user, key),
            Err(e) => return CancelAnswer::NoAnswer(e.to_string()),
        };
        match look {
            Look::Answer(answer) => answer,
            Look::Ours(state) if how == Cancel::WhileWaiting && !waits(&state) => {
                CancelAnswer::Started
            }
            Look::Ours(_) => {
                let argv = render::cancel(&self.settings, id);
                self.runner.cancel(&argv, answers::cancel).await
            }
        }
    }

    /// Writes the job's two scripts.
    async fn write(&self, job: &PilotJob) -> Result<(), String> {
        let files = [
            (render::SLOT_END, render::slot_end(&self.settings)),
            (render::JOB, render::script(job)),
        ]
        .map(|(name, text)| (job.directory.join(name), text));
        ask::write(files.into()).await
    }
}

impl LocalResourceManager for Pbs {
    fn capabilities(&self) -> Capabilities {
        let listed = if self.asks_for_history() {
            // OpenPBS's job_history_duration is two weeks by default, Torque's keep_completed
            // five minutes.
            Span::from_mins(1)
        } else {
            Span::ZERO
        };
        Capabilities {
            name: "PBS",
            min_walltime: false,
            same_id_restart: self.settings.rerunnable,
            avoids_nodes: false,
            ended_listed_for: listed,
            // Two for the probe, and then two: look and cancel, or a listing with and without
            // history.
            call_bound: self.settings.timeout.times(4) + Span::from_secs(4),
        }
    }

    async fn submit(&self, job: &PilotJob) -> SubmitAnswer {
        // The probe has no job to lose.
        let dialect = match self.probed().await {
            Ok(probed) => probed.dialect,
            Err(why) => return SubmitAnswer::Refused(why),
        };
        if let Some(why) = render::unfit(&self.settings, dialect, job) {
            return SubmitAnswer::Refused(why);
        }
        if let Err(why) = self.write(job).await {
            return SubmitAnswer::Refused(why);
        }
        let argv = render::submit(&self.settings, dialect, job);
        let read = |output: &Output| answers::submit(output, dialect);
        self.runner.submit(&argv, read).await
    }

    async fn observe(&self) -> Observation {
        ask::ours(self.listing().await)
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        ask::with_key(self.listing().await, key)
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.end(id, key, Cancel::Always).await
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.end(id, key, Cancel::WhileWaiting).await
    }

    async fn version(&self) -> Result<String, String> {
        let said = self.run(&render::version(&self.settings)).await;
        let output = said.map_err(|e| e.to_string())?;
        output.version(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("pbs_version") || line.starts_with("version:")
        })
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        let probed = self.known.probed.get().map(|probed| probed.dialect);
        let (dialect, how) = match (self.settings.dialect, probed) {
            (Some(dialect), _) => (dialect, "as configured"),
            (None, Some(dialect)) => (dialect, "as `qstat --version` told"),
            (None, None) => (Dialect::Openpbs, "supposed: it was not asked yet"),
        };
        let argv = render::submit(&self.settings, dialect, job);
        format!(
            "# command, for {} ({how})\n{}\n\n# {}\n{}\n# {}\n{}",
            dialect.as_str(),
            shell_words::join(self.runner.argv(&argv)),
            job.directory.join(render::JOB).display(),
            render::script(job),
            job.directory.join(render::SLOT_END).display(),
            render::slot_end(&self.settings),
        )
    }
}

/// It has no processes, as far as its state tells.
const fn waits(state: &JobState) -> bool {
    match state {
        JobState::Queued | JobState::Held => true,
        JobState::Running
        | JobState::Suspended
        | JobState::Ending
        | JobState::Ended(_)
        | JobState::Unknown(_) => false,
    }
}
