//! How the slot is used, summed up at each step.

use protocol::slot::SlotUse;
use protocol::time::Mono;

use crate::guest::{Lease, Stage};

/// Running sums of [`SlotUse`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    sums: SlotUse,
    last: Mono,
}

impl Usage {
    /// Starts to count at `start`.
    pub fn new(start: Mono) -> Self {
        Self {
            sums: SlotUse::default(),
            last: start,
        }
    }

    /// Adds the time since the last call, in which `leases` were as they are.
    pub fn pass<'a>(&mut self, now: Mono, leases: impl Iterator<Item = &'a Lease>) {
        let span = now.since(self.last);
        self.last = self.last.max(now);
        if span.is_zero() {
            return;
        }
        let (mut alive, mut running) = (false, false);
        for lease in leases {
            match lease.stage {
                Stage::Staging | Stage::Staged | Stage::Starting { .. } => self.sums.boot += span,
                Stage::Running { .. } | Stage::Checkpointing { .. } | Stage::Stopping { .. } => {
                    running = true;
                }
                Stage::Suspending { .. } => self.sums.suspend += span,
                Stage::Paused { .. } | Stage::Killing { .. } => {}
                Stage::Ended { .. } => continue,
            }
            alive = true;
        }
        if running {
            self.sums.run += span;
        }
        if !alive {
            self.sums.idle += span;
        }
    }

    /// The sums, with the overrun if we are still here after `end`.
    pub fn report(&self, now: Mono, end: Mono) -> SlotUse {
        SlotUse {
            overrun: now.since(end),
            ..self.sums
        }
    }
}
