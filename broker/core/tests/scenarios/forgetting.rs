//! What is over for long is forgotten, and nothing else.

use broker_core::records::{IdempotencyRecord, Log};
use broker_core::{Changes, Event, Reply};
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::ids::{IdempotencyKey, WorkspaceId};
use protocol::lease::EndOutcome;
use protocol::time::{Span, Timestamp};
use protocol::workspace::WorkspaceState;

use super::{MARGIN, TTL, because, end_guest, hour, one_site, running, sync_now};
use crate::world::{World, admin, user, ws};

fn forget(w: &mut World, ended_before: Timestamp, limit: usize) -> usize {
    let event = Event::Forget {
        ended_before,
        limit,
    };
    match w.step(event) {
        Reply::Forgotten { records } => records,
        other => panic!("{other:?}"),
    }
}

fn submit_with(w: &mut World, id: usize, key: &IdempotencyKey) -> WorkspaceId {
    let event = Event::Submit {
        id: ws(id),
        owner: user("anna"),
        key: Some(key.clone()),
        spec: Box::new(hour()),
    };
    match w.step(event) {
        Reply::Workspace(view) => view.id,
        other => panic!("{other:?}"),
    }
}

/// A workspace that is done, in a slot that has ended; and how long both are.
fn all_over(w: &mut World) -> WorkspaceId {
    let (id, p) = running(w, hour());
    let reason = because(ReasonCode::GuestPoweredOff);
    end_guest(w, p, &id, EndOutcome::Finished { reason });
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(w, p);
    w.end_job(0, protocol::lrm::JobEnd::Exited(0));
    w.observe("A");
    id
}

#[test]
fn a_workspace_and_its_pilot_job_go_when_they_have_been_over_long_enough() {
    let mut w = one_site();
    let id = all_over(&mut w);
    let over = w.now;
    assert_eq!(forget(&mut w, over, 10), 0, "not yet");
    w.pass_ticking(Span::from_mins(1));
    let later = over + Span::from_millis(1);
    assert_eq!(forget(&mut w, later, 1), 1, "as many as asked for");
    assert!(w.store.workspaces.is_empty() && w.store.pilots.len() == 1);
    assert_eq!(forget(&mut w, later, 1), 1);
    assert!(w.store.pilots.is_empty());
    assert_eq!(forget(&mut w, later, 1), 0);
    assert_eq!(w.broker.workspace(&admin(), &id), None);
    let next = w.submit("anna", hour());
    assert_eq!(w.state(&next), WorkspaceState::Queued, "and all goes on");
    w.pass_ticking(Span::from_secs(5));
    assert_ne!(w.take_order().unwrap().key, w.pilots[0].key);
}

#[test]
fn what_something_may_still_come_of_is_kept() {
    let mut w = one_site();
    let waiting = w.submit("anna", hour());
    let suspended = w.submit("ben", hour());
    let p = w.pilot_up();
    super::run_up(&mut w, p);
    let (id, by) = (suspended.clone(), admin());
    w.step(Event::Suspend { id, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    assert_eq!(w.state(&suspended), WorkspaceState::Suspended);
    let far = w.now + Span::from_mins(60 * 24 * 365);
    assert_eq!(forget(&mut w, far, 10), 0, "one runs, one is suspended");
    let (id, by) = (suspended.clone(), admin());
    w.step(Event::Cancel { id, by });
    assert_eq!(forget(&mut w, far, 10), 0, "its state is to be deleted yet");
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    assert!(w.store.discards.is_empty());
    assert_eq!(forget(&mut w, far, 10), 1);
    assert!(!w.broker.knows(&suspended) && w.broker.knows(&waiting));
}

#[test]
fn a_pilot_that_comes_back_after_its_job_was_forgotten_leaves() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.end_job(0, protocol::lrm::JobEnd::Cancelled);
    w.pilots[p].gone = false;
    w.observe("A");
    let far = w.now + Span::from_mins(60 * 24 * 365);
    assert_eq!(forget(&mut w, far, 10), 0, "a lease keeps its slot");
    w.pass_ticking(TTL + MARGIN);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    assert_eq!(forget(&mut w, far, 10), 1);
    let request = w.request(p);
    let no = w.deliver(request);
    assert!(matches!(no, Reply::Refused(e) if e.code == ErrorCode::NotFound));
}

#[test]
fn a_state_of_a_forgotten_workspace_is_deleted() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    let by = admin();
    w.step(Event::Cancel { id, by });
    let far = w.now + Span::from_mins(60 * 24 * 365);
    assert_eq!(forget(&mut w, far, 10), 0, "there may be a state");
    w.submit("ben", hour());
    w.pass_ticking(Span::from_secs(5));
    let other = w.pilot_up();
    sync_now(&mut w, other);
    sync_now(&mut w, other);
    assert!(w.store.discards.is_empty(), "{:?}", w.store.discards);
    assert_eq!(forget(&mut w, far, 10), 1);
    let reply = sync_now(&mut w, p);
    assert_eq!(
        reply.discard.len(),
        1,
        "its pilot had suspended it: {reply:?}"
    );
}

#[test]
fn a_key_is_free_again_when_its_workspace_is_forgotten() {
    let mut w = one_site();
    let key = IdempotencyKey::new("k").unwrap();
    let first = submit_with(&mut w, 901, &key);
    let by = admin();
    assert_eq!(submit_with(&mut w, 902, &key), first, "it is known");
    w.step(Event::Cancel { id: first, by });
    let later = w.now + Span::from_millis(1);
    assert_eq!(forget(&mut w, later, 10), 1);
    assert!(w.store.idempotency.is_empty());
    assert_eq!(submit_with(&mut w, 903, &key), ws(903));
}

/// A shell writes several steps in one transaction.
#[test]
fn merged_changes_are_the_same_as_one_after_the_other() {
    let mut w = one_site();
    let key = IdempotencyKey::new("k").unwrap();
    let owner = user("anna");
    let before = w.store.clone();
    let mut all = Changes::default();
    let mut each = before.clone();
    let mut step = |w: &mut World, event: Event| {
        let step = w.broker.step(w.now, event);
        each.apply(&step.changes);
        all.merge(step.changes);
    };
    let submit = |n: usize| Event::Submit {
        id: ws(n),
        owner: user("anna"),
        key: Some(key.clone()),
        spec: Box::new(hour()),
    };
    let far = w.now + Span::from_mins(60);
    step(&mut w, submit(1));
    let (id, by) = (ws(1), admin());
    step(&mut w, Event::Cancel { id, by });
    let event = Event::Forget {
        ended_before: far,
        limit: 10,
    };
    step(&mut w, event);
    step(&mut w, submit(2));
    let mut once = before;
    once.apply(&all);
    assert_eq!(once, each);
    let kept = IdempotencyRecord {
        owner,
        key,
        workspace: ws(2),
    };
    assert_eq!(once.idempotency, [kept]);
    let of_the_first = |e: &&broker_core::records::EventRecord| e.log == Log::Workspace(ws(1));
    assert_eq!(all.events.iter().find(of_the_first), None, "no log is left");
}
