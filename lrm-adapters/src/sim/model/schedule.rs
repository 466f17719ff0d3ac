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

/// What will be free on each node, and who could be made to go.
#[derive(Default)]
struct Leaving {
    /// Held by runs that are on the way to their end.
    dying: BTreeMap<NodeName, Resources>,
    /// Runs that may be preempted, with their queue's priority, the youngest first.
    victims: BTreeMap<NodeName, Vec<(i32, RunNumber)>>,
}

impl Leaving {
    fn dying_on(&self, name: &NodeName) -> Resources {
        self.dying.get(name).copied().unwrap_or_default()
    }
}

impl Model {
    /// Starts what can start and preempts for what cannot.
    pub(super) fn schedule(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut claimed: BTreeMap<NodeName, Resources> = BTreeMap::new();
        let mut leaving: Option<Leaving> = None;
        let mut after: Option<Rank> = None;
        while let Some(rank) = self.next_rank(after) {
            after = Some(rank);
            let job = &self.jobs[&rank.2];
            if !eligible(job, now) {
                continue;
            }
            let need = job.request.resources;
            if let Some((nodes, walltime)) = self.place(now, job, &claimed, leaving.as_ref()) {
                self.start(now, rank.2, &nodes, walltime, effects);
                continue;
            }
            let Some(queue) = self.config.queue(&job.request.queue).filter(|q| q.preempts) else {
                return;
            };
            let survey = leaving.take().unwrap_or_else(|| self.survey());
            let found = self.awaited(now, job, queue.priority, &claimed, &survey);
            let Some((node, victims)) = found else {
                return;
            };
            let claim = claimed.entry(node).or_default();
            *claim = claim.plus(&need);
            if victims.is_empty() {
                leaving = Some(survey);
            }
            for victim in victims {
                self.begin_ending(now, victim, Cause::Preempt);
            }
            if leaving.is_none() {
                leaving = Some(self.survey());
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

    /// The nodes where a job can start now, and with what walltime. What others wait for is theirs.
    fn place(
        &self,
        now: Timestamp,
        job: &Job,
        claimed: &BTreeMap<NodeName, Resources>,
        leaving: Option<&Leaving>,
    ) -> Option<(Vec<NodeName>, Span)> {
        let need = &job.request.resources;
        let good = self.nodes.iter().filter_map(|(name, node)| {
            let walltime = walltime_on((name, node), job, now)?;
            let free = match (claimed.get(name), leaving) {
                (Some(claim), Some(leaving)) => {
                    let soon = node.free().plus(&leaving.dying_on(name)).minus(claim);
                    least(&node.free(), &soon)
                }
                (_, None) | (None, _) => node.free(),
            };
            free.holds(need).then(|| (name.clone(), walltime))
        });
        let wanted = job.request.nodes as usize;
        let (nodes, walltimes): (Vec<_>, Vec<_>) = good.take(wanted).unzip();
        let walltime = walltimes.into_iter().min()?;
        (nodes.len() == wanted).then_some((nodes, walltime))
    }

    /// The node where the fewest runs have to go for a job of this priority, and these runs.
    fn awaited(
        &self,
        now: Timestamp,
        job: &Job,
        priority: i32,
        claimed: &BTreeMap<NodeName, Resources>,
        leaving: &Leaving,
    ) -> Option<(NodeName, Vec<RunNumber>)> {
        let need = &job.request.resources;
        let mut best: Option<(NodeName, Vec<RunNumber>)> = None;
        for (name, node) in &self.nodes {
            if walltime_on((name, node), job, now).is_none() {
                continue;
            }
            let claim = claimed.get(name).copied().unwrap_or_default();
            let mut free = node.free().plus(&leaving.dying_on(name)).minus(&claim);
            let mut victims = Vec::new();
            for (of, number) in leaving.victims.get(name).into_iter().flatten() {
                if free.holds(need) {
                    break;
                }
                if *of < priority {
                    free = free.plus(&self.runs[number].resources);
                    victims.push(*number);
                }
            }
            if free.holds(need) && best.as_ref().is_none_or(|(_, b)| victims.len() < b.len()) {
                best = Some((name.clone(), victims));
            }
        }
        best
    }

    /// One look at all runs: what will be free, and who could be preempted.
    fn survey(&self) -> Leaving {
        let mut leaving = Leaving::default();
        let mut youngest_first: Vec<_> = self.runs.iter().filter(|(_, r)| r.attached).collect();
        youngest_first.sort_by_key(|(n, r)| std::cmp::Reverse((r.start, **n)));
        for (number, run) in youngest_first {
            if run.doom.is_some() {
                let dying = leaving.dying.entry(run.node.clone()).or_default();
                *dying = dying.plus(&run.resources);
                continue;
            }
            let job = self.jobs.get(&run.job);
            let queue = job.and_then(|j| self.config.queue(&j.request.queue));
            if let Some(queue) = queue.filter(|q| q.preemptable) {
                let victims = leaving.victims.entry(run.node.clone()).or_default();
                victims.push((queue.priority, *number));
            }
        }
        leaving
    }

    fn start(
        &mut self,
        now: Timestamp,
        number: JobNumber,
        nodes: &[NodeName],
        walltime: Span,
        effects: &mut Vec<Effect>,
    ) {
        let rank = self.rank(&self.jobs[&number]);
        self.queued.remove(&rank);
        let first = self.next_run;
        let Some(job) = self.jobs.get_mut(&number) else {
            return;
        };
        let (restarts, request) = (job.starts, job.request.clone());
        job.starts += 1;
        job.phase = JobPhase::Running(first);
        for (rank, name) in (0..request.nodes).zip(nodes) {
            let run = self.next_run;
            self.next_run = run.next();
            let Some(node) = self.nodes.get_mut(name) else {
                continue;
            };
            node.used = node.used.plus(&request.resources);
            let record = Run {
                job: number,
                rank,
                node: name.clone(),
                resources: request.resources,
                launch: request.launch,
                start: now,
                end: now + walltime,
                attached: true,
                gone: None,
                unheard_exit: None,
                doom: None,
            };
            self.timers.insert((record.end, Timer::End(run)));
            effects.push(Effect::Start(Start {
                job: number,
                run,
                restarts,
                rank,
                nodes: request.nodes,
                node: name.clone(),
                resources: record.resources,
                start: record.start,
                end: record.end,
            }));
            self.runs.insert(run, record);
        }
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
fn walltime_on((name, node): (&NodeName, &Node), job: &Job, now: Timestamp) -> Option<Span> {
    if node.state != NodeState::Up || job.request.exclude.contains(name) {
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
