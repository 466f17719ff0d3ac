//! Pilot jobs that are not needed: taken out of the queue, and what becomes of one that starts
//! between the decision and the LRM's answer.
//!
//! ```text
//! wanted --(command)--> being withdrawn --"taken"--> leaves
//!   \ starts: kept          \ starts: gets no guest --"started"--> kept
//! ```

use protocol::api::PilotState;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::SubmitKey;
use protocol::time::{Span, Timestamp};

use crate::records::{CancelProgress, PilotRecord};
use crate::state::Broker;

/// It is to be withdrawn from the queue because there is no work for it; the LRM has not taken
/// that wish yet.
pub(crate) fn is_surplus(p: &PilotRecord) -> bool {
    matches!(&p.cancel, CancelProgress::Wanted { reason, .. } if reason.code == ReasonCode::Surplus)
}

/// The LRM was told to take it out of the queue and has not answered. Whether a pilot that comes
/// meanwhile stays is not known: it gets no guests, so that none is hit.
pub(crate) fn is_being_withdrawn(p: &PilotRecord) -> bool {
    is_surplus(p) && matches!(&p.cancel, CancelProgress::Wanted { tries, .. } if *tries > 0)
}

impl Broker {
    /// Wants a pilot job gone that is not needed. One that never ran is cancelled in the LRM;
    /// one that runs is only asked to leave.
    pub(crate) fn withdraw(&mut self, now: Timestamp, key: &SubmitKey, reason: Reason) {
        self.tables.edit_pilot(key, |p| {
            if p.cancel == CancelProgress::No {
                p.cancel = CancelProgress::Wanted {
                    reason,
                    tries: 0,
                    next: now,
                };
            }
        });
        self.pilot_is_due(now, key);
    }

    /// A withdrawal came too late, by the LRM's word: the pilot that has started is kept.
    pub(crate) fn keep_started(&mut self, now: Timestamp, key: &SubmitKey) {
        let open = (self.tables.pilots.get(key)).is_some_and(is_surplus);
        if open {
            self.tables
                .edit_pilot(key, |p| p.cancel = CancelProgress::No);
            let text = "kept: it had started before it was withdrawn";
            self.note_pilot(now, key, "kept", text.to_owned());
            self.wake.insert(key.clone());
        }
    }

    /// A pilot job has come out of the queue: learns how long that takes, and keeps one that was
    /// to be withdrawn from the queue, unless the LRM was told so already: then its answer
    /// decides, and until then the pilot gets no guests.
    pub(crate) fn has_started(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let waited = now.since(p.created);
        let site = p.site.clone();
        let first = matches!(p.state, PilotState::Submitting | PilotState::Queued)
            && p.slot.is_none()
            && self.tables.members(key).next().is_none()
            && !p.by_hand
            && p.lrm.restarts == 0;
        if is_being_withdrawn(p) {
            let soon = now + self.config().provision.cancel_every;
            self.tables.edit_pilot(key, |p| {
                if let CancelProgress::Wanted { next, .. } = &mut p.cancel {
                    *next = soon.min(*next);
                }
            });
        } else if is_surplus(p) {
            self.tables
                .edit_pilot(key, |p| p.cancel = CancelProgress::No);
        }
        if first {
            self.tables.edit_site(&site, |s| {
                s.queue_time = Some(match s.queue_time {
                    Some(old) => Span::from_millis((old.as_millis() * 3 + waited.as_millis()) / 4),
                    None => waited,
                });
            });
        }
    }
}
