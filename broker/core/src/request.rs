//! What owners ask for: submit, cancel, suspend, resume, pause.

use protocol::codes::{ErrorBody, ErrorCode, Reason, ReasonCode};
use protocol::ids::{Generation, IdempotencyKey, UserName, WorkspaceId};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

use crate::effect::Reply;
use crate::event::Caller;
use crate::records::{IdempotencyRecord, Log, RECORD_VERSION, Wish, WorkspaceRecord};
use crate::state::Broker;
use crate::tables::Note;

/// Where a workspace is, as far as an owner's wish is concerned.
enum Place {
    Queued,
    Leased,
    Parked,
    Final,
}

fn place(state: WorkspaceState) -> Place {
    match state {
        WorkspaceState::Queued => Place::Queued,
        WorkspaceState::Suspended => Place::Parked,
        WorkspaceState::Done | WorkspaceState::Cancelled | WorkspaceState::Failed => Place::Final,
        WorkspaceState::Claimed
        | WorkspaceState::Staging
        | WorkspaceState::Staged
        | WorkspaceState::Booting
        | WorkspaceState::Running
        | WorkspaceState::Paused
        | WorkspaceState::Suspending
        | WorkspaceState::Resuming
        | WorkspaceState::Stopping
        | WorkspaceState::StagingOut => Place::Leased,
    }
}

/// A reason for what `by` asked of something of `owner`.
fn asked(by: &Caller, owner: &UserName, code: ReasonCode, what: &str) -> Reason {
    if by.name() == owner {
        Reason::new(code, format!("{what} by its owner"))
    } else {
        let text = format!("{what} by administrator {}", by.name());
        Reason::new(ReasonCode::ByAdministrator, text)
    }
}

fn wrong_state(w: &WorkspaceRecord, what: &str, help: &str) -> Reply {
    Reply::Refused(ErrorBody {
        code: ErrorCode::WrongState,
        detail: format!("workspace {} is {}: it can't be {what}", w.id, w.state),
        help: (!help.is_empty()).then(|| help.to_owned()),
    })
}

impl Broker {
    pub(crate) fn submit(
        &mut self,
        now: Timestamp,
        id: &WorkspaceId,
        owner: UserName,
        key: Option<IdempotencyKey>,
        spec: WorkspaceSpec,
    ) -> Reply {
        if let Some(key) = &key
            && let Some(found) = self.tables.idempotency.get(&(owner.clone(), key.clone()))
        {
            let earlier = found.workspace.clone();
            let same = (self.tables.workspaces.get(&earlier)).is_some_and(|w| w.spec == spec);
            return if same {
                self.reply_workspace(&earlier)
            } else {
                Reply::Refused(ErrorBody {
                    code: ErrorCode::KeyReused,
                    detail: format!(
                        "idempotency key `{key}` was used for another request, which is workspace {earlier}"
                    ),
                    help: Some("use a new key for a new request".to_owned()),
                })
            };
        }
        if let Err(what) = spec.check() {
            return Reply::refused(ErrorCode::BadRequest, what);
        }
        if self.tables.workspaces.contains_key(id) {
            return Reply::refused(ErrorCode::Internal, format!("id {id} was made twice"));
        }
        let most = self.config().max_open_per_user;
        if self.tables.owners.get(&owner).map_or(0, |o| o.open) >= most {
            return Reply::Refused(ErrorBody {
                code: ErrorCode::TooMany,
                detail: format!("{owner} has {most} open workspaces, which is the limit"),
                help: Some("wait for some to end, or cancel some".to_owned()),
            });
        }
        let meta = self.tables.edit_meta();
        meta.last_workspace += 1;
        let number = meta.last_workspace;
        if let Some(key) = &key {
            self.tables.insert_idempotency(IdempotencyRecord {
                owner: owner.clone(),
                key: key.clone(),
                workspace: id.clone(),
            });
        }
        let text = format!(
            "accepted: {} for {} of run time",
            spec.resources, spec.run_time
        );
        self.tables.insert_workspace(WorkspaceRecord {
            version: RECORD_VERSION,
            id: id.clone(),
            number,
            owner,
            key,
            accepted: now,
            spec,
            wish: Wish::Run,
            state: WorkspaceState::Queued,
            since: now,
            reason: None,
            generation: Generation(0),
            saved: None,
            run: Span::ZERO,
            suspends: 0,
            image_starts: 0,
            resume_failures: 0,
            last_lease: None,
            last_seq: protocol::ids::EventSeq(0),
        });
        let note = Note::new(now, "accepted", text);
        self.tables.append(
            Log::Workspace(id.clone()),
            Note {
                state: Some(WorkspaceState::Queued),
                ..note
            },
        );
        self.wake_for(now, id);
        self.reply_workspace(id)
    }

    pub(crate) fn cancel(&mut self, now: Timestamp, id: &WorkspaceId, by: &Caller) -> Reply {
        let w = match self.touchable(id, by) {
            Ok(w) => w,
            Err(no) => return *no,
        };
        let reason = asked(by, &w.owner, ReasonCode::CancelledByUser, "cancelled");
        match place(w.state) {
            Place::Final if w.state == WorkspaceState::Cancelled => {}
            Place::Final => return wrong_state(w, "cancelled", ""),
            Place::Queued | Place::Parked => {
                self.finish(now, id, WorkspaceState::Cancelled, reason);
            }
            Place::Leased if matches!(w.wish, Wish::Cancel { .. }) => {}
            Place::Leased => self.set_wish(now, id, Wish::Cancel { reason }, "cancel_asked"),
        }
        self.reply_workspace(id)
    }

    pub(crate) fn suspend(&mut self, now: Timestamp, id: &WorkspaceId, by: &Caller) -> Reply {
        let w = match self.touchable(id, by) {
            Ok(w) => w,
            Err(no) => return *no,
        };
        let reason = asked(by, &w.owner, ReasonCode::SuspendedByUser, "suspended");
        match (place(w.state), &w.wish) {
            (Place::Parked, _) | (Place::Leased, Wish::Suspend { .. }) => {}
            (Place::Final, _) => return wrong_state(w, "suspended", ""),
            (Place::Leased, Wish::Cancel { .. }) => {
                return wrong_state(w, "suspended", "it is being cancelled");
            }
            (Place::Leased, Wish::Run | Wish::Pause) => {
                self.set_wish(now, id, Wish::Suspend { reason }, "suspend_asked");
            }
            (Place::Queued, _) if w.saved.is_some() => {
                self.move_to(now, id, WorkspaceState::Suspended, "suspended", reason);
            }
            (Place::Queued, _) => {
                let help = "it has not run yet, so there is nothing to suspend; cancel it and submit it again later";
                return wrong_state(w, "suspended", help);
            }
        }
        self.reply_workspace(id)
    }

    pub(crate) fn resume(&mut self, now: Timestamp, id: &WorkspaceId, by: &Caller) -> Reply {
        let w = match self.touchable(id, by) {
            Ok(w) => w,
            Err(no) => return *no,
        };
        match (place(w.state), &w.wish) {
            (Place::Final, _) => return wrong_state(w, "resumed", ""),
            (Place::Leased, Wish::Cancel { .. }) => {
                return wrong_state(w, "resumed", "it is being cancelled");
            }
            (Place::Queued | Place::Leased, Wish::Run) => {}
            // It was paused and lost its slot without a state.
            (Place::Queued, _) => self.tables.edit_workspace(id, |w| w.wish = Wish::Run),
            (Place::Leased, Wish::Pause | Wish::Suspend { .. }) => {
                self.set_wish(now, id, Wish::Run, "resume_asked");
            }
            (Place::Parked, _) => {
                self.tables.edit_workspace(id, |w| w.wish = Wish::Run);
                let text = format!("queued again at the wish of {}", by.name());
                let reason = Reason::new(ReasonCode::Other, text);
                self.move_to(now, id, WorkspaceState::Queued, "queued", reason);
                self.wake_for(now, id);
            }
        }
        self.reply_workspace(id)
    }

    pub(crate) fn pause(&mut self, now: Timestamp, id: &WorkspaceId, by: &Caller) -> Reply {
        let w = match self.touchable(id, by) {
            Ok(w) => w,
            Err(no) => return *no,
        };
        match (place(w.state), &w.wish) {
            (Place::Leased, Wish::Pause) => {}
            (Place::Leased, Wish::Run) => self.set_wish(now, id, Wish::Pause, "pause_asked"),
            (Place::Leased, Wish::Suspend { .. } | Wish::Cancel { .. }) => {
                return wrong_state(w, "paused", "it is being suspended or cancelled");
            }
            (Place::Queued | Place::Parked | Place::Final, _) => {
                return wrong_state(w, "paused", "only what is in a slot can be paused");
            }
        }
        self.reply_workspace(id)
    }

    fn set_wish(&mut self, now: Timestamp, id: &WorkspaceId, wish: Wish, kind: &str) {
        let text = match &wish {
            Wish::Run => "it is to run".to_owned(),
            Wish::Pause => "it is to be paused".to_owned(),
            Wish::Suspend { reason } | Wish::Cancel { reason } => {
                format!("it is to be {}", reason.text)
            }
        };
        self.tables.edit_workspace(id, |w| w.wish = wish);
        if let Some(lease) = self.tables.leases.get(id).cloned() {
            let note = Note::new(now, kind, text).of_lease(&lease);
            self.tables.append(Log::Workspace(id.clone()), note);
            self.wake.insert(lease.slot);
        }
    }

    fn touchable(&self, id: &WorkspaceId, by: &Caller) -> Result<&WorkspaceRecord, Box<Reply>> {
        self.tables
            .workspaces
            .get(id)
            .filter(|w| by.may_touch(&w.owner))
            .ok_or_else(|| {
                let detail = format!("there is no workspace {id}, or it is not yours");
                Box::new(Reply::refused(ErrorCode::NotFound, detail))
            })
    }

    fn reply_workspace(&self, id: &WorkspaceId) -> Reply {
        match self.view(id) {
            Some(view) => Reply::Workspace(Box::new(view)),
            None => Reply::refused(ErrorCode::NotFound, format!("there is no workspace {id}")),
        }
    }
}
