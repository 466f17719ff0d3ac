//! Now and then: what is not needed any more goes. Records of what ended long ago, the consoles of
//! workspaces that are forgotten, and pilot jobs' directories.

use std::io;
use std::sync::Arc;

use broker_core::records::{PilotRecord, SubmitProgress};
use broker_core::{Event, Reply};
use protocol::api::PilotState;
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::time::Span;

use crate::console::Consoles;
use crate::lrm_loop::Shared;

/// Between two rounds.
const ROUND: Span = Span::from_mins(10);

/// Records that are forgotten in one transaction, at most: nobody is to wait long for it.
const AT_ONCE: usize = 100;

/// Between two such transactions.
const PAUSE: Span = Span::from_millis(50);

/// How long what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Directories of ended pilot jobs.
    pub pilot_logs: Span,
    /// Records of ended workspaces and pilot jobs.
    pub ended: Span,
}

/// Clears up every [`ROUND`] until the broker stops.
pub async fn run(shared: Shared, consoles: Arc<Consoles>, keep: Keep) {
    let mut stopping = shared.stopping.clone();
    loop {
        let round = async {
            forget(&shared, keep.ended).await;
            if let Err(e) = clear_consoles(&shared, &consoles).await {
                tracing::warn!(error = %e, "failed to look through the consoles");
            }
            if let Err(e) = clear_directories(&shared, keep.pilot_logs).await {
                tracing::warn!(error = %e, "failed to look through the pilot jobs' directories");
            }
            tokio::time::sleep(ROUND.as_duration()).await;
        };
        tokio::select! {
            () = round => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

/// Forgets what ended longer ago than `keep`. How many records that was.
async fn forget(shared: &Shared, keep: Span) -> usize {
    let ended_before = shared.clock.now().before(keep);
    let mut all = 0;
    loop {
        let event = Event::Forget {
            ended_before,
            limit: AT_ONCE,
        };
        // The broker stops, or can't write now: next time.
        let Ok(Reply::Forgotten { records }) = shared.owner.step(event).await else {
            break;
        };
        all += records;
        if records < AT_ONCE {
            break;
        }
        tokio::time::sleep(PAUSE.as_duration()).await;
    }
    if all > 0 {
        tracing::info!("forgot {all} workspaces and pilot jobs that ended before {ended_before}");
    }
    all
}

/// Removes the consoles of workspaces that are forgotten.
async fn clear_consoles(shared: &Shared, consoles: &Arc<Consoles>) -> io::Result<()> {
    // First the files, then the question: see `Consoles::workspaces`.
    let from = Arc::clone(consoles);
    let ids = tokio::task::spawn_blocking(move || from.workspaces()).await??;
    let forgotten = shared.owner.ask(move |broker, _| {
        let gone = ids.into_iter().filter(|id| !broker.knows(id));
        gone.collect::<Vec<WorkspaceId>>()
    });
    let Ok(forgotten) = forgotten.await else {
        return Ok(());
    };
    let from = Arc::clone(consoles);
    let work = move || {
        for id in forgotten {
            if let Err(e) = from.remove(&id) {
                tracing::warn!(workspace.id = %id, error = %e, "failed to remove a console");
            }
        }
    };
    Ok(tokio::task::spawn_blocking(work).await?)
}

async fn clear_directories(shared: &Shared, keep: Span) -> io::Result<()> {
    // First the directories, then the question: see `JobDirs::keys`.
    let dirs = shared.dirs.clone();
    let keys = tokio::task::spawn_blocking(move || dirs.keys()).await??;
    let over = shared.owner.ask(move |broker, _| {
        let over = |key: &SubmitKey| !broker.pilot(key).is_some_and(may_come);
        keys.into_iter().filter(over).collect::<Vec<SubmitKey>>()
    });
    // The broker stops, or has other troubles: next time.
    let Ok(over) = over.await else { return Ok(()) };
    let (dirs, now) = (shared.dirs.clone(), shared.clock.now());
    let work = move || {
        let mut gone = 0;
        for key in over {
            match dirs.clear(&key, now, keep) {
                Ok(removed) => gone += usize::from(removed),
                Err(e) => {
                    tracing::warn!(pilot.key = %key, error = %e, "failed to clear a pilot job's directory");
                }
            }
        }
        gone
    };
    match tokio::task::spawn_blocking(work).await? {
        0 => {}
        gone => tracing::info!("removed the directories of {gone} old pilot jobs"),
    }
    Ok(())
}

/// True while the job may need its token: it is not over, or it was given up only because the LRM
/// gave no answer to its submit and did not have it then.
fn may_come(p: &PilotRecord) -> bool {
    p.state != PilotState::Ended || matches!(p.submit, SubmitProgress::LookingUp { .. })
}

#[cfg(test)]
mod tests;
