//! SIGKILL and worse while a real guest runs, suspends or resumes.

use anyhow::Result;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::requests;
use nix::sys::signal::{Signal, kill};
use protocol::codes::ReasonCode;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::workspace::WorkspaceState;

fn setup() -> Setup {
    Setup {
        walltime: "40s",
        notice: "12s",
        idle_limit: "2s",
        lease_ttl: "8s",
        provision_extra: "avoid_node_after = 100",
        ..Setup::new(Guests::Qemu)
    }
}

/// Waits until the guest has counted to `n` since its last boot.
async fn counts_to(it: &Installation, id: &WorkspaceId, n: u64) -> Result<()> {
    let what = format!("the guest to count to {n}");
    until(&what, PATIENCE, async || {
        let log = CounterLog::read(&it.console(id).await?);
        Ok(log.last.filter(|last| *last >= n))
    })
    .await
    .map(|_| ())
}

/// What must be true of every life, whatever was killed in it.
async fn ends_well(it: &Installation, id: &WorkspaceId, last: u64) -> Result<CounterLog> {
    let view = it.reaches(id, WorkspaceState::Done).await?;
    assert_eq!(
        view.reason.map(|r| r.code),
        Some(ReasonCode::GuestPoweredOff)
    );
    it.is_clean().await?;
    it.life_is_sound(id).await?;
    it.submits_are_unique().await?;
    let console = it.console(id).await?;
    let log = CounterLog::read(&console);
    assert_eq!(log.last, Some(last), "{console}");
    assert_eq!(log.complaints, Vec::<String>::new(), "{console}");
    Ok(log)
}

#[tokio::test]
async fn a_killed_hypervisor_means_a_new_start_with_the_reason() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let id = it
        .queue(&requests::counter(&guest, "killed", 192, 32, 8), "k1")
        .await?;
    counts_to(&it, &id, 3).await?;
    assert_eq!(it.signal_hypervisors(Signal::SIGKILL), 1);
    let queued = it.sees(&id, "queued", EventSeq(0)).await?;
    assert!(queued.text.contains("signal"), "{}", queued.text);
    let log = ends_well(&it, &id, 8).await?;
    let view = it.show(&id).await?;
    assert_eq!((view.restarts, log.reboots), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_guest_that_must_not_start_again_fails_with_the_reason() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::counter(&guest, "once", 192, 32, 60);
    spec.policy.max_restarts = 0;
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 2).await?;
    it.signal_hypervisors(Signal::SIGKILL);
    let view = it.reaches(&id, WorkspaceState::Failed).await?;
    let reason = view.reason.expect("a final state has a reason");
    assert_eq!(reason.code, ReasonCode::TooManyRestarts, "{reason:?}");
    assert!(reason.text.contains("signal"), "{reason:?}");
    it.is_clean().await?;
    it.life_is_sound(&id).await
}

#[tokio::test]
async fn a_hypervisor_killed_in_the_middle_of_a_suspend_makes_no_state() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    // Much to write, so that the suspend has a middle.
    let spec = requests::counter(&guest, "torn", 512, 384, 8);
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 3).await?;
    until(
        "the guest to have filled its memory",
        PATIENCE,
        async || {
            let console = it.console(&id).await?;
            Ok(console.contains("GUEST-FILLED").then_some(()))
        },
    )
    .await?;
    let states = it.place().join("store/states");
    it.signal_pilots(Signal::SIGTERM);
    until("a state to be under construction", PATIENCE, async || {
        let entries = std::fs::read_dir(&states).into_iter().flatten().flatten();
        Ok(entries
            .map(|e| e.file_name())
            .any(|n| n.to_string_lossy().starts_with(".tmp-"))
            .then_some(()))
    })
    .await?;
    assert_eq!(it.signal_hypervisors(Signal::SIGKILL), 1);
    let queued = it.sees(&id, "queued", EventSeq(0)).await?;
    let saved = it.show(&id).await?.saved;
    assert_eq!(saved, None, "a torn state was taken for a state");
    assert!(queued.text.len() > 10, "{queued:?}");
    ends_well(&it, &id, 8).await?;
    assert_eq!(it.show(&id).await?.restarts, 1);
    Ok(())
}

#[tokio::test]
async fn a_killed_pilot_takes_its_guest_along() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let counting = it.count_hypervisors();
    let id = it
        .queue(&requests::counter(&guest, "orphan", 192, 32, 8), "k1")
        .await?;
    counts_to(&it, &id, 3).await?;
    let orphans = it.hypervisors();
    assert_eq!((orphans.len(), it.signal_pilots(Signal::SIGKILL)), (1, 1));
    until("the guest to die with its pilot", PATIENCE, async || {
        let alive = it.hypervisors().contains(&orphans[0]);
        Ok((!alive).then_some(()))
    })
    .await?;
    let queued = it.sees(&id, "queued", EventSeq(0)).await?;
    assert!(queued.text.len() > 10, "{queued:?}");
    ends_well(&it, &id, 8).await?;
    assert_eq!(counting.most(), 1, "{}", it.story(&id).await?);
    assert_eq!(it.show(&id).await?.restarts, 1);
    Ok(())
}

#[tokio::test]
async fn a_pilot_killed_in_the_second_slot_costs_only_that_slot() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "90s",
        ..setup()
    })
    .await?;
    let id = it
        .queue(&requests::counter(&guest, "twice", 192, 32, 14), "k1")
        .await?;
    counts_to(&it, &id, 5).await?;
    it.signal_pilots(Signal::SIGTERM);
    let resumed = it.sees(&id, "guest_resuming", EventSeq(0)).await?;
    it.sees(&id, "running", resumed.seq).await?;
    assert_eq!(it.signal_pilots(Signal::SIGKILL), 1);
    let again = it.sees(&id, "guest_resuming", resumed.seq).await?;
    assert!(again.generation > resumed.generation);
    let log = ends_well(&it, &id, 14).await?;
    assert_eq!(log.reboots, 0, "it went on from its last state");
    assert_eq!(it.show(&id).await?.restarts, 0);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_away_for_the_whole_eviction_misses_nothing() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let mut it = Installation::start(&Setup {
        lease_ttl: "30s",
        walltime: "90s",
        ..setup()
    })
    .await?;
    let id = it
        .queue(&requests::counter(&guest, "alone", 192, 32, 12), "k1")
        .await?;
    counts_to(&it, &id, 4).await?;
    it.kill_broker().await?;
    it.signal_pilots(Signal::SIGTERM);
    until("the state to be complete", PATIENCE, async || {
        let made = it
            .place()
            .join(format!("store/states/{id}.g1/manifest.json"));
        Ok(made.is_file().then_some(()))
    })
    .await?;
    until("the guest to be gone", PATIENCE, async || {
        Ok(it.hypervisors().is_empty().then_some(()))
    })
    .await?;
    it.start_broker().await?;
    // The broker is killed again while the guest loads its state.
    it.sees(&id, "guest_resuming", EventSeq(0)).await?;
    it.kill_broker().await?;
    it.start_broker().await?;
    ends_well(&it, &id, 12).await?;
    Ok(())
}

#[tokio::test]
async fn a_stopped_pilot_cannot_keep_a_guest_past_its_lease() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        nodes: 2,
        max_running: 2,
        walltime: "120s",
        ..setup()
    })
    .await?;
    let counting = it.count_hypervisors();
    // Far more to count than the lease lives: it does not end by itself.
    let id = it
        .queue(&requests::counter(&guest, "fenced", 192, 32, 40), "k1")
        .await?;
    counts_to(&it, &id, 3).await?;
    let (guests, stopped) = (it.hypervisors(), it.pilots());
    assert_eq!((guests.len(), it.signal_pilots(Signal::SIGSTOP)), (1, 1));
    // The guest would go on: its pilot sleeps, and hears of no lease. Its warden ends it.
    until(
        "the guest of the old lease to be gone",
        PATIENCE,
        async || Ok((!it.hypervisors().contains(&guests[0])).then_some(())),
    )
    .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.generation.0 >= 2, "{story}");
    assert_eq!(counting.most(), 1, "a guest ran twice at once\n{story}");
    // What the old pilot says when it wakes up changes nothing, and it leaves its node clean.
    kill(stopped[0], Signal::SIGCONT)?;
    it.is_clean().await?;
    let log = CounterLog::read(&it.console(&id).await?);
    assert_eq!((log.last, log.complaints.len()), (Some(40), 0), "{log:?}");
    let finals = it.events(&id).await?;
    let finals = finals
        .iter()
        .filter(|e| e.state.is_some_and(WorkspaceState::is_final));
    assert_eq!(finals.count(), 1, "{}", it.story(&id).await?);
    it.submits_are_unique().await
}
