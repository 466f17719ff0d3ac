//! What HTCondor's commands print, read by name. Pure.

use protocol::ids::{LrmJobId, NodeName, SubmitKey};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, ObservedJob, SubmitAnswer};
use protocol::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::command::Output;
use crate::contract::Cancel;

/// What `condor_submit` says when there is certainly no job: it could not read what it was given,
/// or the schedd has refused it for a reason that it names (23.9: all with exit code 1, on
/// stderr). Whatever else it says may have been said after the schedd has taken the job.
const REFUSALS: &[&str] = &[
    "Failed to open command file",
    "Failed to parse command file",
    "Parse error in expression",
    "Executable file ",
    "No 'executable' parameter was provided",
    "Cannot allocate a cluster id",
];

/// After this line the schedd's own reason follows, as a line that begins with `ERROR: ` too:
/// a limit of the site's (`SUBMIT_REQUIREMENT`). Without that line it is not known what became of
/// the job.
const NOT_COMMITTED: &str = "ERROR: Failed to commit job submission into the queue.";

pub(super) fn submit(output: &Output) -> SubmitAnswer {
    match output.code {
        Some(0) => match output.stdout.lines().find_map(submitted) {
            Some(id) => SubmitAnswer::Accepted(id),
            None => {
                let said: String = output.stdout.chars().take(200).collect();
                SubmitAnswer::NoAnswer(format!("no job id could be read in `{said}`"))
            }
        },
        Some(_) if is_refused(&output.stderr) => SubmitAnswer::Refused(output.complaint()),
        Some(_) | None => SubmitAnswer::NoAnswer(output.complaint()),
    }
}

/// `14.0 - 14.0`: the first and the last job of a submit. Ours has one.
fn submitted(line: &str) -> Option<LrmJobId> {
    let (first, last) = line.trim().split_once(" - ")?;
    let (cluster, process) = first.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if first != last || !digits(cluster) || !digits(process) {
        return None;
    }
    LrmJobId::new(first).ok()
}

fn is_refused(stderr: &str) -> bool {
    if stderr.contains("SECMAN:") {
        return false;
    }
    let mut after = stderr
        .lines()
        .skip_while(|l| l.trim() != NOT_COMMITTED)
        .skip(1);
    REFUSALS.iter().any(|r| stderr.contains(r)) || after.any(|l| l.starts_with("ERROR: "))
}

/// True when `condor_rm` has marked the job.
pub(super) fn is_removed(output: &Output) -> bool {
    output.code == Some(0) && output.stdout.contains("marked for removal")
}

/// What a refused removal means, given what the queue has under that id and key.
pub(super) fn not_removed(jobs: &[ObservedJob], output: &Output, how: Cancel) -> CancelAnswer {
    match jobs.first() {
        None => CancelAnswer::NoSuchJob,
        Some(job) => match job.state {
            // It is being removed already.
            JobState::Ending => CancelAnswer::Taken,
            JobState::Ended(_) => CancelAnswer::NoSuchJob,
            JobState::Running | JobState::Suspended if how == Cancel::WhileWaiting => {
                CancelAnswer::Started
            }
            JobState::Queued
            | JobState::Held
            | JobState::Running
            | JobState::Suspended
            | JobState::Unknown(_) => CancelAnswer::NoAnswer(output.complaint()),
        },
    }
}

/// One job as `condor_q -json` prints it. An attribute that the job does not have is missing; one
/// that is not a plain value is a text that begins with `/Expr(`: such numbers are not read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ad {
    cluster_id: u32,
    proc_id: u32,
    job_status: i64,
    last_job_status: Option<Value>,
    workspace_pilot_key: Option<Value>,
    workspace_pilot_rerun: Option<Value>,
    remote_host: Option<Value>,
    last_remote_host: Option<Value>,
    job_current_start_date: Option<Value>,
    allowed_job_duration: Option<Value>,
    num_job_starts: Option<Value>,
    exit_by_signal: Option<Value>,
    exit_code: Option<Value>,
    exit_signal: Option<Value>,
    hold_reason: Option<Value>,
    hold_reason_code: Option<Value>,
    last_hold_reason: Option<Value>,
    last_hold_reason_code: Option<Value>,
    remove_reason: Option<Value>,
    vacate_reason: Option<Value>,
    vacate_reason_code: Option<Value>,
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|t| !t.is_empty())
}

fn number(value: Option<&Value>) -> Option<i64> {
    value.and_then(Value::as_i64)
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool) == Some(true)
}

/// No job at all is *nothing* on stdout, with exit code 0.
pub(super) fn listing(output: &Output) -> Observation {
    if output.code != Some(0) {
        return Observation::NoAnswer(output.complaint());
    }
    if output.stdout.trim().is_empty() {
        // It complains on stderr about a queue that it could not read.
        return if output.stderr.trim().is_empty() {
            Observation::Listing(Vec::new())
        } else {
            Observation::NoAnswer(output.complaint())
        };
    }
    let read = serde_json::from_str::<Vec<Ad>>(output.stdout.trim())
        .map_err(|e| e.to_string())
        .and_then(|ads| ads.iter().map(Ad::job).collect());
    match read {
        Ok(jobs) => Observation::Listing(jobs),
        Err(e) => Observation::NoAnswer(format!("the listing could not be read: {e}")),
    }
}

/// Hold codes of a job whose walltime is over (`allowed_job_duration`,
/// `allowed_execute_duration`).
const WALLTIME_HOLDS: &[i64] = &[46, 47];
/// Hold codes of a job that could not be started, or whose files did not come.
const LAUNCH_HOLDS: std::ops::RangeInclusive<i64> = 6..=14;
/// Vacate code of a job whose node was not heard of until its lease was over.
const DISCONNECTED: i64 = 1008;

impl Ad {
    fn job(&self) -> Result<ObservedJob, String> {
        let words = |e: protocol::ids::IdError| e.to_string();
        let state = self.state();
        let was_started = match state {
            JobState::Queued | JobState::Held => false,
            JobState::Running
            | JobState::Suspended
            | JobState::Ending
            | JobState::Ended(_)
            | JobState::Unknown(_) => true,
        };
        let start = number(self.job_current_start_date.as_ref())
            .filter(|&s| s > 0 && was_started)
            .map(Timestamp::from_secs);
        let end = match (start, number(self.allowed_job_duration.as_ref())) {
            (Some(start), Some(secs)) => {
                let millis = start.as_millis().saturating_add(secs.saturating_mul(1000));
                Some(Timestamp::from_millis(millis))
            }
            (None, _) | (_, None) => None,
        };
        let node = self.host().or(text(self.last_remote_host.as_ref()));
        Ok(ObservedJob {
            id: LrmJobId::new(&format!("{}.{}", self.cluster_id, self.proc_id)).map_err(words)?,
            // A key that is not one of ours belongs to somebody else's job.
            key: text(self.workspace_pilot_key.as_ref()).and_then(|k| SubmitKey::new(k).ok()),
            detail: self.detail(&state),
            state,
            start,
            end,
            node: node
                .filter(|_| was_started)
                .map(|host| NodeName::new(host.rsplit('@').next().unwrap_or(host)))
                .transpose()
                .map_err(words)?,
            restarts: u32::try_from(number(self.num_job_starts.as_ref()).unwrap_or(0) - 1)
                .unwrap_or(0),
        })
    }

    /// The slot that it has now: its processes may live there.
    fn host(&self) -> Option<&str> {
        text(self.remote_host.as_ref())
    }

    /// The meaning of `JobStatus` (manual, "job ClassAd attributes"), and of what goes with it.
    fn state(&self) -> JobState {
        match self.job_status {
            // It was started, and cannot be again: the schedd removes it within the minute.
            1 if self.has_run() && !is_true(self.workspace_pilot_rerun.as_ref()) => {
                JobState::Ending
            }
            1 => JobState::Queued,
            // Its walltime is over, it has been told, and is not gone yet.
            2 if self.is_held_for(WALLTIME_HOLDS) => JobState::Ending,
            2 => JobState::Running,
            // In the queue until it has left its slot, and for some time after.
            3..=5 if self.host().is_some() => JobState::Ending,
            3 => JobState::Ended(self.why_removed()),
            4 => JobState::Ended(self.how_completed()),
            5 if self.is_held_for(WALLTIME_HOLDS) => JobState::Ended(JobEnd::Walltime),
            5 => JobState::Held,
            // Its processes are gone and its output is copied.
            6 => JobState::Ending,
            7 => JobState::Suspended,
            other => JobState::Unknown(format!("JobStatus {other}")),
        }
    }

    fn has_run(&self) -> bool {
        number(self.num_job_starts.as_ref()).is_some_and(|n| n > 0)
    }

    fn is_held_for(&self, codes: &[i64]) -> bool {
        number(self.hold_reason_code.as_ref()).is_some_and(|c| codes.contains(&c))
    }

    fn how_completed(&self) -> JobEnd {
        if is_true(self.exit_by_signal.as_ref()) {
            let signal = number(self.exit_signal.as_ref()).unwrap_or(0);
            return JobEnd::Other(format!("killed by signal {signal}"));
        }
        match number(self.exit_code.as_ref()).and_then(|c| i32::try_from(c).ok()) {
            Some(code) => JobEnd::Exited(code),
            None => JobEnd::Other("completed; its exit code is not told".to_owned()),
        }
    }

    /// A person's removal, or that of an expression in the job: then what it was before tells.
    fn why_removed(&self) -> JobEnd {
        let reason = text(self.remove_reason.as_ref()).unwrap_or_default();
        let last_hold = number(self.last_hold_reason_code.as_ref())
            .or(number(self.hold_reason_code.as_ref()))
            .unwrap_or(0);
        let before = number(self.last_job_status.as_ref()).unwrap_or(0);
        if before == 5 && WALLTIME_HOLDS.contains(&last_hold) {
            return JobEnd::Walltime;
        }
        if !reason.contains("PeriodicRemove expression") {
            return match reason {
                r if r.contains("SYSTEM_PERIODIC_REMOVE") => JobEnd::Other(r.to_owned()),
                _ => JobEnd::Cancelled,
            };
        }
        match before {
            1 if number(self.vacate_reason_code.as_ref()) == Some(DISCONNECTED) => JobEnd::NodeLost,
            1 => JobEnd::Preempted,
            2 => JobEnd::Walltime,
            5 if LAUNCH_HOLDS.contains(&last_hold) => JobEnd::LaunchFailed,
            _ => JobEnd::Other(
                text(self.last_hold_reason.as_ref())
                    .unwrap_or(reason)
                    .to_owned(),
            ),
        }
    }

    fn detail(&self, state: &JobState) -> String {
        let vacated = text(self.vacate_reason.as_ref());
        let found = match state {
            JobState::Held => text(self.hold_reason.as_ref()),
            JobState::Ended(JobEnd::Walltime) => {
                text(self.last_hold_reason.as_ref()).or(text(self.hold_reason.as_ref()))
            }
            JobState::Ended(JobEnd::Preempted | JobEnd::NodeLost) => vacated,
            JobState::Ended(JobEnd::LaunchFailed) => text(self.last_hold_reason.as_ref()),
            JobState::Ended(JobEnd::Exited(_)) | JobState::Running | JobState::Suspended => None,
            JobState::Ended(JobEnd::Cancelled | JobEnd::Other(_)) | JobState::Unknown(_) => {
                text(self.remove_reason.as_ref())
            }
            JobState::Ending | JobState::Queued => text(self.remove_reason.as_ref()).or(vacated),
        };
        found.unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests;
