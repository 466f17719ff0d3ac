//! Jobs on several nodes: one job in the LRM, a pilot and a slot of its own on each node.
//!
//! The record of the *job* (`KEY`, [`PilotRecord::is_shared`]) takes all that the LRM says, is
//! submitted, looked up, cancelled, and counts against the site's limits once. It never has a
//! slot. A *member* (`KEY.RANK`) is made when the pilot of that rank registers; from then on it is
//! a pilot as any other, except that the LRM's words reach it through its job's record.
//!
//! ```text
//! job:     submitting -> queued <-> started -------------------> ended
//! member:                           active <-> lost --> ended      |
//!                                      ^________________/ <--------/
//! ```
//! A member that is not ended keeps its job from being ended; a job that ends takes its members
//! along. A member's own end ends nothing else, unless it was the last one of all nodes.

use protocol::api::PilotState;
use protocol::codes::{ErrorCode, Reason, ReasonCode, exit};
use protocol::ids::{EventSeq, SiteName, SubmitKey};
use protocol::lrm::{JobEnd, JobState, ObservedJob};
use protocol::time::Timestamp;

use crate::effect::Reply;
use crate::records::{CancelProgress, Log, LrmSide, PilotRecord, SubmitProgress};
use crate::state::Broker;
use crate::tables::{Note, Tables};

impl Tables {
    /// The members of a job on several nodes that have ever registered, by rank; nothing for any
    /// other pilot job.
    pub(crate) fn members(&self, job: &SubmitKey) -> impl Iterator<Item = &PilotRecord> {
        let nodes = (self.pilots.get(job)).map_or(0, |p| if p.is_shared() { p.nodes } else { 0 });
        (0..nodes)
            .filter_map(|rank| self.pilots.get(&job.member(rank).ok()?))
            .filter(|m| m.member_of.is_some())
    }

    fn member_keys(&self, job: &SubmitKey) -> Vec<SubmitKey> {
        self.members(job).map(|m| m.key.clone()).collect()
    }

    /// True for a job on several nodes with a pilot that speaks.
    pub(crate) fn has_active_member(&self, job: &SubmitKey) -> bool {
        self.members(job).any(|m| m.state == PilotState::Active)
    }

    /// The record to which the LRM's words about this pilot's job go.
    pub(crate) fn job_of<'a>(&'a self, p: &'a PilotRecord) -> &'a PilotRecord {
        (p.member_of.as_ref())
            .and_then(|job| self.pilots.get(job))
            .unwrap_or(p)
    }

    /// Of a job that waits or runs: nodes whose pilot is not there yet.
    pub(crate) fn awaited(&self, job: &PilotRecord) -> u32 {
        let there = self.members(&job.key).filter(|m| {
            let this_start = m.lrm.restarts == job.lrm.restarts;
            m.state == PilotState::Active || (job.state == PilotState::Started && this_start)
        });
        let there = u32::try_from(there.count()).unwrap_or(u32::MAX);
        job.nodes.saturating_sub(there)
    }
}

/// What the LRM says of a job as its member has it: the node is the member's own, and which start
/// it belongs to is known at its registration only.
fn side_of(job: &LrmSide, member: &LrmSide) -> LrmSide {
    LrmSide {
        node: None,
        restarts: member.restarts,
        ..job.clone()
    }
}

impl Broker {
    /// Finds the record that a registration under `key` is for. None: a member that registers for
    /// the first time, of this job and rank.
    pub(crate) fn find_registered(
        &self,
        key: &SubmitKey,
    ) -> Result<(&PilotRecord, Option<SubmitKey>), Box<Reply>> {
        let no = |code, text: String| Err(Box::new(Reply::refused(code, text)));
        if let Some(p) = self.tables.pilots.get(key) {
            if p.is_shared() {
                let last = p.nodes - 1;
                let text = format!(
                    "pilot job {key} has a pilot on each of {} nodes, which are {key}.0 to {key}.{last}",
                    p.nodes
                );
                return no(ErrorCode::Forbidden, text);
            }
            return Ok((p, None));
        }
        let found = key.split_member().and_then(|(job, rank)| {
            let p = self.tables.pilots.get(&job)?;
            (p.is_shared() && rank < p.nodes).then_some((p, Some(job)))
        });
        match found {
            Some(found) => Ok(found),
            None => no(ErrorCode::NotFound, format!("there is no pilot job {key}")),
        }
    }

    /// Records a member that registers for the first time. What it is now is the registration's
    /// business.
    pub(crate) fn new_member(&mut self, now: Timestamp, job: &SubmitKey, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(job).cloned() else {
            return;
        };
        let text = format!("one of {} pilots of job {job}", p.nodes);
        self.tables.insert_pilot(PilotRecord {
            key: key.clone(),
            nodes: 1,
            member_of: Some(job.clone()),
            state: PilotState::Ended,
            since: now,
            reason: None,
            submit: SubmitProgress::Known,
            cancel: CancelProgress::No,
            lrm: side_of(&p.lrm, &p.lrm),
            fruitful: false,
            signalled: None,
            settled: false,
            closed: false,
            goodbye: false,
            last_seq: EventSeq(0),
            ..p
        });
        self.note_pilot(now, key, "decided", text);
    }

    /// A member registers: its job has started, whatever the LRM has said of it so far.
    pub(crate) fn member_registers(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(job) = (self.tables.pilots.get(key)).and_then(|p| p.member_of.clone()) else {
            return;
        };
        let told = (self.tables.pilots.get(key)).and_then(|p| p.job.clone());
        self.has_started(now, &job);
        let mut lrm = LrmSide::default();
        self.tables.edit_pilot(&job, |p| {
            if p.state != PilotState::Started {
                p.state = PilotState::Started;
                p.since = now;
                p.reason = None;
            }
            p.submit = SubmitProgress::Known;
            p.job = p.job.take().or(told);
            p.goodbye = false;
            p.closed = false;
            p.settled = false;
            lrm.clone_from(&p.lrm);
        });
        self.tables.edit_pilot(key, |m| m.lrm = side_of(&lrm, &lrm));
        let note = Note::new(now, "member", format!("pilot {key} has registered"));
        self.tables.append(Log::Pilot(job), note);
    }

    /// The LRM's word on a job goes to its members. That it has ended was told them with its end.
    pub(crate) fn members_observed(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        seen: &ObservedJob,
        (restarted, new_end): (bool, bool),
    ) {
        let Some(job) = self.tables.pilots.get(key).filter(|p| p.is_shared()) else {
            return;
        };
        let (side, id) = (job.lrm.clone(), job.job.clone());
        let again = match &seen.state {
            JobState::Queued | JobState::Held => Some("the LRM has queued its job again"),
            JobState::Running | JobState::Suspended | JobState::Ending => {
                restarted.then_some("the LRM has started its job again")
            }
            JobState::Unknown(_) | JobState::Ended(_) => None,
        };
        for member in self.tables.member_keys(key) {
            let Some(m) = self.tables.pilots.get(&member) else {
                continue;
            };
            let (lrm, lost) = (side_of(&side, &m.lrm), m.state == PilotState::Lost);
            if lrm != m.lrm || (m.job.is_none() && id.is_some()) {
                self.tables.edit_pilot(&member, |m| {
                    m.lrm = lrm;
                    m.job = m.job.take().or(id.clone());
                });
            }
            if let Some(text) = again.filter(|_| lost) {
                let reason = Reason::new(ReasonCode::JobEnded, text);
                self.end_pilot(now, &member, reason);
            }
            if new_end {
                self.wake.insert(member);
            }
        }
    }

    /// The listings do not have a job, and so not its members.
    pub(crate) fn members_missing(&mut self, now: Timestamp, key: &SubmitKey) {
        for member in self.tables.member_keys(key) {
            self.tables
                .edit_pilot(&member, |m| m.lrm.missing_since = Some(now));
        }
    }

    /// A job that was taken for ended runs, as the LRM says now: so may its pilots, as far as they
    /// have not said goodbye.
    pub(crate) fn revive_members(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(restarts) = self.tables.pilots.get(key).map(|p| p.lrm.restarts) else {
            return;
        };
        for member in self.tables.member_keys(key) {
            let Some(m) = self.tables.pilots.get(&member) else {
                continue;
            };
            let same_start = m.lrm.restarts == restarts;
            if m.state == PilotState::Ended && !m.goodbye && same_start && m.slot.is_some() {
                let text = "its job runs, by the LRM's word; it was not heard since".to_owned();
                let reason = Reason::new(ReasonCode::PilotLost, text);
                self.set_pilot(now, &member, PilotState::Lost, Some(reason));
            }
        }
    }

    /// A job has ended: so have its members.
    pub(crate) fn end_members(&mut self, now: Timestamp, key: &SubmitKey, reason: &Reason) {
        for member in self.tables.member_keys(key) {
            let state = self.tables.pilots.get(&member).map(|m| m.state);
            if state.is_some_and(|s| s != PilotState::Ended) {
                self.end_pilot(now, &member, reason.clone());
                self.wake.insert(member);
            }
        }
    }

    /// A member's slot is over; when those of all nodes are, in this start of the job, the job is
    /// over as the one of a single pilot is.
    pub(crate) fn member_left(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(job) = (self.tables.pilots.get(key)).and_then(|p| p.member_of.clone()) else {
            return;
        };
        let Some(p) = (self.tables.pilots.get(&job)).filter(|p| p.state == PilotState::Started)
        else {
            return;
        };
        let (nodes, restarts) = (p.nodes, p.lrm.restarts);
        let reason = match &p.cancel {
            CancelProgress::Wanted { reason, .. } | CancelProgress::Taken { reason } => {
                Some(reason.clone())
            }
            CancelProgress::No => None,
        };
        let (mut over, mut said_so) = (0, true);
        for m in self.tables.members(&job) {
            over += u32::from(m.state == PilotState::Ended && m.lrm.restarts == restarts);
            said_so &= m.goodbye;
        }
        if over < nodes {
            return;
        }
        let text = if said_so {
            "its pilots have left their slots"
        } else {
            "its pilots have left their slots, or are lost"
        };
        self.tables.edit_pilot(&job, |p| p.goodbye = said_so);
        let reason = reason.unwrap_or_else(|| Reason::new(ReasonCode::JobEnded, text));
        self.end_pilot(now, &job, reason);
    }

    /// A job on several nodes is over: what it was good for as a whole. That there were more nodes
    /// than work is no fault of the site, so it is fruitless only if nothing ran on any.
    pub(crate) fn settle_job(&mut self, now: Timestamp, key: &SubmitKey) {
        let Some(p) = (self.tables.pilots.get(key)).filter(|p| p.is_shared() && !p.settled) else {
            return;
        };
        let (site, asked): (SiteName, _) = (p.site.clone(), p.resources);
        let draining = (self.tables.sites.get(&site)).is_some_and(|s| s.draining.is_some());
        let wanted = p.cancel == CancelProgress::No && !draining;
        let idle = wanted && !p.fruitful;
        let by_exit = p.lrm.state == Some(JobState::Ended(JobEnd::Exited(exit::LEFTOVERS)));
        let dirty = by_exit && self.tables.members(key).any(|m| !m.goodbye);
        let given = (self.tables.members(key))
            .find_map(|m| m.slot.as_ref())
            .map(|s| s.facts.resources);
        self.tables.edit_pilot(key, |p| p.settled = true);
        if dirty {
            self.left_behind(now, key, "by its exit code");
        }
        if let Some(given) = given.filter(|_| idle) {
            self.fruitless(now, key, &site, (given, asked));
        }
    }
}
