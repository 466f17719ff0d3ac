//! The scheduler: strict order of queue priority, job priority and age, no backfill.
//!
//! A job that cannot start now stops everything behind it, except that a job which waits for
//! nodes that it has preempted only keeps those.

use std::collections::BTreeMap;

use protocol::ids::NodeName;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use super::job::{Job, JobPhase, Node, Run};
use super::types::{Effect, JobNumber, NodeState, RunNumber, Start, Timer};
use super::{Model, Rank};
use crate::sim::profiles::Cause;

/// What a job finds on the nodes.
enum Verdict {
    /// It starts on this node with this walltime.
    Starts(NodeName, Span),
    /// It waits for this node, where these runs have to go.
    Awaits(NodeName, Vec<RunNumber>),
    /// It cannot start now, and nothing behind it may.
    Waits,
}

impl Model {
    /// Starts what can start and preempts for what cannot.
    pub(super) fn schedule(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut claimed: BTreeMap<NodeName, Resources> = BTreeMap::new();
        let mut after: Option<Rank> = None;
        while let Some(rank) = self.next_rank(after) {
            after = Some(rank);
            let job = &self.jobs[&rank.2];
            if !eligible(job, now) {
                continue;
            }
            match self.verdict(now, job, &claimed) {
                Verdict::Starts(node, walltime) => {
                    self.start(now, rank.2, &node, walltime, effects);
                }
                Verdict::Awaits(node, victims) => {
                    let claim = claimed.entry(node).or_default();
                    *claim = claim.plus(&job.request.resources);
                    for victim in victims {
                        self.begin_ending(now, victim, Cause::Preempt);
                    }
                }
                Verdict::Waits => return,
            }
        }
    }

    fn next_rank(&self, after: Option<Rank>) -> Option<Rank> {
        use std::ops::Bound;
        match after {
            None => self.queued.first().copied(),
            Some(rank) => self
                .queued
                .range((Bound::Excluded(rank), Bound::Unbounded))
                .next()
                .copied(),
        }
    }

    fn verdict(
        &self,
        now: Timestamp,
        job: &Job,
        claimed: &BTreeMap<NodeName, Resources>,
    ) -> Verdict {
        let need = &job.request.resources;
        let usable = || {
            self.nodes
                .iter()
                .filter_map(|(name, node)| Some((name, node, walltime_on(node, job, now)?)))
        };
        for (name, node, walltime) in usable() {
            let free = match claimed.get(name) {
                None => node.free(),
                Some(claim) => least(
                    &node.free(),
                    &node.free().plus(&self.dying_on(name)).minus(claim),
                ),
            };
            if free.holds(need) {
                return Verdict::Starts(name.clone(), walltime);
            }
        }
        let Some(queue) = self.config.queue(&job.request.queue).filter(|q| q.preempts) else {
            return Verdict::Waits;
        };
        let mut best: Option<(NodeName, Vec<RunNumber>)> = None;
        for (name, node, _) in usable() {
            let claim = claimed.get(name).copied().unwrap_or_default();
            let mut free = node.free().plus(&self.dying_on(name)).minus(&claim);
            let mut victims = Vec::new();
            for (number, run) in self.victims_on(name, queue.priority) {
                if free.holds(need) {
                    break;
                }
                free = free.plus(&run.resources);
                victims.push(number);
            }
            if free.holds(need) && best.as_ref().is_none_or(|(_, b)| victims.len() < b.len()) {
                best = Some((name.clone(), victims));
            }
        }
        best.map_or(Verdict::Waits, |(node, victims)| {
            Verdict::Awaits(node, victims)
        })
    }

    /// What runs on a node that are on the way to their end will free.
    fn dying_on(&self, name: &NodeName) -> Resources {
        self.runs
            .values()
            .filter(|r| r.attached && r.node == *name && r.doom.is_some())
            .fold(Resources::default(), |sum, r| sum.plus(&r.resources))
    }

    /// Runs on a node that a queue of this priority may preempt, the youngest first.
    fn victims_on(&self, name: &NodeName, priority: i32) -> Vec<(RunNumber, &Run)> {
        let mut victims: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, r)| r.attached && r.node == *name && r.doom.is_none())
            .filter(|(_, r)| {
                self.jobs
                    .get(&r.job)
                    .and_then(|j| self.config.queue(&j.request.queue))
                    .is_some_and(|q| q.preemptable && q.priority < priority)
            })
            .map(|(n, r)| (*n, r))
            .collect();
        victims.sort_by_key(|(n, r)| std::cmp::Reverse((r.start, *n)));
        victims
    }

    fn start(
        &mut self,
        now: Timestamp,
        number: JobNumber,
        name: &NodeName,
        walltime: Span,
        effects: &mut Vec<Effect>,
    ) {
        let rank = self.rank(&self.jobs[&number]);
        self.queued.remove(&rank);
        let run = self.next_run;
        self.next_run = run.next();
        let (Some(job), Some(node)) = (self.jobs.get_mut(&number), self.nodes.get_mut(name)) else {
            return;
        };
        let restarts = job.starts;
        job.starts += 1;
        job.phase = JobPhase::Running(run);
        node.used = node.used.plus(&job.request.resources);
        let record = Run {
            job: number,
            node: name.clone(),
            resources: job.request.resources,
            launch: job.request.launch,
            start: now,
            end: now + walltime,
            attached: true,
            unheard_exit: None,
            doom: None,
        };
        self.timers.insert((record.end, Timer::End(run)));
        effects.push(Effect::Start(Start {
            job: number,
            run,
            restarts,
            node: name.clone(),
            resources: record.resources,
            start: record.start,
            end: record.end,
        }));
        self.runs.insert(run, record);
    }
}

fn eligible(job: &Job, now: Timestamp) -> bool {
    let waits_until = match job.phase {
        JobPhase::Queued { not_before } => not_before,
        JobPhase::Held { .. } | JobPhase::Running(_) | JobPhase::Over { .. } => return false,
    };
    waits_until.is_none_or(|t| t <= now) && job.request.begin.is_none_or(|t| t <= now)
}

/// The walltime that a job would get on a node, if the node takes it at all.
fn walltime_on(node: &Node, job: &Job, now: Timestamp) -> Option<Span> {
    if node.state != NodeState::Up {
        return None;
    }
    let asked = job.request.walltime;
    let room = match node.closes_at {
        None => return Some(asked),
        Some(closes) => closes.since(now),
    };
    let least = job.request.min_walltime.unwrap_or(asked);
    (room >= least && !room.is_zero()).then(|| asked.min(room))
}

fn least(a: &Resources, b: &Resources) -> Resources {
    Resources {
        cores: a.cores.min(b.cores),
        memory_mib: a.memory_mib.min(b.memory_mib),
        disk_mib: a.disk_mib.min(b.disk_mib),
    }
}
