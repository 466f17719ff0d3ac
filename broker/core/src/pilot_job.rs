//! The life of a pilot job, by the LRM's words.
//!
//! ```text
//! submitting -> queued -> started -> active <-> lost
//!      \___________\_________\__________\________\--> ended
//! ```
//! Only a plain "ended" of the LRM, the pilot's goodbye, or the passing of the last moment at
//! which the job could still run ends it. A job that ended by a presumption is taken in again
//! when it speaks or is seen. No word of the LRM shortens a lease.

use std::collections::BTreeMap;

use protocol::api::PilotState;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{LrmJobId, SiteName, SubmitKey};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, ObservedJob, SubmitAnswer};
use protocol::time::{Span, Timestamp};

use crate::effect::Reply;
use crate::records::{CancelProgress, Log, PilotRecord, SubmitProgress};
use crate::state::Broker;
use crate::tables::Note;
use crate::words::job_end;

impl Broker {
    pub(crate) fn lrm_submitted(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        answer: SubmitAnswer,
    ) -> Reply {
        let Some(p) = self.tables.pilots.get(key) else {
            return Reply::None;
        };
        let waiting = p.submit != SubmitProgress::Known;
        match answer {
            SubmitAnswer::Accepted(job) => self.known(now, key, Some(job)),
            SubmitAnswer::Refused(words) if waiting => {
                let text = format!("the LRM refused it: {words}");
                self.end_pilot(now, key, Reason::new(ReasonCode::SubmitRefused, text));
                self.submit_failed(now, key, words);
            }
            SubmitAnswer::NoAnswer(words) if p.submit == SubmitProgress::Asked => {
                let text = format!("the LRM gave no answer to the submit: {words}");
                self.tables.edit_pilot(key, |p| {
                    p.reason = Some(Reason::new(ReasonCode::Other, text.clone()));
                    p.submit = looking_up(now);
                });
                self.note_pilot(now, key, "submit_unanswered", text);
                self.pilot_is_due(now, key);
            }
            SubmitAnswer::Refused(_) | SubmitAnswer::NoAnswer(_) => {}
        }
        self.provision(now);
        Reply::None
    }

    pub(crate) fn lrm_found(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        observation: Observation,
    ) -> Reply {
        let Observation::Listing(jobs) = observation else {
            return Reply::None;
        };
        let Some(p) = self.tables.pilots.get(key) else {
            return Reply::None;
        };
        let found = jobs.into_iter().find(|j| match &j.key {
            Some(k) => k == key,
            None => Some(&j.id) == p.job.as_ref(),
        });
        match found {
            Some(job) => self.observed(now, key, &job),
            None => self.absent(now, key),
        }
        self.provision(now);
        Reply::None
    }

    pub(crate) fn lrm_observed(
        &mut self,
        now: Timestamp,
        site: &SiteName,
        observation: Observation,
    ) -> Reply {
        let jobs = match observation {
            Observation::Listing(jobs) => jobs,
            Observation::NoAnswer(_) => {
                self.tables.edit_site(site, |s| {
                    s.silent_since = s.silent_since.or(Some(now));
                });
                return Reply::None;
            }
        };
        self.tables.edit_site(site, |s| {
            s.silent_since = None;
            s.last_listing = Some(now);
        });
        let by_id: BTreeMap<LrmJobId, SubmitKey> = (self.tables.live(site))
            .filter(|p| p.member_of.is_none())
            .filter_map(|p| Some((p.job.clone()?, p.key.clone())))
            .collect();
        let mut seen = std::collections::BTreeSet::new();
        for job in &jobs {
            let key = match &job.key {
                Some(key) => Some(key),
                None => by_id.get(&job.id),
            };
            let Some(key) = key.cloned() else { continue };
            if self
                .tables
                .pilots
                .get(&key)
                .is_some_and(|p| p.site == *site)
            {
                self.observed(now, &key, job);
                seen.insert(key);
            }
        }
        let missing: Vec<_> = (self.tables.live(site))
            .filter(|p| !p.by_hand && p.member_of.is_none())
            .filter(|p| p.job.is_some() && p.lrm.missing_since.is_none())
            .map(|p| p.key.clone())
            .filter(|key| !seen.contains(key))
            .collect();
        for key in missing {
            self.tables
                .edit_pilot(&key, |p| p.lrm.missing_since = Some(now));
            self.members_missing(now, &key);
        }
        self.provision(now);
        Reply::None
    }

    pub(crate) fn lrm_cancelled(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        answer: CancelAnswer,
    ) -> Reply {
        let taken = match answer {
            // That the LRM does not know the job is no proof that its processes are gone; the
            // pilot job is closed by time, as any that is missing from the listings.
            CancelAnswer::Taken | CancelAnswer::NoSuchJob => true,
            CancelAnswer::Started => {
                self.keep_started(now, key);
                return Reply::None;
            }
            CancelAnswer::Refused(words) | CancelAnswer::NoAnswer(words) => {
                self.note_pilot(now, key, "cancel_failed", format!("not cancelled: {words}"));
                false
            }
        };
        self.tables.edit_pilot(key, |p| {
            if let CancelProgress::Wanted { reason, .. } = &p.cancel
                && taken
            {
                p.cancel = CancelProgress::Taken {
                    reason: reason.clone(),
                };
            }
        });
        // One that has come meanwhile is told to leave.
        self.wake.insert(key.clone());
        Reply::None
    }

    /// The LRM has the job.
    fn known(&mut self, now: Timestamp, key: &SubmitKey, job: Option<LrmJobId>) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let (site, first) = (p.site.clone(), p.submit != SubmitProgress::Known);
        let revived = p.state == PilotState::Ended && first;
        let text = match &job {
            Some(job) => format!("the LRM has it as job {job}"),
            None => "the LRM has it".to_owned(),
        };
        // A listing says so of every job each time: what is known is not written again.
        let new = first || p.job.is_none() || p.state == PilotState::Submitting;
        if new {
            self.tables.edit_pilot(key, |p| {
                p.submit = SubmitProgress::Known;
                if p.job.is_none() {
                    p.job = job;
                }
                if p.state == PilotState::Submitting || revived {
                    p.state = PilotState::Queued;
                    p.since = now;
                    p.reason = None;
                }
            });
        }
        if first {
            self.note_pilot(now, key, "submitted", text);
            self.tables.edit_site(&site, |s| {
                s.submit_failures = 0;
                s.not_before = None;
                s.last_failure = None;
            });
        }
        self.pilot_is_due(now, key);
    }

    /// A look-up that could be read does not have the job.
    fn absent(&mut self, now: Timestamp, key: &SubmitKey) {
        let policy = self.config().provision.clone();
        let mut lost = false;
        self.tables.edit_pilot(key, |p| {
            if let SubmitProgress::LookingUp {
                absent,
                absent_since,
                ..
            } = &mut p.submit
            {
                *absent += 1;
                let since = *absent_since.get_or_insert(now);
                lost = *absent >= policy.absent_listings
                    && now.since(since) >= policy.absent_for
                    && p.state == PilotState::Submitting;
            }
        });
        if lost {
            let text = "the submit was lost: the LRM gave no answer and does not have it";
            let reason = Reason::new(ReasonCode::SubmitRefused, text);
            self.end_pilot(now, key, reason);
            self.submit_failed(now, key, "no answer, and no job".to_owned());
        }
    }

    /// The LRM's word on a job of ours.
    fn observed(&mut self, now: Timestamp, key: &SubmitKey, job: &ObservedJob) {
        self.known(now, key, Some(job.id.clone()));
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let mut lrm = p.lrm.clone();
        let restarted = job.restarts > lrm.restarts;
        let new_end = job.end.is_some() && job.end != lrm.end;
        lrm.state = Some(job.state.clone());
        lrm.detail.clone_from(&job.detail);
        lrm.start = job.start.or(lrm.start);
        lrm.end = job.end.or(lrm.end);
        lrm.node = job.node.clone().or(lrm.node);
        lrm.restarts = job.restarts.max(lrm.restarts);
        lrm.missing_since = None;
        if lrm != p.lrm {
            lrm.seen = Some(now);
            self.tables.edit_pilot(key, |p| p.lrm = lrm);
        }
        match &job.state {
            JobState::Queued => self.seen_waiting(now, key),
            JobState::Held => self.seen_held(now, key, &job.detail),
            JobState::Running | JobState::Suspended | JobState::Ending => {
                self.seen_running(now, key, restarted);
            }
            JobState::Unknown(_) => {}
            JobState::Ended(end) => self.seen_ended(now, key, end),
        }
        if new_end {
            self.wake.insert(key.clone());
        }
        self.members_observed(now, key, job, (restarted, new_end));
    }

    fn seen_waiting(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let requeued = match p.state {
            PilotState::Submitting | PilotState::Queued => false,
            PilotState::Started | PilotState::Lost => true,
            PilotState::Active => false,
            // Whatever ended it, it waits now, so that it can start again.
            PilotState::Ended => true,
        };
        if requeued {
            self.note_pilot(
                now,
                key,
                "requeued",
                "the LRM has queued it again".to_owned(),
            );
            self.set_pilot(now, key, PilotState::Queued, None);
        }
    }

    /// A held job starts only when somebody releases it, and nobody will: it is withdrawn, so
    /// that nothing of ours stays in the LRM. One whose pilot still speaks is left to it.
    fn seen_held(&mut self, now: Timestamp, key: &SubmitKey, detail: &str) {
        self.seen_waiting(now, key);
        let state = self.tables.pilots.get(key).map(|p| p.state);
        if state != Some(PilotState::Active) && !self.tables.has_active_member(key) {
            let text = format!("held by the LRM: {detail}");
            self.withdraw(now, key, Reason::new(ReasonCode::JobEnded, text));
        }
    }

    fn seen_running(&mut self, now: Timestamp, key: &SubmitKey, restarted: bool) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let started = match p.state {
            PilotState::Submitting | PilotState::Queued => true,
            PilotState::Started | PilotState::Active => false,
            PilotState::Lost => restarted,
            PilotState::Ended => restarted || !p.goodbye,
        };
        if started {
            let place = match (&p.lrm.node, p.nodes) {
                (None, _) => String::new(),
                (Some(node), 1) => format!(" on node {node}"),
                (Some(node), nodes) => format!(" on {nodes} nodes, the first {node}"),
            };
            let text = format!("the LRM has started it{place}");
            let revived = p.state == PilotState::Ended && !restarted;
            self.has_started(now, key);
            self.note_pilot(now, key, "started", text);
            self.set_pilot(now, key, PilotState::Started, None);
            if revived {
                self.revive_members(now, key);
            }
        }
    }

    fn seen_ended(&mut self, now: Timestamp, key: &SubmitKey, end: &JobEnd) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        if p.state == PilotState::Ended {
            return;
        }
        let here = self.tables.members(key).count();
        let never_registered = p.slot.is_none() && here == 0;
        let missed = (here > 0 && p.state == PilotState::Started).then(|| self.tables.awaited(p));
        let withdrawn = p.cancel != CancelProgress::No;
        let young = never_registered
            && !withdrawn
            && match end {
                JobEnd::Exited(_) | JobEnd::LaunchFailed | JobEnd::Other(_) => true,
                JobEnd::Cancelled | JobEnd::Walltime | JobEnd::Preempted | JobEnd::NodeLost => {
                    false
                }
            };
        let site = p.site.clone();
        let reason = match &p.cancel {
            CancelProgress::Wanted { reason, .. } | CancelProgress::Taken { reason } => {
                reason.clone()
            }
            CancelProgress::No => {
                let code = if young {
                    ReasonCode::DiedYoung
                } else {
                    ReasonCode::JobEnded
                };
                let before = match missed.filter(|n| *n > 0) {
                    Some(n) => format!(", before {n} of its {} pilots registered", p.nodes),
                    None if never_registered => ", before its pilot registered".to_owned(),
                    None => String::new(),
                };
                let text = format!("ended by the LRM's word: {}{before}", job_end(end));
                Reason::new(code, text)
            }
        };
        self.end_pilot(now, key, reason);
        self.wake.insert(key.clone());
        if young {
            self.died_young(now, &site, key);
        }
    }

    pub(crate) fn look_up_unanswered_submits(&mut self, now: Timestamp) {
        let keys: Vec<_> = (self.tables.pilots.values())
            .filter(|p| p.submit == SubmitProgress::Asked && p.state == PilotState::Submitting)
            .map(|p| p.key.clone())
            .collect();
        for key in keys {
            self.tables.edit_pilot(&key, |p| p.submit = looking_up(now));
            let text = "the broker was restarted while it was being submitted".to_owned();
            self.note_pilot(now, &key, "submit_unanswered", text);
        }
    }

    pub(crate) fn set_pilot(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        state: PilotState,
        reason: Option<Reason>,
    ) {
        self.tables.edit_pilot(key, |p| {
            p.state = state;
            p.since = now;
            p.reason = reason;
            p.closed = false;
        });
    }

    pub(crate) fn end_pilot(&mut self, now: Timestamp, key: &SubmitKey, reason: Reason) {
        self.note_pilot(now, key, "ended", reason.text.clone());
        self.end_members(now, key, &reason);
        self.set_pilot(now, key, PilotState::Ended, Some(reason));
        self.settle_slot(now, key);
        self.settle_job(now, key);
    }

    pub(crate) fn note_pilot(&mut self, now: Timestamp, key: &SubmitKey, kind: &str, text: String) {
        let note = Note::new(now, kind, text);
        self.tables.append(Log::Pilot(key.clone()), note);
    }

    fn submit_failed(&mut self, now: Timestamp, key: &SubmitKey, words: String) {
        let Some(site) = self.tables.pilots.get(key).map(|p| p.site.clone()) else {
            return;
        };
        let policy = self.config().provision.clone();
        self.tables.edit_site(&site, |s| {
            s.submit_failures += 1;
            s.not_before = Some(now + policy.wait(s.submit_failures));
            if s.submit_failures >= policy.pause_after_failures {
                let text = format!("{} submits in a row failed: {words}", s.submit_failures);
                s.paused = Some(Reason::new(ReasonCode::SubmitRefused, text));
            }
            s.last_failure = Some(words);
        });
    }

    fn died_young(&mut self, now: Timestamp, site: &SiteName, key: &SubmitKey) {
        let node = self.tables.pilots.get(key).and_then(|p| p.lrm.node.clone());
        let place =
            (node.as_ref()).map_or_else(String::new, |n| format!(", the last one on node {n}"));
        let policy = &self.config().provision;
        let limit = policy.pause_after_died_young;
        if let Some(node) = node {
            // One node that swallows pilots is avoided before the whole site is paused for it.
            let avoid_after = policy.avoid_node_after.min(limit.saturating_sub(1)).max(1);
            self.node_failed(now, site, &node, avoid_after);
        }
        self.tables.edit_site(site, |s| {
            s.died_young += 1;
            if s.died_young >= limit {
                let text = format!(
                    "{} pilots in a row ended without registering{place}",
                    s.died_young
                );
                s.paused = Some(Reason::new(ReasonCode::DiedYoung, text));
            }
        });
    }
}

/// Looks at once, then ever more rarely.
pub(crate) const fn looking_up(now: Timestamp) -> SubmitProgress {
    SubmitProgress::LookingUp {
        tries: 0,
        next: now,
        absent: 0,
        absent_since: None,
    }
}

/// The last moment at which the job of a pilot that is lost could still be there.
pub(crate) fn latest_end(config: &crate::BrokerConfig, p: &PilotRecord) -> Option<Timestamp> {
    let slot = p.slot.as_ref()?;
    let site = config.sites.iter().find(|s| s.name == p.site);
    let after = site.map_or(Span::ZERO, |s| s.notice + s.margin) + slot.facts.notice;
    let ends = [Some(slot.facts.end), Some(slot.status.end), p.lrm.end];
    ends.into_iter().flatten().max().map(|end| end + after)
}
