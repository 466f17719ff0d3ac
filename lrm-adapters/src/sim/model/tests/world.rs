//! A model with its owner.

use std::collections::BTreeMap;

use protocol::ids::NodeName;
use protocol::lrm::JobState;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use super::at;
use crate::sim::model::{
    Answer, Effect, Event, Job, JobNumber, JobRequest, Model, ModelConfig, RunNumber, Start,
};
use crate::sim::profiles::{Signal, Target};

/// A model with its owner: processes that react, and a record of what happened to them.
pub struct World {
    pub model: Model,
    pub now: Timestamp,
    pub processes: BTreeMap<RunNumber, Process>,
    pub story: Vec<(Timestamp, Effect)>,
}

pub struct Process {
    pub start: Start,
    /// How long after its first SIGTERM it leaves; never if none.
    pub leaves_after: Option<Span>,
    pub leaves_at: Option<Timestamp>,
}

impl World {
    pub fn new(config: ModelConfig) -> Self {
        Self {
            model: Model::new(config),
            now: at(0),
            processes: BTreeMap::new(),
            story: Vec::new(),
        }
    }

    pub fn tell(&mut self, event: Event) -> Answer {
        let step = self.model.step(self.now, event);
        for effect in step.effects {
            self.story.push((self.now, effect.clone()));
            match effect {
                Effect::Start(start) => {
                    // Odd jobs obey, even ones have to be killed.
                    let leaves_after = (start.job.0 % 2 == 1).then(|| Span::from_millis(500));
                    let process = Process {
                        start: start.clone(),
                        leaves_after,
                        leaves_at: None,
                    };
                    assert!(self.processes.insert(start.run, process).is_none());
                }
                Effect::Signal { run, signal, .. } => {
                    let now = self.now;
                    if let Some(process) = self.processes.get_mut(&run) {
                        let leaves = match signal {
                            Signal::Kill => Some(now),
                            Signal::Term => process.leaves_after.map(|s| now + s),
                            Signal::Cont => None,
                        };
                        process.leaves_at = match (process.leaves_at, leaves) {
                            (Some(a), Some(b)) => Some(a.min(b)),
                            (a, b) => a.or(b),
                        };
                    }
                }
                Effect::CleanUp { run, .. } | Effect::Forget { run } => {
                    assert!(!self.story.is_empty(), "run {run}");
                }
            }
        }
        self.check();
        step.answer
    }

    /// What always holds.
    pub fn check(&self) {
        for node in self.model.nodes() {
            let used = self
                .model
                .runs()
                .filter(|(_, r)| r.attached && r.node == *node.name)
                .fold(Resources::default(), |sum, (_, r)| sum.plus(&r.resources));
            assert_eq!(used, node.used, "{}", node.name);
            assert!(
                node.resources.holds(&used),
                "{} is oversubscribed",
                node.name
            );
        }
        for job in self.model.jobs() {
            if let Some(run) = job.run() {
                let run = self.model.runs().find(|(n, _)| *n == run);
                assert!(run.is_some_and(|(_, r)| r.attached && r.job == job.number));
            }
        }
        // The model knows every live process.
        for run in self.processes.keys() {
            assert!(
                self.model.runs().any(|(n, _)| n == *run),
                "run {run} is unknown"
            );
        }
    }

    /// Lets time pass, with processes leaving when they do.
    pub fn pass(&mut self, span: Span) {
        let until = self.now + span;
        loop {
            let leaving = self
                .processes
                .iter()
                .filter_map(|(n, p)| Some((p.leaves_at?, *n)))
                .min();
            let due = [self.model.next_wakeup(), leaving.map(|(t, _)| t)];
            let Some(next) = due.into_iter().flatten().min().filter(|t| *t <= until) else {
                break;
            };
            self.now = next.max(self.now);
            match leaving {
                Some((t, run)) if t <= next => {
                    self.processes.remove(&run);
                    self.tell(Event::Exited { run, code: 0 });
                }
                Some(_) | None => {
                    self.tell(Event::Tick);
                }
            }
        }
        self.now = until;
        self.tell(Event::Tick);
    }

    pub fn submit(&mut self, request: JobRequest) -> JobNumber {
        match self.tell(Event::Submit(request)) {
            Answer::Submitted(job) => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self, job: JobNumber) -> JobState {
        self.model.observe_one(self.now, job).unwrap().state
    }

    pub fn run_of(&self, job: JobNumber) -> RunNumber {
        self.model.job(job).and_then(Job::run).unwrap()
    }

    pub fn node(&self, n: u32) -> NodeName {
        self.model.nodes().nth(n as usize).unwrap().name.clone()
    }

    pub fn signals_to(&self, wanted: RunNumber) -> Vec<(Timestamp, Target, Signal)> {
        let signal = |(t, e): &(Timestamp, Effect)| match e {
            Effect::Signal {
                run,
                target,
                signal,
            } if *run == wanted => Some((*t, *target, *signal)),
            Effect::Signal { .. }
            | Effect::Start(_)
            | Effect::CleanUp { .. }
            | Effect::Forget { .. } => None,
        };
        self.story.iter().filter_map(signal).collect()
    }
}
