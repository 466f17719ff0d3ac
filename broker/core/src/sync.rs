//! The one exchange with a pilot, level-triggered: take what it observes, answer what is wanted.
//!
//! An answer is held back while it would say only what the pilot was told before. Each answer
//! extends the leases in it from `now`; the pilot counts from when it sent, plus the time held:
//! earlier.

use std::collections::BTreeSet;

use protocol::api::PilotState;
use protocol::codes::{ErrorCode, Reason, ReasonCode};
use protocol::ids::{Incarnation, PilotBoot, SubmitKey};
use protocol::lease::{DesiredLease, EndOutcome, Goal, Order};
use protocol::messages::{PilotEvent, SyncReply, SyncRequest};
use protocol::slot::PilotPhase;
use protocol::time::{Span, Timestamp};
use protocol::workspace::AdvanceTo;

use crate::effect::{Reply, SyncDecision};
use crate::records::{
    CancelProgress, Hold, LeaseRecord, Log, PilotRecord, SlotRecord, Told, Wish, WorkspaceRecord,
};
use crate::state::Broker;
use crate::tables::Note;
use crate::withdrawal::is_being_withdrawn;

/// What is wanted of a lease: what the owner wishes.
fn goal(w: &WorkspaceRecord) -> Goal {
    match (&w.wish, w.spec.advance_to) {
        (Wish::Cancel { reason }, _) => Goal::Stop {
            reason: reason.clone(),
        },
        (Wish::Suspend { reason }, AdvanceTo::Finished) => Goal::Suspend {
            reason: reason.clone(),
        },
        (Wish::Pause, AdvanceTo::Finished) => Goal::Pause,
        (Wish::Run, AdvanceTo::Finished) => Goal::Run,
        (Wish::Run | Wish::Pause | Wish::Suspend { .. }, AdvanceTo::Staged) => Goal::Stage,
    }
}

impl Broker {
    pub(crate) fn sync(
        &mut self,
        now: Timestamp,
        request: SyncRequest,
        received: Timestamp,
    ) -> Reply {
        let key = request.submit_key.clone();
        let slot = match self.slot_of(&key, &request.incarnation, &request.boot) {
            Ok(slot) => slot,
            Err(no) => return *no,
        };
        if request.number < slot.number {
            let detail = format!(
                "sync {} of pilot {key} came after its sync {}",
                request.number, slot.number
            );
            return Reply::refused(ErrorCode::WrongState, detail);
        }
        let boot = request.boot.clone();
        self.heard(now, &key, &request);
        self.take_events(now, &key, request.events);
        for id in &request.discarded {
            let here = self.tables.pilots.get(&key).map(|p| &p.site);
            if self.tables.discards.get(id).map(|d| &d.site) == here {
                self.tables.remove_discard(id);
            }
        }
        let spoken_of: BTreeSet<_> = (request.leases.iter())
            .map(|r| (r.workspace.clone(), r.generation))
            .collect();
        let mut news = request.no_hold;
        for report in request.leases {
            news |= self.report(now, &key, report);
        }
        let unspoken: Vec<_> = (self.tables.leases_of(&key))
            .filter(|l| l.boot == boot)
            .filter(|l| !spoken_of.contains(&(l.workspace.clone(), l.generation)))
            .cloned()
            .collect();
        if request.slot.phase == PilotPhase::Leaving {
            self.goodbye(now, &key, unspoken);
            news = true;
        } else {
            for l in unspoken.iter().filter(|l| l.phase.is_some()) {
                let why = "its pilot no longer speaks of it".to_owned();
                self.tables
                    .edit_lease(&l.workspace, |l| l.hold = Hold::Orphaned { why });
            }
        }
        Reply::Sync(self.decide(now, &key, received, news))
    }

    pub(crate) fn sync_poll(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        incarnation: &Incarnation,
        boot: &PilotBoot,
        number: u64,
        received: Timestamp,
    ) -> Reply {
        let slot = match self.slot_of(key, incarnation, boot) {
            Ok(slot) => slot,
            Err(no) => return *no,
        };
        if slot.number != number {
            let detail = format!(
                "sync {number} of pilot {key} was overtaken by sync {}",
                slot.number
            );
            return Reply::refused(ErrorCode::WrongState, detail);
        }
        Reply::Sync(self.decide(now, key, received, false))
    }

    /// The registered pilot of a pilot job, if it is this one.
    fn slot_of(
        &self,
        key: &SubmitKey,
        incarnation: &Incarnation,
        boot: &PilotBoot,
    ) -> Result<&SlotRecord, Box<Reply>> {
        let no = |code, text: String| Err(Box::new(Reply::refused(code, text)));
        let Some(p) = self.tables.pilots.get(key) else {
            return no(ErrorCode::NotFound, format!("there is no pilot job {key}"));
        };
        match &p.slot {
            Some(slot) if slot.boot == *boot && slot.facts.incarnation == *incarnation => Ok(slot),
            Some(slot) => no(
                ErrorCode::Fenced,
                format!(
                    "pilot job {key} has a later pilot, {} on node {}; this one must leave",
                    slot.boot, slot.facts.node
                ),
            ),
            None => no(
                ErrorCode::WrongState,
                format!("no pilot is registered for pilot job {key}"),
            ),
        }
    }

    fn heard(&mut self, now: Timestamp, key: &SubmitKey, request: &SyncRequest) {
        self.learn_cost(now, key, request);
        self.learn_rate(now, key, request);
        self.learn_costs(now, key, request);
        self.tables.edit_pilot(key, |p| {
            if p.state != PilotState::Ended && p.state != PilotState::Active {
                p.state = PilotState::Active;
                p.since = now;
                p.reason = None;
            }
            if let Some(slot) = &mut p.slot {
                slot.heard = now;
                slot.number = request.number;
                if request.slot.end > slot.status.end {
                    slot.full = None;
                }
                slot.status = request.slot.clone();
                slot.free = request.free;
                slot.used = request.used;
                slot.suspend_rate = request.suspend_rate.or(slot.suspend_rate);
                if let Some(costs) = &request.costs {
                    slot.suspend_budget = Some(costs.budget);
                    slot.costs_measured = slot.costs_measured.max(costs.measured);
                }
            }
        });
    }

    /// A pilot's first sync tells how much of its slot no guest can use.
    fn learn_cost(&mut self, now: Timestamp, key: &SubmitKey, request: &SyncRequest) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        let first = p.slot.as_ref().is_some_and(|s| s.number == 0);
        if first && request.slot.phase == PilotPhase::Open && request.leases.is_empty() {
            let site = p.site.clone();
            let cost = request.slot.end.since(now).minus(request.slot.useful);
            self.tables.edit_site(&site, |s| {
                let faded = (s.slot_cost.as_millis() * 3 + cost.as_millis()) / 4;
                s.slot_cost = cost.max(Span::from_millis(faded));
            });
        }
    }

    /// Stores the events that are new, in order; stops at a gap.
    fn take_events(&mut self, now: Timestamp, key: &SubmitKey, events: Vec<PilotEvent>) {
        for e in events {
            let Some(slot) = self.tables.pilots.get(key).and_then(|p| p.slot.as_ref()) else {
                return;
            };
            if e.seq != slot.acknowledged.next() {
                continue;
            }
            self.learn_from_event(now, key, &e);
            let mut note = Note::new(e.at, &e.kind, e.text);
            note.data = e.data;
            note.lease = e.generation.map(|g| (g, key.clone()));
            let log = match (e.workspace, e.generation) {
                (Some(id), Some(g)) if self.had_lease(key, &id, g) => Log::Workspace(id),
                _ => Log::Pilot(key.clone()),
            };
            self.tables.append(log, note);
            self.tables.edit_pilot(key, |p| {
                if let Some(slot) = &mut p.slot {
                    slot.acknowledged = e.seq;
                }
            });
        }
    }

    /// What an event says about what we cost the site.
    fn learn_from_event(&mut self, now: Timestamp, key: &SubmitKey, e: &PilotEvent) {
        match e.kind.as_str() {
            "leftovers" => self.left_behind(now, key, &e.text),
            "guest_evicted" => self.note_eviction(key, e),
            "signal_received" => {
                self.tables
                    .edit_pilot(key, |p| p.signalled = p.signalled.or(Some(now)));
            }
            _ => {}
        }
    }

    /// The pilot has no guests and will not sync again: its leases are over by its word. Of one
    /// that it calls alive in the same breath it is not known which word is true: that one ends
    /// at its expiry.
    fn goodbye(&mut self, now: Timestamp, key: &SubmitKey, unspoken: Vec<LeaseRecord>) {
        let spoken: Vec<_> = (self.tables.leases_of(key))
            .filter(|l| l.hold == Hold::Held)
            .filter(|l| unspoken.iter().all(|u| u.workspace != l.workspace))
            .map(|l| l.workspace.clone())
            .collect();
        for id in spoken {
            let why = "its pilot left and still spoke of it".to_owned();
            self.tables
                .edit_lease(&id, |l| l.hold = Hold::Orphaned { why });
        }
        let Some(boot) = (self.tables.pilots.get(key))
            .and_then(|p| p.slot.as_ref())
            .map(|s| s.boot.clone())
        else {
            return;
        };
        for l in unspoken {
            if l.boot != boot || !self.tables.leases.contains_key(&l.workspace) {
                continue;
            }
            let text = format!("the pilot in slot {key} left");
            let reason = Reason::new(ReasonCode::SlotEnding, text);
            let outcome = match l.phase {
                None => EndOutcome::Declined { reason },
                Some(_) => EndOutcome::Killed { reason },
            };
            self.give_up_untold(&l);
            self.end_lease(now, &l.workspace, outcome, l.run);
        }
        let mut left = false;
        let cancel = (self.tables.pilots.get(key))
            .map_or(CancelProgress::No, |p| self.tables.job_of(p).cancel.clone());
        self.tables.edit_pilot(key, |p| {
            if !p.goodbye {
                p.goodbye = true;
                left = true;
                if p.state != PilotState::Ended {
                    let why = match &cancel {
                        CancelProgress::Wanted { reason, .. }
                        | CancelProgress::Taken { reason } => reason.clone(),
                        CancelProgress::No => {
                            Reason::new(ReasonCode::JobEnded, "its pilot has left the slot")
                        }
                    };
                    p.state = PilotState::Ended;
                    p.since = now;
                    p.reason = Some(why);
                }
            }
        });
        if left {
            self.settle_slot(now, key);
            let note = Note::new(now, "left", "the pilot has cleaned up and left");
            self.tables.append(Log::Pilot(key.clone()), note);
            self.member_left(now, key);
        }
    }

    /// Why a pilot is to leave, if it is.
    pub(crate) fn leave(&self, p: &PilotRecord) -> Option<Reason> {
        if p.state == PilotState::Ended {
            let text = "the pilot job has ended by the LRM's word".to_owned();
            return Some(Reason::new(ReasonCode::JobEnded, text));
        }
        let job = self.tables.job_of(p);
        match &job.cancel {
            // The LRM's answer decides.
            CancelProgress::Wanted { .. } if is_being_withdrawn(job) => {}
            CancelProgress::Wanted { reason, .. } | CancelProgress::Taken { reason } => {
                return Some(reason.clone());
            }
            CancelProgress::No => {}
        }
        self.tables
            .sites
            .get(&p.site)
            .and_then(|s| s.draining.clone())
    }

    fn decide(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        received: Timestamp,
        news: bool,
    ) -> SyncDecision {
        let leave = self.tables.pilots.get(key).and_then(|p| self.leave(p));
        if leave.is_none() {
            self.match_slot(now, key);
        }
        let until = received + self.hold();
        let Some(p) = self.tables.pilots.get(key) else {
            return SyncDecision::Hold { until };
        };
        let Some(slot) = p.slot.as_ref() else {
            return SyncDecision::Hold { until };
        };
        let (boot, number, before) = (slot.boot.clone(), slot.number, slot.told.clone());
        let leases = self.wanted_leases(key, &boot);
        let unknown = leases.iter().any(|l| l.order.is_some());
        let listed = p.lrm.end.is_some() && p.lrm.missing_since.is_none();
        let site = self.tables.sites.get(&p.site);
        let watched = listed && site.is_some_and(|s| s.silent_since.is_none());
        let told = Told {
            number,
            leases: (leases.iter())
                .map(|l| (l.workspace.clone(), (l.generation, l.goal.clone())))
                .collect(),
            slot_end: p.lrm.end,
            leave,
            acknowledged: slot.acknowledged,
            discard: self.tables.discards.wanted_of(now, &p.site, key),
        };
        let repeated = before.as_ref().is_some_and(|b| b.number == number);
        let same = before.is_some_and(|b| Told { number, ..b } == told);
        if same && !repeated && !news && !unknown && now < until {
            return SyncDecision::Hold { until };
        }
        self.tell(now, key, told.clone());
        SyncDecision::Answer(Box::new(SyncReply {
            version: protocol::WIRE_VERSION,
            number,
            held: now.since(received),
            lease_ttl: self.config().lease_ttl,
            leases,
            slot_end: told.slot_end,
            watched,
            leave: told.leave,
            acknowledged: told.acknowledged,
            discard: told.discard.into_iter().collect(),
        }))
    }

    /// Records an answer: what it says, and that its leases live on.
    fn tell(&mut self, now: Timestamp, key: &SubmitKey, told: Told) {
        let expiry = now + self.config().lease_ttl;
        for id in told.leases.keys() {
            self.tables
                .edit_lease(id, |l| l.expiry = l.expiry.max(expiry));
        }
        for id in &told.discard {
            if let Some(mut d) = self.tables.discards.get(id).cloned()
                && d.told.as_ref().is_none_or(|(k, _)| k != key)
            {
                d.told = Some((key.clone(), now));
                self.tables.insert_discard(d);
            }
        }
        self.tables.edit_pilot(key, |p| {
            if let Some(slot) = &mut p.slot {
                slot.told = Some(told);
            }
        });
    }

    fn wanted_leases(&self, key: &SubmitKey, boot: &PilotBoot) -> Vec<DesiredLease> {
        self.tables
            .leases_of(key)
            .filter(|l| l.hold == Hold::Held && l.boot == *boot)
            .filter_map(|l| {
                let w = self.tables.workspaces.get(&l.workspace)?;
                let order = l.phase.is_none().then(|| {
                    Box::new(Order {
                        spec: w.spec.clone(),
                        state: w.saved.clone(),
                        run: w.run,
                        suspends: w.suspends,
                    })
                });
                Some(DesiredLease {
                    workspace: l.workspace.clone(),
                    generation: l.generation,
                    goal: goal(w),
                    order,
                })
            })
            .collect()
    }

    /// The slots whose pilots are told that something of theirs has changed.
    pub(crate) fn wake_site(&mut self, site: &protocol::ids::SiteName) {
        let keys: Vec<_> = (self.tables.live(site))
            .filter(|p| p.slot.is_some())
            .map(|p| p.key.clone())
            .collect();
        self.wake.extend(keys);
    }

    /// True when `slot` has this lease, or had it as the workspace's latest: events and console
    /// of it are taken from there.
    pub fn had_lease(
        &self,
        slot: &SubmitKey,
        workspace: &protocol::ids::WorkspaceId,
        generation: protocol::ids::Generation,
    ) -> bool {
        let live = (self.tables.leases.get(workspace))
            .is_some_and(|l| l.slot == *slot && l.generation == generation);
        live || (self.tables.workspaces.get(workspace))
            .and_then(|w| w.last_lease.as_ref())
            .is_some_and(|l| l.slot == *slot && l.generation == generation)
    }
}
