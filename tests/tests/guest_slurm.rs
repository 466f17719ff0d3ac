//! A real guest on a real Slurm: its memory and disk go on where they were.

use anyhow::Result;
use e2e::harness::slurm::{Again, SlurmSite};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::peers::{self, Peer};
use e2e::requests;
use protocol::codes::ReasonCode;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn a_guest_that_is_preempted_counts_on_in_the_next_pilot_job() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let options = ["--nodes", "1", "--grace", "10", "--kill-wait", "16"];
    let Some(slurm) = SlurmSite::start(&options)? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "3m",
        // What Slurm gives at every ending: its KillWait, less what its KILL comes early.
        notice: "15s",
        idle_limit: "2s",
        batch: Some(slurm.lrm(Again::Never)),
        ..Setup::new(Guests::Qemu)
    })
    .await?;
    let counting = it.count_hypervisors();
    let id = it
        .queue(&requests::counter(&guest, "preempted", 256, 64, 14), "k1")
        .await?;
    until("the guest to count to five", PATIENCE, async || {
        let log = CounterLog::read(&it.console(&id).await?);
        Ok(log.last.filter(|n| *n >= 5))
    })
    .await?;
    slurm.preempt("n1")?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(
        view.reason.map(|r| r.code),
        Some(ReasonCode::GuestPoweredOff)
    );
    assert!(view.suspends == 1 && view.restarts == 0, "{story}");
    assert!(story.contains("the batch system sent SIGTERM"), "{story}");
    let console = it.console(&id).await?;
    let log = CounterLog::read(&console);
    assert!(log.is_unbroken(), "{log:?}\n{story}\n{console}");
    assert_eq!((log.first, log.last), (Some(1), Some(14)), "{story}");
    assert_eq!(counting.most(), 1, "a guest ran twice at once\n{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    let jobs = slurm.pilot_jobs()?;
    assert_eq!(slurm.front.count("sbatch")?, jobs.len(), "{jobs:?}");
    assert!(jobs.len() >= 2, "{jobs:?}\n{story}");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_is_requeued_counts_on_under_the_same_id() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    match Peer::slurm(&["--nodes", "1", "--kill-wait", "16"])? {
        Some(peer) => peers::guest::a_requeued_guest_counts_on(&peer, &guest).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_guest_whose_node_lost_its_power_begins_again_elsewhere() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    match Peer::slurm(&["--nodes", "2", "--node-timeout", "10"])? {
        Some(peer) => peers::guest::a_guest_without_power_begins_again(&peer, &guest).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_guest_that_is_too_large_for_the_notice_is_killed_within_it() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    match Peer::slurm(&["--nodes", "1"])? {
        Some(peer) => {
            peers::guest::a_guest_too_large_for_the_notice_is_killed_within_it(&peer, &guest).await
        }
        None => Ok(()),
    }
}
