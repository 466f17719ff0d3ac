//! The real programs on a real HTCondor pool, without guests.

use anyhow::Result;
use e2e::harness::condor::CondorSite;
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

/// `VacateReasonCode` of a job that was told to leave its slot.
const VACATED: u32 = 1005;

#[tokio::test]
async fn a_vacated_pilot_suspends_and_the_next_pilot_job_resumes() -> Result<()> {
    let Some(site) = CondorSite::start(None)? else {
        return Ok(());
    };
    let it = Installation::start_with(&site.setup(Guests::Null, "shared"), site.binaries.clone())
        .await?;
    let id = it
        .queue(&requests::null("preempted", Span::from_secs(15)), "k1")
        .await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let first = site.running_job()?;
    site.pool.command(&["condor_vacate_job", &first.id])?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (1, 0), "{story}");
    let events = it.events(&id).await?;
    let why = events.iter().find(|e| e.kind == "guest_suspended");
    assert!(
        why.is_some_and(|w| w.text.contains("the batch system sent SIGTERM")),
        "{why:?}\n{story}"
    );
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    let jobs = site.has_no_living_job().await?;
    let found = jobs.iter().find(|j| j.id == first.id);
    assert_eq!(found.map(|j| j.vacated), Some(VACATED), "{jobs:?}");
    assert!(jobs.len() >= 2, "no second pilot job: {jobs:?}");
    Ok(())
}

#[tokio::test]
async fn a_request_longer_than_a_slot_continues_in_the_next_with_copied_files() -> Result<()> {
    let Some(site) = CondorSite::start(None)? else {
        return Ok(());
    };
    let setup = Setup {
        walltime: "20s",
        ..site.setup(Guests::Null, "copied")
    };
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let id = it
        .queue(&requests::null("long", Span::from_secs(25)), "k1")
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.suspends >= 1 && view.restarts == 0, "{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    site.has_no_living_job().await.map(drop)
}
