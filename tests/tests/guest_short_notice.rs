//! A real guest at a site whose notice is too short for all of its memory: brought to the store while
//! it runs, it is suspended in time all the same; and what was never suspended goes on from its last
//! checkpoint.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::requests;
use nix::sys::signal::Signal;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;
use serde_json::Value;

const FILL_MIB: u64 = 256;

fn setup() -> Setup {
    Setup {
        walltime: "240s",
        notice: "5s",
        idle_limit: "2s",
        ..Setup::new(Guests::Qemu)
    }
}

/// Bytes of memory that are in the store of states under construction.
fn ahead(it: &Installation) -> u64 {
    let states = fs::read_dir(it.place().join("store/states"));
    let states = states.into_iter().flatten().flatten();
    let memory = states
        .filter(|s| s.file_name().to_string_lossy().starts_with(".tmp-"))
        .filter_map(|s| fs::metadata(s.path().join("memory")).ok());
    memory.map(|m| m.blocks() * 512).sum()
}

#[tokio::test]
async fn a_flushed_guest_is_suspended_within_a_notice_that_is_too_short_for_all_of_it() -> Result<()>
{
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::counter(&guest, "flushed", FILL_MIB + 256, FILL_MIB, 60);
    spec.policy.may_be_killed = true;
    let id = it.queue(&spec, "k1").await?;
    it.sees(&id, "guest_flushing", EventSeq(0)).await?;
    until("a pass over the guest's memory", PATIENCE, async || {
        Ok((ahead(&it) >= FILL_MIB << 20).then_some(()))
    })
    .await?;
    // The planner looks every two seconds how much is left.
    let counted = async || Ok::<_, anyhow::Error>(CounterLog::read(&it.console(&id).await?).last);
    let before = counted().await?.unwrap_or(0);
    until("the guest to count on", PATIENCE, async || {
        Ok(counted().await?.filter(|n| *n > before + 4))
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
    let evicted = it.sees(&id, "guest_evicted", EventSeq(0)).await?;
    let story = it.story(&id).await?;
    let number = |name: &str| {
        let value = evicted.data.get(name).and_then(Value::as_u64);
        value.with_context(|| format!("no `{name}` in {:?}", evicted.data))
    };
    assert_eq!(evicted.data["means"], "suspend", "{story}");
    assert_eq!(evicted.data["outcome"], "suspended", "{story}");
    assert_eq!(evicted.data["flushed"], true, "{story}");
    assert!(
        number("written")? < (FILL_MIB << 20) / 2,
        "{:?}",
        evicted.data
    );

    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.restarts == 0 && view.suspends >= 1, "{story}");
    let log = CounterLog::read(&it.console(&id).await?);
    assert!(log.is_unbroken(), "{log:?}\n{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await
}

#[tokio::test]
async fn a_guest_whose_pilot_is_killed_goes_on_from_its_checkpoint() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::counter(&guest, "checkpointed", FILL_MIB + 256, FILL_MIB, 40);
    spec.policy.checkpoint_every = Some(Span::from_secs(10));
    let id = it.queue(&spec, "k1").await?;
    let made = it.sees(&id, "guest_checkpointed", EventSeq(0)).await?;
    until("the checkpoint to be recorded", PATIENCE, async || {
        Ok(it.show(&id).await?.saved)
    })
    .await?;
    assert_eq!(it.signal_pilots(Signal::SIGKILL), 1);
    let again = it.sees(&id, "guest_running", made.seq).await?;
    let story = it.story(&id).await?;
    assert!(again.text.starts_with("resumed"), "{again:?}\n{story}");
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(view.restarts, 0, "{story}");
    let log = CounterLog::read(&it.console(&id).await?);
    assert!(
        log.complaints.is_empty() && log.reboots == 0,
        "{log:?}\n{story}"
    );
    assert_eq!(log.last, Some(40), "{story}");
    it.life_is_sound(&id).await
}
