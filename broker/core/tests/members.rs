//! Jobs on several nodes: one job at the LRM, a pilot with a slot of its own on each node.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use std::collections::BTreeMap;

use broker_core::{CancelScope, Effect, Event, Reply};
use protocol::api::PilotState;
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, SubmitAnswer};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use world::lrm::is_of;
use world::{World, admin, config, room, site, site_config, spec};

/// A site whose jobs are of so many nodes.
fn site_of(nodes: u32) -> World {
    let mut a = site_config("A", room(2, 4096));
    a.nodes = nodes;
    World::new(config(vec![a]))
}

/// A request that fills a slot.
fn whole() -> WorkspaceSpec {
    let mut s = spec(4096, Span::from_mins(30));
    s.resources.cores = 2;
    s
}

fn sync_now(w: &mut World, p: usize) -> protocol::messages::SyncReply {
    w.pilots[p].sent = None;
    w.pilots[p].failed_sync = true;
    w.sync(p).expect("a sync that must not be held was held")
}

fn run_up(w: &mut World, p: usize) {
    for _ in 0..3 {
        w.progress(p, &BTreeMap::new());
        sync_now(w, p);
    }
}

/// The one job, started, with so many requests running in it; its key and its first pilot.
fn running(w: &mut World, requests: usize) -> (SubmitKey, usize, Vec<WorkspaceId>) {
    let ids: Vec<_> = (0..requests).map(|_| w.submit("anna", whole())).collect();
    w.pass_ticking(Span::from_secs(5));
    w.honest_submits();
    assert_eq!(w.jobs.len(), 1, "one job for all of them");
    let first = w.start_job(0);
    for p in first..w.pilots.len() {
        w.register(p);
        sync_now(w, p);
        run_up(w, p);
    }
    for id in &ids {
        assert_eq!(w.state(id), WorkspaceState::Running);
    }
    (w.jobs[0].order.key.clone(), first, ids)
}

fn state(w: &World, key: &SubmitKey) -> PilotState {
    w.broker.pilot(key).unwrap().state
}

fn of(key: &SubmitKey, rank: u32) -> SubmitKey {
    key.member(rank).unwrap()
}

fn counts(w: &World) -> (u32, u32) {
    let view = w.broker.site(w.now, &site("A")).unwrap();
    (view.queued, view.running)
}

/// Says goodbye as a pilot does whose node is wanted back.
fn leave(w: &mut World, p: usize) {
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(w, p);
    assert!(w.pilots[p].gone, "it has left");
}

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
