//! Rules 6 to 14: how jobs end, and how that is told.

use protocol::ids::LrmJobId;
use protocol::lrm::{CancelAnswer, JobEnd, JobState};
use protocol::time::Span;

use super::rig::{Action, Program, Rig, Shape, need};
use super::watch::{
    Submitted, end, ended, gone, listed, need_ends_told, over, running, slot, started, submit,
    until,
};
use super::{Checked, Stop, fail};
use crate::contract::LocalResourceManager as _;

pub(super) async fn exit_code(rig: &impl Rig) -> Checked {
    need_ends_told(rig)?;
    for code in [0, 7] {
        let shape = Shape {
            program: Program::Exits(code),
            ..Shape::obeying()
        };
        let job = submit(rig, &shape).await?;
        started(rig, &job, 0).await?;
        let how = ended(rig, &job).await?;
        if how != JobEnd::Exited(code) {
            return fail(format!("a job that exits with {code} is listed as {how:?}"));
        }
    }
    Ok(())
}

/// Jobs that take all the nodes, and one that waits behind them.
async fn waiting(rig: &impl Rig) -> Result<(Vec<Submitted>, Submitted), Stop> {
    let whole = Shape {
        whole_node: true,
        ..Shape::obeying()
    };
    // One job more than there are nodes: the last one waits.
    let mut jobs = vec![running(rig, &whole).await?];
    loop {
        let job = submit(rig, &whole).await?;
        let seen = listed(rig, &job, |j| {
            matches!(j.state, JobState::Running | JobState::Queued)
        })
        .await?;
        if seen.state == JobState::Queued && settled_as_queued(rig, &job).await? {
            return Ok((jobs, job));
        }
        if jobs.len() > 16 {
            return fail("17 whole nodes were not enough to make a job wait".to_owned());
        }
        jobs.push(job);
    }
}

pub(super) async fn cancel_queued(rig: &impl Rig) -> Checked {
    let (jobs, queued) = waiting(rig).await?;
    let answer = rig.lrm().cancel(&queued.id, &queued.job.key).await;
    never_started(rig, &queued, &answer).await?;
    for job in &jobs {
        end(rig, job).await?;
    }
    Ok(())
}

/// A job that waited is over by this cancel.
async fn never_started(rig: &impl Rig, queued: &Submitted, answer: &CancelAnswer) -> Checked {
    if *answer != CancelAnswer::Taken {
        return fail(format!("the cancel was answered with {answer:?}"));
    }
    let how = over(rig, queued).await?;
    if how.as_ref().is_some_and(|h| *h != JobEnd::Cancelled) || queued.file("started.0").exists() {
        return fail(format!(
            "the cancelled job is listed as {how:?}, or had started"
        ));
    }
    Ok(())
}

pub(super) async fn withdraw(rig: &impl Rig) -> Checked {
    let (jobs, queued) = waiting(rig).await?;
    for job in &jobs {
        let answer = rig.lrm().withdraw(&job.id, &job.job.key).await;
        if answer != CancelAnswer::Started {
            return fail(format!(
                "the withdrawal of a job that runs was answered with {answer:?}"
            ));
        }
    }
    let other = rig.lrm().withdraw(&queued.id, &jobs[0].job.key).await;
    if other != CancelAnswer::NoSuchJob {
        return fail(format!(
            "a withdrawal with another job's key was answered with {other:?}"
        ));
    }
    let answer = rig.lrm().withdraw(&queued.id, &queued.job.key).await;
    never_started(rig, &queued, &answer).await?;
    for job in &jobs {
        let seen = listed(rig, job, |_| true).await?;
        if seen.state != JobState::Running || job.file("term.0").exists() {
            return fail(format!("a withdrawal has hit a job that runs: {seen:?}"));
        }
        end(rig, job).await?;
    }
    Ok(())
}

/// Schedulers with a cycle show every job as queued for a moment: believe it when it lasts.
async fn settled_as_queued(rig: &impl Rig, job: &Submitted) -> Result<bool, Stop> {
    let pause = rig.patience() / 20;
    let running = listed(rig, job, |j| j.state == JobState::Running);
    if tokio::time::timeout(pause, running).await.is_ok() {
        return Ok(false);
    }
    // Listings may be rationed: there may have been none in the meantime.
    let seen = listed(rig, job, |_| true).await?;
    Ok(seen.state == JobState::Queued && !job.file("started.0").exists())
}

pub(super) async fn cancel_running(rig: &impl Rig) -> Checked {
    for program in [Program::Obeys, Program::Ignores] {
        let shape = Shape {
            program,
            ..Shape::obeying()
        };
        let job = running(rig, &shape).await?;
        let answer = rig.lrm().cancel(&job.id, &job.job.key).await;
        if answer != CancelAnswer::Taken {
            return fail(format!("the cancel was answered with {answer:?}"));
        }
        let how = over(rig, &job).await?;
        if how.as_ref().is_some_and(|h| *h != JobEnd::Cancelled) {
            return fail(format!("the cancelled job is listed as {how:?}"));
        }
        if !job.file("term.0").exists() {
            return fail("the job was not told before it was killed".to_owned());
        }
        gone(rig, &job).await?;
    }
    Ok(())
}

pub(super) async fn cancel_unknown(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    let other = need(rig.job(&Shape::obeying()))?;
    // Our id with somebody else's key, and an id that never was.
    let never = need(LrmJobId::new("999999999").map_err(|e| e.to_string()))?;
    for id in [&job.id, &never] {
        let answer = rig.lrm().cancel(id, &other.key).await;
        if answer != CancelAnswer::NoSuchJob {
            return fail(format!("cancelling {id} with a foreign key: {answer:?}"));
        }
    }
    let seen = listed(rig, &job, |_| true).await?;
    if seen.state != JobState::Running || job.file("term.0").exists() {
        return fail(format!(
            "a cancel with another key has hit the job: {seen:?}"
        ));
    }
    end(rig, &job).await?;
    // Over, and perhaps still listed: not taken, and no failure either.
    let again = rig.lrm().cancel(&job.id, &job.job.key).await;
    match again {
        CancelAnswer::NoSuchJob | CancelAnswer::Taken => Ok(()),
        other => fail(format!(
            "cancelling an ended job was answered with {other:?}"
        )),
    }
}

pub(super) async fn walltime(rig: &impl Rig) -> Checked {
    need_ends_told(rig)?;
    let shape = Shape {
        walltime: Span::from_secs(2),
        ..Shape::obeying()
    };
    let job = submit(rig, &shape).await?;
    started(rig, &job, 0).await?;
    let is_over = |state: &JobState| match state {
        JobState::Ended(end) => *end == JobEnd::Walltime,
        JobState::Held => true,
        JobState::Queued
        | JobState::Running
        | JobState::Suspended
        | JobState::Ending
        | JobState::Unknown(_) => false,
    };
    let seen = listed(rig, &job, |j| is_over(&j.state)).await?;
    if seen.state == JobState::Held && seen.detail.is_empty() {
        return fail("held at the end of its walltime without a reason".to_owned());
    }
    if !job.file("term.0").exists() {
        return fail("the job was not told before it was killed".to_owned());
    }
    gone(rig, &job).await?;
    if seen.state == JobState::Held {
        end(rig, &job).await?;
    }
    Ok(())
}

pub(super) async fn preemption(rig: &impl Rig) -> Checked {
    need_ends_told(rig)?;
    let job = running(rig, &Shape::obeying()).await?;
    need(rig.act(Action::Preempt(job.id.clone())).await)?;
    // Over as preempted, or waiting for its next start: nothing else.
    let seen = listed(rig, &job, |j| match &j.state {
        JobState::Ended(_) | JobState::Queued | JobState::Held => true,
        JobState::Running => j.restarts > 0,
        JobState::Suspended | JobState::Ending | JobState::Unknown(_) => false,
    })
    .await?;
    if let JobState::Ended(how) = &seen.state {
        return if *how == JobEnd::Preempted {
            gone(rig, &job).await
        } else {
            fail(format!("the preempted job is listed as {how:?}"))
        };
    }
    end(rig, &job).await
}

pub(super) async fn requeue(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    need(rig.act(Action::Requeue(job.id.clone())).await)?;
    started(rig, &job, 1).await?;
    let seen = listed(rig, &job, |j| {
        j.restarts > 0 && j.state == JobState::Running
    })
    .await?;
    if seen.id != job.id {
        return fail(format!("started again as {}, not {}", seen.id, job.id));
    }
    let (first, second) = (slot(&job, 0)?, slot(&job, 1)?);
    if first.incarnation == second.incarnation {
        return fail(format!("both starts are incarnation {}", first.incarnation));
    }
    if first.paths.scratch == second.paths.scratch {
        return fail("both starts have the same scratch directory".to_owned());
    }
    end(rig, &job).await
}

pub(super) async fn moved_end(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    let before = listed(rig, &job, |j| j.end.is_some()).await?;
    need(
        rig.act(Action::Shorten(job.id.clone(), Span::from_mins(2)))
            .await,
    )?;
    listed(rig, &job, |j| match (j.end, before.end) {
        (Some(now), Some(then)) => then.since(now) >= Span::from_mins(1),
        (None, _) | (_, None) => false,
    })
    .await?;
    end(rig, &job).await
}

pub(super) async fn node_lost(rig: &impl Rig) -> Checked {
    let job = running(rig, &Shape::obeying()).await?;
    let seen = listed(rig, &job, |j| j.node.is_some()).await?;
    let Some(node) = seen.node else {
        return fail("a running job has no node".to_owned());
    };
    need(rig.act(Action::LoseNode(node)).await)?;
    let seen = listed(rig, &job, |j| {
        j.restarts > 0 || matches!(j.state, JobState::Ended(_) | JobState::Queued)
    })
    .await?;
    match &seen.state {
        JobState::Ended(how) if *how != JobEnd::NodeLost => {
            return fail(format!("a job whose node is lost is listed as {how:?}"));
        }
        JobState::Ended(_)
        | JobState::Queued
        | JobState::Held
        | JobState::Running
        | JobState::Suspended
        | JobState::Ending
        | JobState::Unknown(_) => {}
    }
    rig.calm().await;
    if !matches!(seen.state, JobState::Ended(_)) {
        end(rig, &job).await?;
    }
    // The first start's processes are dealt with when the node is back.
    until(
        rig,
        || async { (rig.is_alive(&job.job.key).await != Ok(true)).then_some(()) },
        || "processes live on after the node came back".to_owned(),
    )
    .await
}
