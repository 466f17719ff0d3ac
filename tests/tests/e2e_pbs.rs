//! The real programs on a PBS whose commands are played on the simulated LRM, without guests.

use anyhow::{Result, ensure};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use protocol::codes::ReasonCode;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

fn setup() -> Setup {
    Setup {
        played_pbs: true,
        profile: "pbs",
        idle_limit: "2s",
        ..Setup::new(Guests::Null)
    }
}

/// No pilot job was submitted or cancelled twice, and none by a force that leaves processes.
async fn is_polite(it: &Installation) -> Result<()> {
    it.submits_are_unique().await?;
    let jobs = it.jobs().await?;
    let commands = it.played_commands()?;
    let submits = commands.iter().filter(|c| c.starts_with("qsub ")).count();
    let pilots = jobs.iter().filter(|j| j.key.is_some()).count();
    ensure!(submits == pilots, "{pilots} pilot jobs: {commands:#?}");
    for job in jobs {
        let cancel = format!("qdel {}.", job.id);
        let cancels = commands.iter().filter(|c| c.starts_with(&cancel)).count();
        ensure!(cancels <= 1, "job {}: {commands:#?}", job.id);
    }
    ensure!(
        !commands.iter().any(|c| c.contains("force")),
        "{commands:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_preempted_request_goes_on_in_the_next_slot_and_nothing_is_left() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let id = it
        .queue(&requests::null("preempted", Span::from_secs(14)), "k1")
        .await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    let job = it.running_job().await?;
    it.lrm_command(&["preempt", &job]).await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(view.reason.map(|r| r.code), Some(ReasonCode::RunTimeUsed));
    assert!(view.suspends == 1 && view.restarts == 0, "{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    let ended = until("all jobs to be over", PATIENCE, async || {
        let jobs = it.jobs().await?;
        let over = jobs
            .iter()
            .all(|j| j.state != "RUNNING" && j.state != "COMPLETING");
        Ok(over.then_some(jobs))
    })
    .await?;
    let first = ended.iter().find(|j| j.id == job);
    assert_eq!(
        first.map(|j| j.state.as_str()),
        Some("PREEMPTED"),
        "{ended:#?}"
    );
    is_polite(&it).await
}

#[tokio::test]
async fn a_submit_whose_answer_is_lost_is_looked_up_not_repeated() -> Result<()> {
    for kind in ["lost-answer", "hang-after", "garbled"] {
        let it = Installation::start(&setup()).await?;
        it.lrm_command(&["fault", "add", kind, "--on", "submit"])
            .await?;
        let id = it
            .queue(&requests::null("patient", Span::from_secs(3)), "k1")
            .await?;
        it.reaches(&id, WorkspaceState::Done).await?;
        it.is_clean().await?;
        is_polite(&it).await?;
        let jobs = it.jobs().await?;
        assert_eq!(jobs.len(), 1, "{kind}: {jobs:#?}");
    }
    Ok(())
}
