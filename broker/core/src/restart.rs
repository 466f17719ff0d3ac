//! A new broker process: its clock may be behind the one by which the records were written.
//!
//! Within a process time never goes back; between two, the host's clock may have been set right.
//! What was recorded as "not before" or "heard" then lies in the future, by as much as the clock
//! was wrong: leases of pilots that are gone would live on for so long, and look-ups and submits
//! wait. So no recorded time is later than it could be by the new clock.

use protocol::time::{Span, Timestamp};

use crate::records::{CancelProgress, PilotRecord, SiteRecord, SubmitProgress};
use crate::state::Broker;

impl Broker {
    /// Gives every lease a full life, because pilots could not renew while the broker was away: as
    /// long as the last answers said, and no longer. Brings times that lie in the future back.
    pub(crate) fn take_over(&mut self, now: Timestamp) {
        let ttl = self.config().lease_ttl;
        let ids: Vec<_> = self.tables.leases.keys().cloned().collect();
        for id in ids {
            self.tables.edit_lease(&id, |l| {
                l.expiry = match l.life {
                    // Of an older broker, which may have promised more than this one would.
                    None => l.expiry.max(now + ttl),
                    Some(life) => now + life.max(ttl),
                };
                l.life = l.life.map(|life| life.max(ttl));
            });
        }
        let ahead: Vec<_> = (self.tables.pilots.values())
            .filter(|p| is_ahead(p, now))
            .map(|p| p.key.clone())
            .collect();
        for key in ahead {
            self.tables.edit_pilot(&key, |p| bring_back_pilot(p, now));
        }
        let policy = &self.config().provision;
        let longest = policy.back_off.iter().copied().max().unwrap_or(Span::ZERO);
        let avoid = policy.avoid_node_for;
        let names: Vec<_> = self.tables.sites.keys().cloned().collect();
        for name in names {
            (self.tables).edit_site(&name, |s| bring_back_site(s, now, longest, avoid));
        }
    }
}

fn is_ahead(p: &PilotRecord, now: Timestamp) -> bool {
    let heard = p.slot.as_ref().map(|s| s.heard);
    let next = match &p.submit {
        SubmitProgress::LookingUp { next, .. } => Some(*next),
        SubmitProgress::Asked | SubmitProgress::Known => None,
    };
    let cancel = match &p.cancel {
        CancelProgress::Wanted { next, .. } => Some(*next),
        CancelProgress::No | CancelProgress::Taken { .. } => None,
    };
    let times = [heard, next, cancel, p.lrm.missing_since, Some(p.since)];
    times.into_iter().flatten().any(|at| at > now)
}

fn bring_back_pilot(p: &mut PilotRecord, now: Timestamp) {
    p.created = p.created.min(now);
    p.since = p.since.min(now);
    if let Some(slot) = &mut p.slot {
        slot.registered = slot.registered.min(now);
        slot.heard = slot.heard.min(now);
    }
    if let SubmitProgress::LookingUp {
        next, absent_since, ..
    } = &mut p.submit
    {
        *next = (*next).min(now);
        *absent_since = absent_since.map(|at| at.min(now));
    }
    if let CancelProgress::Wanted { next, .. } = &mut p.cancel {
        *next = (*next).min(now);
    }
    p.lrm.seen = p.lrm.seen.map(|at| at.min(now));
    p.lrm.missing_since = p.lrm.missing_since.map(|at| at.min(now));
}

fn bring_back_site(s: &mut SiteRecord, now: Timestamp, longest: Span, avoid: Span) {
    for past in [
        &mut s.last_round,
        &mut s.last_look_up,
        &mut s.last_listing,
        &mut s.silent_since,
    ] {
        *past = past.map(|at| at.min(now));
    }
    for wait in [&mut s.not_before, &mut s.fruitless_until] {
        *wait = wait.map(|at| at.min(now + longest));
    }
    for trouble in s.nodes.values_mut() {
        trouble.avoid_until = trouble.avoid_until.map(|at| at.min(now + avoid));
    }
}
