//! Canaries of earlier doctors that were killed: cancelled if they live, and removed.

use std::fs;

use lrm_adapters::LocalResourceManager;
use protocol::canary::STOP_FILE;
use protocol::finding::Finding;
use protocol::ids::SubmitKey;
use protocol::lrm::{CancelAnswer, JobState, Observation, ObservedJob};
use protocol::time::Span;

use super::{Ward, judge};

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

/// Waits for the end of a job that was cancelled, at most for its notice and a little more.
async fn is_over(ward: &Ward<'_>, key: &SubmitKey) -> bool {
    let began = ward.clock.now();
    let limit = ward.target.site.notice.times(2) + PATIENCE;
    loop {
        if let Observation::Listing(jobs) = ward.target.lrm.find_by_key(key).await
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
