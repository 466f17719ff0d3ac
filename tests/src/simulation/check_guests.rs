//! What becomes of guests when they have to go: those that could have been suspended are, and a
//! suspend takes no longer than was set aside for it.

use pilot_core::guest::{Lease, LeaseKey, Stage};
use pilot_core::settings::Settings;
use protocol::codes::ReasonCode;
use protocol::lease::EndOutcome;
use protocol::messages::PilotEvent;
use protocol::time::Span;

use super::options::{Promise, Violation};
use super::pilot_side::Pilot;
use super::truth::PilotNumber;
use super::world::{SuspendWork, World};

type Checked = Result<(), Box<Violation>>;

/// A guest that is lost although there was time for so many times what the suspends take is a
/// broken promise: a planner that has measured once may count with half of that rate (a fifth of
/// noise on top) and set twice the time aside.
const SURELY: u64 = 5;
/// A planner that knows the node's rate would have saved it: counted, to see a planner improve.
const WITH_KNOWN_RATE: u64 = 2;

/// What a suspend of these bytes needs with this reserve at the node's rate.
fn needed(bytes: u64, rate: u64, times: u64) -> Span {
    let takes = Span::from_millis(30 + (bytes >> 20) * 1000 / rate.max(1));
    takes.times(times) + Span::from_secs(1)
}

impl World {
    /// Keeps the budget of a suspend that a pilot says it begins.
    pub(super) fn note_budget(&mut self, pilot: PilotNumber, event: &PilotEvent) {
        let (Some(workspace), Some(generation), "guest_suspending") =
            (&event.workspace, event.generation, event.kind.as_str())
        else {
            return;
        };
        let budget = event.data.get("budget_ms").and_then(|b| b.as_u64());
        let key = LeaseKey {
            workspace: workspace.clone(),
            generation,
        };
        if let Some(budget) = budget {
            (self.pilots[pilot].budgets).insert(key, Span::from_millis(budget));
        }
    }

    /// A suspend has made a state: it took no longer than its budget, if no fault slowed it down.
    pub(super) fn check_budget(
        &mut self,
        pilot: PilotNumber,
        lease: &LeaseKey,
        work: &SuspendWork,
    ) -> Checked {
        let p = &self.pilots[pilot];
        let Some(budget) = p.budgets.get(lease).copied() else {
            return Ok(());
        };
        let took = self.now.since(work.begun);
        if p.excuse.is_some() {
            return Ok(());
        }
        let (actual, set_aside) = (took.as_millis().max(1), budget.as_millis().max(1));
        self.actual.push(actual * 1000 / set_aside);
        if p.written.len() > 3 {
            self.learned.push(set_aside * 1000 / actual);
        }
        if took > budget {
            let what = format!(
                "the suspend of {lease} took {took}, its budget was {budget}, and nothing slowed it down"
            );
            let mut about = self.names_of(pilot);
            about.push(lease.workspace.to_string());
            return Err(self.violation(Promise::Budget, &what, &about));
        }
        Ok(())
    }

    /// A guest is about to be shut down or killed. If it was to be suspended and the time since its
    /// end was known would have been enough for all guests there, a fault must explain it.
    pub(super) fn check_worth_a_state(&mut self, pilot: PilotNumber, lease: &LeaseKey) -> Checked {
        let there = self.truth.guests.get(&(pilot, lease.clone()));
        let (Some(guest), false) = (there, self.pilots[pilot].judged.contains(lease)) else {
            return Ok(());
        };
        let up = guest.up;
        self.pilots[pilot].judged.insert(lease.clone());
        let Some(up) = up else {
            self.summary.kills.unstarted += 1;
            return Ok(());
        };
        let p = &self.pilots[pilot];
        if !is_for_want_of_time(p, lease) {
            self.summary.kills.wanted += 1;
            return Ok(());
        }
        let Some(agent) = p.agent.as_ref() else {
            return Ok(());
        };
        // A lease that was not extended for longer than syncs are held: the broker was not heard.
        let left = (agent.leases().find(|l| l.key == *lease))
            .map_or(Span::ZERO, |l| l.expiry.since(p.now(self.now).mono));
        let silent = left < self.broker.least_left();
        if silent || p.excuse.is_some() {
            self.summary.kills.excused += 1;
            return Ok(());
        }
        let settings = Settings::default();
        let last = p.epoch
            + Span::from_millis(
                (agent.clock().kill_at())
                    .before(settings.clean_up + settings.kill_cost)
                    .as_millis(),
            );
        let since = p.known_since.max(up);
        let had = last.since(since);
        let waiting = agent.leases().filter(|l| {
            l.is_suspendable()
                && matches!(
                    l.stage,
                    Stage::Running { .. }
                        | Stage::Paused { .. }
                        | Stage::Suspending { .. }
                        | Stage::Stopping { .. }
                        | Stage::Killing { .. }
                )
        });
        // A suspend that overtook a flush writes everything, though less is known of it by now.
        let writing = |l: &Lease| {
            let there = self.truth.guests.get(&(pilot, l.key.clone()));
            there.map_or(0, |g| g.writing)
        };
        let waiting: Vec<u64> = waiting.map(|l| l.bytes_bound().max(writing(l))).collect();
        let written = (p.written.iter()).filter(|(at, _)| *at >= since);
        let written: Span = written.map(|(_, took)| *took).sum();
        let all = |times| -> Span {
            let each = waiting.iter().map(|b| needed(*b, p.rate, times));
            written.times(times) + each.sum()
        };
        let need = all(SURELY);
        if had > need {
            let what = format!(
                "{lease} is killed by pilot {pilot}: its end was known for {had} before it had to be \
                 gone, and the suspends of all guests there need {need} at {} MB/s",
                p.rate
            );
            let mut about = self.names_of(pilot);
            about.push(lease.workspace.to_string());
            return Err(self.violation(Promise::Saved, &what, &about));
        }
        if had > all(WITH_KNOWN_RATE) {
            self.summary.kills.avoidable += 1;
        }
        self.summary.kills.no_time += 1;
        Ok(())
    }
}

/// True when the pilot ends this guest because there is no time for a suspend.
fn is_for_want_of_time(p: &Pilot, key: &LeaseKey) -> bool {
    let lease = p.agent.iter().flat_map(|a| a.leases());
    lease
        .filter(|l| l.key == *key && l.is_suspendable())
        .any(|l| {
            let outcome = match &l.stage {
                Stage::Stopping { outcome, .. }
                | Stage::Killing { outcome, .. }
                | Stage::Ended { outcome } => outcome,
                Stage::Staging
                | Stage::Staged
                | Stage::Starting { .. }
                | Stage::Running { .. }
                | Stage::Paused { .. }
                | Stage::Checkpointing { .. }
                | Stage::Suspending { .. } => return false,
            };
            let EndOutcome::Killed { reason } = outcome else {
                return false;
            };
            matches!(
                reason.code,
                ReasonCode::SlotEnding | ReasonCode::Preempted | ReasonCode::SuspendTooSlow
            )
        })
}
