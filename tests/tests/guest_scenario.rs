//! A real guest in slots that are too short for it: its memory and disk go on where they were.

use anyhow::Result;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::requests;
use protocol::codes::ReasonCode;
use protocol::workspace::WorkspaceState;

fn setup() -> Setup {
    Setup {
        walltime: "30s",
        notice: "12s",
        idle_limit: "2s",
        ..Setup::new(Guests::Qemu)
    }
}

#[tokio::test]
async fn a_guest_counts_on_over_two_slots() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let counting = it.count_hypervisors();
    let id = it
        .queue(&requests::counter(&guest, "counter", 256, 64, 45), "k1")
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(
        view.reason.map(|r| r.code),
        Some(ReasonCode::GuestPoweredOff)
    );
    assert!(view.suspends >= 1 && view.restarts == 0, "{story}");
    let console = it.console(&id).await?;
    let log = CounterLog::read(&console);
    assert!(log.is_unbroken(), "{log:?}\n{story}\n{console}");
    assert_eq!((log.first, log.last), (Some(1), Some(45)), "{console}");
    for told in ["suspend-soon ", "resumed "] {
        let line = format!("LEASE-TOLD {told}");
        assert!(console.contains(&line), "no `{line}`: {console}");
    }
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    assert_eq!(counting.most(), 1, "a guest ran twice at once\n{story}");
    for slot in it.admin.slots(None, &Default::default()).await?.items {
        assert!(slot.used.overrun.is_zero(), "{slot:?}");
    }
    // What nobody can resume any more is not kept.
    until("the store to hold no state", PATIENCE, async || {
        let states = std::fs::read_dir(it.place().join("store/states"))?;
        Ok((states.count() == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_job_of_the_site_gets_its_node_within_the_notice() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "90s",
        ..setup()
    })
    .await?;
    let id = it
        .queue(&requests::counter(&guest, "preempted", 256, 64, 14), "k1")
        .await?;
    until("the guest to count to five", PATIENCE, async || {
        let log = CounterLog::read(&it.console(&id).await?);
        Ok(log.last.filter(|n| *n >= 5))
    })
    .await?;
    let wanted = [
        "site-job",
        "--cores",
        "2",
        "--memory",
        "1GiB",
        "--walltime",
        "2s",
    ];
    it.lrm_command(&wanted).await?;
    // The LRM counts a pilot that it has to kill: it ended by itself, and with exit code 0.
    let preempted = until("the preempted job to be over", PATIENCE, async || {
        let jobs = it.jobs().await?;
        let over = jobs
            .into_iter()
            .find(|j| j.key.is_some() && j.state != "RUNNING" && j.state != "COMPLETING");
        Ok(over)
    })
    .await?;
    assert_eq!(preempted.state, "PREEMPTED", "{preempted:?}");
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.suspends == 1 && view.restarts == 0, "{story}");
    let log = CounterLog::read(&it.console(&id).await?);
    assert!(log.is_unbroken(), "{log:?}\n{story}");
    assert_eq!((log.first, log.last), (Some(1), Some(14)), "{story}");
    let events = it.events(&id).await?;
    let why = events
        .iter()
        .find(|e| e.kind == "guest_suspended")
        .map(|e| &e.text);
    assert!(
        why.is_some_and(|w| w.contains("the batch system sent SIGTERM")),
        "{why:?}"
    );
    it.is_clean().await?;
    it.life_is_sound(&id).await
}
