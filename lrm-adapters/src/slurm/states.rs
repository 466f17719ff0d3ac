//! Slurm's words for a job's state. Pure.

use protocol::lrm::{JobEnd, JobState};

/// What a listing says about where a job stands.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    /// As `PENDING`.
    pub state: &'a str,
    /// As `JobHeldUser`; some reasons are sentences. `None` where there is none.
    pub reason: &'a str,
    /// The batch process's wait status.
    pub status: &'a str,
    /// Slurm has begun to preempt it; a job that is started again begins anew.
    pub is_preempted: bool,
}

/// Reasons of a waiting job that will not start by itself. The last three are sentences in
/// `squeue` and have underscores in `scontrol`.
const HELD: &[&str] = &[
    "JobHeldUser",
    "JobHeldAdmin",
    "DependencyNeverSatisfied",
    "launch failed requeued held",
    "job requeued in held state",
    "requeued in held state",
];

/// Slurm puts this "signal" into the status of a job that its node daemon could not start.
const COULD_NOT_LAUNCH: u32 = 53;

pub(super) fn state(words: Words<'_>) -> JobState {
    match words.state {
        "PENDING" if is_held(words.reason) => JobState::Held,
        "PENDING" | "REQUEUED" | "REQUEUE_FED" => JobState::Queued,
        "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => JobState::Held,
        "CONFIGURING" | "POWER_UP_NODE" | "RUNNING" | "RESIZING" | "SIGNALING" => JobState::Running,
        "SUSPENDED" | "STOPPED" => JobState::Suspended,
        "COMPLETING" | "STAGE_OUT" => JobState::Ending,
        // It has used its grace time to end by itself.
        "COMPLETED" | "FAILED" if words.is_preempted => JobState::Ended(JobEnd::Preempted),
        "COMPLETED" => JobState::Ended(JobEnd::Exited(0)),
        "FAILED" => JobState::Ended(failed(words.status)),
        "TIMEOUT" => JobState::Ended(JobEnd::Walltime),
        "PREEMPTED" => JobState::Ended(JobEnd::Preempted),
        "NODE_FAIL" => JobState::Ended(JobEnd::NodeLost),
        "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => JobState::Ended(JobEnd::LaunchFailed),
        "OUT_OF_MEMORY" => JobState::Ended(JobEnd::Other("out of memory".to_owned())),
        "DEADLINE" => JobState::Ended(JobEnd::Other("its deadline was over".to_owned())),
        // sacct adds who it was: `CANCELLED by 0`.
        cancelled if cancelled.starts_with("CANCELLED") => JobState::Ended(JobEnd::Cancelled),
        // REVOKED, too: the job lives on, on another cluster of the federation.
        unknown => JobState::Unknown(unknown.to_owned()),
    }
}

/// The record of a submit that was refused: it was never queued. Taken for a job, it would end
/// the wait after a refusal.
pub(super) fn is_refused_submit(words: Words<'_>) -> bool {
    words.state == "FAILED" && words.reason == "BadConstraints"
}

fn is_held(reason: &str) -> bool {
    let reason = reason.replace('_', " ");
    HELD.contains(&reason.as_str())
}

/// How a job ended that failed, by its wait status: `1792` for exit code 7, `9` for SIGKILL.
/// The reason does not tell: a job that a signal has ended has `JobLaunchFailure`, too.
fn failed(status: &str) -> JobEnd {
    let told = match status.split_once(':') {
        // As scontrol and sacct write it.
        Some((code, signal)) => (code.parse().ok()).zip(signal.parse().ok()),
        None => status
            .parse::<u32>()
            .ok()
            .map(|s| (i32::try_from(s >> 8 & 0xff).unwrap_or(0), s & 0x7f)),
    };
    match told {
        Some((_, COULD_NOT_LAUNCH)) => JobEnd::LaunchFailed,
        Some((code, 0)) => JobEnd::Exited(code),
        Some((_, signal)) => JobEnd::Other(format!("ended by signal {signal}")),
        None => JobEnd::Other(format!("failed with status `{status}`")),
    }
}

/// It has, or had, a node: its times and node are facts.
pub(super) fn has_begun(state: &JobState) -> bool {
    match state {
        JobState::Queued | JobState::Held => false,
        JobState::Running
        | JobState::Suspended
        | JobState::Ending
        | JobState::Ended(_)
        | JobState::Unknown(_) => true,
    }
}

/// For people: the reason, and the word where it says more than our state.
pub(super) fn detail(words: Words<'_>) -> String {
    let reason = match words.reason {
        "" | "None" | "(null)" => "",
        reason => reason,
    };
    match (words.state, reason) {
        ("RUNNING", "") if words.is_preempted => "being preempted".to_owned(),
        ("PENDING" | "RUNNING" | "COMPLETED", reason) => reason.to_owned(),
        (word, "") => word.to_owned(),
        (word, reason) => format!("{word}: {reason}"),
    }
}
