//! How many pilots, where, when, how long.
//!
//! Demand is the slot time that waiting requests could use: so many slots side by side as there
//! are requests for, no more than their minutes fill. Pilots that wait, start or idle are taken
//! off; the rest is submitted within the site's limits, and what is too much is withdrawn.
//!
//! A site's jobs may be of several nodes: limits count jobs, demand and supply count slots.

use std::collections::BTreeSet;

use protocol::api::PilotState;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{NodeName, SiteName, SubmitKey};
use protocol::time::{Span, Timestamp};

use crate::config::SiteConfig;
use crate::effect::{Effect, PilotOrder};
use crate::fit::Ground;
use crate::queue::ClassKey;
use crate::records::{CancelProgress, LrmSide, PilotRecord, RECORD_VERSION, SubmitProgress};
use crate::state::Broker;

/// Pilot jobs of a site that count against its limits.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) queued: u32,
    pub(crate) running: u32,
    /// Pilots of both: not registered yet, and wanted.
    pub(crate) coming: u32,
    /// Registered, without a lease, and able to take something.
    pub(crate) idle: u32,
    /// What those two can serve, in slots of the longest walltime.
    supply: f64,
}

/// So much of a slot is not worth a pilot of its own while others are coming.
const LITTLE: f64 = 0.1;
/// Nodes that one submit leaves out.
const MOST_AVOIDED: usize = 32;

/// Waiting requests of one class that no pilot is there or coming for.
pub(crate) struct Need {
    class: ClassKey,
    count: f64,
    total_ms: f64,
    longest: Span,
    shortest: Span,
}

impl Need {
    /// Requests of one class, in order of the time that they need.
    fn of<'a>(
        class: &ClassKey,
        count: usize,
        total: Span,
        mut needs: impl DoubleEndedIterator<Item = &'a (Span, u64)>,
    ) -> Option<Self> {
        let (shortest, _) = *needs.next()?;
        let longest = needs.next_back().map_or(shortest, |(need, _)| *need);
        // A request that is only staged needs a slot, if only for a second.
        #[expect(clippy::cast_precision_loss, reason = "counts and milliseconds")]
        let (count, total) = (count as f64, total.as_millis() as f64);
        Some(Self {
            class: class.clone(),
            count,
            total_ms: total.max(count * 1000.0),
            longest,
            shortest,
        })
    }

    /// Slots of this site that it would fill; none when it does not fit.
    fn slots(&self, ground: &Ground<'_>) -> Option<f64> {
        let stay = if self.class.unbroken {
            self.longest
        } else {
            self.shortest
        };
        if !ground.fits(&self.class, stay) {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers and milliseconds")]
        let (each, usable) = (
            ground.per_slot(&self.class.resources()).clamp(1, 1 << 20) as f64,
            ground.usable.as_millis().max(1) as f64,
        );
        let side_by_side = self.count / each;
        let minutes = self.total_ms / (each * usable);
        Some(side_by_side.min(minutes))
    }
}

/// Slots that these needs fill at a site.
pub(crate) fn wanted(needs: &[Need], ground: &Ground<'_>) -> f64 {
    needs.iter().filter_map(|n| n.slots(ground)).sum()
}

fn whole(slots: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is what is wanted here"
    )]
    let n = (slots - 1e-6).ceil().max(0.0) as u32;
    n
}

/// Takes what `slots` slots of a site will serve off the needs.
pub(crate) fn serve(needs: &mut [Need], ground: &Ground<'_>, mut slots: f64) {
    for n in needs {
        let Some(want) = n.slots(ground).filter(|w| *w > 0.0) else {
            continue;
        };
        let part = (slots / want).min(1.0);
        slots -= want * part;
        n.count *= 1.0 - part;
        n.total_ms *= 1.0 - part;
    }
}

impl Broker {
    /// All that waits. Requests that must get all their time in one slot are told apart by the
    /// sites that have it, so that one that is too long does not hide those that fit.
    pub(crate) fn needs(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        for (key, class) in &self.tables.queue.classes {
            if !key.unbroken {
                let total = class.total;
                needs.extend(Need::of(key, class.needs.len(), total, class.needs.iter()));
                continue;
            }
            let able = (self.config().sites.iter()).filter(|s| key.allows(&s.name));
            let limits: BTreeSet<Span> = able.map(|s| self.ground(s).usable).collect();
            let mut from = Span::ZERO;
            for limit in limits {
                let part = class.needs.range((from, 0)..=(limit, u64::MAX));
                let total = part.clone().map(|(need, _)| *need).sum();
                needs.extend(Need::of(key, part.clone().count(), total, part));
                from = limit + Span::from_millis(1);
            }
        }
        needs
    }

    /// What counts against a site's limits; what is on its way there is not looked at.
    fn limits(&self, site: &SiteConfig) -> Counts {
        let (queued, running) = self.tables.crowd.limits(&site.name);
        Counts {
            queued,
            running,
            ..Counts::default()
        }
    }

    pub(crate) fn counts(&self, now: Timestamp, site: &SiteConfig) -> Counts {
        let ground = self.ground(site);
        let mut c = self.limits(site);
        for p in self.tables.spare(&site.name) {
            let counts = !p.by_hand && p.member_of.is_none();
            let waits = match p.state {
                PilotState::Submitting | PilotState::Queued | PilotState::Started => counts,
                PilotState::Active | PilotState::Lost | PilotState::Ended => false,
            };
            if waits && p.cancel == CancelProgress::No {
                let pilots = self.tables.awaited(p);
                c.coming += pilots;
                c.supply += f64::from(pilots) * ground.share(p.walltime.minus(ground.cost));
            } else if let Some(time) = self.idle_time(now, p, &ground) {
                c.idle += 1;
                c.supply += ground.share(time);
            }
        }
        c
    }

    /// Guest time of a pilot that has no lease and could take something, or has not yet said
    /// what.
    fn idle_time(&self, now: Timestamp, p: &PilotRecord, ground: &Ground<'_>) -> Option<Span> {
        let slot = p.slot.as_ref()?;
        if p.state != PilotState::Active || self.tables.leases_of(&p.key).next().is_some() {
            return None;
        }
        if slot.number == 0 && self.leave(p).is_none() {
            return Some(slot.facts.end.since(now).minus(ground.cost));
        }
        let offer = self.offer(now, p)?;
        self.pick(now, &offer).map(|_| offer.useful)
    }

    /// What is needed beyond the pilots that are there or coming; and per site how much of those
    /// is too much, in slots.
    pub(crate) fn unserved(&self, now: Timestamp) -> (Vec<Need>, Vec<f64>) {
        let mut needs = self.needs();
        let mut surplus = Vec::new();
        for site in &self.config().sites {
            let (c, ground) = (self.counts(now, site), self.ground(site));
            surplus.push(c.supply - wanted(&needs, &ground));
            serve(&mut needs, &ground, c.supply);
        }
        (needs, surplus)
    }

    /// How many more pilot jobs these needs are worth at a site: so many that their nodes are
    /// enough.
    pub(crate) fn more(&self, needs: &[Need], site: &SiteConfig, c: Counts) -> u32 {
        let slots = wanted(needs, &self.ground(site));
        whole(if c.coming > 0 { slots - LITTLE } else { slots }).div_ceil(site.nodes.max(1))
    }

    /// The sites in the order in which they get pilots: by preference, then those that we have
    /// not hurt, then those where pilots start sooner, by what was learned. Times are compared by
    /// the power of two, so that small differences do not move pilots about.
    pub(crate) fn in_order(&self, now: Timestamp) -> Vec<&SiteConfig> {
        let mut sites: Vec<_> = self.config().sites.iter().collect();
        sites.sort_by_cached_key(|s| {
            let known = self.tables.sites.get(&s.name);
            let owed = known.map_or(0, |k| k.courtesy.owed);
            let mins = self.queue_time(now, s).as_millis() / 60_000;
            (s.preference, owed, u64::BITS - mins.leading_zeros())
        });
        sites
    }

    /// How long a pilot job waits in a site's queue: as long as those before, or as the oldest
    /// that waits now.
    pub(crate) fn queue_time(&self, now: Timestamp, site: &SiteConfig) -> Span {
        let known = self.tables.sites.get(&site.name);
        let waiting = (self.tables.spare(&site.name))
            .filter(|p| p.state == PilotState::Queued && !p.by_hand)
            .map(|p| now.since(p.created))
            .max();
        let learned = known.and_then(|k| k.queue_time);
        waiting.max(learned).unwrap_or(Span::ZERO)
    }

    /// Submits what is needed and allowed, a round at a time.
    pub(crate) fn provision(&mut self, now: Timestamp) {
        let round = self.config().provision.round;
        let in_round = |b: &Self, site: &SiteConfig| {
            (b.tables.sites.get(&site.name))
                .and_then(|s| s.last_round)
                .is_some_and(|at| now < at + round)
        };
        // Where no site could get a pilot, it is not asked how many would be of use.
        let open = |s: &SiteConfig| {
            !in_round(self, s)
                && self.room(self.limits(s), s).is_ok()
                && self.barred(now, s).is_none()
        };
        if self.tables.queue.is_empty() || !self.config().sites.iter().any(open) {
            return;
        }
        let policy = self.config().provision.clone();
        let (mut needs, _) = self.unserved(now);
        let order: Vec<_> = self.in_order(now).into_iter().cloned().collect();
        for site in &order {
            let c = self.counts(now, site);
            let want = self.more(&needs, site, c);
            if want == 0 || self.barred(now, site).is_some() {
                continue;
            }
            let Ok(room) = self.room(c, site) else {
                continue;
            };
            let pilots = want.min(room).saturating_mul(site.nodes);
            if !in_round(self, site) {
                let n = want
                    .div_ceil(policy.attenuation.max(1))
                    .min(policy.max_per_round)
                    .min(room);
                let ground = self.ground(site);
                let walltime = choose_walltime(&needs, &ground, pilots);
                let least = least_walltime(&needs, &ground).min(walltime);
                for _ in 0..n {
                    self.submit_pilot(now, site, walltime, least);
                }
                self.tables
                    .edit_site(&site.name, |s| s.last_round = Some(now));
            }
            serve(&mut needs, &self.ground(site), f64::from(pilots));
        }
    }

    fn submit_pilot(
        &mut self,
        now: Timestamp,
        site: &SiteConfig,
        walltime: Span,
        min_walltime: Span,
    ) {
        let key = self.new_pilot(now, site, walltime, false);
        self.effects.push(Effect::SubmitPilot(PilotOrder {
            key,
            site: site.name.clone(),
            resources: site.slot,
            nodes: site.nodes,
            walltime,
            min_walltime,
            avoid: self.avoided(now, &site.name),
        }));
    }

    /// The nodes that a submit asks the LRM to leave out: those that get no guests now. At most
    /// so many that the command stays short.
    fn avoided(&self, now: Timestamp, site: &SiteName) -> Vec<NodeName> {
        let mut nodes: Vec<_> = (self.tables.sites.get(site).into_iter())
            .flat_map(|known| &known.nodes)
            .filter_map(|(node, t)| Some((t.avoid_until.filter(|at| *at > now)?, node)))
            .collect();
        nodes.sort_by(|(a, _), (b, _)| b.cmp(a));
        nodes.truncate(MOST_AVOIDED);
        nodes.into_iter().map(|(_, node)| node.clone()).collect()
    }

    /// Records a new pilot job under a key that no other ever had or will have.
    pub(crate) fn new_pilot(
        &mut self,
        now: Timestamp,
        site: &SiteConfig,
        walltime: Span,
        by_hand: bool,
    ) -> SubmitKey {
        let key = loop {
            let meta = self.tables.edit_meta();
            meta.last_submit += 1;
            let text = format!("wp-{}-{:06}", meta.instance, meta.last_submit);
            match SubmitKey::new(&text) {
                Ok(key) => break key,
                // An instance that is no part of a name: leave it out rather than stop.
                Err(_) => meta.instance.retain(|c| c.is_ascii_alphanumeric()),
            }
        };
        let (state, submit) = if by_hand {
            (PilotState::Started, SubmitProgress::Known)
        } else {
            (PilotState::Submitting, SubmitProgress::Asked)
        };
        self.tables.insert_pilot(PilotRecord {
            version: RECORD_VERSION,
            key: key.clone(),
            site: site.name.clone(),
            by_hand,
            created: now,
            resources: site.slot,
            nodes: if by_hand { 1 } else { site.nodes },
            member_of: None,
            walltime,
            state,
            since: now,
            reason: None,
            job: None,
            submit,
            cancel: CancelProgress::No,
            lrm: LrmSide::default(),
            slot: None,
            fenced: BTreeSet::new(),
            goodbye: false,
            fruitful: false,
            signalled: None,
            settled: false,
            closed: false,
            last_seq: protocol::ids::EventSeq(0),
        });
        let text = if by_hand {
            "announced, to be started by hand".to_owned()
        } else {
            let each = match site.nodes {
                1 => String::new(),
                nodes => format!("{nodes} nodes with "),
            };
            format!(
                "decided: {each}{} for {walltime} at site {}",
                site.slot, site.name
            )
        };
        self.note_pilot(now, &key, "decided", text);
        key
    }

    /// True while a pilot job waits that nobody has asked back. Nothing of its own may be due while it
    /// does, and without a tick none would be found to be too many.
    pub(crate) fn may_be_surplus(&self) -> bool {
        self.tables.crowd.any_waits()
    }

    /// Withdraws queued pilots that there is no work for any more, the youngest first.
    pub(crate) fn withdraw_surplus(&mut self, now: Timestamp) {
        let after = self.config().provision.surplus_after;
        let may_go = |b: &Self, p: &PilotRecord| {
            p.state == PilotState::Queued
                && p.cancel == CancelProgress::No
                && !p.by_hand
                && p.slot.is_none()
                && now.since(p.created) >= after
                && b.tables.members(&p.key).next().is_none()
        };
        let may_one_go = |s: &SiteConfig| (self.tables.spare(&s.name)).any(|p| may_go(self, p));
        if !self.config().sites.iter().any(may_one_go) {
            return;
        }
        let (_, surplus) = self.unserved(now);
        let sites = self.config().sites.clone();
        for (site, mut surplus) in sites.iter().zip(surplus) {
            let ground = self.ground(site);
            let waiting: Vec<_> = (self.tables.spare(&site.name).rev())
                .filter(|p| may_go(self, p))
                .map(|p| {
                    let each = ground.share(p.walltime.minus(ground.cost));
                    (p.key.clone(), f64::from(p.nodes) * each)
                })
                .collect();
            for (key, share) in waiting {
                if surplus + 1e-6 < share {
                    continue;
                }
                surplus -= share;
                let text = "withdrawn: there is less work than pilots";
                let reason = Reason::new(ReasonCode::Surplus, text);
                self.note_pilot(now, &key, "withdrawn", text.to_owned());
                self.withdraw(now, &key, reason);
            }
        }
    }
}

/// Long enough for the longest of what fits, and for the share of each pilot, with a little to
/// spare; within the limits.
fn choose_walltime(needs: &[Need], ground: &Ground<'_>, pilots: u32) -> Span {
    let fitting = || (needs.iter()).filter(|n| n.slots(ground).is_some() && n.count > 0.0);
    let longest = fitting().map(|n| n.longest).max().unwrap_or(Span::ZERO);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
    let usable = ground.usable.as_millis() as f64;
    let share =
        Span::from_secs_f64(wanted(needs, ground) * usable / f64::from(pilots.max(1)) / 1000.0);
    let need = longest.max(share);
    let spare = Span::from_millis(need.as_millis() / 10);
    (need + spare + ground.cost)
        .max(ground.site.walltime_min)
        .min(ground.site.walltime_max)
}

/// The shortest that is of use: the shortest request of each class that fits gets all that it must
/// have in one slot. A job that the LRM may shrink to this starts sooner in a gap.
fn least_walltime(needs: &[Need], ground: &Ground<'_>) -> Span {
    let fitting = (needs.iter()).filter(|n| n.slots(ground).is_some() && n.count > 0.0);
    let stay = fitting.map(|n| match n.class.unbroken {
        true => n.shortest + Span::from_millis(n.shortest.as_millis() / 10),
        false => ground.worth,
    });
    (ground.cost + stay.max().unwrap_or(ground.worth))
        .max(ground.site.walltime_min)
        .min(ground.site.walltime_max)
}
