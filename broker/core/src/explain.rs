//! Why something is as it is, in sentences, most important first.

use protocol::api::Explanation;
use protocol::ids::{SiteName, WorkspaceId};
use protocol::notice;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{OnEviction, WorkspaceState};

use crate::config::SiteConfig;
use crate::event::Caller;
use crate::fit::{Ground, Misfit};
use crate::held_back::HeldBack;
use crate::queue::{ClassKey, need};
use crate::records::{Hold, LeaseRecord, Refused, SiteRecord, WorkspaceRecord};
use crate::state::Broker;
use crate::words::{self, count, hour, length};

impl Broker {
    /// Why pilots are, or are not, submitted at a site.
    pub fn explain_site(&self, now: Timestamp, name: &SiteName) -> Option<Explanation> {
        let site = self.site_config(name)?;
        let known = self.tables.site(name);
        let counts = self.counts(now, site);
        let mut sentences = vec![self.why(now, site)];
        sentences.push(format!(
            "{} queued of at most {}, {} running of at most {}",
            count(counts.queued, "pilot job"),
            site.max_queued,
            counts.running,
            site.max_running
        ));
        if site.nodes > 1 {
            sentences.push(format!(
                "each pilot job is of {} nodes, with a pilot on each, and counts once",
                site.nodes
            ));
        }
        if let Some(words) = &known.last_failure {
            sentences.push(format!("the LRM's last words at a failed submit: {words}"));
        }
        if let Some(since) = known.silent_since {
            let since = hour(since, now);
            sentences.push(format!("the LRM has not answered a listing since {since}"));
        }
        for (node, trouble) in &known.nodes {
            if let Some(until) = trouble.avoid_until.filter(|at| *at > now) {
                sentences.push(format!(
                    "node {node} gets no guests until {}, and submits ask for other nodes where the LRM lets them: {} in a row on it",
                    hour(until, now),
                    count(trouble.failures, "failure")
                ));
            }
        }
        if let Some(rate) = &known.suspend_rate {
            sentences.push(format!(
                "a pilot on node {} measured {} in suspends, told at {}",
                rate.node,
                words::per_second(rate.mean),
                hour(rate.at, now)
            ));
        }
        sentences.extend(self.costs_told(now, site));
        if let Some(wait) = known.queue_time {
            let wait = length(wait);
            sentences.push(format!(
                "a pilot job waits {wait} in the queue, by the last ones"
            ));
        }
        sentences.extend(courtesy(now, &known));
        Some(Explanation { sentences })
    }

    /// Why a workspace is where it is; none when the caller may not see it.
    pub fn explain(&self, now: Timestamp, by: &Caller, id: &WorkspaceId) -> Option<Explanation> {
        let w = (self.tables.workspaces.get(id)).filter(|w| by.may_touch(&w.owner))?;
        let sentences = match (w.state, self.tables.leases.get(id)) {
            (WorkspaceState::Queued, _) => self.why_queued(now, w),
            (_, Some(lease)) => self.why_leased(now, w, lease),
            (state, None) => {
                let mut s = vec![match &w.reason {
                    Some(why) => format!("{state} since {}: {why}", hour(w.since, now)),
                    None => format!("{state} since {}", hour(w.since, now)),
                }];
                if state == WorkspaceState::Suspended {
                    s.push("it stays out of the queue until it is resumed".to_owned());
                }
                s.extend(saved(now, w));
                s
            }
        };
        Some(Explanation { sentences })
    }

    fn why_queued(&self, now: Timestamp, w: &WorkspaceRecord) -> Vec<String> {
        let class = ClassKey::of(w);
        let able: Vec<&SiteConfig> = (self.config().sites.iter())
            .filter(|s| self.ground(s).fits(&class, need(w)))
            .collect();
        let mut sentences = Vec::new();
        if able.is_empty() {
            sentences.push(self.never_fits(now, w));
        } else if let Some(key) = self.taker(now, w) {
            sentences.push(format!(
                "slot {key} can take it and is offered it at its pilot's next sync"
            ));
        } else {
            let least = (able.iter())
                .map(|s| least_stay(w, self.worth(Some(s))))
                .min()
                .unwrap_or(Span::ZERO);
            let slot = if least.is_zero() {
                format!("no slot with {}", words::need(&w.spec.resources))
            } else {
                format!(
                    "no slot with {} for {}",
                    words::need(&w.spec.resources),
                    length(least)
                )
            };
            let sites: Vec<String> = (able.iter()).map(|s| self.supply(now, s)).collect();
            sentences.push(format!("{slot}; {}", sites.join("; ")));
        }
        let ahead = self.ahead_of(w);
        if ahead > 0 {
            let ahead = count(ahead, "request");
            sentences.push(format!("{ahead} of the same kind came before it"));
        }
        if w.last_lease.is_some()
            && let Some(why) = &w.reason
        {
            sentences.push(format!(
                "back in the queue since {}: {why}",
                hour(w.since, now)
            ));
        }
        sentences.extend(saved(now, w));
        sentences
    }

    /// A site's pilots, as far as they matter to who waits for one.
    fn supply(&self, now: Timestamp, site: &SiteConfig) -> String {
        let name = &site.name;
        let avoided: Vec<String> = (self.tables.site(name).nodes.into_iter())
            .filter_map(|(node, t)| Some((node, t.avoid_until.filter(|at| *at > now)?)))
            .map(|(node, until)| {
                let until = hour(until, now);
                format!(" (node {node} gets no guests until {until})")
            })
            .collect();
        let supply = match self.held_back(now, site) {
            Some(HeldBack::Enough { coming }) => format!(
                "{} queued, starting or idle at site {name}",
                count(coming, "pilot")
            ),
            Some(why) => match why.limit(&format!(" at site {name}")) {
                Some(limit) => limit,
                None => format!("no pilot submitted at site {name}: {}", why.words(now)),
            },
            None => format!("a pilot is about to be submitted at site {name}"),
        };
        supply + &avoided.concat()
    }

    /// Why none of the requests that wait fits a site's slots: what stops most of them. None when
    /// nothing waits.
    pub(crate) fn why_none_fits(&self, now: Timestamp, site: &SiteConfig) -> Option<String> {
        let ground = self.ground(site);
        let misfit = |(key, class): &(&ClassKey, &crate::queue::Class)| {
            let longest = class.needs.first().map_or(Span::ZERO, |(need, _)| *need);
            let why = ground.misfit(key, longest)?;
            Some((class.needs.len(), why, (*key).clone(), longest))
        };
        let (_, why, class, shortest) = (self.tables.queue.classes.iter())
            .filter_map(|c| misfit(&c))
            .max_by_key(|(count, _, _, _)| *count)?;
        Some(self.misfit_words(now, site, why, &class, shortest))
    }

    /// What is wrong with a site's slots for such a request, and what to do.
    fn misfit_words(
        &self,
        now: Timestamp,
        site: &SiteConfig,
        why: Misfit,
        class: &ClassKey,
        least: Span,
    ) -> String {
        let (need, ground) = (class.resources(), self.ground(site));
        let memory = words::memory(need.memory_mib);
        let again = |cause: fn(&Refused) -> bool| {
            let known = self.tables.sites.get(&site.name);
            let refusal = known.and_then(|s| s.refusals.iter().find(|r| cause(&r.what)));
            refusal.map_or_else(String::new, |r| {
                let until = r.at + self.config().provision.refused_for;
                format!(
                    "{}; it is tried again at {}, or when the site's notice, margin or slot is changed in the configuration",
                    r.text,
                    hour(until, now)
                )
            })
        };
        match why {
            Misfit::Elsewhere => match &class.site {
                Some(other) => format!("the state of what waits lies at site {other}"),
                None => "its state lies elsewhere".to_owned(),
            },
            Misfit::Room => {
                let lacks = site.slot.shortfall(&need).unwrap_or_default();
                format!("it needs {lacks}")
            }
            Misfit::GivenRoom => again(|r| matches!(r, Refused::Room { .. })),
            Misfit::Time => format!(
                "it needs {} in one slot, and the longest gives {}",
                length(least),
                length(ground.usable)
            ),
            Misfit::Notice => format!(
                "the notice of {} is too short to suspend {memory}, which needs {}{}; ask the site for a longer notice, or let the request have checkpoints (`checkpoint_every`) or be killed (`may_be_killed`)",
                site.notice,
                length(notice::least_for(
                    site.margin,
                    need.memory_mib,
                    &ground.budget
                )),
                self.at_what_rate(now, &ground)
            ),
            Misfit::DeclinedForNotice => {
                format!(
                    "its pilots decline a request of {memory}: {}",
                    again(|r| matches!(r, Refused::Notice { .. }))
                )
            }
        }
    }

    /// Where a rate of suspends comes from that is lower than what is supposed without one.
    fn at_what_rate(&self, now: Timestamp, ground: &Ground<'_>) -> String {
        let known = self.tables.sites.get(&ground.site.name);
        if let Some(latest) = self.tables.costs_at(&ground.site.name).first() {
            return format!(
                " by what suspends have cost there (on node {} the last, {})",
                latest.node,
                hour(latest.at, now)
            );
        }
        match known.and_then(|s| s.suspend_rate.as_ref()) {
            Some(rate) if ground.budget_known => format!(
                " at the {} that were measured there (node {}, {}); that is forgotten at {}",
                words::per_second(rate.mean),
                rate.node,
                hour(rate.at, now),
                hour(rate.at + self.config().provision.refused_for, now)
            ),
            Some(_) | None => String::new(),
        }
    }

    fn never_fits(&self, now: Timestamp, w: &WorkspaceRecord) -> String {
        let class = ClassKey::of(w);
        let told = (self.config().sites.iter()).find_map(|site| {
            let why = self.ground(site).misfit(&class, need(w))?;
            match why {
                Misfit::Notice | Misfit::DeclinedForNotice | Misfit::GivenRoom => {
                    let words = self.misfit_words(now, site, why, &class, need(w));
                    Some(format!(
                        "no site can take it; at site {}, {words}",
                        site.name
                    ))
                }
                Misfit::Elsewhere | Misfit::Room | Misfit::Time => None,
            }
        });
        if let Some(told) = told {
            return told;
        }
        let res = &w.spec.resources;
        let sites = &self.config().sites;
        let Some(site) = sites.first() else {
            return "no site is configured".to_owned();
        };
        if let Some(saved) = &w.saved
            && sites.iter().all(|s| s.name != saved.site)
        {
            return format!(
                "its state lies at site {}, which is not configured any more",
                saved.site
            );
        }
        let roomy: Vec<_> = sites.iter().filter(|s| s.slot.holds(res)).collect();
        if let Some(saved) = &w.saved
            && roomy.iter().all(|s| s.name != saved.site)
        {
            return format!(
                "its state lies at site {}, whose slots are too small for it",
                saved.site
            );
        }
        if let Some(site) = roomy.into_iter().max_by_key(|s| self.ground(s).usable) {
            let least = least_stay(w, self.worth(Some(site)));
            let why = match w.spec.policy.on_eviction {
                OnEviction::Suspend => format!(
                    "to be worth {} of boot, resume and suspend",
                    length(site.overhead)
                ),
                OnEviction::Restart | OnEviction::Fail => {
                    "because its policy does not let it be suspended".to_owned()
                }
            };
            return format!(
                "no site has slots long enough: it needs {} in one slot, {why}, and the longest slot, at site {}, gives {}",
                length(least),
                site.name,
                length(self.ground(site).usable)
            );
        }
        let nearest = (sites.iter())
            .max_by_key(|s| (s.slot.memory_mib, s.slot.cores))
            .unwrap_or(site);
        let lacks = (nearest.slot.shortfall(res)).unwrap_or_default();
        format!(
            "no site has slots with {} for it: it needs {lacks} at site {}, whose slots are the largest",
            words::need(res),
            nearest.name
        )
    }

    /// An open slot that could take it now.
    fn taker(&self, now: Timestamp, w: &WorkspaceRecord) -> Option<protocol::ids::SubmitKey> {
        (self.config().sites.iter())
            .flat_map(|s| self.tables.live(&s.name))
            .find(|p| self.offer(now, p).is_some_and(|o| self.suits(now, w, &o)))
            .map(|p| p.key.clone())
    }

    fn ahead_of(&self, w: &WorkspaceRecord) -> u32 {
        let class = self.tables.queue.classes.get(&ClassKey::of(w));
        let ahead = class.map_or(0, |c| {
            (c.owners.values())
                .map(|numbers| numbers.range(..w.number).count())
                .sum()
        });
        u32::try_from(ahead).unwrap_or(u32::MAX)
    }

    fn why_leased(&self, now: Timestamp, w: &WorkspaceRecord, lease: &LeaseRecord) -> Vec<String> {
        let mut sentences = vec![format!(
            "{} since {} in slot {} on node {} under lease {}; {} of {} run time done",
            w.state,
            hour(w.since, now),
            lease.slot,
            lease.node,
            lease.generation,
            lease.run.max(w.run),
            w.spec.run_time
        )];
        let until = hour(lease.expiry + self.config().lease_margin, now);
        let heard = (self.tables.pilots.get(&lease.slot))
            .and_then(|p| p.slot.as_ref())
            .map(|s| s.heard);
        match (&lease.hold, heard) {
            (Hold::Orphaned { why }, _) => sentences.push(format!(
                "{why}; it goes back to the queue when the old lease is over, at {until}"
            )),
            (Hold::Held, Some(heard)) if now.since(heard) > self.hold().times(2) => {
                sentences.push(format!(
                    "its pilot was not heard since {}; the lease is over at {until} unless it is heard",
                    hour(heard, now)
                ));
            }
            (Hold::Held, _) => {}
        }
        match &w.wish {
            crate::records::Wish::Run => {}
            crate::records::Wish::Pause => sentences.push("it is to be paused".to_owned()),
            crate::records::Wish::Suspend { reason } | crate::records::Wish::Cancel { reason } => {
                sentences.push(format!("it is to be {reason}"));
            }
        }
        sentences.extend(saved(now, w));
        sentences
    }
}

/// Least guest time in one slot that is any use to it.
fn least_stay(w: &WorkspaceRecord, worth: Span) -> Span {
    match w.spec.policy.on_eviction {
        OnEviction::Suspend => need(w).min(worth),
        OnEviction::Restart | OnEviction::Fail => need(w),
    }
}

fn saved(now: Timestamp, w: &WorkspaceRecord) -> Option<String> {
    let s = w.saved.as_ref()?;
    Some(format!(
        "its last state is of {}, holds {} of run time and lies at site {}: only slots there can resume it",
        hour(s.at, now),
        s.run,
        s.site
    ))
}

/// What our pilots have cost the site, when there is something to tell.
fn courtesy(now: Timestamp, known: &SiteRecord) -> Vec<String> {
    let (c, mut said) = (&known.courtesy, Vec::new());
    if c.slots > 0 {
        let mut text = format!(
            "of {}, {} overran by {} in all; {} left on nodes",
            count(c.slots, "finished slot"),
            c.overruns,
            known.overrun,
            count(c.leftovers, "thing")
        );
        if c.signalled > 0 {
            let mean = Span::from_millis(c.notice_used.as_millis() / u64::from(c.signalled));
            text += &format!(
                "; {} asked to leave early, gone after {mean} on average and {} at most",
                count(c.signalled, "pilot"),
                c.longest_notice_used
            );
        }
        said.push(text);
    }
    if c.owed > 0
        && let Some((at, harm)) = &c.last_harm
    {
        said.push(format!(
            "the limits are halved {} until slots in a row do no harm: at {} {harm}",
            count(c.owed, "time"),
            hour(*at, now)
        ));
    }
    said
}
