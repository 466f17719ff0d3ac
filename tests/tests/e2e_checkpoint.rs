//! Periodic checkpoints bound what a kill costs: a pilot is killed without a word, and the workspace
//! goes on from what its guest was at the last checkpoint.

use anyhow::{Context, Result};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use nix::sys::signal::Signal;
use protocol::codes::ReasonCode;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn a_killed_pilots_guest_goes_on_from_its_checkpoint() -> Result<()> {
    let setup = Setup {
        walltime: "5m",
        notice: "1s", // no suspend fits it: the request is taken for its checkpoints
        lease_ttl: "6s",
        overhead: "1s",
        idle_limit: "3s",
        provision_extra: "avoid_node_after = 100\npause_after_died_young = 100",
        ..Setup::new(Guests::Null)
    };
    let it = Installation::start(&setup).await?;
    let every = Span::from_secs(10);
    let mut spec = requests::null("long", Span::from_secs(35));
    spec.policy.checkpoint_every = Some(every);
    spec.policy.max_restarts = 0;
    let id = it.queue(&spec, "k1").await?;

    let made = it.sees(&id, "guest_checkpointed", EventSeq(0)).await?;
    let saved = until("the checkpoint to be recorded", PATIENCE, async || {
        Ok(it.show(&id).await?.saved)
    })
    .await?;
    assert!(
        saved.id.as_str().starts_with(&format!("{id}.g1.c")),
        "{saved:?}"
    );
    assert!(saved.run >= every, "{saved:?}");
    let view = it.show(&id).await?;
    assert_eq!(view.state, WorkspaceState::Running, "the guest goes on");

    assert_eq!(it.signal_pilots(Signal::SIGKILL), 1);
    let queued = it.sees(&id, "queued", made.seq).await?;
    assert!(
        queued.text.contains("continues from its checkpoint at "),
        "{}",
        it.story(&id).await?
    );
    let resumed = it.sees(&id, "guest_running", queued.seq).await?;
    assert!(
        resumed.text.starts_with("resumed, with "),
        "{}",
        it.story(&id).await?
    );
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let reason = view.reason.context("a final state has a reason")?;
    assert_eq!(reason.code, ReasonCode::RunTimeUsed);
    assert!(view.generation.0 > 1, "{}", it.story(&id).await?);
    assert_eq!(view.restarts, 0, "{}", it.story(&id).await?);
    // The same guest: its memory says which boot it is.
    let console = it.console(&id).await?;
    let boots: std::collections::BTreeSet<_> = (console.split_whitespace())
        .filter(|word| word.starts_with("boot="))
        .collect();
    assert_eq!(boots.len(), 1, "{console}");
    it.life_is_sound(&id).await?;
    // The idle pilot deletes what nobody needs any more before it leaves.
    let states = it.place().join("store/states");
    until("the states to be deleted", PATIENCE, async || {
        let left = std::fs::read_dir(&states)?.count();
        Ok((left == 0).then_some(()))
    })
    .await?;
    it.is_clean().await?;
    it.submits_are_unique().await
}
