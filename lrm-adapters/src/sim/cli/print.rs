//! What the command prints: tables for people, JSON for programs.

use std::fmt::Write as _;

use protocol::lrm::{JobEnd, JobState};
use protocol::time::Timestamp;
use serde_json::{Value, json};

use crate::sim::daemon::faults::Fault;
use crate::sim::model::NodeState;
use crate::sim::wire::{JobRow, NodeRow};
use crate::sim::words::state_word;

const JOB_COLUMNS: [&str; 11] = [
    "ID", "NAME", "QUEUE", "STATE", "CORES", "MEMORY", "WALLTIME", "NODE", "END", "RESTARTS",
    "DETAIL",
];
const NODE_COLUMNS: [&str; 7] = ["NODE", "STATE", "CORES", "MEMORY", "DISK", "CLOSES", "JOBS"];

pub(super) fn jobs(rows: &[JobRow]) -> String {
    let cells = rows.iter().map(|row| {
        let seen = &row.seen;
        [
            seen.id.to_string(),
            row.name.clone(),
            row.queue.clone(),
            state_word(&seen.state).to_owned(),
            row.resources.cores.to_string(),
            format!("{} MiB", row.resources.memory_mib),
            row.walltime.to_string(),
            seen.node.as_ref().map_or_else(dash, ToString::to_string),
            seen.end.map_or_else(dash, |end| end.to_string()),
            seen.restarts.to_string(),
            match &seen.state {
                JobState::Ended(end) => end_words(end),
                JobState::Queued
                | JobState::Held
                | JobState::Running
                | JobState::Suspended
                | JobState::Ending
                | JobState::Unknown(_) => seen.detail.clone(),
            },
        ]
    });
    aligned(&JOB_COLUMNS, cells)
}

pub(super) fn jobs_json(rows: &[JobRow]) -> String {
    let jobs: Vec<Value> = rows.iter().map(job_json).collect();
    format!("{}\n", json!({ "count": jobs.len(), "jobs": jobs }))
}

fn job_json(row: &JobRow) -> Value {
    let seen = &row.seen;
    let exit_code = if let JobState::Ended(JobEnd::Exited(code)) = seen.state {
        Some(code)
    } else {
        None
    };
    json!({
        "id": seen.id, "key": seen.key, "name": row.name, "queue": row.queue,
        "state": state_word(&seen.state), "detail": seen.detail,
        "submitted": secs(row.submitted), "start": seen.start.map(secs), "end": seen.end.map(secs),
        "node": seen.node, "restarts": seen.restarts, "exit_code": exit_code,
        "nodes": row.nodes, "cores": row.resources.cores, "memory_mib": row.resources.memory_mib,
        "disk_mib": row.resources.disk_mib, "walltime_ms": row.walltime,
    })
}

pub(super) fn nodes(rows: &[NodeRow]) -> String {
    let cells = rows.iter().map(|row| {
        let (used, has) = (&row.used, &row.resources);
        let jobs: Vec<_> = row.jobs.iter().map(ToString::to_string).collect();
        [
            row.name.to_string(),
            node_word(row.state).to_owned(),
            format!("{}/{}", used.cores, has.cores),
            format!("{}/{} MiB", used.memory_mib, has.memory_mib),
            format!("{}/{} MiB", used.disk_mib, has.disk_mib),
            row.closes_at.map_or_else(dash, |t| t.to_string()),
            if jobs.is_empty() {
                dash()
            } else {
                jobs.join(",")
            },
        ]
    });
    aligned(&NODE_COLUMNS, cells)
}

pub(super) fn nodes_json(rows: &[NodeRow]) -> String {
    let nodes: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "state": node_word(row.state), "resources": row.resources,
                "used": row.used, "closes": row.closes_at.map(secs), "jobs": row.jobs,
            })
        })
        .collect();
    format!("{}\n", json!({ "nodes": nodes }))
}

pub(super) fn faults(faults: &[Fault]) -> String {
    if faults.is_empty() {
        return "no faults are set\n".to_owned();
    }
    let mut text = String::new();
    for fault in faults {
        let line = serde_json::to_string(fault).unwrap_or_default();
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Epoch seconds with their fraction.
pub(super) fn epoch(t: Timestamp) -> String {
    format!("{}.{:03}\n", t.as_millis() / 1000, t.as_millis() % 1000)
}

pub(super) fn end(end: &JobEnd) -> String {
    format!("{}\n", end_words(end))
}

fn end_words(end: &JobEnd) -> String {
    match end {
        JobEnd::Exited(code) => format!("exited with code {code}"),
        JobEnd::Cancelled => "cancelled".to_owned(),
        JobEnd::Walltime => "walltime over".to_owned(),
        JobEnd::Preempted => "preempted".to_owned(),
        JobEnd::NodeLost => "node lost".to_owned(),
        JobEnd::LaunchFailed => "could not be started".to_owned(),
        JobEnd::Other(why) => why.clone(),
    }
}

fn node_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Down => "down",
        NodeState::Lost => "lost",
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 need 41 bits; a double has 53"
)]
fn secs(t: Timestamp) -> f64 {
    t.as_millis() as f64 / 1000.0
}

fn dash() -> String {
    "-".to_owned()
}

fn aligned<const N: usize>(head: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let table: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = table.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
