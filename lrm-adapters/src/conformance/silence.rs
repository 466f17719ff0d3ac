//! Rules 15 to 20: no answer is no answer.

use protocol::lrm::{CancelAnswer, JobState, Observation, SubmitAnswer};
use tokio::time::timeout;

use super::rig::{Action, Disturbance, Rig, Shape, need};
use super::watch::{end, listed, running, submit};
use super::{Checked, Stop, fail};
use crate::contract::LocalResourceManager as _;

pub(super) async fn unreachable(rig: &impl Rig) -> Checked {
    no_answer_under(rig, Disturbance::Unreachable).await
}

pub(super) async fn hung(rig: &impl Rig) -> Checked {
    no_answer_under(rig, Disturbance::Hang).await
}

pub(super) async fn garbled(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    need(rig.disturb(Disturbance::Garble).await)?;
    let listing = rig.lrm().observe().await;
    let found = rig.lrm().find_by_key(&job.job.key).await;
    for seen in [listing, found] {
        if !matches!(seen, Observation::NoAnswer(_)) {
            return fail(format!("garbled output was read as {seen:?}"));
        }
    }
    rig.calm().await;
    end(rig, &job).await
}

/// Every call says "no answer", in time, and the job goes on.
async fn no_answer_under(rig: &impl Rig, disturbance: Disturbance) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    let second = need(rig.job(&Shape::obeying()))?;
    need(rig.disturb(disturbance).await)?;
    let lrm = rig.lrm();
    let bound = lrm.capabilities().call_bound.as_duration();
    let late = |_| Stop::Fail(format!("a call took longer than {bound:?}"));
    let listing = timeout(bound, lrm.observe()).await.map_err(late)?;
    let found = timeout(bound, lrm.find_by_key(&job.job.key))
        .await
        .map_err(late)?;
    for seen in [listing, found] {
        if !matches!(seen, Observation::NoAnswer(_)) {
            return fail(format!("silence was read as {seen:?}"));
        }
    }
    let submitted = timeout(bound, lrm.submit(&second)).await.map_err(late)?;
    if !matches!(submitted, SubmitAnswer::NoAnswer(_)) {
        return fail(format!("silence after a submit was read as {submitted:?}"));
    }
    let cancelled = timeout(bound, lrm.cancel(&job.id, &second.key))
        .await
        .map_err(late)?;
    if !matches!(cancelled, CancelAnswer::NoAnswer(_)) {
        return fail(format!("silence after a cancel was read as {cancelled:?}"));
    }
    let withdrawn = timeout(bound, lrm.withdraw(&job.id, &job.job.key))
        .await
        .map_err(late)?;
    if !matches!(withdrawn, CancelAnswer::NoAnswer(_)) {
        return fail(format!(
            "silence after a withdrawal was read as {withdrawn:?}"
        ));
    }
    rig.calm().await;
    let seen = listed(rig, &job, |_| true).await?;
    if seen.state != JobState::Running {
        return fail(format!("the LRM's silence has ended the job: {seen:?}"));
    }
    end(rig, &job).await
}

pub(super) async fn missing(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    need(rig.disturb(Disturbance::Hide(job.id.clone())).await)?;
    match rig.lrm().observe().await {
        Observation::Listing(jobs) if jobs.iter().all(|j| j.id != job.id) => {}
        other => return fail(format!("a hidden job is listed: {other:?}")),
    }
    rig.calm().await;
    let seen = listed(rig, &job, |_| true).await?;
    if seen.state != JobState::Running {
        return fail(format!("a job that was missing once is {seen:?}"));
    }
    end(rig, &job).await
}

pub(super) async fn restarted(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    need(rig.act(Action::Restart).await)?;
    let seen = listed(rig, &job, |_| true).await?;
    if seen.state != JobState::Running || seen.id != job.id || seen.restarts != 0 {
        return fail(format!("after a restart of the LRM the job is {seen:?}"));
    }
    if need(rig.is_alive(&job.job.key).await)? {
        end(rig, &job).await
    } else {
        fail("the restart has ended the job's processes".to_owned())
    }
}

pub(super) async fn reused_id(rig: &impl Rig) -> Checked {
    let lost = submit(rig, &Shape::obeying()).await?;
    need(rig.act(Action::LoseNewestJob).await)?;
    let job = running(rig, &Shape::obeying()).await?;
    if job.id != lost.id {
        return Err(Stop::NotApplicable(
            "this LRM did not give the id again".to_owned(),
        ));
    }
    let answer = rig.lrm().cancel(&lost.id, &lost.job.key).await;
    if answer != CancelAnswer::NoSuchJob {
        return fail(format!(
            "cancelling the lost job was answered with {answer:?}"
        ));
    }
    let seen = listed(rig, &job, |_| true).await?;
    if seen.state != JobState::Running || job.file("term.0").exists() {
        return fail(format!("the wrong job was cancelled: {seen:?}"));
    }
    end(rig, &job).await
}
