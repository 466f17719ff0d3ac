//! The pilot's last act on the node.

use std::time::Duration;

use pilot_core::agent::Event;
use tokio::task::JoinHandle;

use super::Tools;
use crate::reclaim;

/// How long the leases' own tasks may take to end by themselves.
const TASKS_LIMIT: Duration = Duration::from_millis(300);
/// How long a process may take to die.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// Ends what is under way and leaves the node as it was.
pub(super) async fn clean_up(tools: &Tools, tasks: Vec<JoinHandle<()>>) {
    let all = async {
        for task in &tasks {
            while !task.is_finished() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    if tokio::time::timeout(TASKS_LIMIT, all).await.is_err() {
        for task in &tasks {
            task.abort();
        }
    }
    // Blocks the loop: nothing else is left to be done.
    let report = reclaim::finish(&tools.journal, KILL_LIMIT);
    let leftovers = report.leftovers.iter().map(ToString::to_string).collect();
    tools.report(Event::CleanedUp { leftovers });
}
