//! Pilots in the dom0 of a real Xen host, without guests: LRM, network, shares and time.

use anyhow::Result;
use e2e::harness::xen::XenSite;
use e2e::harness::{Binaries, Guests, Installation, Setup};
use e2e::requests;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn a_request_longer_than_a_slot_continues_in_the_next() -> Result<()> {
    let site = XenSite::start(&Binaries::find()?, None, 1)?;
    let setup = Setup {
        walltime: "30s",
        ..site.setup(Guests::Null, 0)
    };
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let id = it
        .queue(&requests::null("long", Span::from_secs(25)), "k1")
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.suspends >= 1 && view.restarts == 0, "{story}");
    it.life_is_sound(&id).await?;
    it.is_clean().await?;
    site.is_clean().await
}
