//! What a job's block says in the contract's words. Pure.
//!
//! The codes of OpenPBS were measured on 23.06.06; those of Torque are from its administrator's
//! guide 6.1.2, "Job exit status".

use protocol::ids::{LrmJobId, NodeName, SubmitKey};
use protocol::lrm::{JobEnd, JobState, ObservedJob};
use protocol::time::Span;

use super::KEY_VARIABLE;
use super::blocks::Block;
use super::dialect::Dialect;
use super::values::{first_host, instant, span};

/// Substate of a job that somebody, or the scheduler, has deleted (OpenPBS).
const DELETED: &str = "91";
/// Substate of a job that is told to end so that it can be started again (OpenPBS).
const RERUN: &str = "60";
/// Exit statuses from here up are signals: 271 is SIGTERM.
const SIGNAL_BASE: i32 = 256;

/// The job of a block.
///
/// # Errors
/// It has no state, or names that cannot be: the listing is not to be believed.
pub(super) fn job(block: &Block, dialect: Dialect) -> Result<ObservedJob, String> {
    let letter = block
        .get("job_state")
        .filter(|s| !s.is_empty())
        .ok_or_else(|| format!("job {} has no state", block.id))?;
    let text = |e: protocol::ids::IdError| e.to_string();
    let comment = block.get("comment").unwrap_or_default();
    let state = match letter {
        "Q" | "W" | "T" => JobState::Queued,
        "H" => JobState::Held,
        // `qdel` or the scheduler has told it to end; its processes may live.
        "R" if comment.contains(" and terminated") => JobState::Ending,
        "R" if block.get("substate") == Some(RERUN) => JobState::Ending,
        "R" => JobState::Running,
        "S" | "U" => JobState::Suspended,
        "E" => JobState::Ending,
        "F" | "X" if dialect == Dialect::Openpbs => JobState::Ended(end(block, dialect)),
        "C" if dialect == Dialect::Torque => JobState::Ended(end(block, dialect)),
        unknown => JobState::Unknown(unknown.to_owned()),
    };
    let started = match state {
        JobState::Queued | JobState::Held | JobState::Unknown(_) => false,
        JobState::Running | JobState::Suspended | JobState::Ending | JobState::Ended(_) => true,
    };
    let at = |names: &[&str]| names.iter().find_map(|n| instant(block.get(n)?));
    let start = at(&["stime", "start_time"]).filter(|_| started);
    let walltime = block.get("Resource_List.walltime").and_then(span);
    let over = matches!(state, JobState::Ended(_));
    let finish = || match (start, walltime) {
        (Some(start), Some(walltime)) => Some(start + walltime),
        (None, _) | (_, None) => None,
    };
    let starts: u32 = ["run_count", "start_count"]
        .iter()
        .find_map(|n| block.get(n)?.parse().ok())
        .unwrap_or(1);
    Ok(ObservedJob {
        id: LrmJobId::new(&block.id).map_err(text)?,
        key: key(block),
        detail: detail(block, letter, comment),
        start,
        end: if over {
            at(&["obittime", "comp_time", "mtime"])
        } else {
            finish()
        },
        node: block
            .get("exec_host")
            .filter(|_| started)
            .and_then(first_host)
            .map(NodeName::new)
            .transpose()
            .map_err(text)?,
        restarts: starts.saturating_sub(1),
        state,
    })
}

/// Our key: the variable that we gave the job; its name, where the variables are not shown.
fn key(block: &Block) -> Option<SubmitKey> {
    let text = match block.get("Variable_List") {
        Some(_) => block.variable(KEY_VARIABLE)?,
        None => block
            .get("Job_Name")
            .filter(|name| name.starts_with("wp-"))?,
    };
    SubmitKey::new(text).ok()
}

fn detail(block: &Block, letter: &str, comment: &str) -> String {
    let mut text = match block.get("substate") {
        Some(substate) => format!("{letter}, substate {substate}"),
        None => letter.to_owned(),
    };
    if let Some(holds) = block.get("Hold_Types").filter(|_| letter == "H") {
        text = format!("{text}, holds {holds}");
    }
    if comment.is_empty() {
        text
    } else {
        format!("{comment} ({text})")
    }
}

fn end(block: &Block, dialect: Dialect) -> JobEnd {
    let status = block
        .get("Exit_status")
        .and_then(|status| status.parse::<i32>().ok());
    match dialect {
        Dialect::Openpbs => openpbs_end(block, status),
        Dialect::Torque => torque_end(block, status),
    }
}

fn openpbs_end(block: &Block, status: Option<i32>) -> JobEnd {
    let comment = block.get("comment").unwrap_or_default();
    if block.get("substate") == Some(DELETED) {
        // Whatever the exit status is: in direct mode it is the pilot's own code.
        return if comment.contains("terminated by Scheduler@") {
            JobEnd::Preempted
        } else {
            JobEnd::Cancelled
        };
    }
    match status {
        None => JobEnd::Other(format!("finished without an exit status: {comment}")),
        Some(-29) => JobEnd::Walltime,
        Some(-28) => JobEnd::Other("killed: over its processor time".to_owned()),
        Some(-27) => JobEnd::Other("killed: over its memory".to_owned()),
        Some(-20) => JobEnd::NodeLost,
        // 254: the program of a direct job could not be executed.
        Some(-1 | -2 | -3 | 254) => JobEnd::LaunchFailed,
        Some(code) => own_end(code),
    }
}

fn torque_end(block: &Block, status: Option<i32>) -> JobEnd {
    let used = |name: &str| block.get(name).and_then(span);
    let over_time = match (
        used("resources_used.walltime"),
        used("Resource_List.walltime"),
    ) {
        (Some(used), Some(asked)) => used >= asked && asked > Span::ZERO,
        (None, _) | (_, None) => false,
    };
    match status {
        // Deleted before it started.
        None if block.get("start_time").is_none() => JobEnd::Cancelled,
        None => JobEnd::Other("completed without an exit status".to_owned()),
        Some(-11) => JobEnd::Walltime,
        Some(-10) => JobEnd::Other("killed: over its memory".to_owned()),
        Some(-12) => JobEnd::Other("killed: over its processor time".to_owned()),
        Some(-1 | -2 | -3 | -8 | -9 | -13 | -14) => JobEnd::LaunchFailed,
        // SIGTERM or SIGKILL by the LRM: the walltime or `qdel`; Torque does not say which.
        Some(271 | 265) if over_time => JobEnd::Walltime,
        Some(271 | 265) => JobEnd::Cancelled,
        Some(code) => own_end(code),
    }
}

fn own_end(code: i32) -> JobEnd {
    match code {
        0..SIGNAL_BASE => JobEnd::Exited(code),
        // As a shell says it.
        SIGNAL_BASE.. => JobEnd::Exited(128 + (code - SIGNAL_BASE)),
        ..0 => JobEnd::Other(format!("ended by PBS with exit status {code}")),
    }
}

/// The owner's account, without the host.
pub(super) fn owner(block: &Block) -> Option<&str> {
    let owner = block.get("Job_Owner")?;
    Some(owner.split_once('@').map_or(owner, |(user, _)| user))
}

#[cfg(test)]
mod tests;
