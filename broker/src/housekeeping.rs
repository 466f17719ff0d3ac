//! Now and then: pilot jobs' directories that are not needed any more.

use std::collections::BTreeSet;
use std::io;

use protocol::api::PilotState;
use protocol::ids::SubmitKey;
use protocol::time::Span;

use crate::lrm_loop::Shared;

/// Between two rounds.
const ROUND: Span = Span::from_mins(10);

/// Clears up every [`ROUND`] until the broker stops.
pub async fn run(shared: Shared, keep: Span) {
    let mut stopping = shared.stopping.clone();
    loop {
        if let Err(e) = clear(&shared, keep).await {
            tracing::warn!(error = %e, "failed to look through the pilot jobs' directories");
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND.as_duration()) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn clear(shared: &Shared, keep: Span) -> io::Result<()> {
    // First the directories, then the question: see `JobDirs::keys`.
    let dirs = shared.dirs.clone();
    let keys = tokio::task::spawn_blocking(move || dirs.keys()).await??;
    let live = shared.owner.ask(|broker, _| {
        let all = broker.pilots(None, usize::MAX, None).items;
        let live = all.into_iter().filter(|p| p.state != PilotState::Ended);
        live.map(|p| p.submit_key).collect::<BTreeSet<_>>()
    });
    // The broker stops, or has other troubles: next time.
    let Ok(live) = live.await else { return Ok(()) };
    let over: Vec<SubmitKey> = keys.into_iter().filter(|key| !live.contains(key)).collect();
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
