//! Late binding: when a pilot syncs, it gets the requests that are useful in the minutes and the
//! room that it has.
//!
//! The owner with the fewest leases goes first, within an owner the oldest request. What does
//! not fit is passed over, never waited for.

use protocol::api::PilotState;
use protocol::ids::{SiteName, SubmitKey, WorkspaceId};
use protocol::notice;
use protocol::resources::Resources;
use protocol::slot::PilotPhase;
use protocol::suspend_cost::CostLine;
use protocol::time::{Span, Timestamp};

use crate::config::SiteConfig;
use crate::fit;
use crate::queue::{Class, ClassKey, need};
use crate::records::{PilotRecord, SlotRecord};
use crate::state::Broker;
use crate::withdrawal::is_being_withdrawn;

/// Requests of one owner and class that are looked at in one match before the next owner's turn.
const LOOK_AT: usize = 32;
/// Pilots that are woken for one new request.
const WAKE: usize = 2;

/// What a slot can take now.
pub(crate) struct Offer<'a> {
    pub(crate) pilot: &'a PilotRecord,
    pub(crate) slot: &'a SlotRecord,
    pub(crate) free: Resources,
    pub(crate) useful: Span,
    /// Least guest time that is worth a stay.
    pub(crate) worth: Span,
}

impl Offer<'_> {
    /// True when the pilot has the room for such a request, and will not decline it because of
    /// the notice, by what it sets aside for a suspend.
    fn admits(&self, class: &ClassKey) -> bool {
        let (need, facts) = (class.resources(), &self.slot.facts);
        if !self.free.holds(&need) || !class.allows(&self.pilot.site) {
            return false;
        }
        let memory = need.memory_mib;
        let holds = |budget: &CostLine| notice::holds(facts.notice, facts.margin, memory, budget);
        let planned = self.slot.suspend_rate.map(|rate| rate.planned);
        !class.owed
            || match (&self.slot.suspend_budget, planned) {
                (Some(budget), _) => holds(budget),
                // An older pilot. It does not say what it plans with, and knows better.
                (None, Some(None)) => true,
                (None, Some(Some(planned))) => holds(&notice::careful(planned)),
                (None, None) => holds(&notice::careful(notice::ASSUMED_RATE)),
            }
    }
}

impl Broker {
    /// Least guest time that is worth a stay at a site.
    pub(crate) fn worth(&self, site: Option<&SiteConfig>) -> Span {
        site.map_or(Span::ZERO, |s| fit::worth(s, self.config().thrash_factor))
    }

    /// What this pilot can take now; none when it takes nothing.
    pub(crate) fn offer<'a>(&self, now: Timestamp, p: &'a PilotRecord) -> Option<Offer<'a>> {
        let slot = p.slot.as_ref()?;
        let useful = slot.status.useful.minus(now.since(slot.heard));
        let open = p.state == PilotState::Active
            && slot.number > 0
            && slot.status.phase == PilotPhase::Open
            && !useful.is_zero()
            && slot.free.cores > 0
            && now.since(slot.heard) < self.config().lease_ttl
            && self.leave(p).is_none()
            && !is_being_withdrawn(self.tables.job_of(p))
            && self.avoids(now, &p.site, slot).is_none();
        if !open {
            return None;
        }
        let promised = (self.tables.leases_of(&p.key))
            .filter(|l| l.boot == slot.boot && l.phase.is_none())
            .fold(Resources::default(), |sum, l| sum.plus(&l.resources));
        Some(Offer {
            pilot: p,
            slot,
            free: slot.free.minus(&promised),
            useful,
            worth: self.worth(self.site_config(&p.site)),
        })
    }

    /// Until when a node gets no guests because too many failed on it.
    pub(crate) fn avoids(
        &self,
        now: Timestamp,
        site: &SiteName,
        slot: &SlotRecord,
    ) -> Option<Timestamp> {
        let trouble = self.tables.sites.get(site)?.nodes.get(&slot.facts.node)?;
        trouble.avoid_until.filter(|until| *until > now)
    }

    /// Gives the pilot's slot all that it can use now.
    pub(crate) fn match_slot(&mut self, now: Timestamp, key: &SubmitKey) {
        if self.tables.queue.is_empty() {
            return;
        }
        while let Some(id) = (self.tables.pilots.get(key))
            .and_then(|p| self.offer(now, p))
            .and_then(|offer| self.pick(now, &offer))
        {
            self.grant(now, key, &id);
        }
    }

    /// The request that this offer goes to.
    pub(crate) fn pick(&self, now: Timestamp, offer: &Offer<'_>) -> Option<WorkspaceId> {
        let mut best: Option<(u32, u64)> = None;
        for (key, class) in &self.tables.queue.classes {
            if !offer.admits(key) {
                continue;
            }
            let shortest = class.needs.first().map_or(Span::ZERO, |(need, _)| *need);
            if !is_useful(key, shortest, offer) {
                continue;
            }
            if let Some(found) = self.first_of(now, key, class, offer) {
                best = Some(best.map_or(found, |b| b.min(found)));
            }
        }
        self.tables.numbers.get(&best?.1).cloned()
    }

    /// The best of a class: leases of its owner, then its number.
    fn first_of(
        &self,
        now: Timestamp,
        key: &ClassKey,
        class: &Class,
        offer: &Offer<'_>,
    ) -> Option<(u32, u64)> {
        (class.owners.iter())
            .filter_map(|(owner, numbers)| {
                let leased = self.tables.owners.get(owner).map_or(0, |o| o.leased);
                (numbers.iter().take(LOOK_AT))
                    .find(|n| self.takes(now, key, **n, offer))
                    .map(|n| (leased, *n))
            })
            .min()
    }

    fn takes(&self, now: Timestamp, key: &ClassKey, number: u64, offer: &Offer<'_>) -> bool {
        (self.tables.numbers.get(&number))
            .and_then(|id| self.tables.workspaces.get(id))
            .is_some_and(|w| {
                let declined = offer.slot.declined.get(&w.id);
                declined.is_none_or(|d| d.until <= now)
                    && is_useful(key, need(w), offer)
                    && !is_full(now, key, need(w), offer)
            })
    }

    /// Wakes a pilot or two that could take a workspace that was just queued.
    pub(crate) fn wake_for(&mut self, now: Timestamp, id: &WorkspaceId) {
        let Some(w) = self.tables.workspaces.get(id) else {
            return;
        };
        let mut found = Vec::new();
        for site in &self.config().sites {
            if w.saved.as_ref().is_some_and(|s| s.site != site.name) {
                continue;
            }
            let able = (self.tables.roomy(&site.name))
                .filter(|p| self.offer(now, p).is_some_and(|o| self.suits(now, w, &o)))
                .map(|p| p.key.clone());
            found.extend(able.take(WAKE - found.len()));
            if found.len() == WAKE {
                break;
            }
        }
        self.wake.extend(found);
    }

    /// True when this one workspace could go to this offer.
    pub(crate) fn suits(
        &self,
        now: Timestamp,
        w: &crate::records::WorkspaceRecord,
        offer: &Offer<'_>,
    ) -> bool {
        let key = ClassKey::of(w);
        offer.admits(&key) && self.takes(now, &key, w.number, offer)
    }
}

/// Anti-thrash: a stay must give the guest all that it needs, or enough to be worth it.
fn is_useful(key: &ClassKey, need: Span, offer: &Offer<'_>) -> bool {
    let least = if key.unbroken {
        need
    } else {
        need.min(offer.worth)
    };
    offer.useful >= least
}

/// True while the slot has said that it is too small for such a guest: because of its time, unless this
/// one needs less than there is; because of what all its guests would need at its end, unless this one
/// bears a kill.
fn is_full(now: Timestamp, key: &ClassKey, need: Span, offer: &Offer<'_>) -> bool {
    (offer.slot.full).is_some_and(|full| {
        full.until > now
            && key.resources().memory_mib >= full.memory_mib
            && (key.owed || need > offer.useful)
    })
}
