//! A bad network between pilots and broker, with real guests: one hypervisor at a time, and a
//! memory that goes on where it was.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::harness::proxy::Fault;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::requests;
use protocol::ids::EventSeq;
use protocol::workspace::WorkspaceState;

fn setup() -> Setup {
    Setup {
        walltime: "30s",
        notice: "12s",
        idle_limit: "2s",
        provision_extra: "avoid_node_after = 100",
        proxied: true,
        ..Setup::new(Guests::Qemu)
    }
}

#[tokio::test]
async fn a_guest_is_suspended_and_resumed_over_a_network_that_loses_and_repeats() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let proxy = it.proxy.as_ref().context("there is no proxy")?;
    let counting = it.count_hypervisors();
    let spec = requests::counter(&guest, "lossy", 192, 32, 30);
    proxy.every(4, Some(Fault::DropAnswer));
    let id = it.queue(&spec, "k1").await?;
    let suspended = it.sees(&id, "guest_suspended", EventSeq(0)).await?;
    // Calls of the first slot come again while the second one runs the guest.
    proxy.every(4, Some(Fault::Repeat(Duration::from_secs(8))));
    it.sees(&id, "guest_running", suspended.seq).await?;
    proxy.every(4, Some(Fault::Overtaken));
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    proxy.heal();
    assert_eq!(view.restarts, 0, "{story}");
    let log = CounterLog::read(&it.console(&id).await?);
    assert!(log.is_unbroken(), "{log:?}\n{story}");
    assert_eq!((log.first, log.last), (Some(1), Some(30)), "{story}");
    assert_eq!(counting.most(), 1, "a guest ran twice at once\n{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    it.submits_are_unique().await
}

#[tokio::test]
async fn a_cut_off_guest_is_gone_before_the_next_one_starts() -> Result<()> {
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
    let proxy = it.proxy.as_ref().context("there is no proxy")?;
    let counting = it.count_hypervisors();
    let spec = requests::counter(&guest, "cut-off", 192, 32, 20);
    let id = it.queue(&spec, "k1").await?;
    let first = it.sees(&id, "guest_running", EventSeq(0)).await?;
    let cut = first.slot.context("a guest runs in no slot")?;
    let guests = it.hypervisors();
    assert_eq!(guests.len(), 1);
    proxy.cut(&cut);
    let gone = until("the first guest to be gone", PATIENCE, async || {
        Ok((!it.hypervisors().contains(&guests[0])).then_some(()))
    });
    gone.await?;
    let claimed = it.sees(&id, "claimed", first.seq).await?;
    assert_ne!(claimed.slot, Some(cut), "{}", it.story(&id).await?);
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    proxy.heal();
    assert!(view.generation > first.generation.unwrap_or_default());
    assert_eq!(counting.most(), 1, "a guest ran twice at once\n{story}");
    let log = CounterLog::read(&it.console(&id).await?);
    assert_eq!((log.last, log.complaints.len()), (Some(20), 0), "{log:?}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    it.submits_are_unique().await
}
