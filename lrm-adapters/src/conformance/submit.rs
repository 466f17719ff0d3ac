//! Rules 1 to 5: submits.

use protocol::lrm::{JobState, Observation, SubmitAnswer};
use protocol::time::{Span, Timestamp};

use super::rig::{Disturbance, Rig, Shape, need};
use super::watch::{Submitted, end, listed, probe as on_node, running, slot, submit, until};
use super::{Checked, Stop, fail};
use crate::contract::LocalResourceManager as _;

pub(super) async fn found_by_key(rig: &impl Rig) -> Checked {
    let job = submit(rig, &Shape::obeying()).await?;
    match rig.lrm().find_by_key(&job.job.key).await {
        Observation::Listing(jobs) if jobs.len() == 1 && jobs[0].id == job.id => {}
        other => return fail(format!("the key finds {other:?}, not job {}", job.id)),
    }
    let seen = listed(rig, &job, |_| true).await?;
    if seen.id != job.id {
        return fail(format!("listed as {}, accepted as {}", seen.id, job.id));
    }
    end(rig, &job).await
}

pub(super) async fn refused_leaves_nothing(rig: &impl Rig) -> Checked {
    let job = need(rig.impossible_job())?;
    match rig.lrm().submit(&job).await {
        SubmitAnswer::Refused(why) if !why.is_empty() => {}
        other => return fail(format!("the submit was answered with {other:?}")),
    }
    match rig.lrm().find_by_key(&job.key).await {
        Observation::Listing(jobs) if jobs.is_empty() => Ok(()),
        other => fail(format!("the key finds {other:?}")),
    }
}

pub(super) async fn lost_answer(rig: &impl Rig) -> Checked {
    need(rig.disturb(Disturbance::LoseSubmitAnswer).await)?;
    let job = need(rig.job(&Shape::obeying()))?;
    match rig.lrm().submit(&job).await {
        SubmitAnswer::NoAnswer(_) => {}
        other => return fail(format!("the submit was answered with {other:?}")),
    }
    rig.calm().await;
    let found = until(
        rig,
        || async {
            match rig.lrm().find_by_key(&job.key).await {
                Observation::Listing(jobs) if !jobs.is_empty() => Some(jobs),
                Observation::Listing(_) | Observation::NoAnswer(_) => None,
            }
        },
        || format!("key {} finds no job", job.key),
    )
    .await?;
    let [one] = found.as_slice() else {
        return fail(format!("the key finds {found:?}"));
    };
    let id = one.id.clone();
    end(rig, &super::watch::Submitted { job, id }).await
}

pub(super) async fn slot_file(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    let file = slot(&job, 0)?;
    let seen = listed(rig, &job, |j| j.end.is_some()).await?;
    let wrong = |what: &str| {
        fail(format!(
            "{what}: the slot file says {file:?}, the LRM {seen:?}"
        ))
    };
    if file.submit_key != job.job.key || file.lrm_job_id.as_ref() != Some(&job.id) {
        return wrong("another job");
    }
    if file.resources.memory.0 < job.job.resources.memory_mib
        || file.resources.cores < job.job.resources.cores
    {
        return wrong("less than was asked for");
    }
    if Some(&file.node) != seen.node.as_ref() {
        return wrong("another node");
    }
    if !near(Some(file.clock.end), seen.end) {
        return wrong("another end");
    }
    let Some(probe) = &file.probe else {
        return end(rig, &job).await;
    };
    let output = on_node(rig, &job, &probe.command).await?;
    let told = match &output {
        (code, text) if code.trim() == "0" => Timestamp::parse(text).ok(),
        (_, _) => None,
    };
    if !near(told, seen.end) {
        return fail(format!("the probe says {output:?}, the listing {seen:?}"));
    }
    end(rig, &job).await
}

/// The same to the second: LRMs that tell whole seconds are good enough.
fn near(a: Option<Timestamp>, b: Option<Timestamp>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.since(b).max(b.since(a)) <= Span::from_secs(1),
        (None, _) | (_, None) => false,
    }
}

pub(super) async fn no_secrets(rig: &impl Rig) -> Checked {
    let job = need(rig.job(&Shape::obeying()))?;
    let token = std::fs::read_to_string(&job.broker.token_file)
        .map_err(|e| Stop::NotApplicable(format!("the test job has no token: {e}")))?;
    let preview = rig.lrm().submit_preview(&job);
    if preview.contains(token.trim()) {
        return fail("the job or the command holds the token".to_owned());
    }
    Ok(())
}

/// On a cluster of one node the LRM refuses the job, or lets it wait while later ones start.
pub(super) async fn avoid(rig: &impl Rig) -> Checked {
    if !rig.lrm().capabilities().avoids_nodes {
        let why = "this LRM has no words for it; a pilot on such a node gets no guests";
        return Err(Stop::NotApplicable(why.to_owned()));
    }
    let first = running(rig, &Shape::obeying()).await?;
    let node = (listed(rig, &first, |j| j.node.is_some()).await?).node;
    end(rig, &first).await?;
    let mut job = need(rig.job(&Shape::obeying()))?;
    job.avoid.extend(node.clone());
    let id = match rig.lrm().submit(&job).await {
        SubmitAnswer::Accepted(id) => id,
        SubmitAnswer::Refused(_) => return Ok(()),
        SubmitAnswer::NoAnswer(why) => return fail(format!("no answer to the submit: {why}")),
    };
    let avoiding = Submitted { job, id };
    let later = running(rig, &Shape::obeying()).await?;
    let seen = listed(rig, &avoiding, |j| {
        matches!(j.state, JobState::Queued | JobState::Running)
    })
    .await?;
    if seen.state == JobState::Running && seen.node == node {
        return fail(format!("it was started on the node to avoid: {seen:?}"));
    }
    end(rig, &avoiding).await?;
    end(rig, &later).await
}
