//! How many pilots, and the words for why not.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use std::collections::BTreeSet;

use broker_core::{Effect, Event};
use protocol::ids::WorkspaceId;
use protocol::lrm::{JobEnd, SubmitAnswer};
use protocol::time::Span;
use protocol::workspace::OnEviction;
use world::{World, admin, config, room, site, site_config, spec};

fn two_sites() -> World {
    World::new(config(vec![
        site_config("A", room(2, 6144)),
        site_config("B", room(2, 2048)),
    ]))
}

fn why(w: &World, id: &WorkspaceId) -> String {
    let explained = w.broker.explain(w.now, &admin(), id).unwrap();
    explained.sentences.join("\n")
}

fn why_site(w: &World, name: &str) -> String {
    let explained = w.broker.explain_site(w.now, &site(name)).unwrap();
    explained.sentences.join("\n")
}

fn refuse(w: &mut World, times: usize) {
    for _ in 0..times {
        let order = loop {
            if let Some(order) = w.take_order() {
                break order;
            }
            w.pass_ticking(Span::from_mins(1));
        };
        let answer = SubmitAnswer::Refused("account expired".into());
        w.step(Event::LrmSubmitted {
            key: order.key,
            answer,
        });
    }
}

#[test]
fn the_limits_of_a_site_are_never_passed() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    for _ in 0..60 {
        w.submit("anna", spec(4096, Span::from_mins(40)));
    }
    let mut most = 0;
    for round in 0..40 {
        w.pass_ticking(Span::from_secs(10));
        w.honest_submits();
        if round % 3 == 0
            && let Some(job) = (w.jobs.iter()).position(|j| j.start.is_none())
        {
            let p = w.start_job(job);
            w.register(p);
        }
        w.observe("A");
        let waiting = w.jobs.iter().filter(|j| j.start.is_none()).count();
        most = most.max(w.jobs.len());
        assert!(waiting <= 3, "{waiting} wait");
        assert!(w.jobs.len() <= 10, "{} were submitted", w.jobs.len());
        for p in 0..w.pilots.len() {
            w.pilots[p].sent = None;
            w.pilots[p].failed_sync = true;
            w.sync(p);
        }
    }
    assert_eq!(most, 10, "all that the site allows is used");
    assert!(why_site(&w, "A").starts_with("no pilot submitted: 10 pilots running, limit reached"));
}

#[test]
fn minutes_count_and_not_heads() {
    let mut w = World::new(config(vec![site_config("A", room(1, 6144))]));
    for _ in 0..50 {
        w.submit("anna", spec(512, Span::from_mins(1)));
    }
    w.pass_ticking(Span::from_mins(1));
    let mut orders = Vec::new();
    while let Some(order) = w.take_order() {
        orders.push(order);
    }
    let minutes: Span = orders.iter().map(|o| o.walltime).sum();
    assert!(
        orders.len() <= 2,
        "fifty minutes fit into one slot: {orders:?}"
    );
    assert!(
        (50..80).contains(&(minutes.as_millis() / 60_000)),
        "{minutes}"
    );
}

#[test]
fn the_walltime_fits_the_work() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    w.submit("anna", spec(512, Span::from_mins(20)));
    let order = w.take_order().unwrap();
    let (least, most) = (Span::from_mins(20), Span::from_mins(25));
    assert!(
        (least..most).contains(&order.walltime),
        "{}",
        order.walltime
    );
    assert!(order.min_walltime <= order.walltime);
}

#[test]
fn failures_make_it_wait_longer_and_longer_and_then_stop() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    w.submit("anna", spec(4096, Span::from_mins(40)));
    refuse(&mut w, 3);
    w.pass(Span::from_mins(5));
    assert!(w.take_order().is_none());
    let id = world::ws(1);
    let until = "14:07";
    let text = why_site(&w, "A");
    let golden = format!("no pilot submitted: back-off after 3 submit failures, next try {until}");
    assert_eq!(
        text.lines().next().unwrap().get(..60),
        golden.get(..60),
        "{text}"
    );
    assert!(
        why(&w, &id).contains("no pilot submitted at site A: back-off after 3 submit failures")
    );
    refuse(&mut w, 7);
    w.pass_ticking(Span::from_mins(300));
    assert!(w.take_order().is_none());
    let text = why_site(&w, "A");
    assert!(
        text.starts_with("no pilot submitted: paused, 10 submits in a row failed: account expired"),
        "{text}"
    );
    w.step(Event::Undrain {
        site: site("A"),
        by: admin(),
    });
    assert!(w.take_order().is_some(), "an administrator has looked");
}

#[test]
fn pilots_that_never_register_make_it_stop() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    w.submit("anna", spec(4096, Span::from_mins(40)));
    for n in 0..3 {
        w.pass_ticking(Span::from_secs(10));
        w.honest_submits();
        assert_eq!(w.jobs.len(), n + 1);
        w.end_job(n, JobEnd::Exited(127));
        w.observe("A");
    }
    w.pass_ticking(Span::from_mins(120));
    assert!(w.take_order().is_none());
    assert!(why_site(&w, "A").contains("3 pilots in a row ended without registering"));
}

#[test]
fn pilots_without_work_are_withdrawn_and_a_drain_withdraws_all() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    let ids: Vec<_> = (0..3)
        .map(|_| w.submit("anna", spec(4096, Span::from_mins(40))))
        .collect();
    w.pass_ticking(Span::from_secs(10));
    w.honest_submits();
    assert_eq!(w.jobs.len(), 3);
    let (id, by) = (ids[0].clone(), admin());
    w.step(Event::Cancel { id, by });
    w.pass_ticking(Span::from_secs(40));
    let cancels = |w: &World| {
        let keys = w.todo.iter().filter_map(|e| match e {
            Effect::CancelPilot { key, .. } => Some(key),
            Effect::SubmitPilot(_) | Effect::LookUp { .. } | Effect::Wake(_) => None,
        });
        keys.collect::<BTreeSet<_>>().len()
    };
    assert_eq!(cancels(&w), 1);
    w.honest_rest();
    w.observe("A");
    w.step(Event::Drain {
        site: site("A"),
        by: admin(),
    });
    assert_eq!(cancels(&w), 2);
    w.honest_rest();
    w.pass_ticking(Span::from_mins(10));
    assert!(w.take_order().is_none());
    assert_eq!(
        why_site(&w, "A").lines().next().unwrap(),
        "no pilot submitted: site A is being drained by root since 13:00"
    );
}

#[test]
fn the_last_request_s_end_withdraws_the_pilot_that_waits_for_it() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    let id = w.submit("anna", spec(4096, Span::from_mins(40)));
    w.pass_ticking(Span::from_secs(10));
    w.honest_submits();
    w.observe("A");
    let by = admin();
    w.step(Event::Cancel { id, by });
    // Nothing is queued, and nothing is due: only the broker's own timer can find it.
    for _ in 0..20 {
        if w.todo
            .iter()
            .any(|e| matches!(e, Effect::CancelPilot { .. }))
        {
            return;
        }
        let at = w
            .broker
            .next_wakeup()
            .expect("the broker has to look again");
        w.pass(at.since(w.now).max(Span::from_secs(1)));
        w.step(Event::Tick);
    }
    panic!("it waits for ever: {}", why_site(&w, "A"));
}

#[test]
fn explain_tells_who_waits_for_what() {
    let mut w = two_sites();
    let ids: Vec<_> = (0..5)
        .map(|n| w.submit("anna", spec(6144, Span::from_mins(40 + n))))
        .collect();
    w.pass_ticking(Span::from_secs(30));
    w.honest_submits();
    assert_eq!(
        why(&w, &ids[0]),
        "no slot with 6 GiB for 1m; 3 pilots queued at site A, limit reached"
    );
    assert_eq!(
        why(&w, &ids[2]).lines().nth(1).unwrap(),
        "2 requests of the same kind came before it"
    );
    assert_eq!(
        why_site(&w, "A"),
        "no pilot submitted: 3 pilots queued, limit reached\n\
         3 pilot jobs queued of at most 3, 0 running of at most 10"
    );
    assert_eq!(
        why_site(&w, "B"),
        "no pilot submitted: no request that waits fits this site's slots: it needs 6 GiB of memory (has 2 GiB)\n\
         0 pilot jobs queued of at most 3, 0 running of at most 10"
    );
}

#[test]
fn explain_tells_what_can_never_be() {
    let mut w = two_sites();
    let big = w.submit("anna", spec(16384, Span::from_mins(40)));
    assert_eq!(
        why(&w, &big),
        "no site has slots with 16 GiB for it: it needs 16 GiB of memory (has 6 GiB) at site A, whose slots are the largest"
    );
    let mut s = spec(1024, Span::from_mins(180));
    s.policy.on_eviction = OnEviction::Fail;
    let long = w.submit("anna", s);
    assert_eq!(
        why(&w, &long),
        "no site has slots long enough: it needs 3h in one slot, because its policy does not let it be suspended, and the longest slot, at site B, gives 58m 50s"
    );
    assert!(w.take_order().is_none(), "no pilot helps them");
}

#[test]
fn explain_tells_where_it_is_and_what_comes_next() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    let id = w.submit("anna", spec(512, Span::from_mins(40)));
    let p = w.pilot_up();
    let key = w.pilots[p].key.clone();
    assert_eq!(
        why(&w, &id),
        format!(
            "claimed since 13:00 in slot {key} on node node-1 under lease 1; 0s of 40m run time done"
        )
    );
    w.quit(p);
    w.pass_ticking(Span::from_secs(45));
    assert_eq!(
        why(&w, &id).lines().nth(1).unwrap(),
        "its pilot was not heard since 13:00; the lease is over at 13:01 unless it is heard"
    );
    w.pass_ticking(Span::from_secs(30));
    assert_eq!(
        why(&w, &id).lines().last().unwrap(),
        format!(
            "back in the queue since 13:01: lease 1 in slot {key} on node node-1 is over: its pilot was not heard since 13:00"
        )
    );
    w.step(Event::Cancel {
        id: id.clone(),
        by: admin(),
    });
    assert_eq!(
        why(&w, &id),
        "cancelled since 13:01: cancelled by administrator root"
    );
}

#[test]
fn an_idle_pilot_is_woken_for_a_new_request() {
    let mut w = World::new(config(vec![site_config("A", room(2, 6144))]));
    let first = w.submit("anna", spec(512, Span::from_mins(40)));
    let p = w.pilot_up();
    w.step(Event::Cancel {
        id: first,
        by: admin(),
    });
    for _ in 0..3 {
        w.pilots[p].sent = None;
        w.pilots[p].failed_sync = true;
        w.sync(p);
    }
    w.pilots[p].failed_sync = false;
    assert!(w.sync(p).is_none(), "held");
    w.woken.clear();
    let id = w.submit("anna", spec(512, Span::from_mins(10)));
    assert!(w.woken.contains(&w.pilots[p].key));
    assert!(w.take_order().is_none(), "no other pilot is needed");
    assert!(why(&w, &id).starts_with("slot "), "{}", why(&w, &id));
    w.poll(p).expect("it gets the lease");
    assert!(w.pilots[p].guests.contains_key(&id));
}
