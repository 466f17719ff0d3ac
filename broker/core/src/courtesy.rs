//! What a pilot's slot was good for, and what it cost the site, once it is over.
//!
//! A slot in which nothing ran is fruitless: several in a row hold the site's next submits back by
//! the back-off table, until a lease runs there. A slot that was overrun, or left something on its
//! node, has hurt the site: its limits are halved until enough slots in a row did no harm.

use protocol::codes::exit;
use protocol::ids::{SiteName, SubmitKey};
use protocol::lrm::{JobEnd, JobState};
use protocol::messages::SyncRequest;
use protocol::notice;
use protocol::time::{Span, Timestamp};

use crate::config::{ProvisionPolicy, SiteConfig};
use crate::records::{
    CancelProgress, CourtesyLedger, Refusal, Refused, SiteRecord, SuspendRate, Terms,
};
use crate::state::Broker;

/// The most steps by which limits are halved.
const MOST_OWED: u32 = 6;

impl ProvisionPolicy {
    /// The wait after the `nth` failure in a row, counted from 1.
    pub(crate) fn wait(&self, nth: u32) -> Span {
        let last = self.back_off.len().saturating_sub(1);
        let nth = usize::try_from(nth.saturating_sub(1)).unwrap_or(last);
        (self.back_off.get(nth.min(last)))
            .copied()
            .unwrap_or(Span::ZERO)
    }
}

impl SiteConfig {
    /// What a refusal depends on.
    pub(crate) const fn terms(&self) -> Terms {
        Terms {
            notice: self.notice,
            margin: self.margin,
            slot: self.slot,
        }
    }
}

impl SiteRecord {
    /// Takes a refusal down, in place of one of the same cause.
    fn refuse(&mut self, new: Refusal) {
        let what =
            match new.what {
                Refused::Notice { memory_mib } => {
                    let before = (self.refusals.iter().filter(|r| r.terms == new.terms))
                        .filter_map(|r| match r.what {
                            Refused::Notice { memory_mib } => Some(memory_mib),
                            Refused::Room { .. } => None,
                        });
                    let least = before.min().unwrap_or(u64::MAX);
                    Refused::Notice {
                        memory_mib: memory_mib.min(least),
                    }
                }
                Refused::Room { given } => Refused::Room { given },
            };
        let same =
            |old: &Refusal| std::mem::discriminant(&old.what) == std::mem::discriminant(&new.what);
        self.refusals.retain(|old| !same(old));
        self.refusals.push(Refusal { what, ..new });
    }

    /// Such a guest runs here: what says that none can is wrong.
    fn accept(&mut self, need: &protocol::resources::Resources) {
        self.refusals.retain(|r| match r.what {
            Refused::Notice { memory_mib } => need.memory_mib < memory_mib,
            Refused::Room { given } => given.holds(need),
        });
        self.fruitless = 0;
        self.fruitless_until = None;
        self.last_decline = None;
    }
}

impl CourtesyLedger {
    /// A limit of the site, as far as we deserve it: halved for each step that is owed, and never
    /// less than one of what there was.
    pub(crate) fn deserved(&self, limit: u32) -> u32 {
        limit.checked_shr(self.owed).unwrap_or(0).max(limit.min(1))
    }

    fn harm(&mut self, now: Timestamp, text: String) {
        self.owed = (self.owed + 1).min(MOST_OWED);
        self.well = 0;
        self.last_harm = Some((now, text));
    }
}

impl Broker {
    /// A lease runs in this slot, or has run.
    pub(crate) fn slot_bears_fruit(
        &mut self,
        key: &SubmitKey,
        need: &protocol::resources::Resources,
    ) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let (site, known) = (p.site.clone(), p.fruitful);
        let job = p.member_of.clone();
        if !known {
            self.tables.edit_pilot(key, |p| p.fruitful = true);
            if let Some(job) = job {
                self.tables.edit_pilot(&job, |p| p.fruitful = true);
            }
        }
        if self.tables.sites.contains_key(&site) {
            self.tables.edit_site(&site, |s| s.accept(need));
        }
    }

    /// A pilot declined a guest because of its site's notice. That holds in every slot of the
    /// site, unless it was judged by what is known of this one node.
    pub(crate) fn notice_refused(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        memory_mib: u64,
        text: &str,
    ) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        // By what it had measured itself, or was told of its node.
        let measured = (p.slot.as_ref()).is_some_and(|s| {
            let assumed = notice::careful(notice::ASSUMED_RATE);
            s.suspend_rate.is_some() || s.suspend_budget.is_some_and(|b| b != assumed)
        });
        let name = p.site.clone();
        let Some(terms) = self.site_config(&name).map(SiteConfig::terms) else {
            return;
        };
        if !measured {
            self.tables.edit_site(&name, |s| {
                s.refuse(Refusal {
                    what: Refused::Notice { memory_mib },
                    text: text.to_owned(),
                    at: now,
                    terms,
                });
            });
        }
    }

    /// Something of ours was left on the node.
    pub(crate) fn left_behind(&mut self, now: Timestamp, key: &SubmitKey, text: &str) {
        let Some(site) = self.tables.pilots.get(key).map(|p| p.site.clone()) else {
            return;
        };
        self.tables.edit_site(&site, |s| {
            s.courtesy.leftovers += 1;
            (s.courtesy).harm(
                now,
                format!("slot {key} left something on its node: {text}"),
            );
        });
    }

    /// The slot is over: takes down what it was good for and what it cost. Once for each. Whether
    /// it was of use is judged for all nodes of its job together.
    pub(crate) fn settle_slot(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let Some(slot) = p.slot.as_ref().filter(|_| !p.settled) else {
            return;
        };
        let (site, overrun, given) = (p.site.clone(), slot.used.overrun, slot.facts.resources);
        let (goodbye, asked) = (p.goodbye, p.resources);
        let draining = (self.tables.sites.get(&site)).is_some_and(|s| s.draining.is_some());
        let alone = p.member_of.is_none();
        let wanted = p.cancel == CancelProgress::No && !p.by_hand && !draining && alone;
        let fruitless = wanted && !p.fruitful;
        let notice_used = (p.signalled.filter(|_| goodbye)).map(|at| now.since(at));
        let dirty = alone
            && !goodbye
            && p.lrm.state == Some(JobState::Ended(JobEnd::Exited(exit::LEFTOVERS)));
        self.tables.edit_pilot(key, |p| p.settled = true);
        self.note_cost(now, key, &site, overrun, notice_used);
        if dirty {
            self.left_behind(now, key, "by its exit code");
        }
        if fruitless {
            self.fruitless(now, key, &site, (given, asked));
        }
    }

    fn note_cost(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        site: &SiteName,
        overrun: Span,
        notice_used: Option<Span>,
    ) {
        let forgive_after = self.config().provision.forgive_after.max(1);
        self.tables.edit_site(site, |s| {
            s.overrun += overrun;
            let c = &mut s.courtesy;
            c.slots += 1;
            if let Some(used) = notice_used {
                c.signalled += 1;
                c.notice_used += used;
                c.longest_notice_used = c.longest_notice_used.max(used);
            }
            if overrun.is_zero() {
                c.well += 1;
                if c.well >= forgive_after {
                    c.well = 0;
                    c.owed = c.owed.saturating_sub(1);
                }
            } else {
                c.overruns += 1;
                c.longest_overrun = c.longest_overrun.max(overrun);
                c.harm(now, format!("slot {key} was overrun by {overrun}"));
            }
        });
    }

    pub(crate) fn fruitless(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        site: &SiteName,
        (given, asked): (
            protocol::resources::Resources,
            protocol::resources::Resources,
        ),
    ) {
        let policy = self.config().provision.clone();
        let terms = self.site_config(site).map(SiteConfig::terms);
        let small = !given.holds(&asked);
        let text = format!("the slots there have only {given}, not the {asked} that was asked for");
        self.note_pilot(now, key, "fruitless", "nothing ran in it".to_owned());
        self.tables.edit_site(site, |s| {
            s.fruitless += 1;
            s.fruitless_until = Some(now + policy.wait(s.fruitless));
            if let Some(terms) = terms
                && small
            {
                s.refuse(Refusal {
                    what: Refused::Room { given },
                    text,
                    at: now,
                    terms,
                });
            }
        });
    }

    /// A pilot has suspended something since it told last: the site's rate.
    pub(crate) fn learn_rate(&mut self, now: Timestamp, key: &SubmitKey, request: &SyncRequest) {
        let Some(rate) = request.suspend_rate.filter(|r| r.mean >= 1.0) else {
            return;
        };
        let Some((p, slot)) =
            (self.tables.pilots.get(key)).and_then(|p| Some((p, p.slot.as_ref()?)))
        else {
            return;
        };
        if slot.suspend_rate.is_some_and(|old| old.count >= rate.count) {
            return;
        }
        let (site, node) = (p.site.clone(), slot.facts.node.clone());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates, which is what is wanted here"
        )]
        let mean = rate.mean as u64;
        self.tables.edit_site(&site, |s| {
            s.suspend_rate = Some(SuspendRate {
                mean,
                count: rate.count,
                node,
                at: now,
            });
        });
    }

    /// Forgets refusals that are old. What a site was told by its pilots is asked again.
    pub(crate) fn forget_refusals(&mut self, now: Timestamp) {
        self.forget_costs(now);
        let after = self.config().provision.refused_for;
        let old: Vec<_> = (self.tables.sites.values())
            .filter(|s| {
                let rate = s.suspend_rate.iter().map(|r| r.at);
                (s.refusals.iter().map(|r| r.at).chain(rate)).any(|at| at + after <= now)
            })
            .map(|s| s.name.clone())
            .collect();
        for name in old {
            self.tables.edit_site(&name, |s| {
                s.refusals.retain(|r| r.at + after > now);
                s.suspend_rate.take_if(|r| r.at + after <= now);
            });
        }
    }
}
