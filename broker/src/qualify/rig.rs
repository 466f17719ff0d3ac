//! A hand on a site's real LRM that can do no more than its administrator lets it: test jobs
//! within limits, disturbances of the line on our own side, and the administrator's commands.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::time::Duration;

use lrm_adapters::LocalResourceManager as _;
use lrm_adapters::conformance::{Action, Can, Disturbance, Rig, Rule, Shape, TestJobs};
use protocol::ids::{NodeName, SubmitKey};
use protocol::lrm::{Observation, PilotJob};
use protocol::time::Span;

use super::Options;
use super::front::{Front, Play};
use super::hooks::Hook;
use super::watched::Watched;

/// How often files are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// A test job that has not counted on for so long has no process. It counts ten times a second.
pub(super) const SILENT: Duration = Duration::from_secs(6);
/// What the rule about a moved end takes from a job's walltime, and what has to be left of it.
const TAKEN: Span = Span::from_mins(2);
const SHORTEST: Span = Span::from_mins(2);
/// An LRM that was started again answers within so long.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// The rig.
pub(super) struct SiteRig<'a> {
    pub(super) lrm: Watched,
    pub(super) jobs: TestJobs,
    pub(super) front: Front,
    pub(super) options: &'a Options,
    /// Walltime of the test jobs, but for the rule about walltimes.
    pub(super) walltime: Span,
    pub(super) notice: Span,
    pub(super) refused_cores: Option<u32>,
    state: State,
}

/// What the rule under way has done.
#[derive(Default)]
struct State {
    /// Jobs that it has made.
    made: Cell<u32>,
    /// A command of the administrator that has failed.
    broken: RefCell<Option<String>>,
    /// How it was checked, where not the LRM itself was disturbed.
    means: Cell<Option<&'static str>>,
    /// The LRM was stopped, and this starts it again.
    is_stopped: Cell<bool>,
    /// A node without its daemon.
    lost: RefCell<Option<NodeName>>,
}

impl<'a> SiteRig<'a> {
    pub(super) fn new(
        lrm: Watched,
        jobs: TestJobs,
        front: Front,
        options: &'a Options,
        terms: &broker_core::SiteConfig,
        refused_cores: Option<u32>,
    ) -> Self {
        Self {
            lrm,
            jobs,
            front,
            options,
            walltime: options.walltime.min(terms.walltime_max),
            notice: terms.notice,
            refused_cores,
            state: State::default(),
        }
    }

    /// Before each rule.
    pub(super) fn begin(&self) {
        self.state.made.set(0);
        self.state.means.set(None);
        self.state.broken.replace(None);
    }

    /// The administrator's command that has failed, in the rule under way.
    pub(super) fn broken(&self) -> Option<String> {
        self.state.broken.borrow().clone()
    }

    /// How the rule under way was checked, where not the LRM itself was disturbed.
    pub(super) fn means(&self) -> Option<&'static str> {
        self.state.means.get()
    }

    /// What a rule needs and the administrator has not given, or nobody can give: known before a
    /// job is submitted for it.
    pub(super) fn lacks(&self, rule: Rule) -> Option<String> {
        let hooks = &self.options.hooks;
        let need = |has: bool, what: &str| {
            (!has).then(|| format!("only an administrator can do that: give {what}"))
        };
        match rule {
            Rule::FoundByKey
            | Rule::LostAnswer
            | Rule::SlotFile
            | Rule::NoSecrets
            | Rule::ExitCode
            | Rule::CancelQueued
            | Rule::CancelRunning
            | Rule::CancelUnknown
            | Rule::Walltime
            | Rule::Hung
            | Rule::Garbled
            | Rule::Missing
            | Rule::Withdraw
            | Rule::Avoid => None,
            Rule::RefusedLeavesNothing => self.refused_cores.is_none().then(|| {
                "this LRM takes jobs that fit nowhere: give --refused-cores if the site has a limit"
                    .to_owned()
            }),
            Rule::Preemption => need(hooks.preempt.is_some(), "--preempt-command"),
            Rule::Requeue if !self.lrm.capabilities().same_id_restart => {
                Some("this site's pilot jobs are never started again".to_owned())
            }
            Rule::Requeue => need(hooks.requeue.is_some(), "--requeue-command"),
            Rule::MovedEnd if self.walltime.minus(TAKEN) < SHORTEST => Some(format!(
                "a walltime of {} is too short to take {TAKEN} from it: give a longer --walltime",
                self.walltime
            )),
            Rule::MovedEnd => need(hooks.shorten.is_some(), "--shorten-command"),
            Rule::NodeLost => need(
                hooks.lose_node.is_some() && hooks.restore_node.is_some(),
                "--lose-node-command and --restore-node-command",
            ),
            Rule::Unreachable | Rule::Restarted => need(
                hooks.stop.is_some() && hooks.start.is_some(),
                "--stop-command and --start-command",
            ),
            Rule::ReusedId => {
                Some("no command makes an LRM forget a job and give its id again".to_owned())
            }
        }
    }

    /// Runs a command of the administrator; `option` is what it is given by.
    async fn hook(&self, hook: Option<&Hook>, option: &str, values: &[(&str, &str)]) -> Can {
        let Some(hook) = hook else {
            return Err(format!("there is no {option}"));
        };
        hook.run(values).await.map_err(|why| {
            let why = format!("{option} failed: {why}");
            self.state.broken.replace(Some(why.clone()));
            why
        })
    }

    async fn stop(&self) -> Can {
        self.state.is_stopped.set(true);
        let hook = self.options.hooks.stop.as_ref();
        self.hook(hook, "--stop-command", &[]).await
    }

    async fn start(&self) -> Can {
        let hook = self.options.hooks.start.as_ref();
        self.hook(hook, "--start-command", &[]).await?;
        self.state.is_stopped.set(false);
        Ok(())
    }

    fn play(&self, play: Play) -> Can {
        self.state.means.set(Some(play.means()));
        self.lrm.set_deaf(play == Play::Hang);
        self.front.play(play).map_err(|e| e.to_string())
    }
}

/// What the starts of a job have counted to; nothing when none has started.
pub(super) fn beats(directory: &Path) -> Vec<String> {
    (0..)
        .map_while(|n| fs::read_to_string(directory.join(format!("beat.{n}"))).ok())
        .collect()
}

impl Rig for SiteRig<'_> {
    type Lrm = Watched;

    fn lrm(&self) -> &Watched {
        &self.lrm
    }

    fn job(&self, shape: &Shape) -> Result<PilotJob, String> {
        let most = self.options.max_jobs;
        if self.state.made.get() >= most {
            return Err(format!(
                "it takes more than the {most} jobs that --max-jobs allows"
            ));
        }
        self.state.made.set(self.state.made.get() + 1);
        let usual = Shape::obeying().walltime;
        self.jobs.make(&Shape {
            walltime: if shape.walltime < usual {
                shape.walltime
            } else {
                self.walltime
            },
            ..shape.clone()
        })
    }

    fn keys(&self) -> Vec<SubmitKey> {
        self.jobs.keys()
    }

    fn impossible_job(&self) -> Result<PilotJob, String> {
        let cores = self.refused_cores.ok_or("there is no --refused-cores")?;
        let mut job = self.job(&Shape::obeying())?;
        job.resources.cores = cores;
        Ok(job)
    }

    /// By what the job writes: its node is not to be seen from here.
    async fn is_alive(&self, key: &SubmitKey) -> Result<bool, String> {
        let directory = self.jobs.directory(key);
        let first = beats(&directory);
        let counts = async {
            while beats(&directory) == first {
                tokio::time::sleep(TICK).await;
            }
        };
        Ok(tokio::time::timeout(SILENT, counts).await.is_ok())
    }

    async fn act(&self, action: Action) -> Can {
        let hooks = &self.options.hooks;
        match action {
            Action::Preempt(id) => {
                let values = [("id", id.as_str())];
                self.hook(hooks.preempt.as_ref(), "--preempt-command", &values)
                    .await
            }
            Action::Requeue(id) => {
                let values = [("id", id.as_str())];
                self.hook(hooks.requeue.as_ref(), "--requeue-command", &values)
                    .await
            }
            Action::Shorten(id, by) => {
                let left = self.walltime.minus(by).as_millis() / 1000;
                let (minutes, seconds) = ((left / 60).to_string(), left.to_string());
                let values = [
                    ("id", id.as_str()),
                    ("minutes", &minutes),
                    ("seconds", &seconds),
                ];
                self.hook(hooks.shorten.as_ref(), "--shorten-command", &values)
                    .await
            }
            Action::LoseNode(node) => {
                self.state.lost.replace(Some(node.clone()));
                let values = [("node", node.as_str())];
                self.hook(hooks.lose_node.as_ref(), "--lose-node-command", &values)
                    .await
            }
            Action::Restart => {
                self.stop().await?;
                self.start().await
            }
            Action::LoseNewestJob => {
                Err("no command makes an LRM forget a job and give its id again".to_owned())
            }
        }
    }

    async fn disturb(&self, disturbance: Disturbance) -> Can {
        match disturbance {
            Disturbance::LoseSubmitAnswer => self.play(Play::Lose),
            Disturbance::Garble => self.play(Play::Cut),
            Disturbance::Hide(_) => self.play(Play::Empty),
            Disturbance::Hang => self.play(Play::Hang),
            Disturbance::Unreachable => self.stop().await,
        }
    }

    async fn calm(&self) {
        self.lrm.set_deaf(false);
        if let Err(e) = self.front.play_nothing() {
            self.state
                .broken
                .replace(Some(format!("cannot let the commands through again: {e}")));
        }
        let lost = self.state.lost.take();
        let was_disturbed = lost.is_some() || self.state.is_stopped.get();
        // What fails here is in `broken`.
        if self.state.is_stopped.get() {
            let _ = self.start().await;
        }
        if let Some(node) = lost {
            let hook = self.options.hooks.restore_node.as_ref();
            let values = [("node", node.as_str())];
            let _ = self.hook(hook, "--restore-node-command", &values).await;
        }
        if was_disturbed {
            let back = async {
                while let Observation::NoAnswer(_) = self.lrm.observe().await {
                    tokio::time::sleep(TICK).await;
                }
            };
            // One that does not come back is seen by the rule.
            let _ = tokio::time::timeout(BACK_WITHIN, back).await;
        }
    }

    fn patience(&self) -> Duration {
        (self.options.patience + self.notice.times(2)).as_duration()
    }

    fn queue_limit(&self) -> Option<Duration> {
        Some(self.options.max_wait.as_duration())
    }
}
