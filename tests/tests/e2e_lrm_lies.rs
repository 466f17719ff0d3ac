//! An LRM that loses answers, jobs and nodes, and that changes its mind: no pilot is submitted
//! twice, no guest runs twice, no silence is taken for an end.

use anyhow::Result;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, LrmJob, Setup};
use e2e::requests;
use nix::sys::signal::Signal;
use protocol::codes::ReasonCode;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

fn setup() -> Setup {
    Setup {
        walltime: "30s",
        notice: "4s",
        idle_limit: "2s",
        lease_ttl: "6s",
        overhead: "1s",
        provision_extra: "avoid_node_after = 100\npause_after_died_young = 100",
        ..Setup::new(Guests::Null)
    }
}

fn request(run_time: u64) -> WorkspaceSpec {
    let mut spec = requests::null("patient", Span::from_secs(run_time));
    spec.policy.may_be_killed = true;
    spec
}

async fn ends_well(it: &Installation, id: &WorkspaceId) -> Result<()> {
    let view = it.reaches(id, WorkspaceState::Done).await?;
    assert_eq!(view.reason.map(|r| r.code), Some(ReasonCode::RunTimeUsed));
    it.is_clean().await?;
    it.life_is_sound(id).await?;
    it.submits_are_unique().await
}

/// Waits until the broker has asked for the listing `times` times more.
async fn listings(it: &Installation, times: usize) -> Result<()> {
    // The daemon strikes a fault off its list when it has happened often enough.
    let times = times.to_string();
    let add = [
        "fault", "add", "late", "--on", "queue", "--by", "1ms", "--times", &times,
    ];
    it.lrm_command(&add).await?;
    until("the broker to look at the queue", PATIENCE, async || {
        let left = it.lrm_command(&["fault", "list"]).await?;
        Ok((!left.contains("late")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_submit_whose_answer_is_lost_is_looked_up_not_repeated() -> Result<()> {
    for kind in ["lost-answer", "hang-after", "garbled"] {
        let it = Installation::start(&setup()).await?;
        it.lrm_command(&["fault", "add", kind, "--on", "submit"])
            .await?;
        let id = it.queue(&request(4), "k1").await?;
        ends_well(&it, &id).await?;
        let jobs = it.jobs().await?;
        assert_eq!(jobs.len(), 1, "{kind}: {jobs:#?}");
        assert_eq!(it.show(&id).await?.generation.0, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_submit_that_fails_is_tried_again_after_a_pause() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    it.lrm_command(&["fault", "add", "error", "--on", "submit", "--times", "2"])
        .await?;
    let id = it.queue(&request(3), "k1").await?;
    ends_well(&it, &id).await
}

#[tokio::test]
async fn a_job_that_is_missing_from_the_listing_has_not_ended() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let id = it.queue(&request(18), "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    it.lrm_command(&["fault", "add", "missing", "--on", "queue", "--times", "8"])
        .await?;
    until("the listings to have lacked it", PATIENCE, async || {
        let left = it.lrm_command(&["fault", "list"]).await?;
        Ok((!left.contains("missing")).then_some(()))
    })
    .await?;
    ends_well(&it, &id).await?;
    let view = it.show(&id).await?;
    assert_eq!(view.generation.0, 1, "{}", it.story(&id).await?);
    assert_eq!(it.jobs().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_lrm_that_does_not_answer_ends_nothing() -> Result<()> {
    let mut it = Installation::start(&setup()).await?;
    let id = it.queue(&request(14), "k1").await?;
    let running = it.sees(&id, "running", EventSeq(0)).await?;
    it.lrm_command(&["fault", "add", "error", "--on", "queue", "--times", "3"])
        .await?;
    until("the listings to have failed", PATIENCE, async || {
        let left = it.lrm_command(&["fault", "list"]).await?;
        Ok((!left.contains("error")).then_some(()))
    })
    .await?;
    // Then it is away altogether until the guest has had its time.
    it.kill_lrm().await?;
    it.sees(&id, "done", running.seq).await?;
    it.start_lrm().await?;
    ends_well(&it, &id).await?;
    assert_eq!(it.show(&id).await?.generation.0, 1);
    assert_eq!(it.jobs().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_requeued_job_is_a_new_pilot_that_fences_the_old() -> Result<()> {
    // Room for the job's second start, whatever else the broker submits meanwhile.
    let it = Installation::start(&Setup {
        nodes: 2,
        max_running: 2,
        ..setup()
    })
    .await?;
    let id = it.queue(&request(12), "k1").await?;
    let running = it.sees(&id, "running", EventSeq(0)).await?;
    let job = it.running_job().await?;
    it.lrm_command(&["requeue", &job]).await?;
    let again = it.sees(&id, "running", running.seq).await?;
    assert!(again.generation > running.generation);
    ends_well(&it, &id).await?;
    let restarts = |jobs: &[LrmJob]| jobs.iter().find(|j| j.id == job).map(|j| j.restarts);
    until("the job's second start to be over", PATIENCE, async || {
        let jobs = it.jobs().await?;
        let over = jobs.iter().all(|j| j.state == "COMPLETED");
        Ok((over && restarts(&jobs) == Some(1)).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_lost_node_keeps_its_guest_until_the_lease_is_over() -> Result<()> {
    let it = Installation::start(&Setup {
        nodes: 2,
        ..setup()
    })
    .await?;
    let id = it.queue(&request(12), "k1").await?;
    let running = it.sees(&id, "running", EventSeq(0)).await?;
    let node = it.show(&id).await?.node.expect("it runs on a node");
    // The LRM has lost its daemon there; the pilot runs on, and a second one starts elsewhere.
    it.lrm_command(&["fail", node.as_str(), "--how", "lost"])
        .await?;
    ends_well(&it, &id).await?;
    assert!(running.generation.is_some());
    Ok(())
}

#[tokio::test]
async fn power_loss_of_a_node_costs_no_request() -> Result<()> {
    let it = Installation::start(&Setup {
        nodes: 2,
        ..setup()
    })
    .await?;
    let id = it.queue(&request(10), "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    let node = it.show(&id).await?.node.expect("it runs on a node");
    it.lrm_command(&["fail", node.as_str(), "--how", "power"])
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    assert!(view.node.is_none() || view.node != Some(node));
    it.life_is_sound(&id).await?;
    it.submits_are_unique().await
}

#[tokio::test]
async fn a_drained_node_finishes_what_it_has_and_gets_nothing_new() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let id = it.queue(&request(4), "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    it.lrm_command(&["drain", "n1"]).await?;
    ends_well(&it, &id).await?;
    let next = it.queue(&request(3), "k2").await?;
    listings(&it, 4).await?;
    assert_eq!(it.show(&next).await?.state, WorkspaceState::Queued);
    let why = it.user.explain(&next).await?.sentences.join("\n");
    assert!(why.contains("pilot"), "{why}");
    it.lrm_command(&["undrain", "n1"]).await?;
    ends_well(&it, &next).await
}

#[tokio::test]
async fn a_walltime_that_is_shortened_while_it_runs_is_heeded() -> Result<()> {
    let it = Installation::start(&Setup {
        walltime: "60s",
        ..setup()
    })
    .await?;
    let id = it.queue(&request(20), "k1").await?;
    let running = it.sees(&id, "running", EventSeq(0)).await?;
    let job = it.running_job().await?;
    it.lrm_command(&["shorten", &job, "44s"]).await?;
    let suspended = it.sees(&id, "guest_suspended", running.seq).await?;
    assert!(suspended.text.contains("the slot ends"), "{suspended:?}");
    ends_well(&it, &id).await?;
    assert_eq!(it.show(&id).await?.restarts, 0);
    Ok(())
}

#[tokio::test]
async fn a_walltime_that_is_extended_while_it_runs_is_used() -> Result<()> {
    // The pilot asks its probe every 30 s, and trusts the earliest word till then.
    let it = Installation::start(&Setup {
        walltime: "42s",
        ..setup()
    })
    .await?;
    let id = it.queue(&request(45), "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    let job = it.running_job().await?;
    it.lrm_command(&["extend", &job, "30s"]).await?;
    ends_well(&it, &id).await?;
    let view = it.show(&id).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.generation.0), (0, 1), "{story}");
    Ok(())
}

#[tokio::test]
async fn a_cancelled_pilot_job_gives_its_slot_back_and_the_request_goes_on() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let id = it.queue(&request(8), "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    let job = it.running_job().await?;
    it.lrm_command(&["cancel", &job]).await?;
    ends_well(&it, &id).await?;
    assert_eq!(it.show(&id).await?.restarts, 0, "{}", it.story(&id).await?);
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_cancelled_is_cancelled_in_every_state() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    for (n, kind) in ["accepted", "guest_booting", "guest_running"]
        .into_iter()
        .enumerate()
    {
        let id = it.queue(&request(60), &format!("k{n}")).await?;
        it.sees(&id, kind, EventSeq(0)).await?;
        let out = it.submit_command(&["cancel", id.as_str()]).await?;
        assert!(out.status.success(), "{out:?}");
        let view = it.reaches(&id, WorkspaceState::Cancelled).await?;
        let code = view.reason.map(|r| r.code);
        assert_eq!(code, Some(ReasonCode::CancelledByUser));
        it.life_is_sound(&id).await?;
    }
    it.signal_pilots(Signal::SIGTERM);
    it.is_clean().await
}
