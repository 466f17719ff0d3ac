//! A bad network between pilots and broker: no guest runs twice, every request ends, once and with
//! a reason, and a pilot that is cut off gives its guest up before anybody else gets it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::harness::proxy::{Fault, Proxy};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use protocol::api::EventView;
use protocol::codes::ReasonCode;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

/// Short slots and leases, so that a life has many steps in little time.
fn setup() -> Setup {
    Setup {
        walltime: "16s",
        notice: "6s",
        idle_limit: "2s",
        lease_ttl: "8s",
        overhead: "1s",
        provision_extra: "avoid_node_after = 100\npause_after_died_young = 100",
        proxied: true,
        ..Setup::new(Guests::Null)
    }
}

/// A guest that needs two slots.
fn request() -> WorkspaceSpec {
    let mut spec = requests::null("fenced", Span::from_secs(18));
    spec.policy.may_be_killed = true;
    spec.policy.max_restarts = 20;
    spec
}

fn proxy(it: &Installation) -> Result<&Proxy> {
    it.proxy.as_ref().context("there is no proxy")
}

/// A life in which every third call between pilot and broker goes wrong.
async fn lives_through(fault: Fault) -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let proxy = proxy(&it)?;
    proxy.every(3, Some(fault));
    let id = it.queue(&request(), "k1").await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(view.reason.map(|r| r.code), Some(ReasonCode::RunTimeUsed));
    let done = proxy.done();
    let met = done.get(fault.kind()).copied().unwrap_or_default();
    assert!(met >= 4, "the fault was hardly met: {done:?}\n{story}");
    // The last words of the last slot have a way again.
    proxy.heal();
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    it.submits_are_unique().await
}

#[tokio::test]
async fn calls_that_never_reach_the_broker() -> Result<()> {
    lives_through(Fault::DropCall).await
}

#[tokio::test]
async fn calls_that_took_effect_and_have_no_answer() -> Result<()> {
    lives_through(Fault::DropAnswer).await
}

#[tokio::test]
async fn answers_of_which_half_arrives() -> Result<()> {
    lives_through(Fault::TornAnswer).await
}

#[tokio::test]
async fn calls_that_arrive_late() -> Result<()> {
    lives_through(Fault::Delay(Duration::from_millis(1500))).await
}

#[tokio::test]
async fn calls_that_arrive_twice() -> Result<()> {
    lives_through(Fault::Repeat(Duration::ZERO)).await
}

#[tokio::test]
async fn calls_that_arrive_again_much_later() -> Result<()> {
    // Longer than a lease lives: in another slot's time, perhaps.
    lives_through(Fault::Repeat(Duration::from_secs(9))).await
}

#[tokio::test]
async fn calls_that_arrive_after_later_ones() -> Result<()> {
    lives_through(Fault::Overtaken).await
}

#[tokio::test]
async fn a_pilot_that_is_cut_off_gives_its_guest_up_before_the_next_lease() -> Result<()> {
    let it = Installation::start(&Setup {
        walltime: "90s",
        nodes: 2,
        max_running: 2,
        idle_limit: "3s",
        ..setup()
    })
    .await?;
    let mut spec = request();
    spec.run_time = Span::from_secs(20);
    let id = it.queue(&spec, "k1").await?;
    let first = it.sees(&id, "guest_running", EventSeq(0)).await?;
    let cut = first.slot.context("a guest runs in no slot")?;
    proxy(&it)?.cut(&cut);
    let second = it.sees(&id, "guest_running", first.seq).await?;
    ensure!(second.slot != Some(cut.clone()), "{second:?}");
    // What the one that is cut off has done meanwhile, it tells when it is joined again.
    proxy(&it)?.join(&cut);
    let ended = until("the first slot's word on its guest", PATIENCE, async || {
        let events = it.events(&id).await?;
        let of_first = |e: &&EventView| e.generation == first.generation;
        let is_end = |e: &&EventView| ["guest_killed", "guest_suspended"].contains(&&*e.kind);
        Ok(events.iter().filter(of_first).find(is_end).cloned())
    })
    .await
    .context(it.story(&id).await?)?;
    it.reaches(&id, WorkspaceState::Done).await?;
    let (events, story) = (it.events(&id).await?, it.story(&id).await?);
    let claimed = events
        .iter()
        .find(|e| e.kind == "claimed" && e.generation == second.generation)
        .context("the second lease was never given")?;
    // Both by the same machine's clock.
    assert!(ended.at < claimed.at, "{ended:?}\n{claimed:?}\n{story}");
    assert!(first.at < ended.at, "{story}");
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    it.submits_are_unique().await
}

#[tokio::test]
async fn all_pilots_cut_off_for_longer_than_a_lease() -> Result<()> {
    let it = Installation::start(&Setup {
        walltime: "40s",
        // Room for a suspend between the loss of contact and the lease's end.
        lease_ttl: "18s",
        ..setup()
    })
    .await?;
    let mut spec = request();
    spec.run_time = Span::from_secs(30);
    let id = it.queue(&spec, "k1").await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    proxy(&it)?.cut_all();
    // The broker takes the lease for over, by its clock; nobody can take the next one.
    let queued = it.sees(&id, "queued", EventSeq(0)).await?;
    let states = it.place().join("store/states");
    let made = std::fs::read_dir(&states)?.flatten().count();
    proxy(&it)?.heal();
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(made, 1, "it was to suspend before its lease ended\n{story}");
    assert!(
        view.generation > queued.generation.unwrap_or_default(),
        "{story}"
    );
    it.is_clean().await?;
    it.life_is_sound(&id).await?;
    it.submits_are_unique().await
}
