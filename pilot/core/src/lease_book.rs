//! Fencing: until when a guest may run without word from the broker.
//!
//! The broker counts a lease from its answer, we count it from `sent + held`, which is never
//! later. A guest is given up before that: suspended if that can be ended in time, killed at
//! the last moment otherwise.

use protocol::time::{Mono, Span};

use crate::settings::Settings;

/// The terms of the leases and the contact with the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseTerms {
    /// How long a lease lives from an answer.
    pub ttl: Span,
    /// The longest that the broker holds a sync.
    pub hold: Span,
    /// When the broker last answered.
    pub contact: Mono,
}

/// The last moments of one lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// A suspend must begin now to be ended before `kill_at`.
    pub suspend_at: Mono,
    /// The guest must be killed now.
    pub kill_at: Mono,
}

impl LeaseTerms {
    /// When a lease ends that an answer to a sync sent at `sent` and held for `held` extends.
    pub fn expiry(sent: Mono, held: Span, ttl: Span) -> Mono {
        sent + held + ttl
    }

    /// The last moments of a lease that ends at `expiry`, when suspending all guests takes
    /// `budget`. A suspend never begins while the contact is as it should be.
    pub fn fence(&self, settings: &Settings, expiry: Mono, budget: Span) -> Fence {
        let margin = settings
            .fence_margin
            .min(Span::from_millis(self.ttl.as_millis() / 10));
        let kill_at = expiry.before(margin + settings.kill_cost.min(margin));
        let overdue = self.contact + self.hold + settings.contact_grace;
        Fence {
            suspend_at: kill_at.before(budget).max(overdue),
            kill_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_given_up_before_the_broker_may_give_it_away() {
        let s = Settings::default();
        let secs = |n: u64| Mono::from_millis(n * 1000);
        let terms = LeaseTerms {
            ttl: Span::from_secs(60),
            hold: Span::from_secs(20),
            contact: secs(100),
        };
        let expiry = LeaseTerms::expiry(secs(100), Span::from_secs(5), terms.ttl);
        assert_eq!(expiry, secs(165));
        let f = terms.fence(&s, expiry, Span::from_secs(10));
        assert!(f.kill_at < expiry && f.suspend_at == f.kill_at.before(Span::from_secs(10)));
        let f = terms.fence(&s, expiry, Span::from_secs(1000));
        assert_eq!(
            f.suspend_at,
            secs(125),
            "a slow disk is no reason to suspend while the contact is good"
        );
    }
}
