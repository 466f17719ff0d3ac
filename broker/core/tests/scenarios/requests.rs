//! Requests of users: cancelled, bounded by their policy, declined by a slot, submitted twice.

use broker_core::{Event, Reply};
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::ids::IdempotencyKey;
use protocol::lease::{EndOutcome, Goal};
use protocol::time::Span;
use protocol::workspace::{AdvanceTo, OnEviction, WorkspaceSpec, WorkspaceState};

use super::{MARGIN, TTL, because, end_guest, hour, one_site, run_up, running, sync_now};
use crate::world;
use crate::world::{World, admin, config, room, site, site_config, spec, user};

#[test]
fn a_cancelled_workspace_ends_when_its_guest_is_gone() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.sync(p);
    let by = broker_core::Caller::User(user("anna"));
    let other = broker_core::Caller::User(user("ben"));
    let no = w.step(Event::Cancel {
        id: id.clone(),
        by: other,
    });
    assert!(matches!(no, Reply::Refused(e) if e.code == ErrorCode::NotFound));
    w.woken.clear();
    w.step(Event::Cancel {
        id: id.clone(),
        by: by.clone(),
    });
    assert!(w.woken.contains(&w.pilots[p].key), "the held sync is woken");
    assert_eq!(w.state(&id), WorkspaceState::Running);
    let reply = w.poll(p).expect("there is news");
    assert!(matches!(reply.leases[0].goal, Goal::Stop { .. }));
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Cancelled);
    assert_eq!(w.reason(&id), ReasonCode::CancelledByUser);
    let again = w.step(Event::Cancel { id, by });
    assert!(
        matches!(again, Reply::Workspace(_)),
        "cancelling twice is no error"
    );
}

#[test]
fn a_cancelled_workspace_of_a_lost_pilot_ends_with_its_lease() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.quit(p);
    w.step(Event::Cancel {
        id: id.clone(),
        by: admin(),
    });
    w.pass_ticking(TTL);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    w.pass_ticking(MARGIN);
    assert_eq!(w.state(&id), WorkspaceState::Cancelled);
    assert_eq!(w.reason(&id), ReasonCode::ByAdministrator);
}

#[test]
fn what_was_paused_and_killed_runs_again_when_its_owner_says_so_while_it_waits() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    let (i, by) = (id.clone(), admin());
    w.step(Event::Pause { id: i, by });
    w.evict(p, ReasonCode::SlotEnding);
    let reason = because(ReasonCode::SuspendTooSlow);
    end_guest(&mut w, p, &id, EndOutcome::Killed { reason });
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let (i, by) = (id.clone(), admin());
    w.step(Event::Resume { id: i, by });
    w.pass_ticking(Span::from_secs(5));
    let next = w.pilot_up();
    let reply = sync_now(&mut w, next);
    assert_eq!(reply.leases[0].goal, Goal::Run);
}

#[test]
fn policies_bound_restarts_suspends_and_evictions() {
    let killed = || EndOutcome::Killed {
        reason: because(ReasonCode::Preempted),
    };
    let mut w = one_site();
    let mut s = hour();
    s.policy.max_restarts = 1;
    let (id, p) = running(&mut w, s);
    end_guest(&mut w, p, &id, killed());
    assert!(w.pilots[p].guests.contains_key(&id), "restarted once");
    run_up(&mut w, p);
    end_guest(&mut w, p, &id, killed());
    assert_eq!(w.reason(&id), ReasonCode::TooManyRestarts);
    assert_eq!(w.state(&id), WorkspaceState::Failed);

    let mut w = one_site();
    let mut s = hour();
    s.policy.max_suspends = 0;
    let (id, p) = running(&mut w, s);
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    assert_eq!(w.reason(&id), ReasonCode::TooManySuspends);

    let mut w = one_site();
    let mut s = hour();
    s.policy.on_eviction = OnEviction::Fail;
    let (id, p) = running(&mut w, s);
    end_guest(&mut w, p, &id, killed());
    assert_eq!(
        (w.state(&id), w.reason(&id)),
        (WorkspaceState::Failed, ReasonCode::Preempted)
    );
}

#[test]
fn what_a_slot_declined_is_offered_to_another() {
    let mut w = one_site();
    let id = w.submit("anna", hour());
    let p = w.pilot_up();
    end_guest(
        &mut w,
        p,
        &id,
        EndOutcome::Declined {
            reason: because(ReasonCode::DiskFull),
        },
    );
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.is_empty());
    w.pass_ticking(Span::from_secs(5));
    let other = w.pilot_up();
    assert!(w.pilots[other].guests.contains_key(&id));
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(view.restarts, 0, "nothing was started");
}

#[test]
fn a_node_on_which_guests_fail_gets_none_for_a_while() {
    let mut w = one_site();
    let ids: Vec<_> = (0..3).map(|_| w.submit("anna", hour())).collect();
    let p = w.pilot_up();
    for id in &ids {
        sync_now(&mut w, p);
        end_guest(
            &mut w,
            p,
            id,
            EndOutcome::Failed {
                reason: because(ReasonCode::BootFailed),
                permanent: false,
            },
        );
    }
    w.pass(Span::from_mins(2));
    sync_now(&mut w, p);
    assert!(
        w.pilots[p].guests.is_empty(),
        "it would swallow all there is"
    );
    let text = w.broker.explain_site(w.now, &site("A")).unwrap().sentences;
    assert!(
        text.iter()
            .any(|s| s.contains("node node-1 gets no guests")),
        "{text:?}"
    );
    let told = w.broker.explain(w.now, &admin(), &ids[0]).unwrap();
    let told = told.sentences.join("\n");
    assert!(
        told.contains("(node node-1 gets no guests until "),
        "{told}"
    );
}

#[test]
fn staging_only_ends_when_it_is_staged() {
    let mut w = one_site();
    let mut s = hour();
    s.advance_to = AdvanceTo::Staged;
    let id = w.submit("anna", s);
    let p = w.pilot_up();
    let reply = sync_now(&mut w, p);
    assert_eq!(reply.leases[0].goal, Goal::Stage);
    end_guest(&mut w, p, &id, EndOutcome::Staged);
    assert_eq!(
        (w.state(&id), w.reason(&id)),
        (WorkspaceState::Done, ReasonCode::StagedAsAsked)
    );
}

#[test]
fn the_same_key_finds_the_same_workspace() {
    let mut w = one_site();
    let mut submit = |id: usize, key: &str, s: WorkspaceSpec| {
        w.step(Event::Submit {
            id: world::ws(id),
            owner: user("anna"),
            key: Some(IdempotencyKey::new(key).unwrap()),
            spec: Box::new(s),
        })
    };
    let Reply::Workspace(first) = submit(1, "k", hour()) else {
        panic!("refused");
    };
    let Reply::Workspace(again) = submit(2, "k", hour()) else {
        panic!("refused");
    };
    assert_eq!(first, again);
    let other = submit(3, "k", spec(1024, Span::from_mins(1)));
    assert!(matches!(other, Reply::Refused(e) if e.code == ErrorCode::KeyReused));
    let bad = submit(4, "l", spec(1024, Span::ZERO));
    assert!(matches!(bad, Reply::Refused(e) if e.code == ErrorCode::BadRequest));
}

#[test]
fn owners_take_turns() {
    let mut w = World::new(config(vec![site_config("A", room(4, 8192))]));
    for _ in 0..6 {
        w.submit("anna", hour());
    }
    let ben = w.submit("ben", hour());
    let p = w.pilot_up();
    assert_eq!(w.pilots[p].guests.len(), 4, "four cores");
    assert!(
        w.pilots[p].guests.contains_key(&ben),
        "not behind all of the other's"
    );
}
