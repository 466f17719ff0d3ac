//! The slots of such a job: how they are counted, registered, left and forgotten.

use crate::rig::{counts, leave, of, running, site_of, state, sync_now, whole};
use crate::world::{World, admin, room};
use broker_core::{Effect, Event, Reply};
use protocol::api::PilotState;
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::ids::SubmitKey;
use protocol::lrm::{JobEnd, SubmitAnswer};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

#[test]
fn one_submit_gives_a_slot_on_each_node_and_counts_once() {
    let mut w = site_of(2);
    let (key, first, ids) = running(&mut w, 2);
    assert_eq!(w.submitted.len(), 1);
    assert_eq!(w.jobs[0].order.nodes, 2);
    assert_eq!(counts(&w), (0, 1), "the limits are about jobs");
    let slots = w.broker.slots(None, 10, None).items;
    let keys: Vec<_> = slots.iter().map(|s| s.submit_key.clone()).collect();
    assert_eq!(keys, [of(&key, 0), of(&key, 1)]);
    let in_slots: Vec<_> = ids
        .iter()
        .map(|id| w.broker.workspace(&admin(), id).unwrap().slot.unwrap())
        .collect();
    assert_ne!(in_slots[0], in_slots[1], "each guest has a slot of its own");
    let rows = w.broker.pilots(None, 10, None).items;
    assert_eq!(rows.len(), 3, "the job and its two pilots");
    assert!(rows.iter().all(|r| r.lrm_job_id == rows[0].lrm_job_id));
    assert_eq!(state(&w, &key), PilotState::Started);
    for p in [first, first + 1] {
        leave(&mut w, p);
    }
    assert_eq!(
        state(&w, &key),
        PilotState::Ended,
        "the last one takes its job along"
    );
    assert_eq!(counts(&w).1, 1, "until the LRM says so, it counts");
    w.end_job(0, JobEnd::Exited(0));
    w.observe("A");
    assert_eq!(counts(&w).1, 0);
}

#[test]
fn slots_are_what_is_needed_and_jobs_are_what_is_limited() {
    let mut w = site_of(3);
    for _ in 0..7 {
        let mut s = whole();
        s.run_time = Span::from_mins(55);
        w.submit("anna", s);
    }
    w.pass_ticking(Span::from_secs(5));
    w.honest_submits();
    assert_eq!(w.jobs.len(), 3, "seven slots are three jobs of three nodes");
    let mut w = site_of(3);
    for _ in 0..30 {
        w.submit("anna", whole());
    }
    w.pass_ticking(Span::from_mins(1));
    w.honest_submits();
    assert_eq!(w.jobs.len(), 3, "three may wait");
    assert_eq!(counts(&w), (3, 0));
}

#[test]
fn one_pilot_that_leaves_or_dies_ends_nobody_elses_slot() {
    let mut w = site_of(3);
    let (key, first, ids) = running(&mut w, 3);
    leave(&mut w, first);
    w.quit(first + 1);
    for _ in 0..4 {
        w.pass_ticking(Span::from_secs(20));
        sync_now(&mut w, first + 2);
        w.observe("A");
    }
    assert_eq!(state(&w, &of(&key, 0)), PilotState::Ended);
    assert_eq!(state(&w, &of(&key, 1)), PilotState::Lost);
    assert_eq!(state(&w, &of(&key, 2)), PilotState::Active);
    assert_eq!(state(&w, &key), PilotState::Started);
    assert_eq!(w.state(&ids[0]), WorkspaceState::Queued);
    assert_eq!(
        w.state(&ids[1]),
        WorkspaceState::Queued,
        "by its lease's end"
    );
    assert_eq!(w.state(&ids[2]), WorkspaceState::Running);
}

#[test]
fn registrations_are_of_ranks_that_there_are_and_never_of_the_job_itself() {
    let mut w = site_of(2);
    let (key, first, _) = running(&mut w, 2);
    let other_site = w.pilots[first].clone();
    for (name, code) in [
        (key.to_string(), ErrorCode::Forbidden),
        (format!("{key}.2"), ErrorCode::NotFound),
        (format!("{key}.00"), ErrorCode::NotFound),
        (format!("{key}.0.0"), ErrorCode::NotFound),
        ("wp-t-000009.0".to_owned(), ErrorCode::NotFound),
    ] {
        let name = SubmitKey::new(&name).unwrap();
        let p = w.new_pilot(&name, &other_site.site, room(2, 4096), other_site.end, 0);
        match w.register(p) {
            Reply::Refused(e) => assert_eq!(e.code, code, "{name}: {e:?}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Again from the same process: nothing changes. From another one in the same start: it takes
    // the place, as with a job of one node.
    assert!(matches!(w.register(first), Reply::Registered(_)));
    assert_eq!(sync_now(&mut w, first).leases.len(), 1);
    let twin = w.new_pilot(
        &of(&key, 0),
        &other_site.site,
        room(2, 4096),
        other_site.end,
        0,
    );
    assert!(matches!(w.register(twin), Reply::Registered(_)));
    let request = w.request(first);
    assert!(matches!(w.deliver(request), Reply::Refused(e) if e.code == ErrorCode::Fenced));
    assert_eq!(
        sync_now(&mut w, first + 1).leases.len(),
        1,
        "its neighbour is not touched"
    );
}

#[test]
fn a_pilot_may_come_before_the_lrms_answer() {
    let mut w = site_of(2);
    w.submit("anna", whole());
    let order = w.take_order().unwrap();
    let key = order.key.clone();
    w.lrm_takes(order);
    let first = w.start_job(0);
    w.register(first + 1);
    assert_eq!(state(&w, &key), PilotState::Started);
    let answer = SubmitAnswer::NoAnswer("timed out".into());
    w.step(Event::LrmSubmitted {
        key: key.clone(),
        answer,
    });
    assert_eq!(state(&w, &key), PilotState::Started);
    assert!(!w.todo.iter().any(|e| matches!(e, Effect::LookUp { .. })));
    w.observe("A");
    assert_eq!(
        w.broker.pilot(&of(&key, 1)).unwrap().job,
        Some(w.jobs[0].id.clone())
    );
}

#[test]
fn spare_nodes_of_a_job_that_was_of_use_are_not_held_against_the_site() {
    let mut w = site_of(3);
    let (key, first, ids) = running(&mut w, 1);
    for p in [first + 1, first + 2] {
        leave(&mut w, p);
    }
    w.evict(first, ReasonCode::SlotEnding);
    sync_now(&mut w, first);
    assert_eq!(state(&w, &key), PilotState::Ended);
    assert_eq!(w.store.sites[0].fruitless, 0);
    w.end_job(0, JobEnd::Exited(0));
    w.observe("A");
    assert_eq!(w.state(&ids[0]), WorkspaceState::Queued);
    // One in which nothing ran at all is, once.
    w.pass_ticking(Span::from_secs(10));
    w.honest_submits();
    let first = w.start_job(1);
    for p in first..first + 3 {
        w.register(p);
        let by = admin();
        if p == first {
            w.step(Event::Cancel {
                id: ids[0].clone(),
                by,
            });
        }
        leave(&mut w, p);
    }
    assert_eq!(w.store.sites[0].fruitless, 1);
}

#[test]
fn what_is_held_back_or_told_is_the_slots_own() {
    let mut w = site_of(2);
    let (_, first, ids) = running(&mut w, 2);
    // A sync of one pilot renews its own lease and not its neighbour's.
    for _ in 0..5 {
        w.pass_ticking(Span::from_secs(20));
        sync_now(&mut w, first);
    }
    assert_eq!(w.state(&ids[0]), WorkspaceState::Running);
    assert_eq!(w.state(&ids[1]), WorkspaceState::Queued);
    let told = w.broker.explain(w.now, &admin(), &ids[0]).unwrap();
    assert!(told.sentences[0].contains(".0 on node"), "{told:?}");
}

#[test]
fn a_job_is_forgotten_with_all_its_pilots_and_none_of_them_before_it() {
    let mut w = site_of(2);
    let (key, first, _) = running(&mut w, 2);
    let forget = |w: &mut World| {
        let ended_before = w.now + Span::from_mins(24 * 60);
        let event = Event::Forget {
            ended_before,
            limit: 10,
        };
        match w.step(event) {
            Reply::Forgotten { records } => records,
            other => panic!("{other:?}"),
        }
    };
    leave(&mut w, first);
    assert_eq!(state(&w, &of(&key, 0)), PilotState::Ended);
    assert_eq!(forget(&mut w), 0, "its job runs");
    leave(&mut w, first + 1);
    w.end_job(0, JobEnd::Exited(0));
    w.observe("A");
    assert_eq!(forget(&mut w), 3);
    for key in [key.clone(), of(&key, 0), of(&key, 1)] {
        assert!(w.broker.pilot(&key).is_none(), "{key}");
    }
}
