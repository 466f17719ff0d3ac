//! The real programs on a real Slurm, without guests.

use anyhow::{Context, Result};
use e2e::harness::slurm::{Again, SlurmSite};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::peers::audit::pilots;
use e2e::requests;
use nix::sys::signal::{Signal, kill};
use pilot_submit::client::{PageRequest, WorkspaceAction};
use protocol::api::PilotState;
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
        batch: Some(slurm.lrm(Again::Never)),
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

#[tokio::test]
async fn an_id_that_is_given_again_after_a_crash_is_not_ours() -> Result<()> {
    let Some(slurm) = SlurmSite::start(&["--nodes", "1"])? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "1m",
        batch: Some(slurm.lrm(Again::Never)),
        ..Setup::new(Guests::Null)
    })
    .await?;
    // The pilot has to wait behind it.
    let first = slurm.site_job("n1", 50)?;
    slurm.remember()?;
    let id = it
        .queue(&requests::null("unlucky", Span::from_secs(20)), "k1")
        .await?;
    let ours = until("a pilot job to wait", PATIENCE, async || {
        Ok(slurm.pilot_jobs()?.pop())
    })
    .await?;
    until("the broker to know its id", PATIENCE, async || {
        let pilots = pilots(&it).await?;
        Ok(pilots.iter().any(|p| p.lrm_job_id.is_some()).then_some(()))
    })
    .await?;
    slurm.forget("n1")?;
    let theirs = slurm.site_job("n1", 1)?;
    assert_eq!(theirs, ours.id, "Slurm gives ids again after a crash");
    // The broker wants its job gone; the other one is not touched.
    it.user.act(&id, WorkspaceAction::Cancel).await?;
    it.reaches(&id, WorkspaceState::Cancelled).await?;
    until("the broker to give its job up", PATIENCE, async || {
        let pilots = pilots(&it).await?;
        let over = pilots.iter().all(|p| p.state == PilotState::Ended);
        Ok(over.then_some(()))
    })
    .await?;
    assert_eq!(slurm.front.count("scancel")?, 0, "{}", slurm.log());
    slurm.cluster.command("scancel", &[&first])?;
    until("the site's job to have run", PATIENCE, async || {
        let jobs = slurm.jobs()?;
        let job = jobs.iter().find(|j| j.id == theirs);
        Ok(job.filter(|j| j.state == "COMPLETED").map(drop))
    })
    .await?;
    assert_eq!(slurm.pilot_jobs()?, []);
    assert_eq!(slurm.front.count("sbatch")?, 1, "{}", slurm.log());
    it.is_clean().await
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
    assert_eq!(slurm.front.count("sbatch")?, jobs.len(), "{jobs:?}\n{log}");
    assert!(
        slurm.front.count("scancel")? <= jobs.len(),
        "{jobs:?}\n{log}"
    );
    Ok(())
}

/// Two guests side by side in one job of two nodes: gone after a `scancel`, and after the walltime
/// of the next job, which they go on in.
#[tokio::test]
async fn a_job_on_two_nodes_has_a_pilot_on_each_and_ends_on_both() -> Result<()> {
    let options = ["--nodes", "2", "--kill-wait", "9"];
    let Some(slurm) = SlurmSite::start(&options)? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "1m",
        job_nodes: 2,
        batch: Some(slurm.lrm(Again::Never)),
        ..Setup::new(Guests::Null)
    })
    .await?;
    let mut ids = Vec::new();
    for name in ["first", "second"] {
        let mut spec = requests::null(name, Span::from_secs(70));
        spec.resources.cores = 2;
        ids.push(it.queue(&spec, name).await?);
    }
    for id in &ids {
        it.reaches(id, WorkspaceState::Running).await?;
    }
    let page = PageRequest::default();
    let slots = it.admin.slots(None, &page).await?.items;
    let mut nodes: Vec<_> = slots.iter().map(|s| s.node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2"], "{slots:#?}");
    let jobs = slurm.pilot_jobs()?;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    for (slot, rank) in slots.iter().zip(0..) {
        assert_eq!(
            slot.submit_key.to_string(),
            format!("{}.{rank}", jobs[0].name)
        );
    }
    slurm.cancel(&jobs[0].id)?;
    until(
        "the job to be cancelled on both nodes",
        PATIENCE,
        async || {
            let all = slurm.pilot_jobs()?;
            let first = all.iter().find(|j| j.id == jobs[0].id);
            Ok(first.filter(|j| j.state == "CANCELLED").map(drop))
        },
    )
    .await?;
    for id in &ids {
        it.reaches(id, WorkspaceState::Done).await?;
        let (view, story) = (it.show(id).await?, it.story(id).await?);
        // Once by the cancel and once by the end of a walltime.
        assert!(view.suspends >= 2 && view.restarts == 0, "{story}");
        assert!(story.contains("the batch system sent SIGTERM"), "{story}");
        it.life_is_sound(id).await?;
    }
    it.is_clean().await?;
    every_pilot_job_is_over_and_was_submitted_once(&slurm).await
}

/// Slurm ends no task of a step for another one's bad end, as the pilot job asks it to.
#[tokio::test]
async fn a_pilot_that_is_killed_takes_no_other_node_of_its_job_along() -> Result<()> {
    let options = ["--nodes", "4", "--kill-wait", "9"];
    let Some(slurm) = SlurmSite::start(&options)? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "3m",
        job_nodes: 2,
        max_running: 2,
        batch: Some(slurm.lrm(Again::Never)),
        ..Setup::new(Guests::Null)
    })
    .await?;
    let mut ids = Vec::new();
    for (name, seconds) in [("stays", 40), ("dies", 10)] {
        let mut spec = requests::null(name, Span::from_secs(seconds));
        spec.resources.cores = 2;
        spec.policy.may_be_killed = true;
        ids.push(it.queue(&spec, name).await?);
    }
    for id in &ids {
        it.reaches(id, WorkspaceState::Running).await?;
    }
    let slot = it.show(&ids[1]).await?.slot.context("it has a slot")?;
    kill(it.pilot_in(&slot)?, Signal::SIGKILL)?;
    let view = it.reaches(&ids[1], WorkspaceState::Done).await?;
    assert_eq!(view.restarts, 1, "{}", it.story(&ids[1]).await?);
    let view = it.reaches(&ids[0], WorkspaceState::Done).await?;
    let story = it.story(&ids[0]).await?;
    assert_eq!((view.generation.0, view.suspends), (1, 0), "{story}");
    it.is_clean().await?;
    every_pilot_job_is_over_and_was_submitted_once(&slurm).await
}
