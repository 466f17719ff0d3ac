//! Why something is as it is, in sentences, most important first.

use protocol::api::Explanation;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{SiteName, WorkspaceId};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{OnEviction, WorkspaceState};

use crate::config::SiteConfig;
use crate::event::Caller;
use crate::provision::HeldBack;
use crate::queue::{ClassKey, need};
use crate::records::{Hold, LeaseRecord, WorkspaceRecord};
use crate::state::Broker;
use crate::words::{self, count, hour, length};

impl HeldBack {
    /// The sentence after "no pilot submitted: ".
    fn words(&self, now: Timestamp) -> String {
        match self {
            Self::Disabled => "the site is disabled in the configuration".to_owned(),
            Self::NoLrm => "the site has no LRM; its pilots are started by hand".to_owned(),
            Self::Draining(reason) => reason.text.clone(),
            Self::Paused(reason) => {
                format!("paused, {}; end the pause with `undrain`", reason.text)
            }
            Self::BackOff { failures, until } => format!(
                "back-off after {}, next try {}",
                count(*failures, "submit failure"),
                hour(*until, now)
            ),
            Self::Silent { since } => {
                format!("the LRM gives no answer since {}", hour(*since, now))
            }
            Self::NoDemand { waiting: 0 } => "no request waits".to_owned(),
            Self::NoDemand { .. } => "no request that waits fits this site's slots".to_owned(),
            Self::Enough { coming } => format!(
                "{} queued, starting or idle, enough for what waits",
                count(*coming, "pilot")
            ),
            Self::QueuedLimit { queued } => {
                format!("{} queued, limit reached", count(*queued, "pilot"))
            }
            Self::RunningLimit { running, queued: 0 } => {
                format!("{} running, limit reached", count(*running, "pilot"))
            }
            Self::RunningLimit { running, queued } => format!(
                "{} running and {queued} queued, limit reached",
                count(*running, "pilot")
            ),
        }
    }

    fn code(&self) -> ReasonCode {
        match self {
            Self::Draining(reason) | Self::Paused(reason) => reason.code,
            Self::BackOff { .. } => ReasonCode::SubmitRefused,
            Self::Disabled
            | Self::NoLrm
            | Self::Silent { .. }
            | Self::NoDemand { .. }
            | Self::Enough { .. }
            | Self::QueuedLimit { .. }
            | Self::RunningLimit { .. } => ReasonCode::Other,
        }
    }
}

impl Broker {
    pub(crate) fn held_back_reason(&self, now: Timestamp, site: &SiteConfig) -> Option<Reason> {
        self.held_back(now, site)
            .map(|h| Reason::new(h.code(), h.words(now)))
    }

    /// Why pilots are, or are not, submitted at a site.
    pub fn explain_site(&self, now: Timestamp, name: &SiteName) -> Option<Explanation> {
        let site = self.site_config(name)?;
        let known = self.tables.site(name);
        let counts = self.counts(now, site);
        let mut sentences = vec![match self.held_back(now, site) {
            Some(why) => format!("no pilot submitted: {}", why.words(now)),
            None => "pilots are being submitted for the requests that wait".to_owned(),
        }];
        sentences.push(format!(
            "{} queued of at most {}, {} running of at most {}",
            count(counts.queued, "pilot job"),
            site.max_queued,
            counts.running,
            site.max_running
        ));
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
                    "node {node} gets no guests until {}: {} failed on it in a row",
                    hour(until, now),
                    count(trouble.failures, "guest")
                ));
            }
        }
        if !known.overrun.is_zero() {
            let overrun = known.overrun;
            sentences.push(format!(
                "our pilots overran their slots by {overrun} in all"
            ));
        }
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
            sentences.push(self.never_fits(w));
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
        match self.held_back(now, site) {
            Some(HeldBack::QueuedLimit { queued }) => format!(
                "{} queued at site {name}, limit reached",
                count(queued, "pilot")
            ),
            Some(HeldBack::RunningLimit { running, queued }) if queued > 0 => format!(
                "{} running and {queued} queued at site {name}, limit reached",
                count(running, "pilot")
            ),
            Some(HeldBack::RunningLimit { running, .. }) => format!(
                "{} running at site {name}, limit reached",
                count(running, "pilot")
            ),
            Some(HeldBack::Enough { coming }) => format!(
                "{} queued, starting or idle at site {name}",
                count(coming, "pilot")
            ),
            Some(
                why @ (HeldBack::Disabled
                | HeldBack::NoLrm
                | HeldBack::Draining(_)
                | HeldBack::Paused(_)
                | HeldBack::BackOff { .. }
                | HeldBack::Silent { .. }
                | HeldBack::NoDemand { .. }),
            ) => format!("no pilot submitted at site {name}: {}", why.words(now)),
            None => format!("a pilot is about to be submitted at site {name}"),
        }
    }

    fn never_fits(&self, w: &WorkspaceRecord) -> String {
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
