//! What a slot of a site is worth to guests, and which requests it can serve: by what the site
//! agreed to, and by what its pilots have told.

use protocol::notice;
use protocol::resources::Resources;
use protocol::suspend_cost::CostLine;
use protocol::time::Span;

use crate::config::SiteConfig;
use crate::queue::ClassKey;
use crate::records::{Refused, SiteRecord};
use crate::state::Broker;

/// What a slot of a site is worth to guests, as configured and as learned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) site: &'a SiteConfig,
    /// Slot time that no guest can use.
    pub(crate) cost: Span,
    /// The longest guest time that a slot can give.
    pub(crate) usable: Span,
    /// Least guest time that is worth a stay.
    pub(crate) worth: Span,
    /// What a slot really has, as far as it is known to be less than what is asked for.
    pub(crate) room: Resources,
    /// What is set aside there for a suspend: what a new pilot is told decides. Where it is told
    /// nothing, the rate that an older one measured last, but no better than is supposed.
    pub(crate) budget: CostLine,
    /// That comes from what was measured there.
    pub(crate) budget_known: bool,
    /// Guests with this much memory that must not be killed were declined for the notice.
    declined_mib: Option<u64>,
}

/// Why a site's slots are of no use to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Misfit {
    /// Its state lies elsewhere.
    Elsewhere,
    /// It needs more than a slot is asked for.
    Room,
    /// It needs more than slots were found to have.
    GivenRoom,
    /// It needs more time in one slot than there is.
    Time,
    /// It must not be killed, and the notice is too short for its memory.
    Notice,
    /// Pilots there have declined such a request for the notice.
    DeclinedForNotice,
}

/// Least guest time that is worth a stay at a site.
pub(crate) fn worth(site: &SiteConfig, thrash_factor: u32) -> Span {
    site.overhead.times(u64::from(thrash_factor))
}

impl Ground<'_> {
    /// What a stay of `time` is, in slots of the longest walltime.
    pub(crate) fn share(&self, time: Span) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        let (time, whole) = (
            time.as_millis() as f64,
            self.usable.as_millis().max(1) as f64,
        );
        (time / whole).clamp(0.0, 1.0)
    }

    /// Why no slot of this site is of use to a request, if so.
    pub(crate) fn misfit(&self, class: &ClassKey, longest: Span) -> Option<Misfit> {
        let (need, site) = (class.resources(), self.site);
        let least = if class.unbroken {
            longest
        } else {
            longest.min(self.worth)
        };
        if !class.allows(&site.name) {
            Some(Misfit::Elsewhere)
        } else if !site.slot.holds(&need) {
            Some(Misfit::Room)
        } else if !self.room.holds(&need) {
            Some(Misfit::GivenRoom)
        } else if least > self.usable {
            Some(Misfit::Time)
        } else if class.owed && !self.holds_suspend(need.memory_mib) {
            Some(Misfit::Notice)
        } else if class.owed && self.declined_mib.is_some_and(|m| need.memory_mib >= m) {
            Some(Misfit::DeclinedForNotice)
        } else {
            None
        }
    }

    /// True when the site's notice is long enough to suspend a guest of this memory.
    fn holds_suspend(&self, memory_mib: u64) -> bool {
        notice::holds(self.site.notice, self.site.margin, memory_mib, &self.budget)
    }

    /// True when a slot of this site has the room, the notice, and the time that makes a stay
    /// useful.
    pub(crate) fn fits(&self, class: &ClassKey, longest: Span) -> bool {
        self.misfit(class, longest).is_none()
    }

    /// How many requests of this size fit into a slot side by side.
    pub(crate) fn per_slot(&self, need: &Resources) -> u64 {
        let of = |have: u64, want: u64| have.checked_div(want).unwrap_or(u64::MAX);
        of(u64::from(self.room.cores), u64::from(need.cores))
            .min(of(self.room.memory_mib, need.memory_mib))
            .min(of(self.room.disk_mib, need.disk_mib))
    }
}

impl SiteRecord {
    /// The refusals that hold under these terms.
    fn refused(&self, site: &SiteConfig) -> impl Iterator<Item = &Refused> {
        let terms = site.terms();
        (self.refusals.iter())
            .filter(move |r| r.terms == terms)
            .map(|r| &r.what)
    }
}

impl Broker {
    /// What a slot of this site is worth.
    pub(crate) fn ground<'a>(&self, site: &'a SiteConfig) -> Ground<'a> {
        let known = self.tables.sites.get(&site.name);
        let learned = known.map_or(Span::ZERO, |s| s.slot_cost);
        let most = Span::from_millis(site.walltime_max.as_millis() / 2);
        let told = (site.overhead + site.margin).times(2);
        let cost = told.max(learned).min(most);
        let (mut room, mut declined_mib) = (site.slot, None);
        for what in known.into_iter().flat_map(|s| s.refused(site)) {
            match what {
                Refused::Room { given } => room = *given,
                Refused::Notice { memory_mib } => declined_mib = Some(*memory_mib),
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "bytes a second")]
        let measured = known
            .and_then(|s| s.suspend_rate.as_ref())
            .map(|r| r.mean as f64)
            .filter(|mean| *mean < notice::ASSUMED_RATE);
        let rate = measured.unwrap_or(notice::ASSUMED_RATE);
        let told = self.tables.budgets.get(&site.name).copied();
        Ground {
            budget: told.unwrap_or_else(|| notice::careful(rate)),
            budget_known: told.is_some() || measured.is_some(),
            site,
            cost,
            usable: site.walltime_max.minus(cost),
            worth: worth(site, self.config().thrash_factor),
            room,
            declined_mib,
        }
    }
}
