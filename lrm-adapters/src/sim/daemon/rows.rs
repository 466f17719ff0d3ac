//! The listings that the command prints.

use protocol::ids::SubmitKey;
use protocol::lrm::JobState;
use protocol::time::Timestamp;

use crate::sim::model::Model;
use crate::sim::wire::{JobRow, NodeRow};

pub(super) fn jobs(
    model: &Model,
    now: Timestamp,
    all: bool,
    key: Option<&SubmitKey>,
) -> Vec<JobRow> {
    model
        .jobs()
        .filter(|job| key.is_none() || job.request.key.as_ref() == key)
        .filter_map(|job| {
            let seen = model.observe_one(now, job.number)?;
            let wanted = all || !matches!(seen.state, JobState::Ended(_));
            wanted.then(|| JobRow {
                seen,
                name: job.request.name.clone(),
                queue: job.request.queue.clone(),
                resources: job.request.resources,
                nodes: job.request.nodes,
                walltime: job.request.walltime,
                submitted: job.submitted,
            })
        })
        .collect()
}

pub(super) fn nodes(model: &Model) -> Vec<NodeRow> {
    model
        .nodes()
        .map(|node| NodeRow {
            name: node.name.clone(),
            state: node.state,
            resources: node.resources,
            used: node.used,
            closes_at: node.closes_at,
            jobs: model
                .runs()
                .filter(|(_, run)| run.attached && run.node == *node.name)
                .map(|(_, run)| run.job)
                .collect(),
        })
        .collect()
}
