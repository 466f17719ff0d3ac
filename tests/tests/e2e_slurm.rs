//! The real programs on a real Slurm, without guests.

use anyhow::Result;
use e2e::harness::slurm::SlurmSite;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn a_request_goes_on_after_a_preemption_and_after_the_end_of_its_slot() -> Result<()> {
    let options = ["--nodes", "1", "--grace", "6", "--kill-wait", "9"];
    let Some(slurm) = SlurmSite::start(&options)? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "1m",
        batch: Some(slurm.lrm()),
        ..Setup::new(Guests::Null)
    })
    .await?;
    let id = it
        .queue(&requests::null("long", Span::from_secs(60)), "k1")
        .await?;
    it.reaches(&id, WorkspaceState::Running).await?;
    slurm.preempt("n1")?;
    // It uses its grace time and ends by itself; Slurm goes on with the site's job.
    until("the site's job to have run", PATIENCE, async || {
        let jobs = slurm.jobs()?;
        let site = jobs.iter().find(|j| j.name == "site");
        Ok(site.filter(|j| j.state == "COMPLETED").map(drop))
    })
    .await?;
    // What is left of it is more than the rest of a minute.
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.suspends >= 2 && view.restarts == 0, "{story}");
    assert!(story.contains("the batch system sent SIGTERM"), "{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    every_pilot_job_is_over_and_was_submitted_once(&slurm).await
}

/// One `sbatch` for each job, at most one `scancel`, and nothing of ours is left in Slurm.
async fn every_pilot_job_is_over_and_was_submitted_once(slurm: &SlurmSite) -> Result<()> {
    until("all pilot jobs to be over", PATIENCE, async || {
        let jobs = slurm.pilot_jobs()?;
        let alive = ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING"];
        let over = jobs.iter().all(|j| !alive.contains(&j.state.as_str()));
        Ok(over.then_some(()))
    })
    .await?;
    let jobs = slurm.pilot_jobs()?;
    let log = slurm.log();
    assert_eq!(slurm.calls("sbatch"), jobs.len(), "{jobs:?}\n{log}");
    assert!(slurm.calls("scancel") <= jobs.len(), "{jobs:?}\n{log}");
    Ok(())
}
