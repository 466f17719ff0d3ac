//! What the LRM says of such a job, and what it is told.

use crate::rig::{leave, of, run_up, running, site_of, state, sync_now, whole};
use crate::world::lrm::is_of;
use crate::world::{admin, site};
use broker_core::{CancelScope, Effect, Event, Reply};
use protocol::api::PilotState;
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;
use std::collections::BTreeMap;

#[test]
fn the_lrms_word_on_the_job_holds_for_all_of_its_pilots() {
    let mut w = site_of(2);
    let (key, first, _) = running(&mut w, 2);
    // The end is moved: both are told at once.
    w.observe("A");
    for p in [first, first + 1] {
        sync_now(&mut w, p);
    }
    let end = w.now + Span::from_mins(10);
    w.jobs[0].end = Some(end);
    w.woken.clear();
    w.observe("A");
    for (p, rank) in [(first, 0), (first + 1, 1)] {
        assert!(w.woken.contains(&of(&key, rank)));
        assert_eq!(sync_now(&mut w, p).slot_end, Some(end));
    }
    // It is over: both are to leave.
    w.jobs[0].state = JobState::Ended(JobEnd::Preempted);
    w.observe("A");
    for (p, rank) in [(first, 0), (first + 1, 1)] {
        assert_eq!(state(&w, &of(&key, rank)), PilotState::Ended);
        let reply = sync_now(&mut w, p);
        assert_eq!(reply.leave.map(|r| r.code), Some(ReasonCode::JobEnded));
    }
}

#[test]
fn an_end_that_was_not_one_is_taken_back_for_all() {
    let mut w = site_of(2);
    let (key, first, ids) = running(&mut w, 2);
    w.jobs[0].state = JobState::Ended(JobEnd::NodeLost);
    w.observe("A");
    w.jobs[0].state = JobState::Running;
    w.observe("A");
    assert_eq!(state(&w, &key), PilotState::Started);
    assert_eq!(
        state(&w, &of(&key, 1)),
        PilotState::Lost,
        "until it is heard"
    );
    for (p, rank) in [(first, 0), (first + 1, 1)] {
        let reply = sync_now(&mut w, p);
        assert_eq!((reply.leave, reply.leases.len()), (None, 1));
        assert_eq!(state(&w, &of(&key, rank)), PilotState::Active);
    }
    for id in ids {
        assert_eq!(w.state(&id), WorkspaceState::Running);
    }
}

#[test]
fn a_job_that_is_not_in_the_listing_has_not_ended_for_any_of_its_pilots() {
    let mut w = site_of(2);
    let (key, first, _) = running(&mut w, 2);
    w.quit(first + 1);
    for _ in 0..20 {
        w.pass_ticking(Span::from_secs(30));
        sync_now(&mut w, first);
        let observation = Observation::Listing(Vec::new());
        let site = site("A");
        w.step(Event::LrmObserved { site, observation });
    }
    assert_eq!(state(&w, &of(&key, 0)), PilotState::Active);
    assert_eq!(state(&w, &of(&key, 1)), PilotState::Lost);
    assert_eq!(state(&w, &key), PilotState::Started);
    // Past its latest end the lost one is given up; so is the job, with its last pilot.
    leave(&mut w, first);
    w.pass_ticking(Span::from_mins(90));
    assert_eq!(state(&w, &of(&key, 1)), PilotState::Ended);
    assert_eq!(state(&w, &key), PilotState::Ended);
}

#[test]
fn a_requeue_gives_all_of_them_a_new_start() {
    let mut w = site_of(2);
    let (key, first, ids) = running(&mut w, 2);
    // The LRM lost a node: one pilot is gone, the other lives on for a while.
    w.quit(first + 1);
    w.jobs[0].state = JobState::Queued;
    w.jobs[0].restarts = 1;
    w.observe("A");
    assert_eq!(state(&w, &key), PilotState::Queued);
    assert_eq!(
        state(&w, &of(&key, 0)),
        PilotState::Active,
        "it still speaks"
    );
    let again = w.start_job(0);
    w.observe("A");
    assert_eq!(state(&w, &key), PilotState::Started);
    for p in [again, again + 1] {
        assert!(matches!(w.register(p), Reply::Registered(_)));
    }
    // The pilot of the first start is fenced, and its guest waits for the end of its lease.
    let request = w.request(first);
    match w.deliver(request) {
        Reply::Refused(e) => assert_eq!(e.code, ErrorCode::Fenced),
        other => panic!("{other:?}"),
    }
    w.quit(first);
    for p in [again, again + 1] {
        sync_now(&mut w, p);
    }
    for _ in 0..20 {
        w.pass_ticking(Span::from_secs(10));
        for p in [again, again + 1] {
            w.progress(p, &BTreeMap::new());
            sync_now(&mut w, p);
        }
    }
    for id in &ids {
        assert_eq!(w.state(id), WorkspaceState::Running);
        let slot = w.broker.workspace(&admin(), id).unwrap().slot.unwrap();
        assert!(is_of(&slot, &key));
    }
    assert_eq!(w.submitted.len(), 1, "it was not submitted again");
}

#[test]
fn a_requeued_job_whose_pilots_have_all_left_waits_for_its_next_start() {
    let mut w = site_of(2);
    let (key, first, ids) = running(&mut w, 2);
    for p in [first, first + 1] {
        leave(&mut w, p);
    }
    w.jobs[0].state = JobState::Queued;
    w.jobs[0].restarts = 1;
    w.observe("A");
    assert_eq!(state(&w, &key), PilotState::Queued);
    let again = w.start_job(0);
    w.observe("A");
    // The first of the new start leaves before the second has come: the job goes on.
    w.register(again);
    sync_now(&mut w, again);
    leave(&mut w, again);
    assert_eq!(state(&w, &key), PilotState::Started);
    w.register(again + 1);
    sync_now(&mut w, again + 1);
    run_up(&mut w, again + 1);
    assert!(ids.iter().any(|id| w.state(id) == WorkspaceState::Running));
}

#[test]
fn surplus_is_a_job_that_none_of_its_pilots_ever_came_from() {
    let mut w = site_of(2);
    let id = w.submit("anna", whole());
    w.pass_ticking(Span::from_secs(5));
    w.honest_submits();
    w.observe("A");
    let by = admin();
    w.step(Event::Cancel { id, by });
    w.pass_ticking(Span::from_mins(1));
    assert!(
        matches!(w.todo.as_slice(), [Effect::CancelPilot { .. }]),
        "{:?}",
        w.todo
    );
    // One comes after all: the job is kept, and so is what it can still serve.
    let key = w.jobs[0].order.key.clone();
    w.todo.clear();
    let first = w.start_job(0);
    w.register(first);
    w.pass_ticking(Span::from_mins(3));
    // The LRM was told: it is asked what came of that, and has not touched what runs.
    assert!(
        matches!(
            w.todo.as_slice(),
            [Effect::CancelPilot {
                scope: CancelScope::WhileQueued,
                ..
            }]
        ),
        "{:?}",
        w.todo
    );
    w.honest_rest();
    w.pass_ticking(Span::from_mins(3));
    assert!(
        !w.todo
            .iter()
            .any(|e| matches!(e, Effect::CancelPilot { .. })),
        "{:?}",
        w.todo
    );
    assert_eq!(
        w.broker.pilot(&key).unwrap().cancel,
        broker_core::records::CancelProgress::No
    );
}

#[test]
fn a_cancel_that_the_lrm_has_taken_makes_all_of_them_leave() {
    let mut w = site_of(2);
    w.submit("anna", whole());
    w.pass_ticking(Span::from_secs(5));
    w.honest_submits();
    let key = w.jobs[0].order.key.clone();
    let (name, by) = (site("A"), admin());
    w.step(Event::Drain { site: name, by });
    let answer = CancelAnswer::Taken;
    w.step(Event::LrmCancelled { key, answer });
    let first = w.start_job(0);
    for p in [first, first + 1] {
        w.register(p);
        assert_eq!(
            sync_now(&mut w, p).leave.map(|r| r.code),
            Some(ReasonCode::Draining)
        );
    }
}

#[test]
fn a_drain_asks_all_of_them_to_leave_and_cancels_nothing_that_speaks() {
    let mut w = site_of(2);
    let (key, first, _) = running(&mut w, 2);
    w.todo.clear();
    let (name, by) = (site("A"), admin());
    w.step(Event::Drain { site: name, by });
    for (p, rank) in [(first, 0), (first + 1, 1)] {
        assert!(w.woken.contains(&of(&key, rank)));
        assert!(sync_now(&mut w, p).leave.is_some());
        sync_now(&mut w, p);
    }
    assert!(w.todo.is_empty(), "{:?}", w.todo);
    assert_eq!(state(&w, &key), PilotState::Ended);
}
