//! A real guest on a real HTCondor pool: its memory and disk go on where they were.

use anyhow::Result;
use e2e::harness::condor::CondorSite;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::peers::{self, Peer};
use e2e::requests;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn a_guest_counts_on_after_its_pilot_was_vacated() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let Some(site) = CondorSite::start(Some(&guest))? else {
        return Ok(());
    };
    let guest = site.guest.clone().unwrap_or(guest);
    let setup = Setup {
        walltime: "240s",
        notice: "20s",
        idle_limit: "2s",
        ..site.setup(Guests::Qemu, "shared")
    };
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let counting = it.count_hypervisors();
    let id = it
        .queue(&requests::counter(&guest, "vacated", 256, 64, 14), "k1")
        .await?;
    until("the guest to count to five", PATIENCE, async || {
        let log = CounterLog::read(&it.console(&id).await?);
        Ok(log.last.filter(|n| *n >= 5))
    })
    .await?;
    let first = site.running_job()?;
    site.pool.command(&["condor_vacate_job", &first.id])?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (1, 0), "{story}");
    let console = it.console(&id).await?;
    let log = CounterLog::read(&console);
    assert!(log.is_unbroken(), "{log:?}\n{story}\n{console}");
    assert_eq!((log.first, log.last), (Some(1), Some(14)), "{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    assert_eq!(counting.most(), 1, "a guest ran twice at once\n{story}");
    for slot in it.admin.slots(None, &Default::default()).await?.items {
        assert!(slot.used.overrun.is_zero(), "{slot:?}");
    }
    site.has_no_living_job().await.map(drop)
}

#[tokio::test]
async fn a_guest_that_is_vacated_counts_on_under_the_same_id() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    match Peer::htcondor(Some(&guest))? {
        Some(peer) => {
            let guest = peer.guest(guest);
            peers::guest::a_requeued_guest_counts_on(&peer, &guest).await
        }
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_guest_whose_node_lost_its_power_begins_again() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    match Peer::htcondor(Some(&guest))? {
        Some(peer) => {
            let guest = peer.guest(guest);
            peers::guest::a_guest_without_power_begins_again(&peer, &guest).await
        }
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_guest_that_is_too_large_for_the_notice_is_killed_within_it() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    match Peer::htcondor(Some(&guest))? {
        Some(peer) => {
            let guest = peer.guest(guest);
            peers::guest::a_guest_too_large_for_the_notice_is_killed_within_it(&peer, &guest).await
        }
        None => Ok(()),
    }
}
