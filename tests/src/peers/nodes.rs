//! A node is drained, or lost.

use anyhow::{Context, Result, ensure};
use pilot_submit::client::WorkspaceAction;
use protocol::codes::ReasonCode;
use protocol::ids::EventSeq;
use protocol::workspace::WorkspaceState;

use super::audit::{audit, ended_because, owner_is_told, was_told_to_go};
use super::peer::{Peer, Stage};
use super::silence::whole_slot;
use crate::harness::Guests;
use crate::harness::slurm::Again;

/// What the batch system does with a job on a node that is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Nothing: it may end.
    LetsItEnd,
    /// It is told to leave.
    TellsIt,
}

/// A node that is drained: the guest ends its time there or is suspended, as the batch system says;
/// the next pilot waits until the node is back.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_drained_node(peer: &Peer, drain: Drain) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    let id = it.queue(&whole_slot("there", 8), "k1").await?;
    let running = it.sees(&id, "guest_running", EventSeq(0)).await?;
    let first = peer.job_that(Stage::Runs, &[]).await?;
    peer.drain()?;
    let suspends = match drain {
        Drain::LetsItEnd => {
            it.reaches(&id, WorkspaceState::Done).await?;
            // It would take the next request, too, while it is there.
            peer.is_over(&first).await?;
            0
        }
        Drain::TellsIt => {
            let gone = it.sees(&id, "guest_suspended", running.seq).await?;
            was_told_to_go(&gone)?;
            1
        }
    };
    let next = it.queue(&whole_slot("next", 3), "k2").await?;
    peer.job_that(Stage::Waits, &[]).await?;
    owner_is_told(&it, &next, "1 pilot queued").await?;
    peer.undrain()?;
    for id in [&id, &next] {
        it.reaches(id, WorkspaceState::Done).await?;
        it.life_is_sound(id).await?;
    }
    let view = it.show(&id).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (suspends, 0), "{story}");
    audit(peer, &it, Again::Never).await.map(drop)
}

/// The batch system has lost sight of a node and writes its job off, while pilot and guest run on
/// there. The guest goes on elsewhere only after it has ended there.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_node_that_lost_its_daemon(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    let id = it.queue(&whole_slot("seen", 150), "k1").await?;
    let running = it.sees(&id, "guest_running", EventSeq(0)).await?;
    let job = peer.job_that(Stage::Runs, &[]).await?;
    let node = it.show(&id).await?.node.context("it runs on no node")?;
    peer.lose_daemon(node.as_str())?;
    // Its pilot is told by the broker that its job is over, suspends the guest and leaves.
    let gone = it.sees(&id, "guest_suspended", running.seq).await?;
    ensure!(gone.text.contains("ended by the LRM's word"), "{gone:?}");
    ended_because(&it, &job, ReasonCode::JobEnded, "node").await?;
    peer.bring_back_if_it_is_the_only()?;
    it.sees(&id, "guest_running", gone.seq).await?;
    // Its time is longer than the batch system's patience with the node: the rest is not waited for.
    it.user.act(&id, WorkspaceAction::Cancel).await?;
    let view = it.reaches(&id, WorkspaceState::Cancelled).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (1, 0), "{story}");
    ensure!(view.generation.0 == 2, "{story}");
    it.life_is_sound(&id).await?;
    audit(peer, &it, Again::Never).await.map(drop)
}

/// A node loses its power: what was not saved is done again elsewhere, once nothing can run there
/// any more.
///
/// # Errors
/// A promise is broken; the message says which.
pub async fn a_node_without_power(peer: &Peer) -> Result<()> {
    let it = peer
        .install(&peer.setup(Guests::Null, Again::Never))
        .await?;
    let id = it.queue(&whole_slot("dark", 8), "k1").await?;
    it.sees(&id, "guest_running", EventSeq(0)).await?;
    let node = it.show(&id).await?.node.context("it runs on no node")?;
    peer.power_off(node.as_str(), &it).await?;
    let lost = it.sees(&id, "queued", EventSeq(0)).await?;
    ensure!(lost.text.contains("not heard"), "{lost:?}");
    peer.bring_back_if_it_is_the_only()?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    ensure!((view.suspends, view.restarts) == (0, 1), "{story}");
    it.life_is_sound(&id).await?;
    audit(peer, &it, Again::Never).await.map(drop)
}
