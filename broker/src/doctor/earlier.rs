//! Canaries of earlier doctors that were killed: cancelled if they live, and removed.

use std::fs;
use std::time::UNIX_EPOCH;

use lrm_adapters::LocalResourceManager;
use protocol::canary::STOP_FILE;
use protocol::finding::Finding;
use protocol::ids::SubmitKey;
use protocol::lrm::{CancelAnswer, JobState, Observation, ObservedJob};
use protocol::time::{Span, Timestamp};

use super::{Ward, judge};
use crate::jobs::TOKEN_FILE;

/// A canary that no listing has is given up after a week; it lives for minutes.
const FORGOTTEN_AFTER: Span = Span::from_mins(7 * 24 * 60);
/// So long after twice its notice a cancelled job is over.
const PATIENCE: Span = Span::from_secs(30);

/// Looks at every directory that is there. One whose job may live stays.
pub(super) async fn deal_with(ward: &Ward<'_>) -> Vec<Finding> {
    let keys = ward.dirs.keys().unwrap_or_default();
    let mut found = Vec::new();
    for key in keys {
        (ward.say)(&format!("looking for the earlier canary {key}"));
        found.push(one(ward, &key).await);
    }
    found
}

async fn one(ward: &Ward<'_>, key: &SubmitKey) -> Finding {
    let directory = ward.dirs.path(key);
    // Whatever still runs of it leaves by this.
    let _ = fs::write(directory.join(STOP_FILE), "stop\n");
    let jobs = match ward.target.lrm.find_by_key(key).await {
        Observation::NoAnswer(why) => return judge::earlier_unknown(key, &why),
        Observation::Listing(jobs) => jobs,
    };
    let finding = match jobs.iter().find(|job| lives(job)) {
        // That the LRM does not list it proves nothing, until no LRM could still have it.
        None if jobs.is_empty() && !is_old(ward, key) => {
            let why = "the LRM lists no such job, which does not prove that it is over";
            return judge::earlier_unknown(key, why);
        }
        None => judge::earlier_removed(key),
        Some(job) => {
            let answer = ward.target.lrm.cancel(&job.id, key).await;
            let finding = judge::earlier_cancelled(key, &job.id, &answer);
            if answer != CancelAnswer::Taken || !is_over(ward, key).await {
                return finding;
            }
            finding
        }
    };
    match fs::remove_dir_all(&directory) {
        Ok(()) => finding,
        Err(e) => judge::not_removed(&directory, &e.to_string()),
    }
}

const fn lives(job: &ObservedJob) -> bool {
    !matches!(job.state, JobState::Ended(_))
}

/// True for a canary that was made so long ago that none of it can live.
fn is_old(ward: &Ward<'_>, key: &SubmitKey) -> bool {
    let made = fs::metadata(ward.dirs.path(key).join(TOKEN_FILE)).and_then(|m| m.modified());
    let Ok(since_epoch) = made.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default()) else {
        return false;
    };
    let secs = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    ward.clock.now().since(Timestamp::from_secs(secs)) > FORGOTTEN_AFTER
}

/// Waits until the LRM says that a job that was cancelled is over, at most for its notice and a
/// little more.
async fn is_over(ward: &Ward<'_>, key: &SubmitKey) -> bool {
    let began = ward.clock.now();
    let limit = ward.target.site.notice.times(2) + PATIENCE;
    loop {
        if let Observation::Listing(jobs) = ward.target.lrm.find_by_key(key).await
            && !jobs.is_empty()
            && !jobs.iter().any(lives)
        {
            return true;
        }
        if ward.clock.now().since(began) > limit || ward.is_interrupted() {
            return false;
        }
        tokio::time::sleep(ward.target.site.poll.as_duration()).await;
    }
}
