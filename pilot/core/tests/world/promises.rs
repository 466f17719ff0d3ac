//! The promises, checked after every step.

use std::collections::BTreeSet;

use pilot_core::guest::{LeaseKey, Stage};
use protocol::lease::EndOutcome;
use protocol::time::Mono;
use protocol::workspace::AdvanceTo;

use super::{Vm, World, is_alive};

impl World {
    pub(super) fn check_acceptance(&self, lease: &LeaseKey) {
        assert!(
            !self.agent.clock().is_signalled(),
            "{lease} was taken after a signal\n{self}"
        );
        let plan = self.agent.plan();
        if self.book[lease].order.spec.advance_to == AdvanceTo::Finished {
            assert!(
                plan.begin.values().all(|b| b.as_millis() > self.now),
                "{lease} was taken when the eviction had begun\n{self}"
            );
        }
    }

    /// What the warden was told is after the pilot's own last moment and before the broker's.
    fn check_fence(&self) {
        let fence = self.agent.fence_at().map(Mono::as_millis);
        for lease in self.agent.leases() {
            let key = &lease.key;
            let alive = self.guests.get(key).is_some_and(is_alive);
            if alive && !lease.lost {
                let expiry = self.book[key].expiry.unwrap_or(0);
                assert!(
                    fence.is_some_and(|f| f <= expiry),
                    "{key} is not fenced at {expiry} but at {fence:?}\n{self}"
                );
            }
            if let Some(fence) = fence
                && lease.has_guest()
                && !lease.lost
            {
                let dying = matches!(lease.stage, Stage::Killing { .. });
                assert!(
                    dying || self.now < fence,
                    "{key} was to be given up before {fence}\n{self}"
                );
            }
        }
    }

    /// The promises.
    pub(super) fn check(&mut self) {
        let kill_at = self.agent.clock().kill_at();
        if self.agent.clock().is_signalled() {
            let least = self.least_kill_at.get_or_insert(kill_at);
            assert!(kill_at <= *least, "a signal was forgotten\n{self}");
            *least = kill_at;
        }
        let writing = self
            .guests
            .values()
            .filter(|g| matches!(g.vm, Vm::Suspending | Vm::Checkpointing))
            .filter(|g| g.killed_at.is_none());
        assert!(writing.count() <= 1, "two are written at once\n{self}");
        for (key, guest) in self.guests.iter().filter(|(_, g)| is_alive(g)) {
            let dying = guest.killed_at.is_some_and(|k| self.now <= k + 50);
            assert!(
                self.now < kill_at.as_millis() || dying,
                "{key} lives after the kill time {}\n{self}",
                kill_at.as_millis()
            );
            let expiry = self.book[key].expiry.unwrap_or(0);
            assert!(
                self.now <= expiry,
                "{key} lives after its lease ended at {expiry}\n{self}"
            );
        }
        let rivals = self.guests.iter().filter(|(_, g)| is_alive(g));
        let names: BTreeSet<_> = rivals.clone().map(|(k, _)| &k.workspace).collect();
        assert_eq!(
            names.len(),
            rivals.count(),
            "a workspace runs twice\n{self}"
        );
        self.check_fence();
        if self.exit.is_some() {
            assert!(
                self.agent.leases().all(|l| !l.is_alive()),
                "a lease has no end\n{self}"
            );
            for lease in self.agent.leases() {
                if let Stage::Ended {
                    outcome: EndOutcome::Suspended { .. },
                } = &lease.stage
                {
                    let key = &lease.key;
                    assert!(
                        self.evicted.contains_key(key),
                        "{key} is not evicted\n{self}"
                    );
                }
            }
        } else if self.now > kill_at.as_millis() + 1000 {
            assert!(self.cleaned, "still here after the kill time\n{self}");
        }
    }
}
