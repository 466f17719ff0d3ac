//! The end of a lease: what was foreseen of its guest's eviction, and what came of it
//! (`guest_evicted`, one for every guest that had to go).

use protocol::lease::EndOutcome;
use protocol::time::{Mono, Span};

use super::{Agent, Effect};
use crate::deadline::last_kill;
use crate::guest::{Departure, Lease, Means, Stage};

impl Agent {
    /// Ends a lease; the only place where that happens.
    pub(super) fn end(&mut self, lease: &mut Lease, outcome: EndOutcome) {
        if !lease.is_alive() {
            return;
        }
        let (kind, text) = match &outcome {
            EndOutcome::Staged => (
                "guest_staged",
                "everything is in the site's store".to_owned(),
            ),
            EndOutcome::Finished { reason } => ("guest_finished", reason.to_string()),
            EndOutcome::Suspended { state, reason } => (
                "guest_suspended",
                format!(
                    "suspended as {} ({} bytes): {reason}",
                    state.id, state.bytes
                ),
            ),
            EndOutcome::Killed { reason } => ("guest_killed", reason.to_string()),
            EndOutcome::Failed { reason, .. } => ("guest_failed", reason.to_string()),
            EndOutcome::Declined { reason } => ("lease_declined", reason.to_string()),
        };
        let departed = lease
            .departure
            .take()
            .map(|d| self.departed(lease, &d, &outcome));
        lease.enter(self.now.mono, Stage::Ended { outcome });
        let data = serde_json::json!({"run_ms": lease.ran.as_millis()});
        self.record(kind, Some(&lease.key), text, data);
        if let Some((text, data)) = departed {
            self.record("guest_evicted", Some(&lease.key), text, data);
        }
        self.effects.push(Effect::ReleaseGuest {
            lease: lease.key.clone(),
        });
        self.idle_since = self.now.mono;
    }

    /// The last moment of a guest: the slot's, or its lease's.
    fn hard_end(&self, lease: &Lease) -> Mono {
        let fence = self.terms.as_ref();
        let fence = fence.map(|t| t.fence(&self.settings, lease.expiry, Span::ZERO).kill_at);
        let slot = last_kill(&self.settings, &self.clock);
        fence.map_or(slot, |f| f.min(slot))
    }

    /// Notes that a guest is being got rid of, and what is foreseen.
    pub(super) fn departs(
        &self,
        lease: &mut Lease,
        means: Means,
        expected: Option<Span>,
        budget: Span,
    ) {
        let now = self.now.mono;
        if let Some(departure) = &mut lease.departure {
            departure.last = means;
            return;
        }
        let bytes = match means {
            Means::Suspend => Some(lease.bytes_bound()),
            Means::Shutdown | Means::Kill => None,
        };
        lease.departure = Some(Departure {
            first: means,
            last: means,
            begun: now,
            expected,
            budget,
            left: self.hard_end(lease).since(now),
            bytes,
            written: None,
        });
    }

    /// What came of it: the sentence, and the numbers.
    pub(super) fn departed(
        &self,
        lease: &Lease,
        departure: &Departure,
        outcome: &EndOutcome,
    ) -> (String, serde_json::Value) {
        let actual = self.now.mono.since(departure.begun);
        let expected = match departure.expected {
            Some(expected) => format!("expected {expected}, "),
            None => String::new(),
        };
        let text = format!(
            "gone by {} after {actual}; {expected}budget {}",
            departure.last.as_str(),
            departure.budget
        );
        let reason = outcome.reason();
        let (written, took) = departure.written.unzip();
        let data = serde_json::json!({
            "means": departure.last.as_str(),
            "first_means": departure.first.as_str(),
            "outcome": name(outcome),
            "reason": reason.map(|r| r.code),
            "expected_ms": departure.expected.map(Span::as_millis),
            "budget_ms": departure.budget.as_millis(),
            "actual_ms": actual.as_millis(),
            "took_ms": took.map(Span::as_millis),
            "bytes": departure.bytes,
            "written": written,
            "left_ms": departure.left.as_millis(),
            "left_after_ms": self.hard_end(lease).since(self.now.mono).as_millis(),
            "flushed": lease.flushed,
            "failed_suspends": lease.failed_suspends,
        });
        (text, data)
    }
}

const fn name(outcome: &EndOutcome) -> &'static str {
    match outcome {
        EndOutcome::Staged => "staged",
        EndOutcome::Finished { .. } => "finished",
        EndOutcome::Suspended { .. } => "suspended",
        EndOutcome::Killed { .. } => "killed",
        EndOutcome::Failed { .. } => "failed",
        EndOutcome::Declined { .. } => "declined",
    }
}
