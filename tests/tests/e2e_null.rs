//! The real programs against the simulated LRM, without guests: requests, pilots, slots.

use anyhow::Result;
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use protocol::codes::ReasonCode;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn a_request_runs_in_a_slot_and_nothing_is_left() -> Result<()> {
    let it = Installation::start(&Setup::new(Guests::Null)).await?;
    let id = it
        .queue(&requests::null("short", Span::from_secs(2)), "k1")
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    assert_eq!(view.reason.map(|r| r.code), Some(ReasonCode::RunTimeUsed));
    // The idle pilot leaves, and with it everything of its slot.
    it.is_clean().await?;
    Ok(())
}

#[tokio::test]
async fn a_request_longer_than_a_slot_continues_in_the_next() -> Result<()> {
    let setup = Setup {
        walltime: "20s",
        ..Setup::new(Guests::Null)
    };
    let it = Installation::start(&setup).await?;
    let id = it
        .queue(&requests::null("long", Span::from_secs(25)), "k1")
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    assert!(view.suspends >= 1, "{}", it.story(&id).await?);
    assert_eq!(view.restarts, 0, "{}", it.story(&id).await?);
    it.is_clean().await
}
