//! The batch system says nothing, or forgets: no answer is not an answer.

use anyhow::{Context, Result, ensure};
use pilot_submit::client::WorkspaceAction;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

use super::audit::{Said, audit, site_tells, submits};
use super::peer::{Peer, PeerJob, Stage, Trouble};
use crate::harness::front::Loss;
use crate::harness::slurm::Again;
use crate::harness::wait::{PATIENCE, until};
use crate::harness::{Guests, Installation, Setup};
use crate::requests;

/// A submit whose answer is lost, because the connection broke or because nothing came any more,
/// is looked up: there is one job for the one decision.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_lost_answer(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    for (n, loss) in [Loss::Breaks, Loss::Hangs].into_iter().enumerate() {
        peer.front().lose(peer.submit_command(), loss)?;
        let before = peer.jobs()?;
        let spec = requests::null("patient", Span::from_secs(3));
        let id = it.queue(&spec, &format!("k{n}")).await?;
        let view = it.reaches(&id, WorkspaceState::Done).await?;
        ensure!(view.generation.0 == 1, "{}", it.story(&id).await?);
        it.life_is_sound(&id).await?;
        let jobs = audit(peer, &it, Again::Never).await?;
        ensure!(jobs.len() == before.len() + 1, "{loss:?}: {jobs:#?}");
        let made = peer.front().count(peer.submit_command())?;
        ensure!(made == jobs.len(), "{loss:?}: {made} submits");
    }
    Ok(())
}

/// The whole life of a pilot job that nothing disturbs: one submit, no look-up, no cancel, and
/// nothing but the one listing that is for all jobs: while the broker hears from the LRM, no pilot
/// asks it.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_quiet_life_costs_one_submit_and_the_listings(peer: &Peer) -> Result<()> {
    // Two at once, so that a listing for each would show.
    let setup = Setup {
        max_running: 2,
        provision_extra: "avoid_node_after = 100",
        ..peer.setup(Guests::Null, Again::Never)
    };
    let it = peer.install(&setup).await?;
    let (a, b) = (whole_slot("a", 6), whole_slot("b", 6));
    let ids = [it.queue(&a, "k1").await?, it.queue(&b, "k2").await?];
    for id in &ids {
        it.reaches(id, WorkspaceState::Done).await?;
    }
    let jobs = audit(peer, &it, Again::Never).await?;
    let calls = peer.front().calls()?;
    for job in &jobs {
        let made = submits(peer, &job.key)?;
        ensure!(made == 1, "{made} submits of {job:?}: {calls:#?}");
    }
    let mut own = 0;
    for (_, line) in calls.iter().filter(|(n, _)| n == peer.list_command()) {
        let for_all = line.contains("--states=all") || line.contains("=!= undefined");
        let by_key = jobs.iter().any(|j| line.contains(&j.key));
        let of_one = (jobs.iter()).any(|j| line.contains(&format!(" -j {} ", j.id)));
        ensure!(for_all && !by_key || of_one, "`{line}` is a look-up");
        own += usize::from(of_one);
    }
    // A Slurm whose jobs do not know their end is asked for it once by each job's script.
    ensure!(own <= jobs.len(), "{own} questions on nodes: {calls:#?}");
    let cancels = peer.front().count(peer.cancel_command())?;
    ensure!(cancels == 0, "{cancels} cancels: {calls:#?}");
    let submits = peer.front().count(peer.submit_command())?;
    ensure!(submits == jobs.len(), "{submits} submits: {calls:#?}");
    Ok(())
}

/// The controller hangs, is stopped, and crashes while a pilot and its guest run: the guest runs on,
/// a submit that it did not answer is looked up and not repeated, and when it is back all is in step.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_controller_that_hangs_is_stopped_and_crashes(peer: &Peer) -> Result<()> {
    let setup = Setup {
        max_running: 2,
        ..peer.setup(Guests::Null, Again::Never)
    };
    let it = peer.install(&setup).await?;
    let id = it.queue(&whole_slot("patient", 170), "k1").await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;

    peer.trouble(Trouble::Hangs)?;
    site_tells(&it, "has not answered a listing", Said::Yes).await?;
    let other = it.queue(&whole_slot("other", 60), "k2").await?;
    site_tells(&it, "gave no answer to 1 submit", Said::Yes).await?;
    peer.relieve(Trouble::Hangs)?;
    // When it starts is the batch system's business: that it is there, once, is what counts.
    until("the other pilot job", PATIENCE, async || {
        let jobs = peer.jobs()?;
        Ok(jobs.iter().any(|j| j.key != job.key).then_some(()))
    })
    .await
    .with_context(|| it.tail("broker"))?;
    site_tells(&it, "gave no answer to", Said::No).await?;
    it.user.act(&other, WorkspaceAction::Cancel).await?;
    it.reaches(&other, WorkspaceState::Cancelled).await?;
    runs_on(peer, &it, &id, &job).await?;

    peer.trouble(Trouble::Stopped)?;
    site_tells(&it, "has not answered a listing", Said::Yes).await?;
    peer.relieve(Trouble::Stopped)?;
    runs_on(peer, &it, &id, &job).await?;

    peer.crash()?;
    runs_on(peer, &it, &id, &job).await?;

    it.user.act(&id, WorkspaceAction::Cancel).await?;
    let view = it.reaches(&id, WorkspaceState::Cancelled).await?;
    let story = it.story(&id).await?;
    let stays = (view.generation.0, view.suspends, view.restarts);
    ensure!(stays == (1, 0, 0), "{story}");
    for id in [&id, &other] {
        it.life_is_sound(id).await?;
    }
    audit(peer, &it, Again::Never).await.map(drop)
}

/// The broker hears the batch system again, which has the job as it was; and the guest has not
/// noticed.
async fn runs_on(peer: &Peer, it: &Installation, id: &WorkspaceId, job: &PeerJob) -> Result<()> {
    site_tells(it, "has not answered a listing", Said::No).await?;
    // A schedd that starts again calls its jobs idle until it has found them.
    until("the batch system to have the job", PATIENCE, async || {
        Ok(peer.jobs()?.contains(job).then_some(()))
    })
    .await
    .with_context(|| format!("it was {job:?} and is {:#?}", peer.jobs()))?;
    let view = it.show(id).await?;
    let story = it.story(id).await?;
    ensure!(view.state == WorkspaceState::Running, "{story}");
    ensure!(view.generation.0 == 1, "{story}");
    Ok(())
}

/// A request that fills a slot, so that each gets one of its own.
pub(super) fn whole_slot(name: &str, secs: u64) -> WorkspaceSpec {
    let mut spec = requests::null(name, Span::from_secs(secs));
    spec.resources.cores = 2;
    spec
}
