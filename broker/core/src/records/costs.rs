//! The record of what suspends cost on a node.

use protocol::ids::{NodeName, SiteName};
use protocol::suspend_cost::Samples;
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What suspends have cost on one node of a site, by the latest measurements of our pilots there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CostRecord {
    /// [`super::RECORD_VERSION`].
    pub version: u32,
    /// The site.
    pub site: SiteName,
    /// The node.
    pub node: NodeName,
    /// The file system of the site's store there, by the pilot's word.
    pub filesystem: String,
    /// How many suspends were measured there, ever.
    pub measured: u64,
    /// When the last of them was told.
    pub at: Timestamp,
    /// By them, more is set aside for a guest as large as the site's slots than without them: that is
    /// forgotten after some hours, since it keeps guests and thus new measurements away.
    pub slow: bool,
    /// The latest of them.
    pub samples: Samples,
}

/// How the suspends at a site went, beside what was set aside for them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EvictionLedger {
    /// Suspends that were told.
    pub suspends: u64,
    /// Of those, with more time than was set aside.
    pub over: u64,
    /// Of the latest, the time that they took in percent of what was set aside, oldest first.
    pub percent: Vec<u32>,
}

impl EvictionLedger {
    /// How many of the latest are kept.
    pub const KEPT: usize = 100;

    /// Takes one more.
    pub fn push(&mut self, actual_ms: u64, budget_ms: u64) {
        self.suspends += 1;
        self.over += u64::from(actual_ms > budget_ms);
        let percent = actual_ms.saturating_mul(100).div_ceil(budget_ms.max(1));
        if self.percent.len() >= Self::KEPT {
            self.percent.remove(0);
        }
        self.percent
            .push(u32::try_from(percent).unwrap_or(u32::MAX));
    }

    /// What so many of a hundred of the latest took at most, in percent; none without any.
    pub fn percentile(&self, of_hundred: usize) -> Option<u32> {
        let mut sorted = self.percent.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * of_hundred).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}
