//! Moves everything one move nearer to where it should be now.

use protocol::codes::{Reason, ReasonCode, exit};
use protocol::lease::{EndOutcome, Goal};
use protocol::time::{Mono, Span};

use super::want::{Stop, Want, stopped};
use super::{Agent, Effect, Life};
use crate::deadline::{self, Plan};
use crate::guest::{Lease, Stage};

/// How long before the first eviction people are told.
const NEAR: Span = Span::from_secs(10);

/// How long the last word to the broker is tried where the slot's own time is up already.
const LAST_WORD: Span = Span::from_secs(2);

/// When people are told that the slot's end is near; none without guests.
pub(super) fn deadline_near(plan: &Plan) -> Option<Mono> {
    plan.begin.values().min().map(|begin| begin.before(NEAR))
}

impl Agent {
    pub(super) fn settle(&mut self) {
        match self.life {
            Life::New | Life::CleaningUp | Life::Gone => {}
            Life::Registering { .. } => self.settle_registration(),
            Life::Serving => self.settle_serving(),
            Life::Leaving { .. } => self.settle_leaving(),
        }
        self.settle_exchange();
    }

    fn settle_registration(&mut self) {
        let now = self.now.mono;
        // There is nothing to save: the notice is not used up for it.
        if now >= self.clock.vacate_at().min(self.plan().last_kill) {
            let reason = Reason::new(
                ReasonCode::SlotEnding,
                "the slot ends and the broker was never reached",
            );
            self.evict(reason, false, exit::NO_ANSWER);
        }
        if self.eviction.is_some() {
            self.clean_up();
            return;
        }
        if let Life::Registering {
            under_way, next, ..
        } = &mut self.life
            && !*under_way
            && now >= *next
        {
            *under_way = true;
            self.effects.push(Effect::Register);
        }
    }

    fn settle_serving(&mut self) {
        let now = self.now.mono;
        if let Some(every) = self.settings.probe_every
            && now >= self.next_probe
        {
            self.next_probe = now + every;
            self.effects.push(Effect::Probe);
        }
        let plan = self.plan();
        self.tell_deadline(&plan);
        self.settle_leases(&plan);
        if now >= plan.clean_up_at {
            self.evict(self.eviction_reason(), false, exit::OK);
            self.clean_up();
            return;
        }
        if self.leases.values().any(Lease::is_alive) {
            return;
        }
        if now >= self.closes_at(&self.plan()) {
            let text = format!(
                "the slot ends at {}: too little time is left for anything",
                self.clock.end().0
            );
            self.evict(Reason::new(ReasonCode::SlotEnding, text), false, exit::OK);
        } else if let Some(limit) = self.idle_limit
            && now >= self.idle_since + limit
        {
            let text = format!("nothing to do for {limit}");
            self.evict(Reason::new(ReasonCode::Idle, text), false, exit::OK);
        }
        if let Some(e) = &self.eviction {
            let text = format!("leaving: {}", e.reason);
            let fenced = e.fenced;
            self.record("pilot_leaving", None, text, serde_json::Value::Null);
            // The guests are gone: a last word is tried for the slot's own time, not the notice's.
            let slot = self.clock.vacate_at().before(self.settings.clean_up);
            let patience = slot.max(now + LAST_WORD).min(now + self.settings.farewell);
            self.life = Life::Leaving {
                give_up_at: plan.clean_up_at.min(patience),
                told: false,
            };
            if fenced {
                self.clean_up(); // the broker does not listen to us any more
            }
        }
    }

    fn tell_deadline(&mut self, plan: &Plan) {
        let now = self.now.mono;
        let near = deadline_near(plan).filter(|near| now >= *near && self.eviction.is_none());
        let Some(near) = near else {
            // A plan that is refined is no news; without guests there is nothing to be told.
            self.deadline_told &= !plan.begin.is_empty();
            return;
        };
        if self.deadline_told {
            return;
        }
        self.deadline_told = true;
        let text = format!(
            "the slot ends at {}; {} in {}",
            self.clock.end().0,
            match plan.begin.len() {
                1 => "its guest has to go, beginning".to_owned(),
                n => format!("its {n} guests have to go, beginning"),
            },
            (near + NEAR).since(now)
        );
        let data = serde_json::json!({"end": self.clock.end().0, "guests": plan.begin.len()});
        self.record("deadline_near", None, text, data);
    }

    fn settle_leaving(&mut self) {
        let clean_up_at = self.plan().clean_up_at;
        // What is being deleted from the store is waited for: half of it would stay there.
        let done = self.discarding.is_empty();
        if let Life::Leaving { give_up_at, told } = self.life
            && ((told && done) || self.now.mono >= give_up_at.min(clean_up_at))
        {
            self.clean_up();
        }
    }

    fn clean_up(&mut self) {
        self.life = Life::CleaningUp;
        self.effects.push(Effect::CleanUp);
    }

    /// From when on nothing new could run here for any useful time.
    pub(super) fn closes_at(&self, plan: &Plan) -> Mono {
        let open = self.useful(plan);
        if open.is_zero() {
            self.now.mono
        } else {
            self.now.mono + open
        }
    }

    /// Guest time that a small guest could still get here.
    pub(super) fn useful(&self, plan: &Plan) -> Span {
        let closed = self.now.mono < self.closed_until;
        if self.eviction.is_some() || closed || !matches!(self.life, Life::Serving) {
            return Span::ZERO;
        }
        let small = self.rates.cost(128 << 20);
        deadline::useful(&self.settings, &self.clock, plan, self.now.mono, small)
    }

    fn settle_leases(&mut self, plan: &Plan) {
        let mut leases = std::mem::take(&mut self.leases);
        let mut writing = leases
            .values()
            .filter(|l| {
                matches!(
                    l.stage,
                    Stage::Suspending { .. } | Stage::Checkpointing { .. }
                )
            })
            .count();
        for key in &plan.order {
            if let Some(lease) = leases.get_mut(key) {
                self.settle_lease(lease, plan, &mut writing);
            }
        }
        self.leases = leases;
    }

    fn settle_lease(&mut self, lease: &mut Lease, plan: &Plan, writing: &mut usize) {
        let now = self.now.mono;
        let fence = self.fence(lease, plan);
        lease.due |= plan.begin.get(&lease.key).is_some_and(|b| now >= *b);
        let hard = plan.last_kill.min(fence.kill_at);
        self.weigh_ready(lease, plan);
        let want = self.want(lease, plan, fence);
        self.tell_time(lease, plan);
        match &mut lease.stage {
            Stage::Staging => {
                if let Some(outcome) = want.unstarted() {
                    self.end(lease, outcome);
                }
            }
            Stage::Staged => match want {
                Want::Run => self.start(lease),
                Want::Pause => {}
                other @ (Want::Suspend { .. } | Want::Stop { .. } | Want::Kill { .. }) => {
                    if let Some(outcome) = other.unstarted() {
                        self.end(lease, outcome);
                    }
                }
            },
            Stage::Starting { .. } => match want {
                Want::Run | Want::Pause | Want::Suspend { urgent: false, .. } => {}
                other @ (Want::Suspend { .. } | Want::Stop { .. } | Want::Kill { .. }) => {
                    if let Some(outcome) = other.unstarted() {
                        self.kill(lease, outcome);
                    }
                }
            },
            Stage::Running { pausing, .. } => match want {
                Want::Run => {
                    self.checkpoint_if_due(lease, plan, writing);
                    self.flush(lease, plan);
                }
                Want::Pause => {
                    if !*pausing {
                        *pausing = true;
                        let lease = lease.key.clone();
                        self.effects.push(Effect::Pause { lease });
                    }
                }
                Want::Suspend { reason, urgent } => {
                    self.suspend(lease, plan, reason, urgent, writing);
                }
                Want::Stop { reason, why } => self.stop(lease, hard, stopped(reason, why)),
                Want::Kill { reason, .. } => self.kill(lease, EndOutcome::Killed { reason }),
            },
            Stage::Paused { continuing } => match want {
                Want::Run => {
                    if !*continuing {
                        *continuing = true;
                        let lease = lease.key.clone();
                        self.effects.push(Effect::Continue { lease });
                    }
                }
                Want::Pause => {}
                Want::Suspend { reason, urgent } => {
                    self.suspend(lease, plan, reason, urgent, writing);
                }
                // A guest that stands still hears no ACPI.
                Want::Stop { reason, why } => self.kill(lease, stopped(reason, why)),
                Want::Kill { reason, .. } => self.kill(lease, EndOutcome::Killed { reason }),
            },
            Stage::Checkpointing { .. } => self.settle_checkpoint(lease, want, plan),
            Stage::Suspending { .. } => {
                let reason = match want {
                    Want::Kill { reason, late: true } => Reason::new(
                        ReasonCode::SuspendTooSlow,
                        format!("the suspend was not ended in time and was discarded: {reason}"),
                    ),
                    Want::Kill {
                        reason,
                        late: false,
                    }
                    | Want::Stop {
                        reason,
                        why: Stop::Goal,
                    } => reason,
                    Want::Run | Want::Pause | Want::Suspend { .. } | Want::Stop { .. } => return,
                };
                *writing = writing.saturating_sub(1);
                self.effects.push(Effect::AbortSuspend {
                    lease: lease.key.clone(),
                });
                self.kill(lease, EndOutcome::Killed { reason });
            }
            Stage::Stopping {
                outcome,
                kill_at,
                ask_again,
            } => {
                if now >= *kill_at || matches!(want, Want::Kill { .. }) {
                    let outcome = outcome.clone();
                    self.kill(lease, outcome);
                } else if now >= *ask_again {
                    *ask_again = now + self.settings.shutdown_repeat;
                    let lease = lease.key.clone();
                    self.effects.push(Effect::Shutdown { lease });
                }
            }
            Stage::Killing { again_at, .. } => {
                if now >= *again_at {
                    *again_at = now + self.settings.kill_repeat;
                    let lease = lease.key.clone();
                    self.effects.push(Effect::Kill { lease });
                }
            }
            Stage::Ended { .. } => {}
        }
    }

    /// Everything is in place: what is next?
    fn start(&mut self, lease: &mut Lease) {
        if lease.goal == Goal::Stage {
            self.end(lease, EndOutcome::Staged);
            return;
        }
        let key = lease.key.clone();
        let resuming = lease.state.is_some();
        lease.enter(self.now.mono, Stage::Starting { resuming });
        let (kind, text) = if resuming {
            ("guest_resuming", "loads its state")
        } else {
            ("guest_booting", "boots from its image")
        };
        self.record(kind, Some(&key), text.to_owned(), serde_json::Value::Null);
        self.effects.push(if resuming {
            Effect::Resume { lease: key }
        } else {
            Effect::Boot { lease: key }
        });
    }

    /// When `lease` needs attention.
    pub(super) fn lease_times(&self, lease: &Lease, plan: &Plan, times: &mut Vec<Mono>) {
        let now = self.now.mono;
        if !lease.is_alive() {
            return;
        }
        let fence = self.fence(lease, plan);
        times.extend([fence.suspend_at, fence.kill_at, lease.retry_at]);
        times.extend(plan.begin.get(&lease.key));
        times.extend(self.next_telling(lease, plan));
        times.extend(self.flush_at(lease, plan));
        if let Some(cost) = plan.cost.get(&lease.key) {
            // The last moment at which a suspend that waits for its turn may begin.
            let takes = self.rates.likely(lease.bytes_bound()).min(cost.expected);
            times.push(plan.last_kill.before(takes) + Span::from_millis(1));
        }
        match &lease.stage {
            Stage::Running { .. } => {
                times.push(now + lease.remaining(now));
                times.extend(self.checkpoint_due(lease));
            }
            Stage::Checkpointing {
                expected,
                abort_at,
                given_up,
                ..
            } => {
                times.extend([*expected, *abort_at]);
                times.extend(*given_up);
                times.push(plan.last_kill.before(plan.budget));
            }
            Stage::Stopping {
                kill_at, ask_again, ..
            } => times.extend([*kill_at, *ask_again]),
            Stage::Killing { again_at, .. } => times.push(*again_at),
            Stage::Staging
            | Stage::Staged
            | Stage::Starting { .. }
            | Stage::Paused { .. }
            | Stage::Suspending { .. }
            | Stage::Ended { .. } => {}
        }
    }
}
