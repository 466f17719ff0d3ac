//! What must hold on any batch system (`e2e::peers`), on a real Slurm, without guests.

use anyhow::Result;
use e2e::peers::nodes::Drain;
use e2e::peers::{Peer, cancel, nodes, requeue, silence, walltime};

fn slurm() -> Result<Option<Peer>> {
    Peer::slurm(&["--nodes", "1"])
}

#[tokio::test]
async fn a_pilot_job_is_cancelled_while_it_waits() -> Result<()> {
    match slurm()? {
        Some(peer) => cancel::while_it_waits(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_pilot_job_is_cancelled_while_it_runs() -> Result<()> {
    match slurm()? {
        Some(peer) => cancel::while_it_runs(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_submit_whose_answer_is_lost_made_one_job() -> Result<()> {
    match slurm()? {
        Some(peer) => silence::a_lost_answer(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_quiet_life_costs_one_submit_and_the_listings() -> Result<()> {
    match slurm()? {
        Some(peer) => silence::a_quiet_life_costs_one_submit_and_the_listings(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_controller_hangs_is_stopped_and_crashes() -> Result<()> {
    match slurm()? {
        Some(peer) => silence::a_controller_that_hangs_is_stopped_and_crashes(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_requeued_job_is_another_incarnation() -> Result<()> {
    match slurm()? {
        Some(peer) => requeue::the_second_start_is_another_incarnation(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_drained_node_keeps_its_guest_and_gets_no_other() -> Result<()> {
    match slurm()? {
        Some(peer) => nodes::a_drained_node(&peer, Drain::LetsItEnd).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_node_that_lost_its_daemon_never_makes_a_guest_run_twice() -> Result<()> {
    match Peer::slurm(&["--nodes", "2", "--node-timeout", "10"])? {
        Some(peer) => nodes::a_node_that_lost_its_daemon(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_node_without_power_costs_no_request() -> Result<()> {
    match Peer::slurm(&["--nodes", "2", "--node-timeout", "10"])? {
        Some(peer) => nodes::a_node_without_power(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_pilot_that_hangs_ends_with_its_walltime() -> Result<()> {
    match slurm()? {
        Some(peer) => walltime::of_a_pilot_that_hangs(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_job_that_may_not_does_not_start_again() -> Result<()> {
    match slurm()? {
        Some(peer) => requeue::a_job_that_may_not_does_not_start_again(&peer).await,
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_guest_without_any_notice_is_killed_and_begins_again() -> Result<()> {
    match slurm()? {
        Some(peer) => cancel::with_no_time_at_all(&peer).await,
        None => Ok(()),
    }
}
