//! What the batch system says, and what it proves: submits without an answer, listings without a job,
//! ends that move.

use broker_core::{Effect, Event};
use protocol::api::PilotState;
use protocol::codes::ReasonCode;
use protocol::lrm::{JobEnd, JobState, Observation, SubmitAnswer};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::{hour, one_site, pilot_state, running, sync_now};
use crate::world::{World, site};

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
