//! SIGKILL of broker, pilot and LRM at every step of a request's life: it still finishes, once,
//! with a reason, no submit is repeated, and nothing is left on the node.

use anyhow::{Context, Result};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use nix::sys::signal::Signal;
use protocol::codes::ReasonCode;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

/// The steps of a request that needs two slots, by the kinds of its events: those that are never
/// skipped, however long the broker was away.
const STEPS: [&str; 11] = [
    "accepted",
    "claimed",
    "guest_booting",
    "guest_running",
    "guest_suspending",
    "queued",
    "claimed",
    "guest_resuming",
    "guest_running",
    "guest_stopping",
    "done",
];

/// Short slots, so that a life has many steps in little time.
fn setup() -> Setup {
    Setup {
        walltime: "16s",
        notice: "4s",
        idle_limit: "2s",
        lease_ttl: "6s",
        overhead: "1s",
        provision_extra: "avoid_node_after = 100\npause_after_died_young = 100",
        ..Setup::new(Guests::Null)
    }
}

/// A guest that lives through several slots, writes its state slowly and lets itself be killed.
fn request() -> WorkspaceSpec {
    let mut spec = requests::null("long", Span::from_secs(16));
    spec.image.cmdline = Some("null.suspend_takes=500ms".into());
    spec.policy.may_be_killed = true;
    spec.policy.max_restarts = 20;
    spec
}

async fn ends_well(it: &Installation, id: &WorkspaceId) -> Result<()> {
    let view = it.reaches(id, WorkspaceState::Done).await?;
    assert_eq!(view.reason.map(|r| r.code), Some(ReasonCode::RunTimeUsed));
    it.is_clean().await?;
    it.life_is_sound(id).await?;
    it.submits_are_unique().await
}

#[tokio::test]
async fn the_broker_is_killed_at_every_step() -> Result<()> {
    let mut it = Installation::start(&setup()).await?;
    let id = it.queue(&request(), "k1").await?;
    let mut seen = EventSeq(0);
    for step in STEPS {
        seen = it.sees(&id, step, seen).await?.seq;
        it.kill_broker().await?;
        it.start_broker().await?;
        // What was told before the kill is still there after it.
        let events = it.events(&id).await?;
        assert!(events.iter().any(|e| e.seq == seen), "{step}: {events:#?}");
    }
    ends_well(&it, &id).await?;
    let view = it.show(&id).await?;
    assert_eq!(
        (view.suspends, view.restarts),
        (1, 0),
        "the guest went on while the broker was away\n{}",
        it.story(&id).await?
    );
    Ok(())
}

#[tokio::test]
async fn the_lrm_is_killed_at_every_step() -> Result<()> {
    let mut it = Installation::start(&setup()).await?;
    let id = it.queue(&request(), "k1").await?;
    let mut seen = EventSeq(0);
    for step in STEPS {
        seen = it.sees(&id, step, seen).await?.seq;
        it.kill_lrm().await?;
        it.start_lrm().await?;
    }
    ends_well(&it, &id).await
}

#[tokio::test]
async fn the_pilot_is_killed_at_every_step() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let id = it.queue(&request(), "k1").await?;
    let mut seen = EventSeq(0);
    let mut killed = 0;
    for step in [
        "claimed",
        "lease_taken",
        "guest_running",
        "guest_suspending",
        "claimed",
        "guest_running",
    ] {
        seen = it.sees(&id, step, seen).await?.seq;
        killed += it.signal_pilots(Signal::SIGKILL);
        // What the killed one had told before must not be taken for the next one's word.
        seen = it.sees(&id, "queued", seen).await?.seq;
    }
    // One that was suspending may be gone by itself.
    assert!(killed >= 5, "{}", it.story(&id).await?);
    ends_well(&it, &id).await?;
    let view = it.show(&id).await?;
    assert!(view.restarts > 0, "{}", it.story(&id).await?);
    Ok(())
}

#[tokio::test]
async fn everything_is_killed_at_once_while_it_runs() -> Result<()> {
    let mut it = Installation::start(&setup()).await?;
    let id = it.queue(&request(), "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    it.kill_broker().await?;
    it.kill_lrm().await?;
    assert_eq!(it.signal_pilots(Signal::SIGKILL), 1);
    it.start_lrm().await?;
    it.start_broker().await?;
    ends_well(&it, &id).await
}

#[tokio::test]
async fn a_request_repeated_after_a_kill_of_the_broker_is_the_same() -> Result<()> {
    let mut it = Installation::start(&setup()).await?;
    let id = it.queue(&request(), "k1").await?;
    it.kill_broker().await?;
    it.start_broker().await?;
    let again = it.queue(&request(), "k1").await?;
    assert_eq!(id, again);
    // The key belongs to that request: another one under it is refused, not taken for it.
    let other = requests::null("other", Span::from_secs(1));
    let refused = it
        .queue(&other, "k1")
        .await
        .err()
        .context("the key was taken twice")?;
    assert!(format!("{refused:#}").contains("key"), "{refused:#}");
    let all = it.submit_command(&["list", "--json"]).await?;
    assert_eq!(String::from_utf8_lossy(&all.stdout).lines().count(), 1);
    Ok(())
}

#[tokio::test]
async fn ten_signals_in_a_row_only_shorten_the_clock() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut spec = request();
    spec.run_time = Span::from_secs(6);
    let id = it.queue(&spec, "k1").await?;
    let running = it.sees(&id, "running", EventSeq(0)).await?;
    for _ in 0..10 {
        it.signal_pilots(Signal::SIGTERM);
    }
    until("the signalled pilot to be gone", PATIENCE, async || {
        for _ in 0..3 {
            it.signal_pilots(Signal::SIGTERM);
        }
        Ok(it.pilots().is_empty().then_some(()))
    })
    .await?;
    it.sees(&id, "guest_suspended", running.seq).await?;
    ends_well(&it, &id).await?;
    assert_eq!(it.show(&id).await?.restarts, 0, "{}", it.story(&id).await?);
    Ok(())
}
