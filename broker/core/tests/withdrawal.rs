//! A surplus pilot that starts between the decision to withdraw it and the LRM's answer, and the
//! nodes that submits leave out.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use broker_core::{CancelScope, Effect, Event, PilotOrder};
use protocol::api::PilotState;
use protocol::codes::ReasonCode;
use protocol::ids::SubmitKey;
use protocol::lrm::{CancelAnswer, JobEnd};
use protocol::time::Span;
use world::{World, admin, config, room, site, site_config, spec};

const MINUTE: Span = Span::from_mins(1);

/// A pilot job that waits in the LRM and that the broker has told the LRM to take out.
fn withdrawn() -> (World, SubmitKey) {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    let id = w.submit("anna", spec(4096, Span::from_mins(40)));
    w.pass_ticking(MINUTE);
    w.honest_submits();
    w.step(Event::Cancel { id, by: admin() });
    w.pass_ticking(MINUTE);
    let told: Vec<_> = (std::mem::take(&mut w.todo).into_iter())
        .filter_map(|e| match e {
            Effect::CancelPilot { key, scope, .. } => Some((key, scope)),
            Effect::SubmitPilot(_) | Effect::LookUp { .. } | Effect::Wake(_) => None,
        })
        .collect();
    let [(key, scope)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(*scope, CancelScope::WhileQueued);
    (w, key.clone())
}

fn pilot_state(w: &World, key: &SubmitKey) -> PilotState {
    let views = w.broker.pilots(Some(&site("A")), 100, None).items;
    let view = views.into_iter().find(|p| p.submit_key == *key);
    view.unwrap().state
}

#[test]
fn a_pilot_that_comes_while_its_withdrawal_is_open_gets_no_guest_until_the_lrm_has_answered() {
    for (answer, is_kept) in [
        (CancelAnswer::Started, true),
        (CancelAnswer::Taken, false),
        (CancelAnswer::NoSuchJob, false),
    ] {
        let (mut w, key) = withdrawn();
        let id = w.submit("anna", spec(4096, Span::from_mins(20)));
        let pilot = w.start_job(0);
        w.register(pilot);
        let told = w.sync(pilot);
        assert!(
            w.pilots[pilot].guests.is_empty(),
            "the LRM may end it in the next moment"
        );
        assert!(
            told.is_none_or(|reply| reply.leave.is_none()),
            "it may be kept"
        );
        w.step(Event::LrmCancelled {
            key: key.clone(),
            answer: answer.clone(),
        });
        let told = w.sync(pilot);
        assert_eq!(
            w.pilots[pilot].guests.contains_key(&id),
            is_kept,
            "{answer:?}"
        );
        let leave = told.and_then(|reply| reply.leave).map(|why| why.code);
        assert_eq!(
            leave,
            (!is_kept).then_some(ReasonCode::Surplus),
            "{answer:?}"
        );
    }
}

#[test]
fn a_withdrawal_without_an_answer_is_asked_again_while_the_pilot_waits() {
    let (mut w, key) = withdrawn();
    let pilot = w.start_job(0);
    w.observe("A");
    w.register(pilot);
    w.sync(pilot);
    assert_eq!(pilot_state(&w, &key), PilotState::Active);
    let id = w.submit("anna", spec(4096, Span::from_mins(20)));
    w.pass_ticking(MINUTE.times(2));
    // The world's LRM knows that it has started.
    w.honest_rest();
    w.sync(pilot);
    assert!(w.pilots[pilot].guests.contains_key(&id));
}

#[test]
fn a_drain_cancels_what_it_must_whatever_it_does() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    w.submit("anna", spec(4096, Span::from_mins(40)));
    w.pass_ticking(MINUTE);
    w.honest_submits();
    let (site, by) = (site("A"), admin());
    w.step(Event::Drain { site, by });
    let scopes: Vec<_> = (w.todo.iter())
        .filter_map(|e| match e {
            Effect::CancelPilot { scope, .. } => Some(*scope),
            Effect::SubmitPilot(_) | Effect::LookUp { .. } | Effect::Wake(_) => None,
        })
        .collect();
    assert_eq!(scopes, [CancelScope::Whatever]);
}

/// The next order; the LRM takes it and its pilot dies at once on the world's only node.
fn dies_young(w: &mut World) -> PilotOrder {
    w.pass_ticking(MINUTE.times(2));
    let order = w.take_order().expect("an order");
    w.lrm_takes(order.clone());
    let job = w.jobs.len() - 1;
    w.step(Event::LrmSubmitted {
        key: order.key.clone(),
        answer: protocol::lrm::SubmitAnswer::Accepted(w.jobs[job].id.clone()),
    });
    w.start_job(job);
    w.end_job(job, JobEnd::Exited(127));
    w.observe("A");
    order
}

#[test]
fn a_node_that_swallows_pilots_is_left_out_of_the_next_submit_until_that_is_forgotten() {
    let mut settings = config(vec![site_config("A", room(2, 6144))]);
    settings.provision.pause_after_died_young = 4;
    let (limit, pause) = (
        settings.provision.avoid_node_after,
        settings.provision.avoid_node_for,
    );
    assert_eq!(limit, 3, "one less than makes the site pause");
    let mut w = World::new(settings);
    w.submit("anna", spec(4096, Span::from_mins(40)));
    for _ in 0..limit {
        let order = dies_young(&mut w);
        assert!(order.avoid.is_empty(), "{order:?}");
    }
    w.pass_ticking(MINUTE.times(2));
    let order = w.take_order().expect("an order");
    let avoid: Vec<_> = order.avoid.iter().map(|n| n.as_str()).collect();
    assert_eq!(avoid, ["node-1"]);
    let told = w.broker.explain_site(w.now, &site("A")).unwrap().sentences;
    assert!(
        told.iter()
            .any(|s| s.contains("submits ask for other nodes") && s.contains("3 failures in a row")),
        "{told:?}"
    );
    // Refused, until the memory is gone.
    let (since, mut order) = (w.now, order);
    while !order.avoid.is_empty() {
        w.step(Event::LrmSubmitted {
            key: order.key.clone(),
            answer: protocol::lrm::SubmitAnswer::Refused("no other node".to_owned()),
        });
        order = loop {
            assert!(w.now < since + pause.times(3), "it is never forgotten");
            w.pass_ticking(MINUTE);
            if let Some(order) = w.take_order() {
                break order;
            }
        };
    }
    assert!(
        w.now.since(since) > pause.minus(MINUTE.times(10)),
        "{:?}",
        w.now
    );
}
