//! Waiting for conditions, and the steps that many checks share.

use std::future::Future;
use std::path::PathBuf;

use protocol::ids::LrmJobId;
use protocol::lrm::{JobEnd, JobState, Observation, ObservedJob, PilotJob, SubmitAnswer};
use protocol::slot_file::SlotFile;
use tokio::time::{Duration, sleep, timeout};

use super::rig::{Rig, Shape, need};
use super::{Checked, Stop, fail};
use crate::contract::LocalResourceManager as _;

/// A submitted test job.
pub(super) struct Submitted {
    pub job: PilotJob,
    pub id: LrmJobId,
}

impl Submitted {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.job.directory.join(name)
    }
}

pub(super) async fn submit(rig: &impl Rig, shape: &Shape) -> Result<Submitted, Stop> {
    let job = need(rig.job(shape))?;
    match rig.lrm().submit(&job).await {
        SubmitAnswer::Accepted(id) => Ok(Submitted { job, id }),
        other => fail(format!("the submit was answered with {other:?}")),
    }
}

/// Submits a job and waits until its program runs.
pub(super) async fn running(rig: &impl Rig, shape: &Shape) -> Result<Submitted, Stop> {
    let job = submit(rig, shape).await?;
    started(rig, &job, 0).await?;
    listed(rig, &job, |j| j.state == JobState::Running).await?;
    Ok(job)
}

/// Waits until the job's program has started for the `n`th time, counting from 0.
pub(super) async fn started(rig: &impl Rig, job: &Submitted, n: u32) -> Checked {
    let file = job.file(&format!("started.{n}"));
    let log = job.file("pilot.log");
    let has_started = || async { file.exists().then_some(()) };
    if let Some(limit) = rig.queue_limit() {
        if within(limit, has_started).await.is_some() {
            return Ok(());
        }
        waits_no_more(rig, job, limit).await?;
    }
    until(rig, has_started, || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        format!("the program did not start; its output: `{log}`")
    })
    .await
}

/// A job that has waited for so long in the queue is nobody's fault.
async fn waits_no_more(rig: &impl Rig, job: &Submitted, limit: Duration) -> Checked {
    let Observation::Listing(jobs) = rig.lrm().observe().await else {
        return Ok(());
    };
    let seen = jobs.iter().find(|j| j.key.as_ref() == Some(&job.job.key));
    match seen {
        Some(seen) if matches!(seen.state, JobState::Queued | JobState::Held) => {
            let detail = &seen.detail;
            Err(Stop::NotApplicable(format!(
                "job {} still waited after {limit:?}; the LRM says `{detail}`",
                job.id
            )))
        }
        Some(_) | None => Ok(()),
    }
}

/// Has the job run the probe in its place, as a pilot does, and gives its exit code and output.
pub(super) async fn probe(
    rig: &impl Rig,
    job: &Submitted,
    command: &[String],
) -> Result<(String, String), Stop> {
    let new = job.file("probe.new");
    let asked = std::fs::write(&new, shell_words::join(command))
        .and_then(|()| std::fs::rename(&new, job.file("probe")));
    asked.map_err(|e| Stop::Fail(format!("cannot ask the job to probe: {e}")))?;
    let code = job.file("probe.code");
    let code = until(
        rig,
        || async { std::fs::read_to_string(&code).ok() },
        || "the job does not run the probe".to_owned(),
    )
    .await?;
    let read = |name: &str| std::fs::read_to_string(job.file(name)).unwrap_or_default();
    if code.trim() != "0" {
        return Ok((code, read("probe.err")));
    }
    Ok((code, read("probe.out")))
}

/// Waits until the job is listed in a wanted way.
pub(super) async fn listed(
    rig: &impl Rig,
    job: &Submitted,
    wanted: impl Fn(&ObservedJob) -> bool,
) -> Result<ObservedJob, Stop> {
    let last = std::cell::RefCell::new(String::from("no listing"));
    until(
        rig,
        || async {
            let seen = rig.lrm().observe().await;
            *last.borrow_mut() = format!("{seen:?}");
            match seen {
                Observation::Listing(jobs) => jobs
                    .into_iter()
                    .find(|j| j.key.as_ref() == Some(&job.job.key) && wanted(j)),
                Observation::NoAnswer(_) => None,
            }
        },
        || {
            format!(
                "job {} was never listed as wanted; last: {}",
                job.id,
                last.borrow()
            )
        },
    )
    .await
}

/// Waits until the job is over, and says how, where the LRM lists jobs that have ended.
pub(super) async fn over(rig: &impl Rig, job: &Submitted) -> Result<Option<JobEnd>, Stop> {
    let last = std::cell::RefCell::new(String::from("no listing"));
    until(
        rig,
        || async {
            let seen = rig.lrm().observe().await;
            *last.borrow_mut() = format!("{seen:?}");
            let Observation::Listing(jobs) = seen else {
                return None;
            };
            match jobs
                .into_iter()
                .find(|j| j.key.as_ref() == Some(&job.job.key))
            {
                Some(seen) => match seen.state {
                    JobState::Ended(end) => Some(Some(end)),
                    JobState::Queued
                    | JobState::Held
                    | JobState::Running
                    | JobState::Suspended
                    | JobState::Ending
                    | JobState::Unknown(_) => None,
                },
                // All that such an LRM ever says of an end.
                None => (!lists_ended(rig)).then_some(None),
            }
        },
        || format!("job {} is not over; last: {}", job.id, last.borrow()),
    )
    .await
}

fn lists_ended(rig: &impl Rig) -> bool {
    !rig.lrm().capabilities().ended_listed_for.is_zero()
}

/// For rules about how an end is told.
pub(super) fn need_ends_told(rig: &impl Rig) -> Checked {
    if lists_ended(rig) {
        Ok(())
    } else {
        Err(Stop::NotApplicable(
            "this LRM does not list jobs that have ended".to_owned(),
        ))
    }
}

/// Waits until the job is listed as ended, and says how.
pub(super) async fn ended(rig: &impl Rig, job: &Submitted) -> Result<JobEnd, Stop> {
    match over(rig, job).await? {
        Some(end) => Ok(end),
        None => fail("it is not in the listing any more".to_owned()),
    }
}

/// Waits until the job has no live process.
pub(super) async fn gone(rig: &impl Rig, job: &Submitted) -> Checked {
    need(rig.is_alive(&job.job.key).await)?;
    until(
        rig,
        || async { (rig.is_alive(&job.job.key).await == Ok(false)).then_some(()) },
        || format!("processes of job {} live on", job.id),
    )
    .await
}

/// The slot file that the job's `n`th start got.
pub(super) fn slot(job: &Submitted, n: u32) -> Result<SlotFile, Stop> {
    let path = job.file(&format!("slot.{n}.toml"));
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Stop::Fail(format!("no slot file {}: {e}", path.display())))?;
    SlotFile::parse("slot.toml", &text).map_err(|e| Stop::Fail(e.to_string()))
}

/// Ends a job that a check has left running.
pub(super) async fn end(rig: &impl Rig, job: &Submitted) -> Checked {
    let _ = rig.lrm().cancel(&job.id, &job.job.key).await;
    over(rig, job).await.map(drop)
}

/// Ends every job of the rig that still lives.
pub(super) async fn clear(rig: &impl Rig) -> Checked {
    let keys = rig.keys();
    let living = || async {
        let Observation::Listing(jobs) = rig.lrm().observe().await else {
            return None;
        };
        let ours = |j: &ObservedJob| j.key.as_ref().is_some_and(|k| keys.contains(k));
        let lives = |j: &ObservedJob| !matches!(j.state, JobState::Ended(_));
        Some(
            jobs.into_iter()
                .filter(|j| ours(j) && lives(j))
                .collect::<Vec<_>>(),
        )
    };
    let found = living().await;
    if found.as_ref().is_some_and(Vec::is_empty) {
        return Ok(());
    }
    let mut found = found.unwrap_or_default();
    // What waits goes first: else it starts when the others leave.
    found.sort_by_key(|j| j.state == JobState::Running);
    for job in found {
        if let Some(key) = &job.key {
            let _ = rig.lrm().cancel(&job.id, key).await;
        }
    }
    until(
        rig,
        || async { living().await.filter(Vec::is_empty).map(drop) },
        || "test jobs live on after their cancel".to_owned(),
    )
    .await
}

/// Waits for a condition with the rig's patience.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(
    rig: &impl Rig,
    holds: impl FnMut() -> F,
    why: impl Fn() -> String,
) -> Result<T, Stop> {
    match within(rig.patience(), holds).await {
        Some(found) => Ok(found),
        None => fail(format!("{} (waited {:?})", why(), rig.patience())),
    }
}

/// Waits for a condition for so long; none when it does not hold by then.
async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    mut holds: impl FnMut() -> F,
) -> Option<T> {
    let wait = async {
        loop {
            if let Some(found) = holds().await {
                return found;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(limit, wait).await.ok()
}
