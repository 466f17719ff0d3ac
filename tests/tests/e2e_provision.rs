//! Pilots are submitted where they are of use, and the broker says why where they are not.

use anyhow::Result;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use pilot_submit::client::PageRequest;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

#[tokio::test]
async fn where_the_notice_is_too_short_no_pilot_job_is_made_and_the_owner_is_told() -> Result<()> {
    let it = Installation::start(&Setup {
        notice: "4s",
        ..Setup::new(Guests::Null)
    })
    .await?;
    let owed = requests::null("owed", Span::from_secs(5));
    let id = it.queue(&owed, "k1").await?;
    let told = it.user.explain(&id).await?.sentences.join("\n");
    assert!(told.contains("the notice of 4s is too short"), "{told}");
    assert!(told.contains("may_be_killed"), "{told}");
    // One that may be killed is served by the one pilot that there is, which declines nothing.
    let mut expendable = requests::null("expendable", Span::from_secs(5));
    expendable.policy.may_be_killed = true;
    let other = it.queue(&expendable, "k2").await?;
    it.reaches(&other, WorkspaceState::Done).await?;
    let page = PageRequest::default();
    let before = it.admin.pilots(None, &page).await?.items.len();
    let story = it.user.explain(&id).await?.sentences.join("\n");
    assert!(story.contains("the notice of 4s is too short"), "{story}");
    until("its pilot to leave", PATIENCE, async || {
        let site = it.user.sites().await?.items.remove(0);
        Ok((site.queued + site.running == 0).then_some(()))
    })
    .await?;
    let jobs = it.admin.pilots(None, &page).await?.items;
    assert_eq!(jobs.len(), before, "{jobs:#?}");
    let site = it.user.sites().await?.items.remove(0);
    assert_eq!(site.held_back, None, "{site:#?}");
    assert!(
        site.why.contains("the notice of 4s is too short"),
        "{site:#?}"
    );
    assert!(site.courtesy.slots >= 1, "{site:#?}");
    Ok(())
}
