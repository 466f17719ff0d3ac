//! Is a lease worth taking, and can its guest be got rid of in time?

use protocol::codes::{Reason, ReasonCode};
use protocol::lease::Order;
use protocol::resources::Resources;
use protocol::time::Mono;
use protocol::workspace::{AdvanceTo, OnEviction};

use crate::deadline::{Plan, least_gain, notice_for_suspends, useful};
use crate::guest::memory_bound;
use crate::rates::Rates;
use crate::settings::Settings;
use crate::slot_clock::SlotClock;

/// What the decision is made from.
#[derive(Debug)]
pub struct Situation<'a> {
    /// Now.
    pub now: Mono,
    /// Tunables.
    pub settings: &'a Settings,
    /// The slot's clock.
    pub clock: &'a SlotClock,
    /// What suspends cost here.
    pub rates: &'a Rates,
    /// The plan for the guests that are here already.
    pub plan: &'a Plan,
    /// What is not promised to any lease.
    pub free: Resources,
}

/// Decides whether `order` is taken.
///
/// # Errors
/// The reason for which it is declined, as a sentence.
pub fn admit(s: &Situation<'_>, order: &Order) -> Result<(), Reason> {
    let spec = &order.spec;
    if spec.advance_to == AdvanceTo::Staged {
        return Ok(()); // nothing will run
    }
    let too_small = |text: String| Err(Reason::new(ReasonCode::SlotTooSmall, text));
    if let Some(short) = s.free.shortfall(&spec.resources) {
        return too_small(format!("no room in this slot: needs {short}"));
    }
    let cost = s.rates.cost(memory_bound(spec));
    let useful = useful(s.settings, s.clock, s.plan, s.now, cost);
    let wanted = spec.run_time.minus(order.run);
    let gain = least_gain(s.settings, cost);
    if useful < wanted && useful < gain {
        return too_small(format!(
            "too little time left in this slot: {useful} of guest time, and less than {gain} is not worth a start and a suspend"
        ));
    }
    let suspends = match spec.policy.on_eviction {
        OnEviction::Suspend => !spec.policy.bears_a_kill(),
        OnEviction::Restart | OnEviction::Fail => false,
    };
    let notice = notice_for_suspends(s.settings, s.clock);
    if suspends && cost.budget > notice {
        return Err(Reason::new(
            ReasonCode::NoticeTooShort,
            format!(
                "the site's notice of {} leaves {notice} for suspending, and this guest alone may need {}; a request with `checkpoint_every` or `may_be_killed` would be taken",
                s.clock.notice(),
                cost.budget
            ),
        ));
    }
    let needed = s.plan.owed + cost.budget;
    if suspends && needed > notice {
        return too_small(format!(
            "the site's notice of {} leaves {notice} for suspending, and all guests together need up to {needed}; a request with `checkpoint_every` or `may_be_killed` would be taken",
            s.clock.notice()
        ));
    }
    Ok(())
}

/// What a kill would cost a guest that is taken although its suspend may not fit the notice, as a
/// sentence; none where it fits.
pub fn risk(s: &Situation<'_>, order: &Order) -> Option<String> {
    let policy = &order.spec.policy;
    let suspends = policy.on_eviction == OnEviction::Suspend;
    if !suspends || order.spec.advance_to == AdvanceTo::Staged {
        return None;
    }
    let left = notice_for_suspends(s.settings, s.clock);
    let budget = s.rates.cost(memory_bound(&order.spec)).budget;
    if s.plan.owed + budget <= left {
        return None;
    }
    let cost = match policy.checkpoint_every {
        Some(every) => format!("the run time since its last checkpoint, one every {every}"),
        None => "the run time since its last state".to_owned(),
    };
    Some(format!(
        "its suspend may need {budget} and the notice leaves {left}, so a preemption may cost it {cost}"
    ))
}
