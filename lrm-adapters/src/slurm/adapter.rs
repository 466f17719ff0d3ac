//! The adapter: files, commands, answers. What they say is in `render` and `parse`.

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, JobState, Observation, ObservedJob, PilotJob, SubmitAnswer};
use protocol::time::Span;

use super::{Launch, SlurmSettings, parse, render};
use crate::ask;
use crate::command::{Output, Runner};
use crate::contract::{Cancel, Capabilities, LocalResourceManager};
use crate::job_script;

/// The adapter to one site's Slurm.
#[derive(Clone, Debug)]
pub struct Slurm {
    settings: SlurmSettings,
    runner: Runner,
}

impl Slurm {
    /// An adapter with these settings; nothing is run yet.
    pub fn new(settings: SlurmSettings) -> Self {
        let mut runner = Runner::new(settings.timeout);
        runner.prefix.clone_from(&settings.prefix);
        Self { settings, runner }
    }

    async fn listing(&self, args: &[String], cluster: Option<&str>) -> Observation {
        let read = |output: &Output| parse::listing(output, cluster);
        self.runner.list(args, read).await
    }

    /// The jobs that carry this key on one cluster.
    async fn carrying(&self, key: &SubmitKey, cluster: Option<&str>) -> Observation {
        let args = render::find(&self.settings, cluster, key);
        ask::with_key(self.listing(&args, cluster).await, key)
    }

    async fn sbatch(&self, job: &PilotJob) -> SubmitAnswer {
        let args = render::submit(&self.settings, job);
        self.runner.submit(&args, parse::submit).await
    }

    /// `scancel` takes an id that it does not know, and an id that was given to another job
    /// after a crash, without a word: so the job is looked at first.
    async fn end(&self, id: &LrmJobId, key: &SubmitKey, how: Cancel) -> CancelAnswer {
        let (number, of) = parse::split_id(id);
        let cluster = of.or(self.settings.cluster.as_deref());
        let ours = match self.carrying(key, cluster).await {
            Observation::Listing(jobs) => jobs
                .into_iter()
                .find(|job: &ObservedJob| parse::split_id(&job.id).0 == number),
            Observation::NoAnswer(why) => return CancelAnswer::NoAnswer(why),
        };
        match ours.map(|job| job.state) {
            None | Some(JobState::Ended(_)) => return CancelAnswer::NoSuchJob,
            Some(JobState::Queued | JobState::Held) => {}
            Some(
                JobState::Running | JobState::Suspended | JobState::Ending | JobState::Unknown(_),
            ) => match how {
                Cancel::Always => {}
                Cancel::WhileWaiting => return CancelAnswer::Started,
            },
        }
        let args = render::cancel(&self.settings, cluster, number, how);
        self.runner.cancel(&args, parse::cancel).await
    }
}

impl LocalResourceManager for Slurm {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "Slurm",
            min_walltime: true,
            same_id_restart: self.settings.rerunnable,
            avoids_nodes: true,
            // MinJobAge, as Slurm has it where a site sets nothing.
            ended_listed_for: Span::from_mins(5),
            // A cancel looks before it acts, and a submit may need a second try: two commands.
            call_bound: self.settings.timeout.times(2) + Span::from_secs(2),
        }
    }

    async fn submit(&self, job: &PilotJob) -> SubmitAnswer {
        if let Err(why) = ask::write(render::files(&self.settings, job)).await {
            return SubmitAnswer::Refused(why);
        }
        let answer = self.sbatch(job).await;
        match answer {
            SubmitAnswer::Refused(why) if !job.avoid.is_empty() => {
                // A node that the cluster does not have any more: such a submit made no job.
                if parse::is_unknown_node(&why) {
                    let anywhere = PilotJob {
                        avoid: Vec::new(),
                        ..job.clone()
                    };
                    return self.sbatch(&anywhere).await;
                }
                let avoided = job_script::plain_names(&job.avoid).join(", ");
                SubmitAnswer::Refused(format!(
                    "{why}; excluded are nodes on which something failed lately: {avoided}"
                ))
            }
            SubmitAnswer::Accepted(_) | SubmitAnswer::Refused(_) | SubmitAnswer::NoAnswer(_) => {
                answer
            }
        }
    }

    async fn observe(&self) -> Observation {
        let cluster = self.settings.cluster.as_deref();
        let args = render::list(&self.settings, cluster);
        ask::ours(self.listing(&args, cluster).await)
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        self.carrying(key, self.settings.cluster.as_deref()).await
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.end(id, key, Cancel::Always).await
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.end(id, key, Cancel::WhileWaiting).await
    }

    async fn version(&self) -> Result<String, String> {
        let said = self.runner.run(&render::version(&self.settings)).await;
        let output = said.map_err(|e| e.to_string())?;
        output.version(|line| line.to_ascii_lowercase().starts_with("slurm"))
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        let args = render::submit(&self.settings, job);
        let mut text = format!(
            "# command\n{}\n",
            shell_words::join(self.runner.argv(&args))
        );
        for (path, script) in render::files(&self.settings, job) {
            text.push_str(&format!("\n# {}\n{script}", path.display()));
        }
        match self.settings.launch {
            Launch::Step => {
                text.push_str("\n# the first file is the batch script, the second its only step\n");
            }
            Launch::Batch => {}
        }
        text
    }
}
