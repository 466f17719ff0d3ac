//! What `qsub`, `qstat` and `qdel` say, read by pattern. Pure.
//!
//! OpenPBS ends with its error number modulo 256 (measured); Torque's texts are the same where
//! both have them.

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, JobState, Observation, SubmitAnswer};

use super::blocks::{self, Block};
use super::dialect::Dialect;
use super::state;
use crate::command::Output;

/// Exit codes with which OpenPBS's `qsub` says no; in each case there is no job. Measured:
/// 2 usage, 38 per-user limit, 159 unauthorized, 166 bad value, 170 unknown
/// queue, 173 queue disabled, 175 bad UID, 187 unknown resource, 188 over a limit.
const QSUB_NO: [i32; 9] = [2, 38, 159, 166, 170, 173, 175, 187, 188];
/// With exit code 1: what it says before it has asked the server for anything.
const QSUB_BEFORE: [&str; 2] = ["No such file or directory", "cannot send environment"];
/// "Unauthorized Request".
const UNAUTHORIZED: i32 = 159;
/// What `qstat -x` says, with exit code 0 and no job, where the server keeps no history.
const NO_HISTORY: &str = "not configured to maintain job history";

/// Reads `qsub`'s answer.
pub(super) fn submit(output: &Output, dialect: Dialect) -> SubmitAnswer {
    let id = output.stdout.lines().find_map(|line| job_id(line.trim()));
    match (output.code, id) {
        (Some(0), Some(id)) => SubmitAnswer::Accepted(id),
        (Some(0), None) => {
            let said: String = output.stdout.chars().take(200).collect();
            SubmitAnswer::NoAnswer(format!("no job id could be read in `{said}`"))
        }
        (Some(code), None) if says_no(code, output, dialect) => {
            SubmitAnswer::Refused(output.complaint())
        }
        // An id and a failure: the job may well be there.
        (Some(_) | None, _) => SubmitAnswer::NoAnswer(output.complaint()),
    }
}

fn says_no(code: i32, output: &Output, dialect: Dialect) -> bool {
    match dialect {
        Dialect::Openpbs => {
            QSUB_NO.contains(&code)
                || (code == 1 && QSUB_BEFORE.iter().any(|w| output.stderr.contains(w)))
        }
        // "submit error" is the server's own answer, except for what broke on the way.
        Dialect::Torque => {
            let said = output.stderr.to_ascii_lowercase();
            let broken = [
                "timed out",
                "timeout",
                "end of file",
                "protocol",
                "connect",
                "busy",
            ];
            code == 2 || said.contains("submit error (") && !broken.iter().any(|b| said.contains(b))
        }
    }
}

/// `12.server`: digits, a dot, a name. Not an array's `12[].server`: we submit none.
fn job_id(line: &str) -> Option<LrmJobId> {
    let (number, server) = line.split_once('.')?;
    let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let ours = !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
        && !server.is_empty()
        && server.chars().all(named);
    if ours { LrmJobId::new(line).ok() } else { None }
}

/// What a bulk `qstat -f` has brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Listed {
    /// As the contract has it; only jobs of `user`.
    Answer(Observation),
    /// The server keeps no history: ask without `-x`.
    NoHistory,
}

/// Reads a bulk listing.
pub(super) fn listing(output: &Output, dialect: Dialect, user: &str) -> Listed {
    if output.stderr.contains(NO_HISTORY) {
        return Listed::NoHistory;
    }
    let no = |why: String| Listed::Answer(Observation::NoAnswer(why));
    // Slurm's look-alike of `qstat` fails with exit code 0 and nothing on stdout (measured).
    let silent = output.stdout.trim().is_empty() && !output.stderr.trim().is_empty();
    if output.code != Some(0) || silent {
        return no(output.complaint());
    }
    let jobs = blocks::read(&output.stdout).and_then(|blocks| {
        blocks
            .iter()
            .filter(|block| is_ours(block, user))
            .map(|block| state::job(block, dialect))
            .collect()
    });
    match jobs {
        Ok(jobs) => Listed::Answer(Observation::Listing(jobs)),
        Err(e) => no(format!("the listing could not be read: {e}")),
    }
}

/// A job of another account may carry a copy of our key: everybody can read it.
fn is_ours(block: &Block, user: &str) -> bool {
    state::owner(block).is_none_or(|owner| owner == user)
}

/// What a look at one job before its `qdel` has brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// It lives in this state and carries the key.
    Ours(JobState),
    /// There is nothing to cancel, or nothing is known.
    Answer(CancelAnswer),
}

/// Reads `qstat -f ID`.
pub(super) fn look(output: &Output, dialect: Dialect, user: &str, key: &SubmitKey) -> Look {
    if output.code == Some(0) && !output.stdout.trim().is_empty() {
        let jobs = blocks::read(&output.stdout)
            .map(|blocks| blocks.into_iter().filter(|b| is_ours(b, user)))
            .and_then(|blocks| {
                blocks
                    .map(|b| state::job(&b, dialect))
                    .collect::<Result<Vec<_>, _>>()
            });
        return match jobs {
            Ok(jobs) => match jobs.into_iter().find(|j| j.key.as_ref() == Some(key)) {
                Some(job) if !matches!(job.state, JobState::Ended(_)) => Look::Ours(job.state),
                // Over, or the id was given to another job.
                Some(_) | None => Look::Answer(CancelAnswer::NoSuchJob),
            },
            Err(e) => Look::Answer(CancelAnswer::NoAnswer(format!(
                "the job could not be read: {e}"
            ))),
        };
    }
    if is_unknown(output) {
        return Look::Answer(CancelAnswer::NoSuchJob);
    }
    Look::Answer(CancelAnswer::NoAnswer(output.complaint()))
}

/// Reads `qdel`'s answer.
pub(super) fn cancel(output: &Output) -> CancelAnswer {
    match output.code {
        Some(0) => CancelAnswer::Taken,
        Some(_) if is_unknown(output) => CancelAnswer::NoSuchJob,
        // Torque: it is ending already.
        Some(_) if output.stderr.contains("EXITING") => CancelAnswer::Taken,
        Some(UNAUTHORIZED) => CancelAnswer::Refused(output.complaint()),
        Some(_) if output.stderr.contains("Unauthorized Request") => {
            CancelAnswer::Refused(output.complaint())
        }
        Some(_) | None => CancelAnswer::NoAnswer(output.complaint()),
    }
}

/// By the words: OpenPBS's exit codes are 153 and 35, but `qstat` has been seen to say 1 at the
/// end of a pipe, and Torque has codes of its own.
fn is_unknown(output: &Output) -> bool {
    let said = &output.stderr;
    let failed = output.code.is_some_and(|code| code != 0);
    failed
        && (said.contains("Unknown Job Id")
            || said.contains("Job has finished")
            || said.contains("state for job - COMPLETE"))
}

#[cfg(test)]
mod tests;
