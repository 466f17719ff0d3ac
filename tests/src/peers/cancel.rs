//! Somebody ends a pilot job: the broker, its administrator, the request's owner, or the site behind
//! all their backs.

use anyhow::{Result, ensure};
use pilot_submit::client::WorkspaceAction;
use protocol::codes::ReasonCode;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::audit::{
    audit, cancels, ended_because, is_never_late, lab, owner_is_told, was_told_to_go,
};
use super::peer::{Peer, Stage};
use crate::harness::front::Loss;
use crate::harness::slurm::Again;
use crate::harness::{Guests, Installation, Setup};
use crate::requests;

/// While it waits: it is withdrawn when nobody needs it any more, another is made when the site has
/// cancelled it, and it is withdrawn when the broker's administrator drains the site.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn while_it_waits(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    peer.drain()?;

    let id = it
        .queue(&requests::null("unwanted", Span::from_secs(60)), "k1")
        .await?;
    let first = peer.job_that(Stage::Waits, &[]).await?;
    let told = "1 pilot queued";
    owner_is_told(&it, &id, told).await?;
    // Its answer is lost; the listing tells that it was taken.
    let command = peer.cancel_command();
    peer.front().lose(command, Loss::Breaks)?;
    it.user.act(&id, WorkspaceAction::Cancel).await?;
    it.reaches(&id, WorkspaceState::Cancelled).await?;
    peer.is_over(&first).await?;
    ended_because(&it, &first, ReasonCode::Surplus, "less work than pilots").await?;

    let id = it
        .queue(&requests::null("wanted", Span::from_secs(4)), "k2")
        .await?;
    let second = peer.job_that(Stage::Waits, &[&first]).await?;
    owner_is_told(&it, &id, told).await?;
    peer.cancel(&second)?;
    let third = peer.job_that(Stage::Waits, &[&first, &second]).await?;
    let words = "ended by the LRM's word: cancelled, before its pilot registered";
    ended_because(&it, &second, ReasonCode::JobEnded, words).await?;

    it.admin.drain(&lab()).await?;
    peer.is_over(&third).await?;
    ended_because(&it, &third, ReasonCode::Draining, "drained by").await?;
    owner_is_told(&it, &id, "is being drained by").await?;
    for (job, wanted) in [(&first, 1), (&second, 0), (&third, 1)] {
        let made = cancels(peer, job)?;
        ensure!(made == wanted, "{made} cancels of {job:?}");
    }

    it.admin.undrain(&lab()).await?;
    peer.undrain()?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    ensure!(view.generation.0 == 1, "{}", it.story(&id).await?);
    it.life_is_sound(&id).await?;
    let jobs = audit(peer, &it, Again::Never).await?;
    ensure!(jobs.len() == 4, "not four jobs: {jobs:#?}");
    Ok(())
}

/// While it runs: the site cancels it, and its guest goes on in the next; the broker's administrator
/// drains the site, and it leaves by itself; the owner cancels the request, and it leaves by itself.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn while_it_runs(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    let id = it
        .queue(&requests::null("long", Span::from_secs(120)), "k1")
        .await?;
    let running = it.sees(&id, "guest_running", EventSeq(0)).await?;
    let first = peer.job_that(Stage::Runs, &[]).await?;
    peer.cancel(&first)?;
    let gone = it.sees(&id, "guest_suspended", running.seq).await?;
    was_told_to_go(&gone)?;
    peer.is_over(&first).await?;
    ended_because(&it, &first, ReasonCode::JobEnded, "left the slot").await?;

    let running = it.sees(&id, "guest_running", gone.seq).await?;
    let second = peer.job_that(Stage::Runs, &[&first]).await?;
    it.admin.drain(&lab()).await?;
    let gone = it.sees(&id, "guest_suspended", running.seq).await?;
    ensure!(gone.text.contains("is being drained by"), "{gone:?}");
    owner_is_told(&it, &id, "is being drained by").await?;
    peer.is_over(&second).await?;
    it.admin.undrain(&lab()).await?;

    it.sees(&id, "guest_running", gone.seq).await?;
    let third = peer.job_that(Stage::Runs, &[&first, &second]).await?;
    it.user.act(&id, WorkspaceAction::Cancel).await?;
    let view = it.reaches(&id, WorkspaceState::Cancelled).await?;
    let why = view.reason.map(|r| r.code);
    ensure!(why == Some(ReasonCode::CancelledByUser), "{why:?}");
    peer.is_over(&third).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (2, 0), "{story}");
    is_sound_without_a_cancel(peer, &it).await?;
    it.life_is_sound(&id).await
}

/// While it runs, with a notice that leaves no time at all: the guest is killed before the notice is
/// over, and begins again in the next once its lease has run out. There is no time for a last word.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn with_no_time_at_all(peer: &Peer) -> Result<()> {
    let setup = Setup {
        notice: "1s",
        ..peer.setup(Guests::Null, Again::Never)
    };
    let it = peer.install(&setup).await?;
    let mut spec = requests::null("expendable", Span::from_secs(6));
    spec.policy.may_be_killed = true;
    let id = it.queue(&spec, "k1").await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    peer.cancel(&job)?;
    peer.is_over(&job).await?;
    it.is_clean().await?;
    ended_because(&it, &job, ReasonCode::JobEnded, "cancelled").await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (0, 1), "{story}");
    it.life_is_sound(&id).await?;
    is_never_late(&it).await?;
    audit(peer, &it, Again::Never).await.map(drop)
}

async fn is_sound_without_a_cancel(peer: &Peer, it: &Installation) -> Result<()> {
    let jobs = audit(peer, it, Again::Never).await?;
    ensure!(jobs.len() == 3, "not three jobs: {jobs:#?}");
    // A pilot that speaks is asked to leave; that costs the batch system nothing.
    let cancels = peer.front().count(peer.cancel_command())?;
    ensure!(cancels == 0, "{cancels} cancels");
    Ok(())
}
