//! Lives that must go one way, step by step.

mod world;

use std::collections::BTreeMap;

use broker_core::records::Log;
use broker_core::{Broker, Effect, Event, Reply, SyncDecision};
use protocol::api::PilotState;
use protocol::codes::{ErrorCode, Reason, ReasonCode};
use protocol::ids::{EventSeq, IdempotencyKey, StateId, SubmitKey, WorkspaceId};
use protocol::lease::{EndOutcome, Goal, LeasePhase};
use protocol::lrm::{JobEnd, JobState, Observation, SubmitAnswer};
use protocol::messages::PilotEvent;
use protocol::time::Span;
use protocol::workspace::{AdvanceTo, OnEviction, WorkspaceSpec, WorkspaceState};
use world::{World, admin, config, room, site, site_config, spec, user};

const TTL: Span = Span::from_secs(60);
const MARGIN: Span = Span::from_secs(5);

fn one_site() -> World {
    World::new(config(vec![site_config("A", room(2, 4096))]))
}

fn hour() -> WorkspaceSpec {
    spec(512, Span::from_mins(30))
}

/// A workspace that runs in a pilot.
fn running(w: &mut World, what: WorkspaceSpec) -> (WorkspaceId, usize) {
    let id = w.submit("anna", what);
    let p = w.pilot_up();
    assert!(
        w.pilots[p].guests.contains_key(&id),
        "no lease at the first sync"
    );
    run_up(w, p);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    (id, p)
}

fn run_up(w: &mut World, p: usize) {
    for _ in 0..3 {
        w.progress(p, &BTreeMap::new());
        w.pilots[p].sent = None;
        w.pilots[p].failed_sync = true;
        w.sync(p);
    }
}

fn sync_now(w: &mut World, p: usize) -> protocol::messages::SyncReply {
    w.pilots[p].sent = None;
    w.pilots[p].failed_sync = true;
    w.sync(p).expect("a sync that must not be held was held")
}

fn end_guest(w: &mut World, p: usize, id: &WorkspaceId, outcome: EndOutcome) {
    w.pilots[p].guests.get_mut(id).unwrap().phase = LeasePhase::Ended { outcome };
    sync_now(w, p);
}

fn because(code: ReasonCode) -> Reason {
    Reason::new(code, "so it went")
}

fn pilot_state(w: &World, key: &SubmitKey) -> PilotState {
    w.broker.pilot(key).unwrap().state
}

#[test]
fn a_guest_outlives_its_slot() {
    let mut w = one_site();
    let (id, first) = running(&mut w, hour());
    w.pass(Span::from_secs(40));
    w.evict(first, ReasonCode::SlotEnding);
    sync_now(&mut w, first);
    assert!(w.pilots[first].gone, "it has left");
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(
        (view.suspends, view.restarts, view.run),
        (1, 0, Span::from_secs(40))
    );
    assert_eq!(pilot_state(&w, &w.pilots[first].key), PilotState::Ended);

    w.pass_ticking(Span::from_secs(5));
    let second = w.pilot_up();
    assert_eq!(w.pilots[second].guests[&id].generation.0, 2);
    run_up(&mut w, second);
    end_guest(
        &mut w,
        second,
        &id,
        EndOutcome::Finished {
            reason: because(ReasonCode::GuestPoweredOff),
        },
    );
    assert_eq!(w.state(&id), WorkspaceState::Done);
    assert_eq!(w.reason(&id), ReasonCode::GuestPoweredOff);
    let reply = sync_now(&mut w, second);
    let old = StateId::new(&format!("{id}.g1")).unwrap();
    assert!(!w.states.contains_key(&old) || reply.discard == [old]);
    sync_now(&mut w, second);
    assert!(
        w.store.discards.is_empty(),
        "the pilot has said that it is gone"
    );
}

#[test]
fn a_submit_without_an_answer_is_looked_up_and_never_repeated() {
    let mut w = one_site();
    w.submit("anna", hour());
    let order = w.take_order().unwrap();
    let key = order.key.clone();
    let answer = SubmitAnswer::NoAnswer("timed out".into());
    w.step(Event::LrmSubmitted {
        key: key.clone(),
        answer,
    });
    for _ in 0..10 {
        assert!(w.take_order().is_none(), "submitted again");
        w.todo.clear();
        w.pass_ticking(Span::from_secs(5));
    }
    assert!(matches!(w.todo.first(), None | Some(Effect::LookUp { .. })));
    w.lrm_takes(order);
    w.observe("A");
    assert_eq!(pilot_state(&w, &key), PilotState::Queued);
}

#[test]
fn a_lost_submit_is_given_up_by_three_listings_over_a_minute_and_its_pilot_is_still_welcome() {
    let mut w = one_site();
    w.submit("anna", hour());
    let order = w.take_order().unwrap();
    let key = order.key.clone();
    let answer = SubmitAnswer::NoAnswer("timed out".into());
    w.step(Event::LrmSubmitted {
        key: key.clone(),
        answer,
    });
    let absent = |w: &mut World| {
        let observation = Observation::Listing(Vec::new());
        w.step(Event::LrmFound {
            key: key.clone(),
            observation,
        });
    };
    for _ in 0..5 {
        absent(&mut w);
    }
    assert_eq!(
        pilot_state(&w, &key),
        PilotState::Submitting,
        "five at once prove nothing"
    );
    w.pass(Span::from_secs(59));
    absent(&mut w);
    assert_eq!(pilot_state(&w, &key), PilotState::Submitting);
    w.pass(Span::from_secs(1));
    let silent = Observation::NoAnswer("hung".into());
    w.step(Event::LrmFound {
        key: key.clone(),
        observation: silent,
    });
    assert_eq!(
        pilot_state(&w, &key),
        PilotState::Submitting,
        "silence proves nothing"
    );
    absent(&mut w);
    assert_eq!(pilot_state(&w, &key), PilotState::Ended);
    w.pass_ticking(Span::from_secs(5));
    let next = w.take_order().expect("another is submitted");
    assert_ne!(next.key, key);

    w.lrm_takes(order);
    let p = w.start_job(0);
    w.register(p);
    assert_eq!(
        pilot_state(&w, &key),
        PilotState::Active,
        "its token proves it"
    );
}

#[test]
fn a_broker_that_died_while_submitting_looks_the_job_up() {
    let mut w = one_site();
    w.submit("anna", hour());
    let order = w.take_order().unwrap();
    w.restart_broker();
    let again: Vec<_> = w.todo.clone();
    assert_eq!(
        again,
        [Effect::LookUp {
            site: site("A"),
            key: order.key.clone()
        }]
    );
    w.lrm_takes(order.clone());
    w.honest_rest();
    assert_eq!(pilot_state(&w, &order.key), PilotState::Queued);
}

#[test]
fn two_listings_without_a_job_prove_nothing_however_far_apart() {
    let mut w = one_site();
    w.submit("anna", hour());
    let key = w.take_order().unwrap().key;
    let answer = SubmitAnswer::NoAnswer("timed out".into());
    w.step(Event::LrmSubmitted {
        key: key.clone(),
        answer,
    });
    for _ in 0..2 {
        let observation = Observation::Listing(Vec::new());
        w.step(Event::LrmFound {
            key: key.clone(),
            observation,
        });
        assert_eq!(pilot_state(&w, &key), PilotState::Submitting);
        w.pass(Span::from_mins(2));
    }
}

#[test]
fn a_submit_whose_outcome_is_never_told_is_looked_up() {
    let mut w = one_site();
    w.submit("anna", hour());
    let order = w.take_order().unwrap();
    w.pass_ticking(Span::from_mins(5) + Span::from_secs(2));
    assert!(matches!(&w.todo[..], [Effect::LookUp { key, .. }] if *key == order.key));
}

#[test]
fn a_job_that_is_not_in_the_listing_has_not_ended() {
    let mut w = one_site();
    let id = w.submit("anna", hour());
    w.honest_submits();
    let key = w.jobs[0].order.key.clone();
    for _ in 0..30 {
        w.pass_ticking(Span::from_secs(30));
        let observation = Observation::Listing(Vec::new());
        w.step(Event::LrmObserved {
            site: site("A"),
            observation,
        });
        assert_eq!(pilot_state(&w, &key), PilotState::Queued);
    }
    assert!(w.take_order().is_none(), "it still counts");
    let p = w.start_job(0);
    w.register(p);
    w.sync(p);
    assert!(w.pilots[p].guests.contains_key(&id));
    // Its time is over when it could not run any more even if it had started just then.
    w.quit(p);
    let end = w.pilots[p].end;
    w.pass_ticking(end.since(w.now) + Span::from_mins(5));
    assert_eq!(pilot_state(&w, &key), PilotState::Lost);
    w.pass_ticking(Span::from_mins(10));
    assert_eq!(pilot_state(&w, &key), PilotState::Ended);
}

#[test]
fn a_lost_pilots_lease_lasts_to_its_expiry_and_margin_whatever_the_lrm_says() {
    for by_word in [false, true] {
        let mut w = one_site();
        let (id, p) = running(&mut w, hour());
        w.quit(p);
        if by_word {
            w.end_job(0, JobEnd::NodeLost);
            w.observe("A");
        }
        w.pass_ticking(Span::from_millis((TTL + MARGIN).as_millis() - 1));
        assert_eq!(
            w.state(&id),
            WorkspaceState::Running,
            "by the LRM's word: {by_word}"
        );
        w.pass_ticking(Span::from_millis(1));
        assert_eq!(w.state(&id), WorkspaceState::Queued);
        assert_eq!(w.reason(&id), ReasonCode::PilotLost);
    }
}

#[test]
fn a_requeued_job_fences_its_former_start() {
    let mut w = one_site();
    let (id, old) = running(&mut w, hour());
    w.jobs[0].restarts = 1;
    let new = w.start_job(0);
    w.register(new);
    w.sync(new);
    assert!(
        w.pilots[new].guests.is_empty(),
        "the old guest may still run"
    );
    w.pilots[old].sent = None;
    assert!(w.sync(old).is_none());
    assert!(w.pilots[old].gone, "the old pilot was told to leave");
    let again = w.register(old);
    assert!(matches!(again, Reply::Refused(e) if e.code == ErrorCode::Fenced));
    w.pass_ticking(TTL);
    sync_now(&mut w, new);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    w.pass_ticking(MARGIN);
    assert_eq!(w.reason(&id), ReasonCode::Requeued);
    sync_now(&mut w, new);
    assert_eq!(w.pilots[new].guests[&id].generation.0, 2);
}

#[test]
fn a_state_that_a_lost_pilot_made_is_used_if_nothing_ran_since() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    sync_now(&mut w, p);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(view.saved.unwrap().id.as_str(), "ws-1.g1");
    assert!(view.run >= TTL);
    assert!(w.store.discards.is_empty());
}

#[test]
fn a_state_of_a_former_lease_is_refused_and_discarded() {
    let mut w = one_site();
    let (id, old) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    let new = w.pilot_up();
    run_up(&mut w, new);
    assert_eq!(w.pilots[new].guests[&id].generation.0, 2);
    let reply = sync_now(&mut w, old);
    assert!(reply.leases.is_empty());
    assert_eq!(reply.discard, [StateId::new("ws-1.g1").unwrap()]);
    assert!(w.broker.workspace(&admin(), &id).unwrap().saved.is_none());
    let told = w.events.iter().any(|e| e.kind == "state_refused");
    assert!(told, "the owner can see it");
}

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
fn suspend_parks_and_resume_queues() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    let (i, by) = (id.clone(), admin());
    w.step(Event::Suspend { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Suspended);
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.is_empty(), "it stays out of the queue");
    let (i, by) = (id.clone(), admin());
    w.step(Event::Pause { id: i, by });
    assert_eq!(w.state(&id), WorkspaceState::Suspended, "that was refused");
    let (i, by) = (id.clone(), admin());
    w.step(Event::Resume { id: i, by });
    sync_now(&mut w, p);
    assert_eq!(w.pilots[p].guests[&id].generation.0, 2);
    run_up(&mut w, p);
    let (i, by) = (id.clone(), admin());
    w.step(Event::Pause { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Paused);
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
fn a_corrupt_state_falls_back_to_the_image() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pass(Span::from_secs(30));
    let (i, by) = (id.clone(), admin());
    w.step(Event::Suspend { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    let (i, by) = (id.clone(), admin());
    w.step(Event::Resume { id: i, by });
    sync_now(&mut w, p);
    end_guest(
        &mut w,
        p,
        &id,
        EndOutcome::Failed {
            reason: because(ReasonCode::StateCorrupt),
            permanent: false,
        },
    );
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(
        (view.state, view.saved, view.run),
        (WorkspaceState::Queued, None, Span::ZERO)
    );
    assert!(w.events.iter().any(|e| e.kind == "state_dropped"));
    assert!(w.pilots[p].guests.is_empty(), "not in this slot at once");
    w.pass(Span::from_secs(61));
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.contains_key(&id), "later it is");
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
fn a_sync_is_held_until_there_is_news() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pilots[p].sent = None;
    assert!(w.sync(p).is_none(), "nothing to say");
    assert!(w.poll(p).is_none(), "still nothing");
    w.pass(Span::from_secs(15));
    let reply = w.poll(p).expect("the hold is over");
    assert_eq!(reply.held, Span::from_secs(15));
    let expiry = w.store.leases[0].expiry;
    assert_eq!(expiry, w.now + TTL, "the answer renews the lease");

    // The same request again, as after a lost answer, is answered at once and the same.
    let lost = w.request(p);
    w.pass(Span::from_secs(15));
    let Reply::Sync(SyncDecision::Hold { .. }) = w.deliver(lost.clone()) else {
        panic!("nothing to say");
    };
    w.submit("ben", hour());
    let first = w.poll(p).unwrap();
    assert_eq!(first.leases.len(), 2);
    let Reply::Sync(SyncDecision::Answer(second)) = w.deliver(lost.clone()) else {
        panic!("held back what was lost");
    };
    assert_eq!(first.leases, second.leases);
    let newer = w.request(p);
    w.deliver(newer);
    let late = w.deliver(lost);
    assert!(matches!(late, Reply::Refused(e) if e.code == ErrorCode::WrongState));
    assert_eq!(w.state(&id), WorkspaceState::Running);
}

#[test]
fn events_of_a_pilot_are_stored_once_and_in_order() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    let event = |seq: u64, workspace: Option<&WorkspaceId>| PilotEvent {
        seq: EventSeq(seq),
        at: world::start(),
        kind: "noticed".into(),
        workspace: workspace.cloned(),
        generation: workspace.map(|_| protocol::ids::Generation(1)),
        text: format!("event {seq}"),
        data: serde_json::Value::Null,
    };
    let stranger = world::ws(77);
    for (events, acknowledged) in [
        (vec![event(1, Some(&id)), event(2, None)], 2),
        (
            vec![
                event(1, Some(&id)),
                event(2, None),
                event(3, Some(&stranger)),
            ],
            3,
        ),
        (vec![event(5, None)], 3),
    ] {
        let mut request = w.request(p);
        request.events = events;
        request.no_hold = true;
        let Reply::Sync(SyncDecision::Answer(reply)) = w.deliver(request) else {
            panic!("news is answered");
        };
        assert_eq!(reply.acknowledged, EventSeq(acknowledged));
    }
    let stored: Vec<_> = (w.events.iter())
        .filter(|e| e.kind == "noticed")
        .map(|e| (matches!(e.log, Log::Workspace(_)), e.text.as_str()))
        .collect();
    assert_eq!(
        stored,
        [(true, "event 1"), (false, "event 2"), (false, "event 3")]
    );
}

#[test]
fn a_slots_end_by_the_lrm_is_told_at_once() {
    let mut w = one_site();
    let (_, p) = running(&mut w, hour());
    w.observe("A");
    w.sync(p);
    w.woken.clear();
    let sooner = w.now + Span::from_mins(7);
    w.jobs[0].end = Some(sooner);
    w.observe("A");
    assert!(w.woken.contains(&w.pilots[p].key));
    w.pilots[p].sent = None;
    let reply = w.sync(p).expect("that is news");
    assert_eq!(reply.slot_end, Some(sooner));
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

#[test]
fn a_states_site_is_the_only_one_that_resumes_it() {
    let mut w = World::new(config(vec![
        site_config("A", room(2, 4096)),
        site_config("B", room(2, 4096)),
    ]));
    let (id, p) = running(&mut w, hour());
    assert_eq!(w.pilots[p].site, site("A"));
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    w.step(Event::Drain {
        site: site("A"),
        by: admin(),
    });
    w.submit("ben", hour());
    w.pass_ticking(Span::from_secs(30));
    let other = w.pilot_up();
    assert_eq!(w.pilots[other].site, site("B"));
    assert!(!w.pilots[other].guests.contains_key(&id));
    w.step(Event::Undrain {
        site: site("A"),
        by: admin(),
    });
    w.pass_ticking(Span::from_secs(5));
    let back = w.pilot_up();
    assert_eq!(w.pilots[back].site, site("A"));
    assert!(w.pilots[back].guests.contains_key(&id));
}

#[test]
fn a_lease_that_its_pilot_forgot_is_not_renewed_and_ends_by_time() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pilots[p].guests.clear();
    for _ in 0..5 {
        let reply = sync_now(&mut w, p);
        assert!(
            reply.leases.is_empty(),
            "whatever runs there must not live on"
        );
        w.pass_ticking(Span::from_secs(10));
    }
    assert_eq!(w.state(&id), WorkspaceState::Running, "silence is no end");
    w.pass_ticking(TTL);
    sync_now(&mut w, p);
    assert_eq!(w.pilots[p].guests[&id].generation.0, 2);
}

#[test]
fn a_pilot_by_hand_is_a_pilot() {
    let mut sites = vec![site_config("H", room(2, 4096))];
    sites[0].lrm = None;
    let mut w = World::new(config(sites));
    let id = w.submit("anna", hour());
    assert!(w.take_order().is_none());
    let (name, by) = (site("H"), admin());
    let Reply::HandPilot { key } = w.step(Event::HandPilot { site: name, by }) else {
        panic!("refused");
    };
    let end = w.now + Span::from_mins(60);
    let p = w.new_pilot(&key, &site("H"), room(2, 4096), end, 0);
    w.register(p);
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.contains_key(&id));
    let by = broker_core::Caller::User(user("anna"));
    let no = w.step(Event::HandPilot {
        site: site("H"),
        by,
    });
    assert!(matches!(no, Reply::Refused(e) if e.code == ErrorCode::Forbidden));
}

#[test]
fn a_pilot_that_leaves_takes_nothing_with_it() {
    let mut w = one_site();
    let id = w.submit("anna", hour());
    let p = w.pilot_up();
    // The answer with the lease was lost, and the pilot leaves.
    w.pilots[p].guests.clear();
    w.pilots[p].leaving = true;
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let key = w.pilots[p].key.clone();
    assert_eq!(pilot_state(&w, &key), PilotState::Ended);
    let mut again = w.request(p);
    again.number -= 1;
    let Reply::Sync(SyncDecision::Answer(reply)) = w.deliver(again) else {
        panic!("a repeated goodbye is answered");
    };
    assert!(reply.leases.is_empty());
    let back = w.register(p);
    assert!(matches!(back, Reply::Refused(e) if e.code == ErrorCode::Fenced));
}

#[test]
fn a_pilot_that_leaves_and_calls_a_guest_alive_is_not_believed() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pilots[p].leaving = true;
    assert!(!w.pilots[p].guests.is_empty());
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    w.pass_ticking(TTL);
    assert_eq!(w.state(&id), WorkspaceState::Running, "within the margin");
    w.pass_ticking(MARGIN + Span::from_secs(1));
    assert_eq!(w.state(&id), WorkspaceState::Queued);
}

#[test]
fn after_a_restart_the_pilots_have_a_full_lease_to_come_back() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    // The broker is away for long; the pilot suspends by its own clock.
    w.pass(Span::from_mins(20));
    assert!(!w.pilots[p].guests[&id].alive());
    w.restart_broker();
    assert_eq!(
        w.state(&id),
        WorkspaceState::Running,
        "nobody has said otherwise yet"
    );
    sync_now(&mut w, p);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert!(view.saved.is_some(), "and the state is taken");
}

#[test]
fn an_lrm_that_ended_a_job_whose_pilot_lives_makes_it_leave() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.jobs[0].state = JobState::Ended(JobEnd::Cancelled);
    w.observe("A");
    let reply = sync_now(&mut w, p);
    assert_eq!(reply.leave.unwrap().code, ReasonCode::JobEnded);
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    assert!(w.pilots[p].gone);
}

#[test]
fn records_of_today_are_read_as_they_were_written() {
    let mut w = one_site();
    let (_, p) = running(&mut w, hour());
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    let r = w.broker.records();
    let mut copy = r.clone();
    macro_rules! through_json {
        ($($field:ident),*) => {$(
            let text = serde_json::to_string(&r.$field).unwrap();
            copy.$field = serde_json::from_str(&text).unwrap();
        )*};
    }
    through_json!(
        workspaces,
        leases,
        pilots,
        sites,
        idempotency,
        discards,
        meta
    );
    assert_eq!(r, copy);
    assert!(Broker::load(w.config.clone(), copy).check().is_ok());
}
