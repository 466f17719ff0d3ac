//! The listing: what the batch system tells about its jobs, in the contract's form.

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{JobState, ObservedJob};
use protocol::time::Timestamp;

use super::job::{Job, JobPhase};
use super::{JobNumber, Model};

impl Model {
    /// Every job that carries a key of ours, ended ones included until they are forgotten.
    pub fn observe(&self, now: Timestamp) -> Vec<ObservedJob> {
        self.jobs
            .values()
            .filter(|j| j.request.key.is_some())
            .map(|j| self.observed(now, j))
            .collect()
    }

    /// The jobs that carry this key.
    pub fn find_by_key(&self, now: Timestamp, key: &SubmitKey) -> Vec<ObservedJob> {
        self.jobs
            .values()
            .filter(|j| j.request.key.as_ref() == Some(key))
            .map(|j| self.observed(now, j))
            .collect()
    }

    /// The job with this id in the contract's form, `None` when it is unknown.
    pub fn observe_one(&self, now: Timestamp, number: JobNumber) -> Option<ObservedJob> {
        self.jobs.get(&number).map(|j| self.observed(now, j))
    }

    fn observed(&self, now: Timestamp, job: &Job) -> ObservedJob {
        let mut seen = ObservedJob {
            id: number_as_id(job.number),
            key: job.request.key.clone(),
            state: JobState::Queued,
            detail: String::new(),
            start: None,
            end: None,
            node: None,
            restarts: job.starts.saturating_sub(1),
        };
        match &job.phase {
            JobPhase::Queued { not_before } => {
                let begin = job.request.begin.max(*not_before);
                seen.detail = match begin.filter(|t| *t > now) {
                    Some(t) => format!("begins at {t}"),
                    None => "waits for resources".to_owned(),
                };
            }
            JobPhase::Held { why } => {
                seen.state = JobState::Held;
                seen.detail.clone_from(why);
            }
            JobPhase::Running(run) => {
                seen.state = JobState::Running;
                if let Some(run) = self.runs.get(run) {
                    seen.start = Some(run.start);
                    seen.end = Some(run.end);
                    seen.node = Some(run.node.clone());
                    // On several nodes the first that is on the way to its end speaks for all.
                    let runs = self.runs_of(job.number);
                    let doomed = runs.iter().find_map(|n| self.runs[n].doom.as_ref());
                    if let Some(doom) = doomed {
                        seen.end = doom.shown_end.or(seen.end).min(seen.end);
                        if doom.sent > doom.listed_running {
                            seen.state = JobState::Ending;
                        }
                        seen.detail = format!("ends: {}", doom.cause.as_str());
                    }
                }
            }
            JobPhase::Over { end, at, last } => {
                seen.state = JobState::Ended(end.clone());
                seen.end = Some(*at);
                if let Some((node, start)) = last {
                    seen.node = Some(node.clone());
                    seen.start = Some(*start);
                }
            }
        }
        seen
    }
}

/// # Panics
/// Never: a number is a text of 1 to 20 digits.
fn number_as_id(number: JobNumber) -> LrmJobId {
    LrmJobId::new(&number.to_string()).expect("digits are a job id")
}
