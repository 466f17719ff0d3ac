//! The batch system starts a job again under the same id.

use anyhow::{Context, Result, ensure};
use pilot_submit::client::PageRequest;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::audit::{audit, was_told_to_go};
use super::peer::{Peer, PeerJob, Stage};
use crate::harness::slurm::Again;
use crate::harness::wait::{PATIENCE, until};
use crate::harness::{Guests, Installation};
use crate::requests;

/// Where a site wants that, the job's second start is another incarnation, which takes over from the
/// first; the guest is suspended by the one and resumed by the other.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn the_second_start_is_another_incarnation(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Requeued))
        .await?;
    let spec = requests::null("again", Span::from_secs(12));
    let id = it.queue(&spec, "k1").await?;
    let running = it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    let first = incarnation(&it, &job).await?;
    peer.requeue(&job)?;
    let gone = it.sees(&id, "guest_suspended", running.seq).await?;
    was_told_to_go(&gone)?;
    starts_again(peer, &job).await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (1, 0), "{story}");
    ensure!(view.generation.0 == 2, "{story}");
    let second = incarnation(&it, &job).await?;
    ensure!(first != second, "{first} twice\n{story}");
    it.life_is_sound(&id).await?;
    let jobs = audit(peer, &it, Again::Requeued).await?;
    ensure!(jobs.len() == 1 && jobs[0].id == job.id, "{jobs:#?}");
    Ok(())
}

/// Where no site wants that, the batch system refuses it, or the job is over and the guest goes on in
/// another: no job starts again by accident.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_job_that_may_not_does_not_start_again(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    let id = it
        .queue(&requests::null("once", Span::from_secs(6)), "k1")
        .await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    let lives = match peer.requeue(&job) {
        Ok(()) => 2,
        Err(refused) => {
            println!("{refused:#}");
            1
        }
    };
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (lives - 1, 0), "{story}");
    it.life_is_sound(&id).await?;
    let jobs = audit(peer, &it, Again::Never).await?;
    ensure!(jobs.len() == lives as usize, "{jobs:#?}\n{story}");
    Ok(())
}

/// Waits until a requeued job has started again.
///
/// # Errors
/// It does not.
pub async fn starts_again(peer: &Peer, job: &PeerJob) -> Result<()> {
    let mut hurried = false;
    // A busy machine may need more than one try to start it.
    let started = until("the job to start again", PATIENCE, async || {
        let jobs = peer.jobs()?;
        let now = jobs.into_iter().find(|j| j.id == job.id);
        match now {
            Some(j) if j.stage == Stage::Runs && j.restarts > 0 => return Ok(Some(())),
            Some(j) if j.stage == Stage::Waits && !hurried => {
                hurried = peer.hurry(job)?;
            }
            Some(_) | None => {}
        }
        Ok(None)
    })
    .await;
    started.with_context(|| format!("jobs: {:#?}\n{}", peer.jobs(), peer.log()))
}

async fn incarnation(it: &Installation, job: &PeerJob) -> Result<String> {
    let what = format!("a pilot of {} to register", job.key);
    until(&what, PATIENCE, async || {
        let slots = it.admin.slots(None, &PageRequest::default()).await?.items;
        let slot = slots.iter().find(|s| s.submit_key.as_str() == job.key);
        Ok(slot.map(|s| s.incarnation.to_string()))
    })
    .await
}
