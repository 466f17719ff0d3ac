//! The model of a batch system: pure, deterministic, on whatever clock the caller has.
//!
//! Owner: whoever drives it (the `sim-lrm` daemon with real processes, the whole-system
//! simulation with imagined ones). It is told what happened by [`Model::step`] and answers with
//! [`Effect`]s that the owner carries out; it wants to be called again at
//! [`Model::next_wakeup`]. All chance (lateness within a profile's windows) comes from the seed
//! in its configuration.
//!
//! ```text
//!            +--release--  Held  <------------------+ (profile: held at the end)
//!            v               ^                      |
//! submit -> Queued --start-> Running --cause--> Ending --exit--> Over -> (forgotten)
//!            ^                  |                   |             ^
//!            +------------------+----- requeued ----+             |
//!                               +--------- exit ------------------+
//! ```
//!
//! A *run* is one start of a job on one node. A job on several nodes has as many runs, keeps all
//! its nodes until the last of them has ended, and is ended on all of them at once; only the loss
//! of a node is a matter of that node until the LRM has noticed. A run whose job was written off (node lost) lives on as a
//! stray: the processes exist, the LRM no longer connects them with the job.

mod admin;
mod end;
mod job;
mod listing;
mod schedule;
mod types;

pub use job::{Job, JobPhase, Run};
pub use types::{
    Answer, Effect, Event, JobNumber, JobRequest, ModelConfig, NodeConfig, NodeState, NodeView,
    QueueConfig, RunNumber, Start, Step,
};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::NodeName;
use protocol::lrm::JobEnd;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use self::job::Node;
use self::types::{Draw, Timer};

/// Order in which queued jobs are looked at: queue priority, job priority, age.
type Rank = (Reverse<i32>, Reverse<i32>, JobNumber);

/// The batch system's whole state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Model {
    config: ModelConfig,
    draw: Draw,
    next_job: JobNumber,
    next_run: RunNumber,
    jobs: BTreeMap<JobNumber, Job>,
    runs: BTreeMap<RunNumber, Run>,
    nodes: BTreeMap<NodeName, Node>,
    queued: BTreeSet<Rank>,
    timers: BTreeSet<(Timestamp, Timer)>,
    /// Something happened by which a queued job may start.
    changed: bool,
}

impl Model {
    /// An empty batch system: all nodes up, no jobs.
    pub fn new(config: ModelConfig) -> Self {
        let nodes = config
            .nodes
            .iter()
            .map(|n| (n.name.clone(), Node::new(n.resources)))
            .collect();
        Self {
            draw: Draw::new(config.seed),
            next_job: JobNumber(1),
            next_run: RunNumber(1),
            jobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            nodes,
            queued: BTreeSet::new(),
            timers: BTreeSet::new(),
            changed: false,
            config,
        }
    }

    /// Tells the batch system what happened at `now`, after everything that was due before.
    ///
    /// `now` must not go back between calls; a clock that was set back only delays what is due.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Step {
        let mut effects = Vec::new();
        self.fire_timers(now, &mut effects);
        self.changed |= event != Event::Tick;
        let answer = self.apply(now, event, &mut effects);
        self.schedule(now, &mut effects);
        // What was due at once (a delay of zero) happens in this step.
        while self.fire_timers(now, &mut effects) {
            self.schedule(now, &mut effects);
        }
        Step { answer, effects }
    }

    /// When [`step`](Self::step) has to be called with [`Event::Tick`] at the latest.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// All jobs that are not forgotten.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// One job.
    pub fn job(&self, number: JobNumber) -> Option<&Job> {
        self.jobs.get(&number)
    }

    /// All runs whose processes exist as far as the model was told, strays included.
    pub fn runs(&self) -> impl Iterator<Item = (RunNumber, &Run)> {
        self.runs.iter().map(|(n, r)| (*n, r))
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.nodes.iter().map(|(name, node)| NodeView {
            name,
            resources: node.resources,
            used: node.used,
            state: node.state,
            closes_at: node.closes_at,
        })
    }

    fn apply(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) -> Answer {
        match event {
            Event::Tick => Answer::Done,
            Event::Submit(request) => self.submit(now, request),
            Event::Cancel(job) => self.cancel(now, job),
            Event::Withdraw(job) => self.withdraw(now, job),
            Event::Preempt(job) => self.end_by_order(now, job, profiles::Cause::Preempt),
            Event::Requeue(job) => self.requeue(now, job),
            Event::Hold(job) => self.hold(job),
            Event::Release(job) => self.release(job),
            Event::SetEnd { job, end } => self.set_end(now, job, end),
            Event::Drain(node) => self.drain(now, &node),
            Event::Undrain(node) | Event::NodeRestore(node) => self.restore(now, &node, effects),
            Event::NodeDown(node) => self.node_down(now, &node),
            Event::NodeLost(node) => self.node_lost(now, &node),
            Event::NodePowerLoss(node) => self.node_power_loss(now, &node, effects),
            Event::CloseNode { node, at } => self.close_node(&node, at),
            Event::Exited { run, code } => self.exited(now, run, JobEnd::Exited(code), effects),
            Event::LaunchFailed { run } => self.exited(now, run, JobEnd::LaunchFailed, effects),
            Event::CrashLosingNewest => self.crash_losing_newest(effects),
        }
    }

    /// Fires what is due; true when anything was.
    fn fire_timers(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let mut any = false;
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now
        {
            any = true;
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Beat(run) => self.fire_beat(at, now, run, effects),
                Timer::End(run) => self.fire_end(at, now, run),
                Timer::WriteOff(run) => self.fire_write_off(at, run, effects),
                Timer::Eligible(_) => self.changed = true,
                Timer::Forget(job) => self.forget(at, job),
            }
        }
        any
    }

    fn submit(&mut self, now: Timestamp, request: JobRequest) -> Answer {
        if let Err(why) = self.check_request(&request) {
            return Answer::Refused(why);
        }
        let number = self.next_job;
        self.next_job = number.next();
        if let Some(begin) = request.begin
            && begin > now
        {
            self.timers.insert((begin, Timer::Eligible(number)));
        }
        let job = Job::new(number, now, request);
        self.queued.insert(self.rank(&job));
        self.jobs.insert(number, job);
        Answer::Submitted(number)
    }

    fn check_request(&self, request: &JobRequest) -> Result<(), String> {
        let Some(queue) = self.config.queue(&request.queue) else {
            let known: Vec<_> = self.config.queues.iter().map(|q| q.name.as_str()).collect();
            return Err(format!(
                "no queue is named `{}`; there are: {}",
                request.queue,
                known.join(", ")
            ));
        };
        if request.walltime.is_zero() {
            return Err("a job needs a walltime of more than 0s".to_owned());
        }
        if let Some(max) = queue.max_walltime
            && request.walltime > max
        {
            return Err(format!(
                "walltime {} is over the {max} that queue `{}` allows",
                request.walltime, queue.name
            ));
        }
        if request
            .min_walltime
            .is_some_and(|min| min > request.walltime)
        {
            return Err("the minimum walltime is longer than the walltime".to_owned());
        }
        let able = |(_, n): &(&NodeName, &Node)| n.resources.holds(&request.resources);
        match (self.nodes.iter().filter(able).count(), request.nodes) {
            (0, _) => return Err(format!("no node has {}", request.resources)),
            (_, 0) => return Err("a job needs at least one node".to_owned()),
            (able, nodes) if able < nodes as usize => {
                return Err(format!(
                    "{nodes} nodes with {} are more than there are: {able}",
                    request.resources
                ));
            }
            _ => {}
        }
        if queue.preempts && request.nodes > 1 {
            return Err(format!(
                "queue `{}` preempts, which it does for jobs of one node only",
                queue.name
            ));
        }
        let excluded = |(name, _): &(&NodeName, &Node)| request.exclude.contains(*name);
        let left = self.nodes.iter().filter(able).filter(|n| !excluded(n));
        if left.count() < request.nodes as usize {
            return Err(format!(
                "too many nodes that have {} are excluded",
                request.resources
            ));
        }
        if let Some(max) = queue.max_jobs {
            let live = self
                .jobs
                .values()
                .filter(|j| j.request.queue == request.queue && !j.is_over())
                .count();
            if live >= max as usize {
                return Err(format!(
                    "queue `{}` takes {max} jobs at most and has them",
                    queue.name
                ));
            }
        }
        Ok(())
    }

    fn rank(&self, job: &Job) -> Rank {
        let queue = self
            .config
            .queue(&job.request.queue)
            .map_or(0, |q| q.priority);
        (Reverse(queue), Reverse(job.request.priority), job.number)
    }

    /// A controller that crashes right after it accepted a job: the job is lost, its id is given
    /// again, and if it had been started its processes are nobody's.
    fn crash_losing_newest(&mut self, effects: &mut Vec<Effect>) -> Answer {
        let Some((&number, job)) = self.jobs.last_key_value() else {
            return Answer::NoSuchJob;
        };
        self.queued.remove(&self.rank(job));
        for run in self.runs_of(number) {
            let gone = self.runs[&run].gone.is_some();
            self.set_doom(run, None);
            self.detach(run);
            if gone {
                self.remove_run(run);
            } else {
                effects.push(Effect::Forget { run });
            }
        }
        self.jobs.remove(&number);
        self.next_job = number;
        Answer::Done
    }

    /// The runs that the LRM connects with a job, by their rank.
    fn runs_of(&self, job: JobNumber) -> Vec<RunNumber> {
        let all = self.runs.iter().filter(|(_, r)| r.job == job && r.attached);
        all.map(|(number, _)| *number).collect()
    }

    fn forget(&mut self, at: Timestamp, number: JobNumber) {
        if let Some(job) = self.jobs.get(&number)
            && let JobPhase::Over { at: ended, .. } = job.phase
            && ended + self.config.min_job_age <= at
        {
            self.jobs.remove(&number);
        }
    }

    fn draw_delay(&mut self, delay: profiles::Delay) -> Span {
        let (min, max) = self.config.profile().window(delay);
        self.draw.between(min, max)
    }
}

use super::profiles;

#[cfg(test)]
mod tests;
