//! What the end of a lease teaches about its slot, its site and what is offered there next.

use protocol::codes::{Reason, ReasonCode};
use protocol::lease::EndOutcome;
use protocol::time::{Span, Timestamp};

use crate::records::{Decline, Full, LeaseRecord};
use crate::state::Broker;

/// So long a slot is taken at its word that it is too small.
const FULL_FOR: Span = Span::from_mins(2);

impl Broker {
    /// A slot that was over before its guest got anything was promised too long: longer ones are
    /// asked for from now on, so that nobody starts and stops for ever.
    pub(crate) fn learn_from_stay(&mut self, lease: &LeaseRecord, outcome: &EndOutcome, run: Span) {
        let ran_out = (outcome.reason())
            .is_some_and(|r| matches!(r.code, ReasonCode::SlotEnding | ReasonCode::SlotTooSmall));
        let Some(site) = self.tables.pilots.get(&lease.slot).map(|p| p.site.clone()) else {
            return;
        };
        let (overhead, longest) = (self.site_config(&site))
            .map_or((Span::ZERO, Span::ZERO), |s| (s.overhead, s.walltime_max));
        if ran_out && run <= lease.run_before {
            self.tables.edit_site(&site, |s| {
                let more = Span::from_millis(s.slot_cost.as_millis() / 2);
                s.slot_cost = (s.slot_cost + more + overhead).min(longest);
            });
        }
    }

    /// A slot that is too small for a guest is too small for every one of that size, until another has
    /// left it: they are not offered one after the other, only to be declined.
    pub(crate) fn learn_size(&mut self, now: Timestamp, lease: &LeaseRecord, outcome: &EndOutcome) {
        let too_small = match outcome {
            EndOutcome::Declined { reason } if reason.code == ReasonCode::SlotTooSmall => true,
            EndOutcome::Declined { .. } => return,
            EndOutcome::Finished { .. }
            | EndOutcome::Staged
            | EndOutcome::Suspended { .. }
            | EndOutcome::Killed { .. }
            | EndOutcome::Failed { .. } => false,
        };
        let slot = (self.tables.pilots.get(&lease.slot)).and_then(|p| p.slot.as_ref());
        let before = slot.and_then(|s| s.full);
        let least = before.filter(|f| f.until > now).map(|f| f.memory_mib);
        let full = too_small.then(|| Full {
            memory_mib: lease.resources.memory_mib.min(least.unwrap_or(u64::MAX)),
            until: now + FULL_FOR,
        });
        if full != before {
            self.tables.edit_pilot(&lease.slot, |p| {
                if let Some(slot) = &mut p.slot {
                    slot.full = full;
                }
            });
        }
    }

    /// What the end of a lease says about its slot: that something ran, or that what was sent
    /// there was no good by itself.
    pub(crate) fn learn_fruit(&mut self, lease: &LeaseRecord, outcome: &EndOutcome, run: Span) {
        match outcome {
            EndOutcome::Finished { .. } | EndOutcome::Suspended { .. } | EndOutcome::Staged => {
                self.slot_bears_fruit(&lease.slot, &lease.resources);
            }
            EndOutcome::Killed { .. } | EndOutcome::Failed { .. } if run > lease.run_before => {
                self.slot_bears_fruit(&lease.slot, &lease.resources);
            }
            EndOutcome::Failed {
                permanent: true, ..
            } => self.tables.edit_pilot(&lease.slot, |p| p.fruitful = true),
            EndOutcome::Killed { .. } | EndOutcome::Failed { .. } | EndOutcome::Declined { .. } => {
            }
        }
    }

    /// Remembers why a lease was declined, and whether every slot of the site would do the same.
    pub(crate) fn note_decline(&mut self, now: Timestamp, lease: &LeaseRecord, reason: &Reason) {
        let Some(site) = self.tables.pilots.get(&lease.slot).map(|p| p.site.clone()) else {
            return;
        };
        let text = reason.text.clone();
        self.tables
            .edit_site(&site, |s| s.last_decline = Some(text));
        if reason.code == ReasonCode::NoticeTooShort {
            let memory = lease.resources.memory_mib;
            self.notice_refused(now, &lease.slot, memory, &reason.text);
        }
    }

    /// This slot is not offered the workspace again for a while: 1, 2, 4 ... 32 minutes.
    pub(crate) fn declined(&mut self, now: Timestamp, lease: &LeaseRecord) {
        self.tables.edit_pilot(&lease.slot, |p| {
            if let Some(slot) = &mut p.slot {
                let times = slot.declined.get(&lease.workspace).map_or(0, |d| d.times);
                let until = now + Span::from_mins(1 << times.min(5));
                slot.declined
                    .retain(|_, d| d.until + Span::from_mins(60) > now);
                let decline = Decline {
                    times: times + 1,
                    until,
                };
                slot.declined.insert(lease.workspace.clone(), decline);
            }
        });
    }
}
