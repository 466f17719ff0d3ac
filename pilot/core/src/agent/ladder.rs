//! The rungs by which a guest leaves: its memory flushed ahead, then suspend, shutdown, kill.

use protocol::codes::{Reason, ReasonCode};
use protocol::lease::EndOutcome;
use protocol::time::{Mono, Span};

use super::{Agent, Effect};
use crate::deadline::{self, Plan};
use crate::guest::{Lease, Means, Stage};
use crate::guest_words::Words;

impl Agent {
    /// Begins a suspend when its turn has come; when it can't be ended in time any more and the
    /// guest has to go, the next rungs of the ladder. The time is the slot's: a suspend that
    /// takes longer than the rest of the lease is what the lease is extended for, and the fence
    /// ends it if it is not.
    pub(super) fn suspend(
        &mut self,
        lease: &mut Lease,
        plan: &Plan,
        reason: Reason,
        urgent: bool,
        writing: &mut usize,
    ) {
        let now = self.now.mono;
        let abort_at = plan.last_kill;
        let left = abort_at.since(now);
        let cost = plan.cost.get(&lease.key).copied().unwrap_or_default();
        let takes = self.rates.likely(lease.bytes_bound());
        let state = lease.key.state_id().filter(|_| left >= takes);
        let Some(state) = state else {
            if urgent {
                let text = format!("{left} were left and a suspend takes {takes}: {reason}");
                let reason = Reason::new(ReasonCode::SuspendTooSlow, text);
                let outcome = EndOutcome::Killed { reason };
                match lease.stage {
                    Stage::Running { .. } => self.stop(lease, abort_at, outcome),
                    Stage::Staging
                    | Stage::Staged
                    | Stage::Starting { .. }
                    | Stage::Paused { .. }
                    | Stage::Checkpointing { .. }
                    | Stage::Suspending { .. }
                    | Stage::Stopping { .. }
                    | Stage::Killing { .. }
                    | Stage::Ended { .. } => self.kill(lease, outcome),
                }
            }
            return;
        };
        if *writing >= self.settings.parallel_suspends || now < lease.retry_at {
            return;
        }
        *writing += 1;
        if let Some(begin) = plan.begin.get(&lease.key).filter(|_| lease.talk.ready) {
            self.closed_until = self.closed_until.max(*begin);
        }
        let was_paused = matches!(lease.stage, Stage::Paused { .. });
        self.departs(lease, Means::Suspend, Some(cost.expected), cost.budget);
        let text = format!(
            "suspending, expected to take {}, budget {}: {reason}",
            cost.expected, cost.budget
        );
        self.tell_begin(
            lease,
            Words::SuspendSoon {
                left: Span::ZERO,
                reason: reason.code,
            },
        );
        if !was_paused {
            lease.talk.still_since = Some(now);
        }
        let stage = Stage::Suspending { reason, was_paused };
        lease.enter(now, stage);
        let data = serde_json::json!({
            "expected_ms": cost.expected.as_millis(),
            "budget_ms": cost.budget.as_millis(),
            "left_ms": left.as_millis(),
            "bytes": lease.bytes_bound(),
            "run_ms": lease.ran.as_millis(),
        });
        self.record("guest_suspending", Some(&lease.key), text, data);
        self.effects.push(Effect::Suspend {
            lease: lease.key.clone(),
            state,
            run: lease.ran,
            abort_at,
        });
    }

    pub(super) fn flush_at(&self, lease: &Lease, plan: &Plan) -> Option<Mono> {
        let (settings, clock, now) = (&self.settings, &self.clock, self.now.mono);
        deadline::flush_at(settings, clock, &self.rates, plan, now, lease)
    }

    /// Has a guest's memory brought to the store ahead of its suspend, once, when it is time.
    pub(super) fn flush(&mut self, lease: &mut Lease, plan: &Plan) {
        let now = self.now.mono;
        if self.flush_at(lease, plan).is_none_or(|at| now < at) {
            return;
        }
        lease.flushed = true;
        let cost = plan.cost.get(&lease.key).copied().unwrap_or_default();
        let text = format!(
            "brings its memory to the store while it runs: a suspend would take {}",
            cost.expected
        );
        let data = serde_json::json!({
            "bytes": lease.bytes_bound(),
            "expected_ms": cost.expected.as_millis(),
            "budget_ms": cost.budget.as_millis(),
        });
        self.record("guest_flushing", Some(&lease.key), text, data);
        let lease = lease.key.clone();
        self.effects.push(Effect::Flush { lease });
    }

    pub(super) fn stop(&mut self, lease: &mut Lease, hard: Mono, outcome: EndOutcome) {
        let now = self.now.mono;
        if hard.since(now) < Span::from_secs(1) {
            self.kill(lease, outcome);
            return;
        }
        let text = match outcome.reason() {
            Some(reason) => format!("asked to switch itself off: {reason}"),
            None => "asked to switch itself off".to_owned(),
        };
        // The notice is for guests that have to be saved, not for those that do not obey.
        let gone = self.clock.vacate_at().before(self.settings.clean_up);
        let gone = gone.before(self.settings.kill_cost);
        let patience = gone.max(now + Span::from_secs(1));
        let kill_at = hard.min(now + self.settings.shutdown_grace).min(patience);
        if let Some(reason) = outcome.reason().map(|r| r.code) {
            let left = Span::ZERO;
            self.tell_begin(lease, Words::StopSoon { left, reason });
        }
        if !matches!(outcome, EndOutcome::Finished { .. }) {
            self.departs(lease, Means::Shutdown, None, kill_at.since(now));
        }
        let stage = Stage::Stopping {
            outcome,
            kill_at,
            ask_again: now + self.settings.shutdown_repeat,
        };
        lease.enter(now, stage);
        self.record(
            "guest_stopping",
            Some(&lease.key),
            text,
            serde_json::Value::Null,
        );
        self.effects.push(Effect::Shutdown {
            lease: lease.key.clone(),
        });
    }

    pub(super) fn kill(&mut self, lease: &mut Lease, outcome: EndOutcome) {
        let now = self.now.mono;
        if !matches!(outcome, EndOutcome::Finished { .. }) {
            let cost = self.settings.kill_cost;
            self.departs(lease, Means::Kill, Some(cost), cost);
        }
        let stage = Stage::Killing {
            outcome,
            again_at: now + self.settings.kill_repeat,
        };
        lease.enter(now, stage);
        self.exchange.news = true;
        self.effects.push(Effect::Kill {
            lease: lease.key.clone(),
        });
    }
}
