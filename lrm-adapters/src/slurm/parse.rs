//! What Slurm's commands print, read by pattern. Pure.

use protocol::ids::{LrmJobId, NodeName, SubmitKey};
use protocol::lrm::{CancelAnswer, Observation, ObservedJob, SubmitAnswer};
use protocol::time::Timestamp;

use super::states::{self, Words};
use crate::command::Output;

/// `12` and, for a job on a named cluster, that cluster.
pub(super) fn split_id(id: &LrmJobId) -> (&str, Option<&str>) {
    match id.as_str().split_once(';') {
        Some((number, cluster)) => (number, Some(cluster)),
        None => (id.as_str(), None),
    }
}

/// Complaints after which there is no job: the controller's own verdicts, and what `sbatch` says
/// before it asks the controller. All from transcripts of 22.05, or from its table of errors.
/// Whatever is not here may have been a job: it is looked up.
const REFUSALS: &[&str] = &[
    "Access/permission denied",
    "Batch script is empty",
    "Invalid account or account/partition combination specified",
    "Invalid feature specification",
    "Invalid generic resource (gres) specification",
    "Invalid job array specification",
    "Invalid license specification",
    UNKNOWN_NODE,
    "Invalid partition name specified",
    "Invalid qos specification",
    "Invalid wckey specification",
    "Job violates accounting/QOS policy",
    "Memory required by task is not available",
    "More processors requested than permitted",
    "Node count specification invalid",
    "Requested node configuration is not available",
    "Requested reservation is invalid",
    "Requested time limit is invalid",
    "Required partition not available",
    "This does not look like a batch script",
    "Unable to open file",
    "User's group not permitted to use this partition",
];

/// What is said of a `--exclude` that names a node which the cluster does not have; one is enough
/// (measured on 22.05).
const UNKNOWN_NODE: &str = "Invalid node name specified";

/// True when a submit was refused for a node that is not there.
pub(super) fn is_unknown_node(why: &str) -> bool {
    why.contains(UNKNOWN_NODE)
}

/// Exit codes with which a shell or `env` says that there is no such program.
const NOT_RUN: [i32; 2] = [126, 127];
/// Exit code of Slurm's commands for a wrong command line.
const USAGE: i32 = 255;

pub(super) fn submit(output: &Output) -> SubmitAnswer {
    match output.code {
        Some(0) => match output.stdout.lines().rev().find_map(accepted) {
            Some(id) => SubmitAnswer::Accepted(id),
            None => {
                let said: String = output.stdout.chars().take(200).collect();
                SubmitAnswer::NoAnswer(format!("no job id could be read in `{said}`"))
            }
        },
        Some(code) if NOT_RUN.contains(&code) || refused(code, &output.stderr) => {
            SubmitAnswer::Refused(output.complaint())
        }
        Some(_) | None => SubmitAnswer::NoAnswer(output.complaint()),
    }
}

fn refused(code: i32, stderr: &str) -> bool {
    // `ssh` ends with the same code when it has not got through: only Slurm's own words count.
    let usage = code == USAGE
        && stderr.lines().any(|line| {
            line.starts_with("sbatch: unrecognized option")
                || line.starts_with("sbatch: error: Invalid --")
                || line.starts_with("sbatch: error: --")
        });
    usage || REFUSALS.iter().any(|words| stderr.contains(words))
}

/// `12` or `12;cluster`, alone on its line.
fn accepted(line: &str) -> Option<LrmJobId> {
    let line = line.trim();
    let (number, cluster) = match line.split_once(';') {
        Some((number, cluster)) => (number, Some(cluster)),
        None => (line, None),
    };
    let name = |c: &str| {
        !c.is_empty()
            && c.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let good = is_number(number) && number != "0" && cluster.is_none_or(name);
    good.then(|| LrmJobId::new(line).ok()).flatten()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// What ends each record; see the format in [`super::render`].
const RECORD_END: &str = "@end\n";

/// A listing of jobs, which get `;cluster` after their numbers where there is one.
pub(super) fn listing(output: &Output, cluster: Option<&str>) -> Observation {
    // Where one of several servers gave no answer, the commands have been seen to go on with
    // the others, to complain, and to end with 0.
    if output.code != Some(0) || output.stderr.contains("error:") {
        return Observation::NoAnswer(output.complaint());
    }
    let mut text = output.stdout.trim_start_matches('\n');
    // With `--clusters`, some versions print the name even without a header.
    if let Some(rest) = text.strip_prefix("CLUSTER: ") {
        text = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    if text.is_empty() {
        return Observation::Listing(Vec::new());
    }
    let Some(records) = text.strip_suffix(RECORD_END) else {
        let end: String = text.chars().rev().take(60).collect();
        let end: String = end.chars().rev().collect();
        return Observation::NoAnswer(format!("the listing is cut off; it ends in `{end}`"));
    };
    let jobs: Result<Vec<ObservedJob>, String> = records
        .split(RECORD_END)
        .filter_map(|record| job(record, cluster).transpose())
        .collect();
    match jobs {
        Ok(jobs) => Observation::Listing(jobs),
        Err(e) => Observation::NoAnswer(format!("the listing could not be read: {e}")),
    }
}

/// None for what is not a job: Slurm keeps a record of some submits that it has refused.
fn job(record: &str, cluster: Option<&str>) -> Result<Option<ObservedJob>, String> {
    let wrong = || {
        format!(
            "`{}` is not a job",
            record.chars().take(200).collect::<String>()
        )
    };
    let mut fields = record.splitn(9, '@');
    let mut next = || fields.next().ok_or_else(wrong);
    let (number, state, status, restarts) = (next()?, next()?, next()?, next()?);
    let (start, end, preempted, node) = (next()?, next()?, next()?, next()?);
    let (reason, name) = next()?.rsplit_once('@').ok_or_else(wrong)?;
    if !is_number(number) || state.is_empty() || state.contains(' ') {
        return Err(wrong());
    }
    let id = match cluster {
        Some(cluster) => format!("{number};{cluster}"),
        None => number.to_owned(),
    };
    let words = Words {
        state,
        reason,
        status,
        is_preempted: instant(preempted).is_some(),
    };
    if states::is_refused_submit(words) && node == "n/a" {
        return Ok(None);
    }
    let state = states::state(words);
    let has_begun = states::has_begun(&state);
    let when = |text: &str| instant(text).filter(|_| has_begun);
    Ok(Some(ObservedJob {
        id: LrmJobId::new(&id).map_err(|e| e.to_string())?,
        key: SubmitKey::new(name).ok(),
        detail: states::detail(words),
        // What is told of a job that waits is the scheduler's guess.
        start: when(start),
        end: when(end),
        node: (has_begun && !node.is_empty() && node != "n/a")
            .then(|| NodeName::new(node).ok())
            .flatten(),
        restarts: restarts.parse().map_err(|_| wrong())?,
        state,
    }))
}

/// Epoch seconds; `N/A` where there is no time.
fn instant(text: &str) -> Option<Timestamp> {
    is_number(text)
        .then(|| Timestamp::parse(text).ok())
        .flatten()
}

pub(super) fn cancel(output: &Output) -> CancelAnswer {
    let says = |words: &str| output.stderr.contains(words);
    match output.code {
        Some(0) => CancelAnswer::Taken,
        Some(_) if says("Invalid job id specified") => CancelAnswer::NoSuchJob,
        Some(_) if says("already completing or completed") => CancelAnswer::Taken,
        Some(_) if says("Access/permission denied") => CancelAnswer::Refused(output.complaint()),
        Some(_) | None => CancelAnswer::NoAnswer(output.complaint()),
    }
}

#[cfg(test)]
mod tests;
