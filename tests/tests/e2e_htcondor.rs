//! The real programs on a real HTCondor pool, without guests.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::harness::condor::CondorSite;
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

/// `VacateReasonCode` of a job that was told to leave its slot.
const VACATED: u32 = 1005;
/// `JobStatus` of a job that has ended by itself.
const COMPLETED: u32 = 4;

#[tokio::test]
async fn whatever_takes_the_slot_the_guest_is_suspended_and_the_next_pilot_job_resumes()
-> Result<()> {
    let Some(site) = CondorSite::start(None)? else {
        return Ok(());
    };
    let setup = site.setup(Guests::Null, "shared");
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let id = it
        .queue(&requests::null("preempted", Span::from_secs(30)), "k1")
        .await?;
    let mut seen = EventSeq(0);
    let mut vacated = None;
    for command in ["condor_vacate_job", "condor_rm", "condor_hold"] {
        seen = it.sees(&id, "guest_running", seen).await?.seq;
        let job = site.running_job()?;
        site.pool.command(&[command, &job.id])?;
        seen = it.sees(&id, "guest_suspended", seen).await?.seq;
        vacated.get_or_insert(job.id);
    }
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (3, 0), "{story}");
    let events = it.events(&id).await?;
    for event in events.iter().filter(|e| e.kind == "guest_suspended") {
        let text = &event.text;
        assert!(
            text.contains("the batch system sent SIGTERM"),
            "{text}\n{story}"
        );
    }
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    // None of them starts again, the held one included.
    let jobs = site.has_no_living_job().await?;
    let first = jobs.iter().find(|j| Some(&j.id) == vacated.as_ref());
    assert_eq!(first.map(|j| j.vacated), Some(VACATED), "{jobs:?}");
    assert!(jobs.len() >= 4, "not four pilot jobs: {jobs:?}");
    Ok(())
}

#[tokio::test]
async fn a_pilot_outlives_its_schedd() -> Result<()> {
    let Some(site) = CondorSite::start(None)? else {
        return Ok(());
    };
    let setup = site.setup(Guests::Null, "shared");
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let id = it
        .queue(&requests::null("patient", Span::from_secs(20)), "k1")
        .await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = site.running_job()?;
    // Its master starts it again.
    site.pool.signal("condor_schedd", "KILL")?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (0, 0), "{story}");
    let slots: BTreeSet<_> = it
        .events(&id)
        .await?
        .into_iter()
        .filter_map(|e| e.slot)
        .collect();
    assert_eq!(slots.len(), 1, "{story}");
    it.is_clean().await?;
    let jobs = site.has_no_living_job().await?;
    let done = jobs.iter().find(|j| j.id == job.id);
    assert_eq!(done.map(|j| j.status), Some(COMPLETED), "{jobs:?}");
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
