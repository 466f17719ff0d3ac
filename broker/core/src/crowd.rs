//! The pilot jobs of each site by what they count for, so that neither the site's limits nor what
//! is on its way is found by looking at every pilot. Derived from the records, and kept true by
//! [`Tables`](crate::tables::Tables) alone.

use std::collections::{BTreeMap, BTreeSet};

use protocol::api::PilotState;
use protocol::ids::{SiteName, SubmitKey};
use protocol::lrm::JobState;
use protocol::slot::PilotPhase;

use crate::records::{CancelProgress, PilotRecord, SlotRecord};

/// True while a pilot job counts against its site's limits.
pub(crate) fn is_live(p: &PilotRecord) -> bool {
    let over_in_lrm = || match &p.lrm.state {
        Some(JobState::Ended(_)) => true,
        // It may have been queued again; the next listing says.
        None => p.job.is_none(),
        Some(
            JobState::Queued
            | JobState::Held
            | JobState::Running
            | JobState::Suspended
            | JobState::Ending
            | JobState::Unknown(_),
        ) => false,
    };
    // A member of a job counts only by its job's record.
    let left = p.goodbye && !p.by_hand && !p.closed && p.member_of.is_none();
    p.state != PilotState::Ended || (left && !over_in_lrm())
}

/// The limit that a pilot job counts against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Neither,
    Queued,
    Running,
}

/// What one pilot job counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    live: bool,
    side: Side,
    /// Waits, starts, or is there without a lease.
    spare: bool,
    /// Said that it takes guests, and that it has a core for one.
    roomy: bool,
    /// Waits in the LRM's queue, and nobody has asked it back.
    waits: bool,
}

impl Place {
    /// Of this pilot job, whose slot has leases or not.
    pub(crate) fn of(p: &PilotRecord, leased: bool) -> Self {
        let live = is_live(p);
        let counts = live && !p.by_hand && p.member_of.is_none();
        let (side, spare) = match p.state {
            PilotState::Submitting | PilotState::Queued => (Side::Queued, true),
            PilotState::Started => (Side::Running, true),
            PilotState::Active => (Side::Running, !leased),
            PilotState::Lost | PilotState::Ended => (Side::Running, false),
        };
        let takes =
            |s: &SlotRecord| s.number > 0 && s.status.phase == PilotPhase::Open && s.free.cores > 0;
        Self {
            live,
            roomy: p.state == PilotState::Active && p.slot.as_ref().is_some_and(takes),
            side: if counts { side } else { Side::Neither },
            spare: live && spare,
            waits: p.state == PilotState::Queued && p.cancel == CancelProgress::No && !p.by_hand,
        }
    }
}

/// The pilot jobs of one site.
#[derive(Clone, PartialEq, Debug, Default)]
struct Standing {
    live: BTreeSet<SubmitKey>,
    spare: BTreeSet<SubmitKey>,
    roomy: BTreeSet<SubmitKey>,
    queued: u32,
    running: u32,
    waits: u32,
}

/// The pilot jobs of all sites. A site where nothing counts is not in it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Crowd(BTreeMap<SiteName, Standing>);

impl Crowd {
    /// A pilot job is there.
    pub(crate) fn enter(&mut self, p: &PilotRecord, place: Place) {
        if !place.live && !place.waits {
            return;
        }
        let s = self.0.entry(p.site.clone()).or_default();
        if place.live {
            s.live.insert(p.key.clone());
        }
        if place.spare {
            s.spare.insert(p.key.clone());
        }
        if place.roomy {
            s.roomy.insert(p.key.clone());
        }
        s.queued += u32::from(place.side == Side::Queued);
        s.running += u32::from(place.side == Side::Running);
        s.waits += u32::from(place.waits);
    }

    /// A pilot job leaves the place that it had.
    pub(crate) fn leave(&mut self, p: &PilotRecord, place: Place) {
        let Some(s) = self.0.get_mut(&p.site) else {
            return;
        };
        if place.live {
            s.live.remove(&p.key);
        }
        if place.spare {
            s.spare.remove(&p.key);
        }
        if place.roomy {
            s.roomy.remove(&p.key);
        }
        s.queued -= u32::from(place.side == Side::Queued);
        s.running -= u32::from(place.side == Side::Running);
        s.waits -= u32::from(place.waits);
        if s.live.is_empty() && s.waits == 0 {
            self.0.remove(&p.site);
        }
    }

    /// The place of a pilot job has changed.
    pub(crate) fn moved(&mut self, p: &PilotRecord, from: Place, to: Place) {
        if from != to {
            self.leave(p, from);
            self.enter(p, to);
        }
    }

    /// Those that count against a site's limits or whose job may still be there, oldest first.
    pub(crate) fn live(&self, site: &SiteName) -> impl DoubleEndedIterator<Item = &SubmitKey> {
        self.0.get(site).into_iter().flat_map(|s| &s.live)
    }

    /// Of those, the ones that wait, start, or are there without a lease.
    pub(crate) fn spare(&self, site: &SiteName) -> impl DoubleEndedIterator<Item = &SubmitKey> {
        self.0.get(site).into_iter().flat_map(|s| &s.spare)
    }

    /// Of the live ones, those whose pilot had room for another guest when it spoke last.
    pub(crate) fn roomy(&self, site: &SiteName) -> impl Iterator<Item = &SubmitKey> {
        self.0.get(site).into_iter().flat_map(|s| &s.roomy)
    }

    /// How many count against a site's limits: those in its queue, and those beyond.
    pub(crate) fn limits(&self, site: &SiteName) -> (u32, u32) {
        self.0.get(site).map_or((0, 0), |s| (s.queued, s.running))
    }

    /// True while a pilot job waits in a queue that may be found to be too many.
    pub(crate) fn any_waits(&self) -> bool {
        self.0.values().any(|s| s.waits > 0)
    }
}
