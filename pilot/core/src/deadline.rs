//! The eviction planner: works backward from the kill time.
//!
//! ```text
//! now .. accept .. begin(g1) .. begin(g2) .. [vacate] .. last_kill .. clean_up_at .. kill_at
//! ```
//! Suspends are written one after the other: those that must not be killed before those that may
//! be, the cheapest first, so that most guests are saved when the time is short; each begins as
//! late as its place in the line allows. Guests that are not to be suspended are told to shut down
//! `shutdown_grace` before the end. Planned evictions aim at the slot's end and keep the notice as
//! a reserve; `last_kill` uses the notice too.

use std::collections::BTreeMap;

use protocol::time::{Mono, Span};

use crate::guest::{Lease, LeaseKey, Stage, memory_bound};
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
    leases: impl Iterator<Item = &'a Lease>,
) -> Plan {
    let clean_up_at = clock.kill_at().before(settings.clean_up);
    let last_kill = clean_up_at.before(settings.kill_cost);
    let goal = wanted_end(settings, clock);
    let (mut begin, mut cost) = (BTreeMap::new(), BTreeMap::new());
    let mut line: Vec<(bool, bool, Span, LeaseKey)> = Vec::new();
    let mut others = Vec::new();
    let mut owed = Span::ZERO;
    for lease in leases.filter(|l| l.is_alive()) {
        let c = rates.cost(settings, lease.bytes_bound());
        cost.insert(lease.key.clone(), c);
        if lease.is_suspendable() {
            let waits = !matches!(lease.stage, Stage::Suspending { .. });
            let expendable = lease.spec.policy.bears_a_kill();
            if !expendable {
                owed += rates.cost(settings, memory_bound(&lease.spec)).budget;
            }
            line.push((waits, expendable, c.budget, lease.key.clone()));
        } else {
            begin.insert(lease.key.clone(), goal.before(settings.shutdown_grace));
            others.push(lease.key.clone());
        }
    }
    line.sort();
    let budget = line.iter().map(|(_, _, b, _)| *b).sum();
    let mut at = goal;
    for (_, _, b, key) in line.iter().rev() {
        at = at.before(*b);
        begin.insert(key.clone(), at);
    }
    let order = line
        .into_iter()
        .map(|(_, _, _, k)| k)
        .chain(others)
        .collect();
    Plan {
        begin,
        order,
        cost,
        budget,
        owed,
        last_kill,
        clean_up_at,
    }
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
