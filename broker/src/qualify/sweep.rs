//! Nothing is left behind: jobs of earlier runs that were killed, and at the end those of this one.

use std::fs;
use std::time::Duration;

use lrm_adapters::LocalResourceManager as _;
use lrm_adapters::conformance::{Rig as _, STOP_FILE};
use protocol::ids::SubmitKey;
use protocol::lrm::{JobState, Observation};
use protocol::time::Span;

use super::rig::{SILENT, SiteRig, TICK, beats};
use super::watched::OpenJob;
use crate::clock::Clock;
use crate::jobs::JobDirs;

/// A job without an id, whose submit was not answered or that is of an earlier run, is looked up for
/// so long, from the end of the rules on.
const LOOK_UP_FOR: Span = Span::from_mins(1);
/// A job that is about to start has started after so many ticks, mostly.
const STARTING: u32 = 20;
/// After a listing without an answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks for the first listing, and takes over what an earlier run has left, for [`sweep`] to end
/// and follow like our own jobs: also those that are not in it, which proves nothing.
pub(super) async fn adopt_earlier(
    rig: &SiteRig<'_>,
    dirs: &JobDirs,
    say: &dyn Fn(&str),
) -> Observation {
    let listing = rig.lrm().observe().await;
    let Observation::Listing(jobs) = &listing else {
        return listing;
    };
    for key in dirs.keys().unwrap_or_default() {
        let listed = jobs.iter().find(|job| job.key.as_ref() == Some(&key));
        let what = match listed {
            Some(job) if matches!(job.state, JobState::Ended(_)) => {
                remove(dirs, &key, say);
                continue;
            }
            Some(job) => format!("job {} ({key})", job.id),
            None => format!("{key}, which is not in the listing,"),
        };
        say(&format!("{what} is of an earlier run"));
        rig.lrm().adopt(&key, listed.map(|job| job.id.clone()));
    }
    listing
}

/// Cancels what is not known to be over, waits until it is, and removes the directories. Gives
/// the jobs that may live on, each in a sentence; their directories stay for the next run.
pub(super) async fn sweep(rig: &SiteRig<'_>, dirs: &JobDirs, say: &dyn Fn(&str)) -> Vec<String> {
    let clock = Clock::new();
    let began = clock.mono();
    let limit = Span::from_duration(rig.patience()) + LOOK_UP_FOR;
    while !rig.lrm().open().is_empty() && clock.mono().since(began) < limit {
        cancel_all(rig, dirs, say).await;
        if let Observation::NoAnswer(_) = rig.lrm().observe().await {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        close_silent(rig, clock.mono().since(began)).await;
        if !rig.lrm().open().is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    }
    let open = rig.lrm().open();
    for key in dirs.keys().unwrap_or_default() {
        if !open.contains_key(&key) {
            remove(dirs, &key, say);
        }
    }
    open.iter()
        .map(|(key, job)| sentence(dirs, key, job))
        .collect()
}

/// Those that have not started go first: else they start when the others leave. And one that is
/// about to start is given a moment, as it would leave its slot file on the node.
async fn cancel_all(rig: &SiteRig<'_>, dirs: &JobDirs, say: &dyn Fn(&str)) {
    let has_started = |key: &SubmitKey| dirs.path(key).join("started.0").exists();
    let mut open: Vec<(SubmitKey, OpenJob)> = (rig.lrm().open().into_iter())
        .filter(|(_, job)| !job.is_cancelled)
        .collect();
    for _ in 0..STARTING {
        if open.iter().all(|(key, _)| has_started(key)) {
            break;
        }
        tokio::time::sleep(TICK).await;
    }
    open.sort_by_key(|(key, _)| has_started(key));
    for (key, job) in open {
        if let Some(id) = &job.id {
            say(&format!("cancelling job {id} ({key})"));
            rig.lrm().cancel(id, &key).await;
        }
    }
    // For those that the LRM does not end. Not before: where one leaves another may start.
    rig.lrm()
        .open()
        .keys()
        .for_each(|key| tell_to_stop(dirs, key));
}

/// A job that is in no listing is over when its cancel was taken, or its submit has had its time,
/// and nothing of it counts any more.
async fn close_silent(rig: &SiteRig<'_>, passed: Span) {
    let is_settled =
        |job: &OpenJob| job.is_cancelled || (job.id.is_none() && passed >= LOOK_UP_FOR);
    let counted = |key: SubmitKey| {
        let so_far = beats(&rig.jobs.directory(&key));
        (key, so_far)
    };
    let candidates: Vec<(SubmitKey, Vec<String>)> = (rig.lrm().open().into_iter())
        .filter(|(_, job)| !job.is_listed && is_settled(job))
        .map(|(key, _)| counted(key))
        .collect();
    if candidates.is_empty() {
        return;
    }
    tokio::time::sleep(SILENT).await;
    for (key, before) in candidates {
        if beats(&rig.jobs.directory(&key)) == before {
            rig.lrm().close(&key);
        }
    }
}

fn tell_to_stop(dirs: &JobDirs, key: &SubmitKey) {
    // Without the file the cancel has to do.
    let _ = fs::write(dirs.path(key).join(STOP_FILE), "stop\n");
}

fn remove(dirs: &JobDirs, key: &SubmitKey, say: &dyn Fn(&str)) {
    let directory = dirs.path(key);
    if let Err(e) = fs::remove_dir_all(&directory) {
        say(&format!("cannot remove `{}`: {e}", directory.display()));
    }
}

fn sentence(dirs: &JobDirs, key: &SubmitKey, job: &OpenJob) -> String {
    let name = match &job.id {
        Some(id) => format!("job {id} ({key})"),
        None => format!("a job with the key {key}, which no listing has,"),
    };
    let directory = dirs.path(key);
    format!(
        "{name} may live on: cancel it by hand; the next run looks for it again, by `{}`",
        directory.display()
    )
}
