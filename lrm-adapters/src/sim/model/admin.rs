//! What people do to jobs and nodes, and what happens to nodes.

use protocol::ids::NodeName;
use protocol::lrm::JobEnd;
use protocol::time::Timestamp;

use super::Model;
use super::job::JobPhase;
use super::types::{Answer, Effect, JobNumber, NodeState, RunNumber, Timer};
use crate::sim::profiles::{Cause, Signal, Target};

impl Model {
    pub(super) fn cancel(&mut self, now: Timestamp, number: JobNumber) -> Answer {
        let Some(job) = self.jobs.get(&number) else {
            return Answer::NoSuchJob;
        };
        match job.phase {
            JobPhase::Queued { .. } | JobPhase::Held { .. } => {
                self.queued.remove(&self.rank(job));
                self.over(now, number, JobEnd::Cancelled);
                Answer::Done
            }
            JobPhase::Running(run) => {
                self.begin_ending(now, run, Cause::Cancel);
                Answer::Done
            }
            JobPhase::Over { .. } => Answer::NoSuchJob,
        }
    }

    pub(super) fn withdraw(&mut self, now: Timestamp, number: JobNumber) -> Answer {
        match self.jobs.get(&number).map(|job| &job.phase) {
            Some(JobPhase::Running(_)) => Answer::Started,
            Some(JobPhase::Queued { .. } | JobPhase::Held { .. } | JobPhase::Over { .. })
            | None => self.cancel(now, number),
        }
    }

    /// Ends a running job for `cause` because somebody said so.
    pub(super) fn end_by_order(
        &mut self,
        now: Timestamp,
        number: JobNumber,
        cause: Cause,
    ) -> Answer {
        match self.jobs.get(&number).map(|j| &j.phase) {
            None => Answer::NoSuchJob,
            Some(&JobPhase::Running(run)) => {
                self.begin_ending(now, run, cause);
                Answer::Done
            }
            Some(JobPhase::Queued { .. } | JobPhase::Held { .. } | JobPhase::Over { .. }) => {
                Answer::Refused(format!("job {number} does not run"))
            }
        }
    }

    pub(super) fn requeue(&mut self, now: Timestamp, number: JobNumber) -> Answer {
        if self
            .jobs
            .get(&number)
            .is_some_and(|j| !j.request.rerunnable)
        {
            return Answer::Refused(format!(
                "job {number} was submitted as not to be started again"
            ));
        }
        self.end_by_order(now, number, Cause::Requeue)
    }

    pub(super) fn hold(&mut self, number: JobNumber) -> Answer {
        let Some(job) = self.jobs.get(&number) else {
            return Answer::NoSuchJob;
        };
        match job.phase {
            JobPhase::Queued { .. } => {
                let rank = self.rank(job);
                self.queued.remove(&rank);
                if let Some(job) = self.jobs.get_mut(&number) {
                    let why = "held by hand".to_owned();
                    job.phase = JobPhase::Held { why };
                }
                Answer::Done
            }
            JobPhase::Held { .. } => Answer::Done,
            JobPhase::Running(_) | JobPhase::Over { .. } => {
                Answer::Refused(format!("job {number} does not wait in the queue"))
            }
        }
    }

    pub(super) fn release(&mut self, number: JobNumber) -> Answer {
        let Some(job) = self.jobs.get_mut(&number) else {
            return Answer::NoSuchJob;
        };
        match job.phase {
            JobPhase::Held { .. } => {
                job.phase = JobPhase::Queued { not_before: None };
                let rank = self.rank(&self.jobs[&number]);
                self.queued.insert(rank);
                Answer::Done
            }
            JobPhase::Queued { .. } => Answer::Done,
            JobPhase::Running(_) | JobPhase::Over { .. } => {
                Answer::Refused(format!("job {number} is not held"))
            }
        }
    }

    pub(super) fn set_end(&mut self, now: Timestamp, number: JobNumber, end: Timestamp) -> Answer {
        let run = match self.jobs.get(&number).map(|j| &j.phase) {
            None => return Answer::NoSuchJob,
            Some(&JobPhase::Running(run)) => run,
            Some(JobPhase::Queued { .. } | JobPhase::Held { .. } | JobPhase::Over { .. }) => {
                return Answer::Refused(format!("job {number} does not run"));
            }
        };
        if !self.runs.contains_key(&run) {
            return Answer::NoSuchJob;
        }
        for run in self.runs_of(number) {
            self.set_end_of(now, run, end);
        }
        Answer::Done
    }

    fn set_end_of(&mut self, now: Timestamp, run: RunNumber, end: Timestamp) {
        let Some(record) = self.runs.get_mut(&run) else {
            return;
        };
        self.timers.remove(&(record.end, Timer::End(run)));
        record.end = end;
        self.timers.insert((end, Timer::End(run)));
        let late = |d: &super::job::Doom| d.cause == Cause::Walltime && d.sent == 0;
        if end > now && record.doom.as_ref().is_some_and(late) {
            self.set_doom(run, None);
        }
    }

    pub(super) fn close_node(&mut self, node: &NodeName, at: Option<Timestamp>) -> Answer {
        let Some(node) = self.nodes.get_mut(node) else {
            return Answer::NoSuchNode;
        };
        node.closes_at = at;
        Answer::Done
    }

    pub(super) fn drain(&mut self, now: Timestamp, name: &NodeName) -> Answer {
        let Some(node) = self.nodes.get_mut(name) else {
            return Answer::NoSuchNode;
        };
        match node.state {
            NodeState::Up => node.state = NodeState::Draining,
            NodeState::Draining => {}
            NodeState::Down | NodeState::Lost => {
                return Answer::Refused(format!("node {name} is not up"));
            }
        }
        self.end_all_on(now, name, Cause::Drain);
        Answer::Done
    }

    pub(super) fn node_down(&mut self, now: Timestamp, name: &NodeName) -> Answer {
        let Some(node) = self.nodes.get_mut(name) else {
            return Answer::NoSuchNode;
        };
        if node.state == NodeState::Lost {
            return Answer::Refused(format!("node {name} is lost; restore it first"));
        }
        node.state = NodeState::Down;
        self.end_all_on(now, name, Cause::NodeDown);
        Answer::Done
    }

    pub(super) fn node_lost(&mut self, now: Timestamp, name: &NodeName) -> Answer {
        let Some(node) = self.nodes.get_mut(name) else {
            return Answer::NoSuchNode;
        };
        node.state = NodeState::Lost;
        // Strays that were being ended are out of reach too.
        for run in self.runs_on(name) {
            if !self.runs[&run].attached {
                self.set_doom(run, None);
            }
        }
        self.end_all_on(now, name, Cause::NodeLost);
        Answer::Done
    }

    pub(super) fn node_power_loss(
        &mut self,
        now: Timestamp,
        name: &NodeName,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        for run in self.runs_on(name) {
            effects.push(Effect::Signal {
                run,
                target: Target::Everything,
                signal: Signal::Kill,
            });
        }
        self.node_lost(now, name)
    }

    pub(super) fn restore(
        &mut self,
        now: Timestamp,
        name: &NodeName,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let Some(node) = self.nodes.get_mut(name) else {
            return Answer::NoSuchNode;
        };
        let was_lost = node.state == NodeState::Lost;
        node.state = NodeState::Up;
        if !was_lost {
            return Answer::Done;
        }
        for number in self.runs_on(name) {
            let run = &self.runs[&number];
            if let Some(code) = run.unheard_exit {
                // The doom was a guess of the LRM that has turned out wrong.
                let cancelled = run.cause() == Some(Cause::Cancel);
                if !cancelled {
                    self.set_doom(number, None);
                }
                self.finish(now, number, JobEnd::Exited(code), effects);
            } else if !run.attached {
                self.doom_stray(now, number);
            } else {
                let cancelled = run.cause() == Some(Cause::Cancel);
                let over_time = run.end <= now;
                self.set_doom(number, None);
                if cancelled {
                    self.begin_ending(now, number, Cause::Cancel);
                } else if over_time {
                    self.begin_ending(now, number, Cause::Walltime);
                }
            }
        }
        Answer::Done
    }

    fn end_all_on(&mut self, now: Timestamp, name: &NodeName, cause: Cause) {
        for run in self.runs_on(name) {
            // That a node is lost concerns the others of its jobs only when the LRM has noticed.
            if cause == Cause::NodeLost {
                self.begin_ending_run(now, run, cause);
            } else {
                self.begin_ending(now, run, cause);
            }
        }
    }

    fn runs_on(&self, name: &NodeName) -> Vec<RunNumber> {
        self.runs
            .iter()
            .filter(|(_, run)| run.node == *name)
            .map(|(number, _)| *number)
            .collect()
    }
}
