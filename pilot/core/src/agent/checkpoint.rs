//! Checkpoints: when one is begun, when it has to make way, what its end means.
//!
//! A checkpoint never stands in the way of an eviction: none is begun near one, and one that is
//! under way is given up unless it will surely be complete, and all suspends after it, in time.

use protocol::codes::Reason;
use protocol::ids::StateId;
use protocol::lease::{EndOutcome, Goal, StateRef};
use protocol::time::{Mono, Span};

use super::want::Want;
use super::{Agent, Effect};
use crate::checkpoint::UnderWay;
use crate::deadline::Plan;
use crate::guest::{Lease, Stage};

/// A checkpoint takes at most so many times the budget of a suspend: a disk that is much slower
/// than it is supposed to be is learned from, one that hangs is not waited for.
const PATIENCE: u64 = 4;
/// None is begun that would leave less time than this before the first eviction.
const CLEAR: Span = Span::from_secs(10);

/// A checkpoint as its driver reports it.
pub(super) struct Made {
    pub(super) state: StateId,
    pub(super) manifest: String,
    pub(super) bytes: u64,
    pub(super) written: u64,
    pub(super) took: Span,
}

impl Agent {
    /// When a running guest's next checkpoint is due, if its request asks for any.
    pub(super) fn checkpoint_due(&self, lease: &Lease) -> Option<Mono> {
        let every = lease.spec.policy.checkpoint_every?;
        let now = self.now.mono;
        let wait = lease.checkpoints.due_in(every, lease.ran_at(now));
        let due = (now + wait).max(lease.checkpoints.retry_at());
        lease.is_suspendable().then_some(due)
    }

    /// Begins a checkpoint of a guest that runs and is to go on, if one is due and nothing is near
    /// or under way that matters more.
    pub(super) fn checkpoint_if_due(
        &mut self,
        lease: &mut Lease,
        plan: &Plan,
        writing: &mut usize,
    ) {
        let now = self.now.mono;
        let due = self.checkpoint_due(lease).is_some_and(|at| now >= at);
        if !due || lease.goal != Goal::Run || *writing >= self.settings.parallel_suspends {
            return;
        }
        let cost = plan.cost.get(&lease.key).copied().unwrap_or_default();
        let first = plan.begin.values().min().copied().unwrap_or(plan.last_kill);
        let free_until = first.before(CLEAR);
        if now + cost.budget > free_until || lease.remaining(now) <= cost.budget {
            return; // a suspend, or the guest's own end, comes anyway
        }
        let number = lease.checkpoints.next_number();
        let Some(state) = lease.key.checkpoint_id(number) else {
            return;
        };
        *writing += 1;
        let abort_at = (now + cost.budget.times(PATIENCE)).min(free_until);
        let stage = Stage::Checkpointing {
            since: now,
            expected: now + cost.budget,
            abort_at,
            given_up: None,
        };
        lease.enter(now, stage);
        let run = lease.ran;
        lease.checkpoints.under_way = Some(UnderWay {
            state: state.clone(),
            run,
        });
        self.effects.push(Effect::Checkpoint {
            lease: lease.key.clone(),
            state,
            run,
            abort_at,
        });
    }

    /// A guest whose checkpoint is being made: does it have to make way?
    pub(super) fn settle_checkpoint(&mut self, lease: &mut Lease, want: Want, plan: &Plan) {
        let now = self.now.mono;
        let Stage::Checkpointing {
            expected,
            abort_at,
            given_up,
            ..
        } = &mut lease.stage
        else {
            return;
        };
        let evicting = self.eviction.is_some() || plan.begin.values().any(|begin| now >= *begin);
        // Everybody's suspends come after it.
        let fits = (*expected).max(now) + plan.budget <= plan.last_kill;
        let in_the_way = match want {
            Want::Run | Want::Pause | Want::Suspend { urgent: false, .. } => evicting && !fits,
            Want::Suspend { urgent: true, .. } => !fits,
            Want::Stop { .. } => true,
            Want::Kill { reason, .. } => {
                self.effects.push(Effect::AbortSuspend {
                    lease: lease.key.clone(),
                });
                self.kill(lease, EndOutcome::Killed { reason });
                return;
            }
        };
        let told = given_up.is_some_and(|again| now < again);
        if (in_the_way || now >= *abort_at) && !told {
            *given_up = Some(now + self.settings.kill_repeat);
            self.effects.push(Effect::AbortSuspend {
                lease: lease.key.clone(),
            });
        }
    }

    /// A checkpoint is in the store.
    pub(super) fn on_checkpointed(&mut self, lease: &mut Lease, made: Made, paused: Span) {
        let Made {
            state: id,
            manifest,
            bytes,
            written,
            took,
        } = made;
        let under_way = lease.checkpoints.under_way.take_if(|u| u.state == id);
        let known = lease.checkpoints.newest.as_ref();
        let Some(under_way) = under_way.filter(|_| lease.is_alive()) else {
            // Said twice, or after the lease's end, when the broker hears of no state any more.
            if known.is_none_or(|s| s.id != id) {
                self.effects.push(Effect::Discard { state: id });
            }
            return;
        };
        self.rates.learn(written, took);
        if let Stage::Checkpointing { since, .. } = lease.stage {
            lease.ran += self.now.mono.since(since).minus(paused);
            self.goes_on(lease);
        }
        let text = format!(
            "checkpoint {id} at {} of guest time: {written} bytes written and verified in {took}, the guest stood still for {paused}",
            under_way.run
        );
        let data = serde_json::json!({
            "state": id, "run_ms": under_way.run.as_millis(), "bytes": bytes, "written": written,
            "took_ms": took.as_millis(), "paused_ms": paused.as_millis(),
        });
        self.record("guest_checkpointed", Some(&lease.key), text, data);
        let state = StateRef {
            id,
            manifest,
            site: self.facts.site.clone(),
            bytes,
            run: under_way.run,
            at: self.now.wall,
        };
        lease.checkpoints.completed(state, took);
    }

    /// There is no checkpoint, and nothing of one is left.
    pub(super) fn on_checkpoint_failed(
        &mut self,
        lease: &mut Lease,
        reason: &Reason,
        guest_alive: bool,
    ) {
        if lease.checkpoints.under_way.is_none() {
            return;
        }
        let every = lease.spec.policy.checkpoint_every.unwrap_or_default();
        let spent = match lease.stage {
            Stage::Checkpointing { since, .. } => self.now.mono.since(since),
            Stage::Staging
            | Stage::Staged
            | Stage::Starting { .. }
            | Stage::Running { .. }
            | Stage::Paused { .. }
            | Stage::Suspending { .. }
            | Stage::Stopping { .. }
            | Stage::Killing { .. }
            | Stage::Ended { .. } => Span::ZERO,
        };
        lease.checkpoints.failed(self.now.mono, every, spent);
        let text = format!("the checkpoint failed and was discarded: {reason}");
        self.note("checkpoint_failed", lease, text);
        // A guest that is gone says how in a moment; till then nothing is to be done with it.
        if guest_alive && matches!(lease.stage, Stage::Checkpointing { .. }) {
            self.goes_on(lease);
        }
    }

    fn goes_on(&self, lease: &mut Lease) {
        let now = self.now.mono;
        lease.enter(
            now,
            Stage::Running {
                since: now,
                pausing: false,
            },
        );
    }
}
