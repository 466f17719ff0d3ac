//! The adapter to the simulated LRM: renders a pilot job, runs the `sim-lrm` command, reads what
//! it prints.

mod parse;
mod render;

use std::path::PathBuf;

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, Observation, PilotJob, SubmitAnswer};
use protocol::time::Span;

use crate::command::{CommandError, Output, Runner};
use crate::contract::{Capabilities, LocalResourceManager};
use crate::job_script;
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

    async fn run(&self, args: &[String]) -> Result<Output, CommandError> {
        self.runner
            .run(&render::command(&self.settings, args))
            .await
    }

    async fn listing(&self, args: &[String]) -> Observation {
        match self.run(args).await {
            Ok(output) => parse::listing(&output),
            Err(e) => Observation::NoAnswer(e.to_string()),
        }
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
        let script = job.directory.join("job.sh");
        let text = render::script(&self.settings, job);
        let written = tokio::task::spawn_blocking({
            let script = script.clone();
            move || job_script::write_script(&script, &text)
        })
        .await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                let script = script.display();
                return SubmitAnswer::Refused(format!("could not write {script}: {e}"));
            }
            Err(e) => return SubmitAnswer::Refused(format!("could not write the job: {e}")),
        }
        match self.run(&render::submit_args(&self.settings, job)).await {
            Ok(output) => parse::submit(&output),
            Err(e) if e.did_nothing() => SubmitAnswer::Refused(e.to_string()),
            Err(e) => SubmitAnswer::NoAnswer(e.to_string()),
        }
    }

    async fn observe(&self) -> Observation {
        let listing = self
            .listing(&["queue", "--all", "--json"].map(str::to_owned))
            .await;
        match listing {
            // Jobs without a key of ours are the site's.
            Observation::Listing(mut jobs) => {
                jobs.retain(|j| j.key.is_some());
                Observation::Listing(jobs)
            }
            Observation::NoAnswer(why) => Observation::NoAnswer(why),
        }
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        let args = ["queue", "--all", "--json", "--key", key.as_str()].map(str::to_owned);
        match self.listing(&args).await {
            Observation::Listing(mut jobs) => {
                jobs.retain(|j| j.key.as_ref() == Some(key));
                Observation::Listing(jobs)
            }
            Observation::NoAnswer(why) => Observation::NoAnswer(why),
        }
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        let args = ["cancel", "--key", key.as_str(), id.as_str()].map(str::to_owned);
        match self.run(&args).await {
            Ok(output) => parse::cancel(&output),
            Err(e) => CancelAnswer::NoAnswer(e.to_string()),
        }
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        let args = ["cancel", "--if-queued", "--key", key.as_str(), id.as_str()].map(str::to_owned);
        match self.run(&args).await {
            Ok(output) => parse::cancel(&output),
            Err(e) => CancelAnswer::NoAnswer(e.to_string()),
        }
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        let args = render::command(&self.settings, &render::submit_args(&self.settings, job));
        format!(
            "# command\n{}\n\n# {}\n{}",
            shell_words::join(self.runner.argv(&args)),
            job.directory.join("job.sh").display(),
            render::script(&self.settings, job)
        )
    }
}
