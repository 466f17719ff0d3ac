//! The eviction planner: works backward from the kill time.
//!
//! ```text
//! now .. accept .. begin(g1) .. begin(g2) .. [vacate] .. last_kill .. clean_up_at .. kill_at
//! ```
//! Suspends are written one after the other, in the order of [`crate::line`]; each begins as late as
//! its place in the line allows. Guests that are not to be suspended are told to shut down
//! `shutdown_grace` before the end. Planned evictions aim at the slot's end and keep the notice as
//! a reserve; `last_kill` uses the notice too.

use std::collections::BTreeMap;

use protocol::time::{Mono, Span};

use crate::guest::{Lease, LeaseKey, Stage, memory_bound};
use crate::line::{self, Waiting};
use crate::rates::{Rates, SuspendCost};
use crate::settings::Settings;
use crate::slot_clock::SlotClock;

/// The last moments of the slot, by what is known now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// When the eviction of each lease must begin.
    pub begin: BTreeMap<LeaseKey, Mono>,
    /// All leases that are alive, in the order in which they are suspended.
    pub order: Vec<LeaseKey>,
    /// What each suspend costs.
    pub cost: BTreeMap<LeaseKey, SuspendCost>,
    /// When the first suspend must begin; none without any.
    pub suspend_at: Option<Mono>,
    /// Time to suspend all that are to be suspended.
    pub budget: Span,
    /// Time to suspend all that must not be killed, if each had all of its memory to write.
    pub owed: Span,
    /// Whatever still runs then is killed. No suspend goes beyond it.
    pub last_kill: Mono,
    /// Clean-up begins then at the latest, whatever else is under way.
    pub clean_up_at: Mono,
}

/// Plans the eviction of `leases`.
pub fn plan<'a>(
    settings: &Settings,
    clock: &SlotClock,
    rates: &Rates,
    now: Mono,
    leases: impl Iterator<Item = &'a Lease>,
) -> Plan {
    let clean_up_at = clock.kill_at().before(settings.clean_up);
    let last_kill = last_kill(settings, clock);
    let goal = wanted_end(settings, clock);
    let (mut begin, mut cost) = (BTreeMap::new(), BTreeMap::new());
    let (mut writing, mut waiting) = (Vec::new(), Vec::new());
    let mut others = Vec::new();
    let mut owed = Span::ZERO;
    for lease in leases.filter(|l| l.is_alive()) {
        let c = rates.cost(lease.bytes_bound());
        cost.insert(lease.key.clone(), c);
        if lease.is_suspendable() {
            let expendable = lease.spec.policy.bears_a_kill();
            if !expendable {
                owed += rates.cost(memory_bound(&lease.spec)).budget;
            }
            if matches!(lease.stage, Stage::Suspending { .. }) {
                let begun = lease.departure.as_ref().map_or(now, |d| d.begun);
                writing.push((c.budget.minus(now.since(begun)), lease.key.clone()));
            } else {
                waiting.push(Waiting {
                    key: lease.key.clone(),
                    expendable,
                    failed: lease.failed_suspends,
                    budget: c.budget,
                    at_stake: lease.at_stake(now),
                });
            }
        } else {
            begin.insert(lease.key.clone(), goal.before(settings.shutdown_grace));
            others.push(lease.key.clone());
        }
    }
    let under_way: Span = writing.iter().map(|(b, _)| *b).sum();
    let waiting = line::order(waiting, last_kill.since(now).minus(under_way));
    let waiting = waiting.into_iter().map(|w| (w.budget, w.key));
    let line: Vec<(Span, LeaseKey)> = writing.into_iter().chain(waiting).collect();
    let budget = line.iter().map(|(b, _)| *b).sum();
    let mut at = goal;
    for (b, key) in line.iter().rev() {
        at = at.before(*b);
        begin.insert(key.clone(), at);
    }
    let suspend_at = (!line.is_empty()).then_some(at);
    let order = line.into_iter().map(|(_, k)| k).chain(others).collect();
    Plan {
        begin,
        order,
        cost,
        suspend_at,
        budget,
        owed,
        last_kill,
        clean_up_at,
    }
}

/// When whatever still runs is killed.
pub fn last_kill(settings: &Settings, clock: &SlotClock) -> Mono {
    let clean_up_at = clock.kill_at().before(settings.clean_up);
    clean_up_at.before(settings.kill_cost)
}

/// The part of the site's notice that is left for suspends.
pub fn notice_for_suspends(settings: &Settings, clock: &SlotClock) -> Span {
    let kept = clock.margin() + settings.clean_up + settings.kill_cost;
    clock.notice().minus(kept)
}

/// When to begin to bring the memory of `lease` to the store while its guest runs on, so that its
/// suspend moves only what has changed since. None where that is of no use, or was done.
///
/// Where all suspends together do not fit the site's notice, at once: after a flush they may. Else
/// so long before the first of them that there is time for a pass over all memory, and one over
/// what has changed meanwhile.
pub fn flush_at(
    settings: &Settings,
    clock: &SlotClock,
    rates: &Rates,
    plan: &Plan,
    now: Mono,
    lease: &Lease,
) -> Option<Mono> {
    let runs = matches!(lease.stage, Stage::Running { pausing: false, .. });
    if !settings.flushes || !runs || !lease.is_suspendable() {
        return None;
    }
    if lease.flushed || lease.bytes.is_none() {
        return None;
    }
    let (whole, least) = (plan.cost.get(&lease.key)?, rates.cost(0));
    if whole.expected.minus(least.expected) < settings.flush_worth {
        return None;
    }
    let notice = notice_for_suspends(settings, clock);
    if least.budget <= notice && plan.budget > notice {
        return Some(now);
    }
    let first = plan.suspend_at?;
    if lease.remaining(now) <= first.since(now) {
        return None; // it has had its run time before that
    }
    Some(first.before(plan.budget.times(settings.flush_ahead)))
}

/// When the last guest should be gone: a kill and the clean-up before the slot is to be vacated.
fn wanted_end(settings: &Settings, clock: &SlotClock) -> Mono {
    clock
        .vacate_at()
        .before(settings.clean_up + settings.kill_cost)
}

/// How long one more guest that costs `cost` to suspend could run, from now: after its start,
/// and before the eviction of all has to begin.
pub fn useful(
    settings: &Settings,
    clock: &SlotClock,
    plan: &Plan,
    now: Mono,
    cost: SuspendCost,
) -> Span {
    let end = wanted_end(settings, clock).before(plan.budget + cost.budget);
    end.since(now).minus(settings.start_cost)
}

/// The guest time that makes a lease worth its own cost.
pub fn least_gain(settings: &Settings, cost: SuspendCost) -> Span {
    (settings.start_cost + cost.expected).times(settings.gain_factor)
}
