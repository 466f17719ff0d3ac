//! What `sim-lrm` prints, read by pattern. Pure.

use protocol::ids::{LrmJobId, NodeName, SubmitKey};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, ObservedJob, SubmitAnswer};
use protocol::time::Timestamp;
use serde::Deserialize;

use crate::command::Output;
use crate::sim::words;

/// Exit code with which `sim-lrm` says that the LRM refused; any other failure means that the
/// LRM's answer is not known.
pub(super) const REFUSED: i32 = words::EXIT_REFUSED;

pub(super) fn submit(output: &Output) -> SubmitAnswer {
    let id = output
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("submitted job "))
        .filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|id| LrmJobId::new(id).ok());
    match (output.code, id) {
        (Some(0), Some(id)) => SubmitAnswer::Accepted(id),
        (Some(REFUSED), _) => SubmitAnswer::Refused(output.complaint()),
        (Some(0), None) => {
            let said: String = output.stdout.chars().take(200).collect();
            SubmitAnswer::NoAnswer(format!("no job id could be read in `{said}`"))
        }
        (Some(_) | None, _) => SubmitAnswer::NoAnswer(output.complaint()),
    }
}

pub(super) fn cancel(output: &Output) -> CancelAnswer {
    match output.code {
        Some(0) => CancelAnswer::Taken,
        Some(words::EXIT_NO_SUCH_JOB) => CancelAnswer::NoSuchJob,
        Some(words::EXIT_STARTED) => CancelAnswer::Started,
        Some(REFUSED) => CancelAnswer::Refused(output.complaint()),
        Some(_) | None => CancelAnswer::NoAnswer(output.complaint()),
    }
}

/// One job as `sim-lrm queue --json` prints it. Further fields are tolerated.
#[derive(Deserialize)]
struct Line {
    id: String,
    key: Option<String>,
    state: String,
    #[serde(default)]
    detail: String,
    start: Option<f64>,
    end: Option<f64>,
    node: Option<String>,
    #[serde(default)]
    restarts: u32,
    exit_code: Option<i32>,
}

/// The whole listing; the count shows a listing that was cut off.
#[derive(Deserialize)]
struct Listing {
    jobs: Vec<Line>,
    count: usize,
}

pub(super) fn listing(output: &Output) -> Observation {
    if output.code != Some(0) {
        return Observation::NoAnswer(output.complaint());
    }
    let listing: Listing = match serde_json::from_str(output.stdout.trim()) {
        Ok(listing) => listing,
        Err(e) => return Observation::NoAnswer(format!("the listing could not be read: {e}")),
    };
    if listing.count != listing.jobs.len() {
        return Observation::NoAnswer(format!(
            "the listing says {} jobs and has {}",
            listing.count,
            listing.jobs.len()
        ));
    }
    listing
        .jobs
        .iter()
        .map(job)
        .collect::<Result<Vec<_>, _>>()
        .map_or_else(
            |e| Observation::NoAnswer(format!("the listing could not be read: {e}")),
            Observation::Listing,
        )
}

fn job(line: &Line) -> Result<ObservedJob, String> {
    let text = |e: protocol::ids::IdError| e.to_string();
    Ok(ObservedJob {
        id: LrmJobId::new(&line.id).map_err(text)?,
        // A key that is not one of ours belongs to somebody else's job.
        key: line.key.as_deref().and_then(|k| SubmitKey::new(k).ok()),
        state: state(&line.state, line.exit_code),
        detail: line.detail.clone(),
        start: line.start.and_then(instant),
        end: line.end.and_then(instant),
        node: line
            .node
            .as_deref()
            .map(NodeName::new)
            .transpose()
            .map_err(text)?,
        restarts: line.restarts,
    })
}

fn instant(secs: f64) -> Option<Timestamp> {
    Timestamp::parse(&secs.to_string()).ok()
}

fn state(word: &str, exit_code: Option<i32>) -> JobState {
    match word {
        "PENDING" => JobState::Queued,
        "HELD" => JobState::Held,
        "RUNNING" => JobState::Running,
        "COMPLETING" => JobState::Ending,
        "COMPLETED" | "FAILED" => match exit_code {
            Some(code) => JobState::Ended(JobEnd::Exited(code)),
            None => JobState::Ended(JobEnd::Other(word.to_owned())),
        },
        "CANCELLED" => JobState::Ended(JobEnd::Cancelled),
        "TIMEOUT" => JobState::Ended(JobEnd::Walltime),
        "PREEMPTED" => JobState::Ended(JobEnd::Preempted),
        "NODE_FAIL" => JobState::Ended(JobEnd::NodeLost),
        "LAUNCH_FAILED" => JobState::Ended(JobEnd::LaunchFailed),
        "ENDED" => JobState::Ended(JobEnd::Other("reason not told".to_owned())),
        unknown => JobState::Unknown(unknown.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(code: i32, stdout: &str, stderr: &str) -> Output {
        Output {
            code: Some(code),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    #[test]
    fn a_submit_is_accepted_only_with_a_readable_id() {
        let id = LrmJobId::new("12").unwrap();
        assert_eq!(
            submit(&out(0, "motd: welcome\nsubmitted job 12\n", "")),
            SubmitAnswer::Accepted(id)
        );
        for garbled in [
            "",
            "submitted job",
            "submitted job 1x\n",
            "\u{fffd}\u{fffd}",
        ] {
            let answer = submit(&out(0, garbled, ""));
            assert!(
                matches!(answer, SubmitAnswer::NoAnswer(_)),
                "{garbled}: {answer:?}"
            );
        }
        assert!(matches!(
            submit(&out(REFUSED, "", "no queue")),
            SubmitAnswer::Refused(_)
        ));
        assert!(matches!(
            submit(&out(1, "", "timed out")),
            SubmitAnswer::NoAnswer(_)
        ));
        assert!(matches!(
            submit(&out(255, "submitted job 12", "")),
            SubmitAnswer::NoAnswer(_)
        ));
    }

    #[test]
    fn a_listing_that_is_not_whole_is_no_answer() {
        let good = r#"{"count":1,"jobs":[{"id":"3","key":"wp-1","state":"RUNNING","start":1.5,"end":9,"node":"n1","restarts":1,"new":true}]}"#;
        let Observation::Listing(jobs) = listing(&out(0, good, "")) else {
            panic!("not read");
        };
        assert_eq!(jobs[0].state, JobState::Running);
        assert_eq!(jobs[0].start, Some(Timestamp::from_millis(1500)));
        assert_eq!(jobs[0].restarts, 1);
        for bad in [
            "",
            "{}",
            &good[..good.len() - 3],
            &good.replace("\"count\":1", "\"count\":2"),
            r#"{"count":1,"jobs":[{"state":"RUNNING"}]}"#,
        ] {
            assert!(
                matches!(listing(&out(0, bad, "")), Observation::NoAnswer(_)),
                "{bad}"
            );
        }
        assert!(matches!(
            listing(&out(1, good, "")),
            Observation::NoAnswer(_)
        ));
    }

    #[test]
    fn an_unknown_state_is_alive() {
        assert_eq!(
            state("SIGNALING", None),
            JobState::Unknown("SIGNALING".to_owned())
        );
        assert_eq!(state("FAILED", Some(3)), JobState::Ended(JobEnd::Exited(3)));
    }

    #[test]
    fn a_cancel_of_an_unknown_id_is_told_apart_from_no_answer() {
        assert_eq!(
            cancel(&out(words::EXIT_NO_SUCH_JOB, "", "")),
            CancelAnswer::NoSuchJob
        );
        assert_eq!(cancel(&out(0, "", "")), CancelAnswer::Taken);
        assert!(matches!(cancel(&out(1, "", "")), CancelAnswer::NoAnswer(_)));
    }
}
