//! Jobs on several nodes, the real programs on the simulated LRM: one job, a pilot on each node,
//! a slot and a guest of its own for each; and what becomes of the others when one of them ends.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use e2e::requests;
use nix::sys::signal::{Signal, kill};
use pilot_submit::client::PageRequest;
use protocol::api::{PilotState, SlotView};
use protocol::ids::{IdempotencyKey, WorkspaceId};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

/// Jobs of two nodes at a site of four, and long slots.
fn setup() -> Setup {
    Setup {
        nodes: 4,
        job_nodes: 2,
        max_running: 2,
        walltime: "120s",
        provision_extra: "avoid_node_after = 100\npause_after_died_young = 100",
        ..Setup::new(Guests::Null)
    }
}

/// A request that fills a slot.
fn whole(name: &str, seconds: u64) -> WorkspaceSpec {
    let mut spec = requests::null(name, Span::from_secs(seconds));
    spec.resources.cores = 2;
    spec
}

async fn slots(it: &Installation) -> Result<Vec<SlotView>> {
    let page = it.admin.slots(None, &PageRequest::default()).await?;
    Ok(page.items)
}

/// Two requests that run side by side in the slots of one job; the job's id at the LRM.
async fn two_run(it: &Installation, seconds: u64) -> Result<([WorkspaceId; 2], String)> {
    let first = it.queue(&whole("first", seconds), "k1").await?;
    let second = it.queue(&whole("second", seconds), "k2").await?;
    for id in [&first, &second] {
        it.reaches(id, WorkspaceState::Running).await?;
    }
    let job = it.running_job().await?;
    Ok(([first, second], job))
}

async fn both_end_well(it: &Installation, ids: &[WorkspaceId]) -> Result<()> {
    for id in ids {
        it.reaches(id, WorkspaceState::Done).await?;
        it.life_is_sound(id).await?;
    }
    it.is_clean().await?;
    it.submits_are_unique().await
}

#[tokio::test]
async fn one_job_gives_two_slots_and_two_guests() -> Result<()> {
    let it = Installation::start(&Setup {
        nodes: 2,
        max_running: 1,
        ..setup()
    })
    .await?;
    let (ids, job) = two_run(&it, 8).await?;
    let jobs = it.jobs().await?;
    ensure!(jobs.len() == 1, "one submit for both: {jobs:?}");
    let key = jobs[0].key.clone().context("it has no key")?;
    let slots = slots(&it).await?;
    let keys: Vec<String> = slots.iter().map(|s| s.submit_key.to_string()).collect();
    ensure!(
        keys == [format!("{key}.0"), format!("{key}.1")],
        "{slots:#?}"
    );
    let nodes: Vec<&str> = slots.iter().map(|s| s.node.as_str()).collect();
    ensure!(nodes == ["n1", "n2"], "{slots:#?}");
    let sites = it.user.sites().await?.items;
    ensure!((sites[0].queued, sites[0].running) == (0, 1), "{sites:?}");
    let rows = it.admin.pilots(None, &PageRequest::default()).await?.items;
    ensure!(
        rows.len() == 3
            && rows[0].nodes == 2
            && rows[0].state == PilotState::Started
            && rows
                .iter()
                .all(|r| r.lrm_job_id.as_ref().is_some_and(|id| id.as_str() == job)),
        "{rows:#?}"
    );
    // Each has its own token and its own log, and nothing else in the job's directory is a secret.
    let directory = it.place().join("broker/pilot-jobs").join(&key);
    let tokens: Vec<String> = (0..2)
        .map(|rank| fs::read_to_string(directory.join(format!("token.{rank}"))))
        .collect::<Result<_, _>>()?;
    ensure!(tokens[0] != tokens[1] && !directory.join("token").exists());
    for rank in 0..2 {
        ensure!(directory.join(format!("pilot.{rank}.log")).exists());
    }
    both_end_well(&it, &ids).await?;
    until("the job to be over, by itself", PATIENCE, async || {
        let jobs = it.jobs().await?;
        Ok((jobs[0].state == "COMPLETED").then_some(()))
    })
    .await?;
    until("the broker to know", PATIENCE, async || {
        let sites = it.user.sites().await?.items;
        Ok((sites[0].running == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_preemption_is_heard_on_both_nodes_and_both_guests_go_on() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let (ids, job) = two_run(&it, 20).await?;
    it.lrm_command(&["preempt", &job]).await?;
    both_end_well(&it, &ids).await?;
    for id in &ids {
        let view = it.show(id).await?;
        let story = it.story(id).await?;
        ensure!(view.suspends >= 1 && view.restarts == 0, "{story}");
        ensure!(story.contains("the batch system sent SIGTERM"), "{story}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cancel_by_hand_ends_both() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let (ids, job) = two_run(&it, 20).await?;
    it.lrm_command(&["cancel", &job]).await?;
    until("both pilots to be gone", PATIENCE, async || {
        let jobs = it.jobs().await?;
        Ok(jobs
            .iter()
            .any(|j| j.id == job && j.state == "CANCELLED")
            .then_some(()))
    })
    .await?;
    both_end_well(&it, &ids).await
}

#[tokio::test]
async fn a_pilot_that_is_killed_takes_only_its_own_slot() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut stays = whole("stays", 40);
    stays.policy.may_be_killed = true;
    let mut dies = whole("dies", 15);
    dies.policy.may_be_killed = true;
    let stays = it.queue(&stays, "k1").await?;
    let dies = it.queue(&dies, "k2").await?;
    for id in [&stays, &dies] {
        it.reaches(id, WorkspaceState::Running).await?;
    }
    let slot = it.show(&dies).await?.slot.context("it has a slot")?;
    kill(it.pilot_in(&slot)?, Signal::SIGKILL)?;
    let view = it.reaches(&dies, WorkspaceState::Done).await?;
    ensure!(view.restarts == 1, "{}", it.story(&dies).await?);
    let view = it.reaches(&stays, WorkspaceState::Done).await?;
    let story = it.story(&stays).await?;
    ensure!((view.generation.0, view.suspends) == (1, 0), "{story}");
    both_end_well(&it, &[stays, dies]).await
}

#[tokio::test]
async fn a_requeue_starts_both_again_under_the_same_id() -> Result<()> {
    let it = Installation::start(&Setup {
        nodes: 2,
        max_running: 1,
        ..setup()
    })
    .await?;
    let (ids, job) = two_run(&it, 20).await?;
    let before = slots(&it).await?;
    it.lrm_command(&["requeue", &job]).await?;
    both_end_well(&it, &ids).await?;
    let jobs = it.jobs().await?;
    ensure!(jobs.len() == 1 && jobs[0].restarts == 1, "{jobs:?}");
    let after = slots(&it).await?;
    ensure!(after.len() == 2, "{after:#?}");
    for (old, new) in before.iter().zip(&after) {
        ensure!(old.submit_key == new.submit_key, "{after:#?}");
        ensure!(old.incarnation != new.incarnation, "{after:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_fails_ends_the_job_as_the_lrm_says_and_both_go_on_elsewhere() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut spec = whole("first", 25);
    spec.policy.may_be_killed = true;
    spec.policy.max_restarts = 5;
    let first = it.queue(&spec, "k1").await?;
    spec.name = "second".to_owned();
    let key = IdempotencyKey::new("k2")?;
    let second = it.user.submit(&key, &spec).await?.id;
    for id in [&first, &second] {
        it.reaches(id, WorkspaceState::Running).await?;
    }
    let node = it.show(&second).await?.node.context("it has a node")?;
    it.lrm_command(&["fail", node.as_str(), "--how", "power"])
        .await?;
    both_end_well(&it, &[first.clone(), second.clone()]).await?;
    // The other node was told in time, and lost nothing.
    let view = it.show(&first).await?;
    ensure!(view.restarts == 0, "{}", it.story(&first).await?);
    let view = it.show(&second).await?;
    ensure!(view.restarts >= 1, "{}", it.story(&second).await?);
    Ok(())
}
