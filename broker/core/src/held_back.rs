//! Why no pilot is being submitted at a site, for every cause there is, and the one plain sentence
//! for each.

use protocol::codes::{Reason, ReasonCode};
use protocol::time::{Span, Timestamp};

use crate::config::SiteConfig;
use crate::provision::{Counts, serve, wanted};
use crate::records::{PilotRecord, SubmitProgress};
use crate::state::Broker;
use crate::words::{count, hour};

/// The LRM's silence matters after so long.
const SILENT: Span = Span::from_secs(120);
/// A submit without an answer holds others back for so long at most; it counts against the limits
/// for as long as it is open.
const UNANSWERED: Span = Span::from_mins(15);

/// Why no pilot is being submitted at a site right now.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum HeldBack {
    /// By configuration.
    Disabled,
    /// There is no LRM: pilots are started by hand.
    NoLrm,
    /// It is being drained.
    Draining(Reason),
    /// It waits for an administrator.
    Paused(Reason),
    /// After failed submits.
    BackOff { failures: u32, until: Timestamp },
    /// After pilots that were of no use.
    Fruitless {
        pilots: u32,
        until: Timestamp,
        declined: Option<String>,
    },
    /// The LRM gave no answer to submits: what became of them is being found out.
    Unanswered { submits: u32, since: Timestamp },
    /// The LRM gives no answers.
    Silent { since: Timestamp },
    /// Nothing waits, or nothing that fits there.
    NoDemand { why: Option<String> },
    /// Those that are there are enough.
    Enough { coming: u32 },
    /// So many wait in the LRM, which is the limit.
    QueuedLimit { queued: u32 },
    /// So many run or may start, which is the limit.
    RunningLimit { running: u32, queued: u32 },
    /// So many are there, which is what is left of the limits after we have hurt the site.
    Courtesy { pilots: u32, harm: String },
}

impl HeldBack {
    /// The sentence after "no pilot submitted: ".
    pub(crate) fn words(&self, now: Timestamp) -> String {
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
            Self::Fruitless {
                pilots,
                until,
                declined,
            } => {
                let why = match declined {
                    Some(why) => format!(" (the last one declined: {why})"),
                    None => String::new(),
                };
                format!(
                    "back-off after {} in a row in which nothing ran{why}, next try {}",
                    count(*pilots, "pilot"),
                    hour(*until, now)
                )
            }
            Self::Unanswered { submits, since } => format!(
                "the LRM gave no answer to {} at {}, which is looked up before another is made",
                count(*submits, "submit"),
                hour(*since, now)
            ),
            Self::Silent { since } => {
                format!("the LRM gives no answer since {}", hour(*since, now))
            }
            Self::NoDemand { why: None } => "no request waits".to_owned(),
            Self::NoDemand { why: Some(why) } => {
                format!("no request that waits fits this site's slots: {why}")
            }
            Self::Enough { coming } => format!(
                "{} queued, starting or idle, enough for what waits",
                count(*coming, "pilot")
            ),
            Self::QueuedLimit { .. } | Self::RunningLimit { .. } | Self::Courtesy { .. } => {
                self.limit("").unwrap_or_default()
            }
        }
    }

    /// The sentence about a limit, with the pilots' place in it.
    pub(crate) fn limit(&self, place: &str) -> Option<String> {
        match self {
            Self::QueuedLimit { queued } => Some(format!(
                "{} queued{place}, limit reached",
                count(*queued, "pilot")
            )),
            Self::RunningLimit { running, queued: 0 } => Some(format!(
                "{} running{place}, limit reached",
                count(*running, "pilot")
            )),
            Self::RunningLimit { running, queued } => Some(format!(
                "{} running and {queued} queued{place}, limit reached",
                count(*running, "pilot")
            )),
            Self::Courtesy { pilots, harm } => Some(format!(
                "{} queued or running{place}, as many as we deserve after what we cost it ({harm}); more after slots that do no harm",
                count(*pilots, "pilot")
            )),
            Self::Disabled
            | Self::NoLrm
            | Self::Draining(_)
            | Self::Paused(_)
            | Self::BackOff { .. }
            | Self::Fruitless { .. }
            | Self::Unanswered { .. }
            | Self::Silent { .. }
            | Self::NoDemand { .. }
            | Self::Enough { .. } => None,
        }
    }

    /// True when a pilot would be of use, or somebody should look: a site where nothing waits, or
    /// enough pilots are on their way, is well and not held back.
    fn holds(&self) -> bool {
        match self {
            Self::NoDemand { .. } | Self::Enough { .. } | Self::NoLrm => false,
            Self::Disabled
            | Self::Draining(_)
            | Self::Paused(_)
            | Self::BackOff { .. }
            | Self::Fruitless { .. }
            | Self::Unanswered { .. }
            | Self::Silent { .. }
            | Self::QueuedLimit { .. }
            | Self::RunningLimit { .. }
            | Self::Courtesy { .. } => true,
        }
    }

    fn code(&self) -> ReasonCode {
        match self {
            Self::Draining(reason) | Self::Paused(reason) => reason.code,
            Self::BackOff { .. } => ReasonCode::SubmitRefused,
            Self::Fruitless { .. } => ReasonCode::Fruitless,
            Self::Courtesy { .. } => ReasonCode::Courtesy,
            Self::Disabled
            | Self::NoLrm
            | Self::Unanswered { .. }
            | Self::Silent { .. }
            | Self::NoDemand { .. }
            | Self::Enough { .. }
            | Self::QueuedLimit { .. }
            | Self::RunningLimit { .. } => ReasonCode::Other,
        }
    }
}

fn is_unanswered(p: &PilotRecord) -> bool {
    p.state == protocol::api::PilotState::Submitting
        && matches!(p.submit, SubmitProgress::LookingUp { .. })
}

impl Broker {
    /// Why pilots that would be of use are not submitted; none at a site that is well.
    pub(crate) fn held_back_reason(&self, now: Timestamp, site: &SiteConfig) -> Option<Reason> {
        self.held_back(now, site)
            .filter(HeldBack::holds)
            .map(|h| Reason::new(h.code(), h.words(now)))
    }

    /// One sentence on why pilots are, or are not, submitted.
    pub(crate) fn why(&self, now: Timestamp, site: &SiteConfig) -> String {
        match self.held_back(now, site) {
            Some(why) => format!("no pilot submitted: {}", why.words(now)),
            None => "pilots are being submitted for the requests that wait".to_owned(),
        }
    }

    /// Why a site gets no pilots, whatever the demand.
    pub(crate) fn barred(&self, now: Timestamp, site: &SiteConfig) -> Option<HeldBack> {
        if site.lrm.is_none() {
            return Some(HeldBack::NoLrm);
        }
        if !site.enabled {
            return Some(HeldBack::Disabled);
        }
        let known = self.tables.sites.get(&site.name)?;
        if let Some(reason) = &known.draining {
            return Some(HeldBack::Draining(reason.clone()));
        }
        if let Some(reason) = &known.paused {
            return Some(HeldBack::Paused(reason.clone()));
        }
        if let Some(until) = known.not_before.filter(|at| *at > now) {
            let failures = known.submit_failures;
            return Some(HeldBack::BackOff { failures, until });
        }
        if let Some(until) = known.fruitless_until.filter(|at| *at > now) {
            return Some(HeldBack::Fruitless {
                pilots: known.fruitless,
                until,
                declined: known.last_decline.clone(),
            });
        }
        let unanswered = || (self.tables.spare(&site.name)).filter(|p| is_unanswered(p));
        if let Some(since) = unanswered().map(|p| p.created).min()
            && now.since(since) < UNANSWERED
        {
            let submits = u32::try_from(unanswered().count()).unwrap_or(u32::MAX);
            return Some(HeldBack::Unanswered { submits, since });
        }
        (known.silent_since)
            .filter(|since| now.since(*since) >= SILENT)
            .map(|since| HeldBack::Silent { since })
    }

    /// How many more pilot jobs the site's limits leave room for, and what we deserve of them.
    pub(crate) fn room(&self, c: Counts, site: &SiteConfig) -> Result<u32, HeldBack> {
        let all = c.queued + c.running;
        let left = |queued: u32, running: u32| {
            (queued.saturating_sub(c.queued)).min(running.saturating_sub(all))
        };
        if site.max_queued <= c.queued {
            return Err(HeldBack::QueuedLimit { queued: c.queued });
        }
        if site.max_running <= all {
            return Err(HeldBack::RunningLimit {
                running: c.running,
                queued: c.queued,
            });
        }
        let Some(known) = self.tables.sites.get(&site.name) else {
            return Ok(left(site.max_queued, site.max_running));
        };
        let deserved = |limit| known.courtesy.deserved(limit);
        match left(deserved(site.max_queued), deserved(site.max_running)) {
            0 => Err(HeldBack::Courtesy {
                pilots: all,
                harm: (known.courtesy.last_harm.as_ref())
                    .map_or_else(String::new, |(_, text)| text.clone()),
            }),
            room => Ok(room),
        }
    }

    /// Why no pilot is submitted at this site now; none when one would be.
    pub(crate) fn held_back(&self, now: Timestamp, site: &SiteConfig) -> Option<HeldBack> {
        if let Some(why) = self.barred(now, site) {
            return Some(why);
        }
        let all = self.needs();
        if wanted(&all, &self.ground(site)) <= 0.0 {
            let why = self.why_none_fits(now, site);
            return Some(HeldBack::NoDemand { why });
        }
        let c = self.counts(now, site);
        let (mut needs, _) = self.unserved(now);
        for earlier in self.in_order(now) {
            if earlier.name == site.name {
                break;
            }
            if self.barred(now, earlier).is_none()
                && let Ok(room) = self.room(self.counts(now, earlier), earlier)
            {
                let slots = f64::from(room) * f64::from(earlier.nodes);
                serve(&mut needs, &self.ground(earlier), slots);
            }
        }
        if self.more(&needs, site, c) == 0 {
            return Some(HeldBack::Enough {
                coming: c.coming + c.idle,
            });
        }
        self.room(c, site).err()
    }
}
