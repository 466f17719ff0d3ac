//! What should become of a lease now, whatever it is doing: the one place where the reasons for
//! moving a guest are weighed against each other.

use protocol::codes::{Reason, ReasonCode};
use protocol::lease::{EndOutcome, Goal};

use super::Agent;
use crate::deadline::Plan;
use crate::guest::Lease;
use crate::lease_book::Fence;

/// Where a lease should be moved.
pub(super) enum Want {
    /// Toward running (or staged, if that is its goal).
    Run,
    /// Toward standing still in RAM.
    Pause,
    /// Into the store.
    Suspend {
        reason: Reason,
        /// The slot or the lease ends: what can't be suspended has to go all the same.
        urgent: bool,
    },
    /// Shut down, then killed.
    Stop { reason: Reason, why: Stop },
    /// Gone now.
    Kill {
        reason: Reason,
        /// Because the time is over.
        late: bool,
    },
}

/// Who wants a guest to be shut down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It had its run time.
    Finished,
    /// The broker.
    Goal,
    /// The end of the slot.
    Evicted,
}

impl Want {
    /// How a lease ends for which no guest has run.
    pub(super) fn unstarted(self) -> Option<EndOutcome> {
        match self {
            Self::Run | Self::Pause => None,
            Self::Stop {
                reason,
                why: Stop::Finished,
            } => Some(EndOutcome::Finished { reason }),
            Self::Stop {
                reason,
                why: Stop::Goal,
            } => Some(EndOutcome::Killed { reason }),
            Self::Stop {
                reason,
                why: Stop::Evicted,
            }
            | Self::Suspend { reason, .. }
            | Self::Kill { reason, .. } => Some(EndOutcome::Declined { reason }),
        }
    }
}

impl Agent {
    /// Why everybody has to go.
    pub(super) fn eviction_reason(&self) -> Reason {
        self.eviction.as_ref().map_or_else(
            || {
                Reason::new(
                    ReasonCode::SlotEnding,
                    format!("the slot ends at {}", self.clock.end().0),
                )
            },
            |e| e.reason.clone(),
        )
    }

    /// The last moments of the lease itself.
    pub(super) fn fence(&self, lease: &Lease, plan: &Plan) -> Fence {
        match &self.terms {
            Some(terms) => terms.fence(&self.settings, lease.expiry, plan.budget),
            None => Fence {
                suspend_at: lease.expiry,
                kill_at: lease.expiry,
            },
        }
    }

    /// Weighs the reasons, the most pressing first: fence and end of the slot, end of the lease,
    /// run time used, the broker's stop, eviction, lost contact, the broker's other goals.
    pub(super) fn want(&self, lease: &Lease, plan: &Plan, fence: Fence) -> Want {
        let now = self.now.mono;
        let fenced = self.eviction.as_ref().is_some_and(|e| e.fenced);
        let expired = |text: &str| Reason::new(ReasonCode::LeaseExpired, text);
        if fenced || now >= plan.last_kill {
            return Want::Kill {
                reason: self.eviction_reason(),
                late: !fenced,
            };
        }
        if lease.lost {
            return Want::Kill {
                reason: expired("the broker has ended this lease"),
                late: false,
            };
        }
        if lease.expired || now >= fence.kill_at {
            return Want::Kill {
                reason: expired("the lease ran out without word from the broker"),
                late: true,
            };
        }
        if lease.remaining(now).is_zero() {
            let text = format!("ran for {}, as was asked", lease.ran_at(now));
            return Want::Stop {
                reason: Reason::new(ReasonCode::RunTimeUsed, text),
                why: Stop::Finished,
            };
        }
        if let Goal::Stop { reason } = &lease.goal {
            return Want::Stop {
                reason: reason.clone(),
                why: Stop::Goal,
            };
        }
        let begin = plan.begin.get(&lease.key);
        let is_due = lease.due || begin.is_some_and(|b| now >= *b) || self.goes_early(lease, plan);
        if self.eviction.is_some() || is_due {
            let reason = self.eviction_reason();
            return if lease.is_suspendable() {
                Want::Suspend {
                    reason,
                    urgent: true,
                }
            } else {
                Want::Stop {
                    reason,
                    why: Stop::Evicted,
                }
            };
        }
        // One that does not fit before the fence would cost the guest what the next word may save.
        let fits = self.rates.likely(lease.bytes_bound()) <= fence.kill_at.since(now);
        if now >= fence.suspend_at && lease.is_suspendable() && fits {
            return Want::Suspend {
                reason: expired("no word from the broker, and the lease is running out"),
                urgent: true,
            };
        }
        match &lease.goal {
            Goal::Suspend { reason } => Want::Suspend {
                reason: reason.clone(),
                urgent: false,
            },
            Goal::Pause => Want::Pause,
            Goal::Stage | Goal::Run | Goal::Stop { .. } => Want::Run,
        }
    }
}

/// How a lease ends whose guest was stopped for this reason.
pub(super) fn stopped(reason: Reason, why: Stop) -> EndOutcome {
    match why {
        Stop::Finished => EndOutcome::Finished { reason },
        Stop::Goal | Stop::Evicted => EndOutcome::Killed { reason },
    }
}
