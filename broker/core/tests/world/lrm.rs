//! The LRMs: jobs, and how what the broker wants of them is done and answered.

use broker_core::{CancelScope, Effect, Event, PilotOrder};
use protocol::ids::{LrmJobId, NodeName, SiteName, SubmitKey};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, ObservedJob, SubmitAnswer};
use protocol::time::Timestamp;

use super::{World, site};

/// A job in an LRM.
#[derive(Clone, Debug)]
pub struct Job {
    pub site: SiteName,
    pub order: PilotOrder,
    pub id: LrmJobId,
    pub state: JobState,
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub restarts: u32,
}

impl Job {
    pub fn observed(&self) -> ObservedJob {
        ObservedJob {
            id: self.id.clone(),
            key: Some(self.order.key.clone()),
            state: self.state.clone(),
            detail: String::new(),
            start: self.start,
            end: self.end,
            node: self.start.map(|_| NodeName::new("node-1").unwrap()),
            restarts: self.restarts,
        }
    }
}

impl World {
    /// Takes a submit out of the list of things to do.
    pub fn take_order(&mut self) -> Option<PilotOrder> {
        let at = (self.todo.iter()).position(|e| matches!(e, Effect::SubmitPilot(_)))?;
        match self.todo.remove(at) {
            Effect::SubmitPilot(order) => Some(order),
            Effect::LookUp { .. } | Effect::CancelPilot { .. } | Effect::Wake(_) => None,
        }
    }

    /// The LRM takes a job in.
    pub fn lrm_takes(&mut self, order: PilotOrder) -> LrmJobId {
        self.job_ids += 1;
        let id = LrmJobId::new(&self.job_ids.to_string()).unwrap();
        self.jobs.push(Job {
            site: order.site.clone(),
            order,
            id: id.clone(),
            state: JobState::Queued,
            start: None,
            end: None,
            restarts: 0,
        });
        id
    }

    /// Submits that wait are done and answered as they should be.
    pub fn honest_submits(&mut self) {
        while let Some(order) = self.take_order() {
            let key = order.key.clone();
            let id = self.lrm_takes(order);
            let answer = SubmitAnswer::Accepted(id);
            self.step(Event::LrmSubmitted { key, answer });
        }
    }

    pub fn listing(&self, name: &SiteName) -> Observation {
        let jobs = self.jobs.iter().filter(|j| j.site == *name);
        Observation::Listing(jobs.map(Job::observed).collect())
    }

    pub fn observe(&mut self, name: &str) {
        let (site, observation) = (site(name), self.listing(&site(name)));
        self.step(Event::LrmObserved { site, observation });
    }

    /// Look-ups and cancels that wait are done and answered as they should be.
    pub fn honest_rest(&mut self) {
        for effect in std::mem::take(&mut self.todo) {
            match effect {
                Effect::LookUp { key, .. } => {
                    let found = self.jobs.iter().filter(|j| j.order.key == key);
                    let observation = Observation::Listing(found.map(Job::observed).collect());
                    self.step(Event::LrmFound { key, observation });
                }
                Effect::CancelPilot { key, scope, .. } => {
                    let job = self.jobs.iter().position(|j| j.order.key == key);
                    let waits = |j: usize| self.jobs[j].state == JobState::Queued;
                    let answer = match (job, scope) {
                        (Some(job), CancelScope::WhileQueued) if !waits(job) => {
                            CancelAnswer::Started
                        }
                        (Some(job), _) => {
                            self.end_job(job, JobEnd::Cancelled);
                            CancelAnswer::Taken
                        }
                        (None, _) => CancelAnswer::Taken,
                    };
                    self.step(Event::LrmCancelled { key, answer });
                }
                Effect::SubmitPilot(_) | Effect::Wake(_) => self.todo.push(effect),
            }
        }
    }

    /// The LRM ends a job: its processes are gone.
    pub fn end_job(&mut self, job: usize, end: JobEnd) {
        let key = self.jobs[job].order.key.clone();
        self.jobs[job].state = JobState::Ended(end);
        for p in self.pilots.iter_mut().filter(|p| is_of(&p.key, &key)) {
            p.gone = true;
        }
    }

    /// The LRM starts a job, and its pilots come up, one on each node. Says which is the first.
    pub fn start_job(&mut self, job: usize) -> usize {
        let now = self.now;
        let j = &mut self.jobs[job];
        j.state = JobState::Running;
        j.start = Some(now);
        j.end = Some(now + j.order.walltime);
        let (order, restarts, end) = (j.order.clone(), j.restarts, now + j.order.walltime);
        let first = self.pilots.len();
        for rank in 0..order.nodes {
            let key = match order.nodes {
                1 => order.key.clone(),
                _ => order.key.member(rank).unwrap(),
            };
            self.new_pilot(&key, &order.site, order.resources, end, restarts);
        }
        first
    }
}

/// True for the pilot of this job, or one of its pilots.
pub fn is_of(pilot: &SubmitKey, job: &SubmitKey) -> bool {
    pilot == job || pilot.split_member().is_some_and(|(of, _)| of == *job)
}
