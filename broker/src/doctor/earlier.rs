//! Canaries of earlier doctors that were killed: cancelled if they live, and removed.

use std::fs;

use lrm_adapters::LocalResourceManager;
use protocol::canary::STOP_FILE;
use protocol::finding::Finding;
use protocol::ids::SubmitKey;
use protocol::lrm::{JobState, Observation};

use super::{Ward, judge};

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
    let live = jobs
        .iter()
        .find(|job| !matches!(job.state, JobState::Ended(_)));
    if let Some(job) = live {
        let answer = ward.target.lrm.cancel(&job.id, key).await;
        return judge::earlier_cancelled(key, &job.id, &answer);
    }
    match fs::remove_dir_all(&directory) {
        Ok(()) => judge::earlier_removed(key),
        Err(e) => judge::not_removed(&directory, &e.to_string()),
    }
}
