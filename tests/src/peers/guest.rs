//! What a real guest, with memory and a disk, makes of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::workspace::WorkspaceState;

use super::audit::{audit, is_never_late, was_told_to_go};
use super::peer::{Peer, Stage};
use super::requeue::starts_again;
use crate::harness::slurm::Again;
use crate::harness::wait::{PATIENCE, until};
use crate::harness::{CounterLog, Guests, Installation, Setup};
use crate::requests;

/// The memory of its guests, and how much of it they fill, in MiB.
const MEMORY: (u64, u64) = (192, 32);

/// A job that is requeued suspends its guest, and its second start resumes it.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_requeued_guest_counts_on(peer: &Peer, guest: &Path) -> Result<()> {
    let setup = Setup {
        notice: "15s",
        ..peer.setup(Guests::Qemu, Again::Requeued)
    };
    let it = peer.install(&setup).await?;
    let counting = it.count_hypervisors();
    let spec = requests::counter(guest, "requeued", MEMORY.0, MEMORY.1, 12);
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 4).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    peer.requeue(&job)?;
    starts_again(peer, &job).await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (1, 0), "{story}");
    let console = it.console(&id).await?;
    let log = CounterLog::read(&console);
    ensure!(log.is_unbroken(), "{log:?}\n{story}\n{console}");
    ensure!((log.first, log.last) == (Some(1), Some(12)), "{story}");
    ensure!(counting.most() == 1, "a guest ran twice at once\n{story}");
    it.life_is_sound(&id).await?;
    let jobs = audit(peer, &it, Again::Requeued).await?;
    ensure!(jobs.len() == 1, "{jobs:#?}");
    Ok(())
}

/// A node loses its power, and the guest begins again elsewhere, once.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_guest_without_power_begins_again(peer: &Peer, guest: &Path) -> Result<()> {
    let setup = Setup {
        notice: "15s",
        ..peer.setup(Guests::Qemu, Again::Never)
    };
    let it = peer.install(&setup).await?;
    let counting = it.count_hypervisors();
    let spec = requests::counter(guest, "dark", MEMORY.0, MEMORY.1, 8);
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 3).await?;
    let node = it.show(&id).await?.node.context("it runs on no node")?;
    peer.power_off(node.as_str(), &it).await?;
    ensure!(it.hypervisors().is_empty(), "a guest survived its node");
    peer.bring_back_if_it_is_the_only()?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (0, 1), "{story}");
    let log = CounterLog::read(&it.console(&id).await?);
    ensure!(
        log.last == Some(8) && log.complaints.is_empty(),
        "{log:?}\n{story}"
    );
    ensure!(counting.most() == 1, "a guest ran twice at once\n{story}");
    it.life_is_sound(&id).await?;
    audit(peer, &it, Again::Never).await.map(drop)
}

/// A guest with more memory than the notice has time for is killed before the notice is over, says
/// so, and begins again in the next pilot job.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_guest_too_large_for_the_notice_is_killed_within_it(
    peer: &Peer,
    guest: &Path,
) -> Result<()> {
    let setup = Setup {
        notice: "3s",
        ..peer.setup(Guests::Qemu, Again::Never)
    };
    let it = peer.install(&setup).await?;
    let mut spec = requests::counter(guest, "large", 640, MEMORY.1, 12);
    spec.policy.may_be_killed = true;
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 2).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    peer.cancel(&job)?;
    let gone = it.sees(&id, "guest_killed", EventSeq(0)).await?;
    was_told_to_go(&gone)?;
    peer.is_over(&job).await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (0, 1), "{story}");
    it.life_is_sound(&id).await?;
    is_never_late(&it).await?;
    audit(peer, &it, Again::Never).await.map(drop)
}

async fn counts_to(it: &Installation, id: &WorkspaceId, n: u64) -> Result<()> {
    until(
        &format!("the guest to count to {n}"),
        PATIENCE,
        async || {
            let log = CounterLog::read(&it.console(id).await?);
            Ok(log.last.filter(|last| *last >= n).map(drop))
        },
    )
    .await
}
