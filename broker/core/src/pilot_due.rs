//! What time alone does to a pilot job: look-ups, cancels, "lost", and the last close.

use protocol::api::PilotState;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::SubmitKey;
use protocol::time::{Span, Timestamp};

use crate::BrokerConfig;
use crate::effect::{CancelScope, Effect};
use crate::pilot_job::{latest_end, looking_up};
use crate::records::{CancelProgress, PilotRecord, SubmitProgress};
use crate::state::Broker;
use crate::withdrawal::{is_being_withdrawn, is_surplus};
use crate::words::hour;

/// A pilot that was announced by hand and never came is forgotten after so long.
const HAND_LIMIT: Span = Span::from_mins(7 * 24 * 60);

/// A submit whose outcome was not told after so long is looked up: the LRM adapter gave up long
/// before, or nobody carried the submit out.
const ASK_LIMIT: Span = Span::from_mins(5);

/// When time alone changes this pilot job next.
pub(crate) fn due(config: &BrokerConfig, p: &PilotRecord) -> Option<Timestamp> {
    [
        look_up_due(p),
        cancel_due(p),
        lost_due(config, p),
        close_due(config, p),
    ]
    .into_iter()
    .flatten()
    .min()
}

fn look_up_due(p: &PilotRecord) -> Option<Timestamp> {
    match (&p.submit, p.state) {
        (SubmitProgress::LookingUp { next, .. }, PilotState::Submitting) => Some(*next),
        (SubmitProgress::Asked, PilotState::Submitting) => Some(p.created + ASK_LIMIT),
        (SubmitProgress::LookingUp { .. } | SubmitProgress::Asked | SubmitProgress::Known, _) => {
            None
        }
    }
}

fn cancel_due(p: &PilotRecord) -> Option<Timestamp> {
    match (&p.cancel, &p.job, p.state) {
        // Whether it stays is for the LRM to say.
        (CancelProgress::Wanted { next, .. }, _, PilotState::Active) if is_being_withdrawn(p) => {
            Some(*next)
        }
        // A pilot that speaks is asked to leave, and does: no command is needed.
        (_, _, PilotState::Ended | PilotState::Active) | (_, None, _) => None,
        (CancelProgress::Wanted { next, .. }, Some(_), _) => Some(*next),
        (CancelProgress::No | CancelProgress::Taken { .. }, Some(_), _) => None,
    }
}

fn lost_due(config: &BrokerConfig, p: &PilotRecord) -> Option<Timestamp> {
    match (&p.slot, p.state) {
        (Some(slot), PilotState::Active) => {
            Some(slot.heard + config.lease_ttl + config.lease_margin)
        }
        (None, PilotState::Active)
        | (
            _,
            PilotState::Submitting
            | PilotState::Queued
            | PilotState::Started
            | PilotState::Lost
            | PilotState::Ended,
        ) => None,
    }
}

/// When the job is over because its time is, whatever else is known. None while the LRM still
/// lists it.
fn close_due(config: &BrokerConfig, p: &PilotRecord) -> Option<Timestamp> {
    let policy = &config.provision;
    let site = config.sites.iter().find(|s| s.name == p.site);
    let after = site.map_or(Span::ZERO, |s| s.notice + s.margin) + policy.close_after;
    match p.state {
        PilotState::Submitting | PilotState::Active => None,
        PilotState::Ended => crate::crowd::is_live(p).then(|| {
            let missing = p.lrm.missing_since.map(|at| at + policy.absent_for);
            let latest = p.since + policy.close_after;
            missing.map_or(latest, |at| at.min(latest))
        }),
        PilotState::Lost => {
            let unlisted = p.by_hand || p.job.is_none() || p.lrm.missing_since.is_some();
            latest_end(config, p)
                .filter(|_| unlisted)
                .map(|end| end + policy.close_after)
        }
        PilotState::Queued | PilotState::Started if p.by_hand => Some(p.created + HAND_LIMIT),
        PilotState::Queued | PilotState::Started => {
            let missing = p.lrm.missing_since?;
            match &p.cancel {
                CancelProgress::Taken { .. } if p.lrm.start.is_none() => {
                    Some(missing + policy.absent_for)
                }
                CancelProgress::No
                | CancelProgress::Wanted { .. }
                | CancelProgress::Taken { .. } => Some(missing + p.walltime + after),
            }
        }
    }
}

impl Broker {
    pub(crate) fn pilots_due(&mut self, now: Timestamp) {
        let due: Vec<_> = (self.tables.pilot_due.iter())
            .take_while(|(at, _)| *at <= now)
            .map(|(_, key)| key.clone())
            .collect();
        for key in due {
            self.pilot_is_due(now, &key);
        }
    }

    /// Does what is due for one pilot job. Each branch moves its own time on.
    pub(crate) fn pilot_is_due(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let is_past = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let (look_up, cancel) = (is_past(look_up_due(p)), is_past(cancel_due(p)));
        let lost = is_past(lost_due(self.config(), p));
        let close = is_past(close_due(self.config(), p));
        let (site, job) = (p.site.clone(), p.job.clone());
        let scope = match is_surplus(p) {
            true => CancelScope::WhileQueued,
            false => CancelScope::Whatever,
        };
        let policy = &self.config().provision;
        let (every, cancel_every) = (policy.look_up_every, policy.cancel_every);
        let later = |every: Span, tries: u32| {
            now + Span::from_millis(every.as_millis().max(1) << tries.min(4))
        };
        // One look-up at a time at a site, however many submits are open there.
        let turn = (self.tables.sites.get(&site))
            .and_then(|s| s.last_look_up)
            .map(|at| at + every)
            .filter(|at| *at > now);
        if look_up {
            self.tables.edit_pilot(key, |p| {
                if p.submit == SubmitProgress::Asked {
                    p.submit = looking_up(now);
                }
                if let SubmitProgress::LookingUp { tries, next, .. } = &mut p.submit {
                    *next = turn.unwrap_or_else(|| later(every, *tries));
                    *tries += u32::from(turn.is_none());
                }
            });
        }
        if look_up && turn.is_none() {
            self.tables.edit_site(&site, |s| s.last_look_up = Some(now));
            self.effects.push(Effect::LookUp {
                site: site.clone(),
                key: key.clone(),
            });
        }
        // As one that speaks, a job whose pilots do is left to them: they are asked to leave.
        if cancel && self.tables.has_active_member(key) {
            self.tables.edit_pilot(key, |p| {
                if let CancelProgress::Wanted { next, .. } = &mut p.cancel {
                    *next = later(cancel_every, 0);
                }
            });
        } else if cancel && let Some(job) = job {
            self.tables.edit_pilot(key, |p| {
                if let CancelProgress::Wanted { tries, next, .. } = &mut p.cancel {
                    *next = later(cancel_every, *tries);
                    *tries += 1;
                }
            });
            self.effects.push(Effect::CancelPilot {
                site,
                key: key.clone(),
                job,
                scope,
            });
        }
        if lost {
            self.lose(now, key);
        } else if close {
            self.close(now, key);
        }
    }

    fn lose(&mut self, now: Timestamp, key: &SubmitKey) {
        let heard = (self.tables.pilots.get(key))
            .and_then(|p| p.slot.as_ref())
            .map_or(now, |s| s.heard);
        let text = format!("not heard since {}", hour(heard, now));
        self.note_pilot(now, key, "lost", text.clone());
        let reason = Reason::new(ReasonCode::PilotLost, text);
        self.set_pilot(now, key, PilotState::Lost, Some(reason));
    }

    fn close(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        if p.state == PilotState::Ended {
            // It said goodbye, and the LRM never told its end: it no longer counts.
            self.tables.edit_pilot(key, |p| p.closed = true);
            return;
        }
        let over = |m: &PilotRecord| m.state == PilotState::Ended;
        if !self.tables.members(key).all(over) {
            // It is over when its members are; their own time closes them.
            self.tables
                .edit_pilot(key, |p| p.lrm.missing_since = Some(now));
            return;
        }
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let reason = match &p.cancel {
            CancelProgress::Taken { reason } | CancelProgress::Wanted { reason, .. } => {
                reason.clone()
            }
            CancelProgress::No => Reason::new(
                ReasonCode::JobEnded,
                "lost: past the latest end that it could have had",
            ),
        };
        self.end_pilot(now, key, reason);
        self.member_left(now, key);
    }
}
