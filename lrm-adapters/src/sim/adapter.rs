//! The adapter to the simulated LRM: renders a pilot job, runs the `sim-lrm` command, reads what
//! it prints.

mod parse;
mod render;

use std::path::PathBuf;

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, Observation, PilotJob, SubmitAnswer};
use protocol::time::Span;

use crate::ask;
use crate::command::Runner;
use crate::contract::{Capabilities, LocalResourceManager};
use crate::sim::profiles::Launch;

/// How to reach a simulated LRM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimLrmSettings {
    /// The `sim-lrm` program, as the broker's host and the nodes see it.
    pub binary: PathBuf,
    /// The directory that its daemon serves.
    pub dir: PathBuf,
    /// The queue for pilots.
    pub queue: String,
    /// Priority within the queue.
    pub priority: i32,
    /// Pilot jobs may be started again under the same id.
    pub rerunnable: bool,
    /// How the pilot is started, where the profile makes a difference.
    pub launch: Launch,
    /// Longest wait for each command.
    pub timeout: Span,
    /// Put before every command, as `["ssh", "login1"]`.
    pub prefix: Vec<String>,
}

impl SimLrmSettings {
    /// Queue `pilots`, jobs that may be started again, a time limit of 10 s.
    pub fn new(binary: PathBuf, dir: PathBuf) -> Self {
        Self {
            binary,
            dir,
            queue: "pilots".to_owned(),
            priority: 0,
            rerunnable: true,
            launch: Launch::Step,
            timeout: Span::from_secs(10),
            prefix: Vec::new(),
        }
    }
}

/// The adapter.
#[derive(Clone, Debug)]
pub struct SimLrm {
    settings: SimLrmSettings,
    runner: Runner,
}

impl SimLrm {
    /// An adapter with these settings; nothing is run yet.
    pub fn new(settings: SimLrmSettings) -> Self {
        let mut runner = Runner::new(settings.timeout);
        runner.prefix.clone_from(&settings.prefix);
        Self { settings, runner }
    }

    async fn listing(&self, args: &[String]) -> Observation {
        let args = render::command(&self.settings, args);
        self.runner.list(&args, parse::listing).await
    }

    async fn end(&self, args: &[String]) -> CancelAnswer {
        let args = render::command(&self.settings, args);
        self.runner.cancel(&args, parse::cancel).await
    }
}

impl LocalResourceManager for SimLrm {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "simulated LRM",
            min_walltime: true,
            same_id_restart: self.settings.rerunnable,
            avoids_nodes: true,
            ended_listed_for: Span::from_mins(1),
            // A cancel looks before it acts: two commands.
            call_bound: self.settings.timeout.times(2) + Span::from_secs(2),
        }
    }

    async fn submit(&self, job: &PilotJob) -> SubmitAnswer {
        let script = job.directory.join(render::JOB);
        let files = vec![(script, render::script(&self.settings, job))];
        if let Err(why) = ask::write(files).await {
            return SubmitAnswer::Refused(why);
        }
        let args = render::command(&self.settings, &render::submit_args(&self.settings, job));
        self.runner.submit(&args, parse::submit).await
    }

    async fn observe(&self) -> Observation {
        let args = ["queue", "--all", "--json"].map(str::to_owned);
        ask::ours(self.listing(&args).await)
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        let args = ["queue", "--all", "--json", "--key", key.as_str()].map(str::to_owned);
        ask::with_key(self.listing(&args).await, key)
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        let args = ["cancel", "--key", key.as_str(), id.as_str()].map(str::to_owned);
        self.end(&args).await
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        let args = ["cancel", "--if-queued", "--key", key.as_str(), id.as_str()].map(str::to_owned);
        self.end(&args).await
    }

    async fn version(&self) -> Result<String, String> {
        let args = render::command(&self.settings, &["--version".to_owned()]);
        let said = self.runner.run(&args).await;
        let output = said.map_err(|e| e.to_string())?;
        output.version(|line| line.starts_with("sim-lrm "))
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        let args = render::command(&self.settings, &render::submit_args(&self.settings, job));
        format!(
            "# command\n{}\n\n# {}\n{}",
            shell_words::join(self.runner.argv(&args)),
            job.directory.join(render::JOB).display(),
            render::script(&self.settings, job)
        )
    }
}
