//! The adapter to HTCondor (23 and later): renders a pilot job and its submit description, runs
//! `condor_submit`, `condor_q` and `condor_rm`, reads what they print.
//!
//! `docs/adapters/htcondor.md` says what a site needs and what a pilot hears when.

mod parse;
mod render;
pub mod testing;

use std::path::PathBuf;

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, Observation, PilotJob, SubmitAnswer};
use protocol::time::Span;

use crate::ask;
use crate::command::Runner;
use crate::contract::{Cancel, Capabilities, LocalResourceManager};

/// Why there are no pilot jobs on several nodes.
pub const ONE_NODE: &str = "HTCondor runs a job on several nodes only in its parallel universe, which needs a dedicated \
     scheduler and ends the job with its first process; submit jobs of one node, as many as are \
     needed";

/// How to reach an HTCondor pool, and how pilots are to run there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HtcondorSettings {
    /// Directory of the commands; none: they are found in the system's PATH.
    pub bin_dir: Option<PathBuf>,
    /// `-name`: the schedd; none: the one of the host that the commands run on.
    pub schedd: Option<String>,
    /// `-pool`: the central manager that knows the schedd; none: the configured one.
    pub pool: Option<String>,
    /// `accounting_group`.
    pub accounting_group: Option<String>,
    /// Further condition on machines, a ClassAd expression.
    pub requirements: Option<String>,
    /// Which machines to like better, a ClassAd expression.
    pub rank: Option<String>,
    /// Further lines for the submit description.
    pub submit_lines: Vec<String>,
    /// How files come to the node.
    pub transfer: Transfer,
    /// A job that lost its node may be started again under the same id.
    pub rerunnable: bool,
    /// `job_lease_duration`: for how long a job runs on when its schedd is gone; then it is
    /// killed without a signal before. HTCondor's own default is 40 min.
    pub job_lease: Span,
    /// For how long a job that is over stays in the queue, where a poll sees how it ended.
    pub keep_ended: Span,
    /// Longest wait for each command.
    pub timeout: Span,
    /// Put before every command, as `["ssh", "submit1"]`.
    pub prefix: Vec<String>,
}

/// How a pilot job's files come to its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// Nodes see the pilot jobs' directories and the pilot under the same paths.
    Shared,
    /// HTCondor copies the token, the pilot and the broker's authorities into the job's own
    /// directory. The store must be shared all the same.
    Copied,
}

impl Default for HtcondorSettings {
    fn default() -> Self {
        Self {
            bin_dir: None,
            schedd: None,
            pool: None,
            accounting_group: None,
            requirements: None,
            rank: None,
            submit_lines: Vec::new(),
            transfer: Transfer::Shared,
            rerunnable: false,
            job_lease: Span::from_mins(40),
            keep_ended: Span::from_mins(10),
            timeout: Span::from_secs(30),
            prefix: Vec::new(),
        }
    }
}

/// The adapter.
#[derive(Clone, Debug)]
pub struct Htcondor {
    settings: HtcondorSettings,
    runner: Runner,
}

impl Htcondor {
    /// An adapter with these settings; nothing is run yet.
    pub fn new(settings: HtcondorSettings) -> Self {
        let mut runner = Runner::new(settings.timeout);
        runner.prefix.clone_from(&settings.prefix);
        Self { settings, runner }
    }

    /// The jobs that meet a ClassAd constraint, with what [`parse`] needs to know about each.
    async fn query(&self, constraint: &str) -> Observation {
        let args = render::query(&self.settings, constraint);
        self.runner.list(&args, parse::listing).await
    }

    /// Removes the job if it does what it should. The schedd looks and removes in one go.
    async fn remove(&self, id: &LrmJobId, key: &SubmitKey, how: Cancel) -> CancelAnswer {
        let Some(which) = render::with_id_and_key(id, key) else {
            // Not an id that HTCondor gives.
            return CancelAnswer::NoSuchJob;
        };
        let args = render::remove(&self.settings, &which, how);
        let output = match self.runner.run(&args).await {
            Ok(output) if parse::is_removed(&output) => return CancelAnswer::Taken,
            Ok(output) => output,
            Err(e) => return CancelAnswer::NoAnswer(e.to_string()),
        };
        // It says "couldn't find" also when nobody was there to look.
        match self.query(&which).await {
            Observation::Listing(jobs) => parse::not_removed(&jobs, &output, how),
            Observation::NoAnswer(why) => CancelAnswer::NoAnswer(why),
        }
    }
}

impl LocalResourceManager for Htcondor {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "HTCondor",
            min_walltime: false,
            same_id_restart: self.settings.rerunnable,
            avoids_nodes: true,
            ended_listed_for: self.settings.keep_ended,
            // A cancel that was not taken is followed by a look.
            call_bound: self.settings.timeout.times(2) + Span::from_secs(2),
        }
    }

    async fn submit(&self, job: &PilotJob) -> SubmitAnswer {
        if job.nodes > 1 {
            return SubmitAnswer::Refused(ONE_NODE.to_owned());
        }
        let description = match render::description(&self.settings, job) {
            Ok(description) => description,
            Err(e) => return SubmitAnswer::Refused(e.to_string()),
        };
        let files = [
            (render::SCRIPT, render::script(&self.settings, job)),
            (render::DESCRIPTION, description),
        ];
        let files = files.map(|(name, text)| (job.directory.join(name), text));
        if let Err(why) = ask::write(files.into()).await {
            return SubmitAnswer::Refused(why);
        }
        let args = render::submit(&self.settings, job);
        self.runner.submit(&args, parse::submit).await
    }

    async fn observe(&self) -> Observation {
        ask::ours(self.query(render::OURS).await)
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        ask::with_key(self.query(&render::with_key(key)).await, key)
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.remove(id, key, Cancel::Always).await
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.remove(id, key, Cancel::WhileWaiting).await
    }

    async fn version(&self) -> Result<String, String> {
        let said = self.runner.run(&render::version(&self.settings)).await;
        let output = said.map_err(|e| e.to_string())?;
        let told = output.version(|line| line.starts_with("$CondorVersion:"))?;
        Ok(told.replace('$', "").trim().to_owned())
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        let description = match render::description(&self.settings, job) {
            Ok(description) => description,
            Err(e) => format!("it cannot be submitted: {e}\n"),
        };
        format!(
            "# command\n{}\n\n# {}\n{description}\n# {}\n{}",
            shell_words::join(self.runner.argv(&render::submit(&self.settings, job))),
            job.directory.join(render::DESCRIPTION).display(),
            job.directory.join(render::SCRIPT).display(),
            render::script(&self.settings, job)
        )
    }
}
