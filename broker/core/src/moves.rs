//! How a workspace moves: into a state, out of a lease, to its one end.
//!
//! ```text
//! queued --grant--> leased --end_lease--> settle --> queued | suspended | done | cancelled | failed
//! ```

use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{SiteName, StateId, WorkspaceId};
use protocol::lease::StateRef;
use protocol::time::Timestamp;
use protocol::workspace::{OnEviction, WorkspaceState};

use crate::records::{DiscardRecord, Log, Wish};
use crate::state::Broker;
use crate::tables::Note;

/// What the end of a lease has cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// Nothing: it has a fresh state, or never started.
    Nothing,
    /// The run since the last state, at the end of a slot: the policy's `on_eviction` applies.
    Evicted,
    /// The run since the last state, by a failure of guest or node.
    Failed,
}

impl Broker {
    /// Brings a workspace into a state and says why in its log.
    pub(crate) fn move_to(
        &mut self,
        now: Timestamp,
        id: &WorkspaceId,
        state: WorkspaceState,
        kind: &str,
        reason: Reason,
    ) {
        let mut note = Note::new(now, kind, reason.text.clone());
        note.state = Some(state);
        note.lease = (self.tables.leases.get(id)).map(|l| (l.generation, l.slot.clone()));
        self.tables.edit_workspace(id, |w| {
            if note.lease.is_none() {
                note.lease = w
                    .last_lease
                    .as_ref()
                    .map(|l| (l.generation, l.slot.clone()));
            }
            w.state = state;
            w.since = now;
            w.reason = Some(reason);
        });
        self.tables.append(Log::Workspace(id.clone()), note);
    }

    /// Its one end. Its saved state is no longer needed.
    pub(crate) fn finish(
        &mut self,
        now: Timestamp,
        id: &WorkspaceId,
        state: WorkspaceState,
        reason: Reason,
    ) {
        self.save(id, None);
        self.give_up_late_state(id);
        self.move_to(now, id, state, state.as_str(), reason);
    }

    /// Replaces its saved state; the one before is to be deleted.
    pub(crate) fn save(&mut self, id: &WorkspaceId, state: Option<StateRef>) {
        let mut old = None;
        self.tables.edit_workspace(id, |w| {
            if w.saved.as_ref().map(|s| &s.id) != state.as_ref().map(|s| &s.id) {
                old = w.saved.take();
                w.resume_failures = 0;
            }
            if let Some(state) = state {
                w.run = state.run;
                w.saved = Some(state);
            }
        });
        if let Some(old) = old {
            self.discard(old.id, old.site);
        }
    }

    /// Falls back to the image: the saved state is given up, and the run that it holds.
    pub(crate) fn drop_saved(&mut self, id: &WorkspaceId) {
        self.save(id, None);
        self.tables
            .edit_workspace(id, |w| w.run = protocol::time::Span::ZERO);
    }

    pub(crate) fn discard(&mut self, state: StateId, site: SiteName) {
        if !self.tables.discards.contains_key(&state) {
            self.tables.insert_discard(DiscardRecord {
                state,
                site,
                told: None,
            });
        }
    }

    /// Decides what becomes of a workspace whose lease is over and that is not finished.
    pub(crate) fn settle(&mut self, now: Timestamp, id: &WorkspaceId, loss: Loss, why: Reason) {
        let Some(w) = self.tables.workspaces.get(id) else {
            return;
        };
        let policy = w.spec.policy;
        match (&w.wish, loss, policy.on_eviction) {
            (Wish::Cancel { reason }, _, _) => {
                let reason = reason.clone();
                return self.finish(now, id, WorkspaceState::Cancelled, reason);
            }
            (_, Loss::Evicted, OnEviction::Fail) => {
                return self.finish(now, id, WorkspaceState::Failed, why);
            }
            (_, Loss::Evicted, OnEviction::Restart) => self.drop_saved(id),
            (Wish::Run | Wish::Pause | Wish::Suspend { .. }, _, _) => {}
        }
        let Some(w) = self.tables.workspaces.get(id) else {
            return;
        };
        if w.saved.is_some() && w.remaining().is_zero() {
            let text = format!("ran for {}, as was asked", w.run);
            let reason = Reason::new(ReasonCode::RunTimeUsed, text);
            return self.finish(now, id, WorkspaceState::Done, reason);
        }
        if loss != Loss::Nothing && w.saved.is_none() && w.image_starts > policy.max_restarts {
            let text = format!(
                "started {} times from its image and may be restarted {} times; the last end: {why}",
                w.image_starts, policy.max_restarts
            );
            let reason = Reason::new(ReasonCode::TooManyRestarts, text);
            return self.finish(now, id, WorkspaceState::Failed, reason);
        }
        match &w.wish {
            Wish::Suspend { reason } => {
                let text = match (&w.saved, loss) {
                    (_, Loss::Nothing) => reason.text.clone(),
                    (Some(_), _) => format!("{}, with an earlier state: {why}", reason.text),
                    (None, _) => {
                        format!(
                            "{}, without a state, so it will start from its image: {why}",
                            reason.text
                        )
                    }
                };
                let reason = Reason::new(reason.code, text);
                self.move_to(now, id, WorkspaceState::Suspended, "suspended", reason);
            }
            Wish::Pause if w.saved.is_some() => {
                let text = format!("was paused when it had to leave its slot: {why}");
                let reason = Reason::new(why.code, text);
                self.move_to(now, id, WorkspaceState::Suspended, "suspended", reason);
            }
            Wish::Run | Wish::Pause | Wish::Cancel { .. } => {
                if w.suspends > policy.max_suspends {
                    let text = format!(
                        "suspended {} times, and may be {} times; the last time: {why}",
                        w.suspends, policy.max_suspends
                    );
                    let reason = Reason::new(ReasonCode::TooManySuspends, text);
                    return self.finish(now, id, WorkspaceState::Failed, reason);
                }
                self.move_to(now, id, WorkspaceState::Queued, "queued", why);
                self.wake_for(now, id);
            }
        }
    }
}
