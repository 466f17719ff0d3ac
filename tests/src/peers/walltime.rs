//! The batch system ends a pilot that does not end by itself.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use protocol::codes::ReasonCode;
use protocol::ids::EventSeq;
use protocol::workspace::WorkspaceState;

use super::audit::{audit, ended_because};
use super::peer::{Peer, Stage};
use super::silence::whole_slot;
use crate::harness::slurm::Again;
use crate::harness::{Guests, Setup};

/// A pilot that hangs is killed at the end of its walltime; nothing of it is left, the broker knows
/// why, and the request goes on in another slot.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn of_a_pilot_that_hangs(peer: &Peer) -> Result<()> {
    let setup = Setup {
        walltime: "1m",
        ..peer.setup(Guests::Null, Again::Never)
    };
    let it = peer.install(&setup).await?;
    let id = it.queue(&whole_slot("stuck", 8), "k1").await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    let stopped = it.signal_pilots(Signal::SIGSTOP);
    ensure!(stopped >= 1, "no pilot to stop");
    peer.is_over(&job).await?;
    ended_because(&it, &job, ReasonCode::JobEnded, "walltime").await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (0, 1), "{story}");
    it.life_is_sound(&id).await?;
    audit(peer, &it, Again::Never).await.map(drop)
}
