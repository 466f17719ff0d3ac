//! A rate of suspends that a pilot has measured decides what is sent to its site and its slot.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use broker_core::Event;
use protocol::ids::WorkspaceId;
use protocol::messages::Rate;
use protocol::notice;
use protocol::time::Span;
use protocol::workspace::WorkspaceSpec;
use world::{World, admin, config, room, site, site_config, spec};

const MEMORY: u64 = 2048;

/// A site whose notice is enough for a guest of [`MEMORY`] at 50 MB/s and no less.
fn one_site() -> World {
    let mut terms = site_config("A", room(2, 6144));
    terms.notice = notice::least(terms.margin, MEMORY, 50e6);
    World::new(config(vec![terms]))
}

/// A request that must never be killed.
fn owed(memory_mib: u64) -> WorkspaceSpec {
    let mut s = spec(memory_mib, Span::from_mins(40));
    s.policy.may_be_killed = false;
    s
}

fn rate(mean: f64, planned: f64, count: u32) -> Option<Rate> {
    Some(Rate {
        mean,
        sigma: 0.0,
        count,
        planned: Some(planned),
    })
}

fn tell(w: &mut World, pilot: usize, rate: Option<Rate>) {
    let mut request = w.request(pilot);
    request.suspend_rate = rate;
    w.deliver(request);
}

fn why(w: &World, id: &WorkspaceId) -> String {
    let explained = w.broker.explain(w.now, &admin(), id).unwrap();
    explained.sentences.join("\n")
}

fn why_site(w: &World) -> String {
    let explained = w.broker.explain_site(w.now, &site("A")).unwrap();
    explained.sentences.join("\n")
}

/// One pilot that comes, says how fast it suspends, and leaves.
fn measured_by(w: &mut World, mean: f64) {
    w.pass_ticking(Span::from_mins(20));
    // Something that needs no suspend, so that a pilot is submitted.
    let id = w.submit("bert", spec(64, Span::from_mins(20)));
    let pilot = w.pilot_up();
    tell(w, pilot, rate(mean, mean, 3));
    w.step(Event::Cancel { id, by: admin() });
    w.sync(pilot);
    w.sync(pilot);
    w.quit(pilot);
    w.end_job(w.jobs.len() - 1, protocol::lrm::JobEnd::Exited(0));
    w.observe("A");
}

#[test]
fn what_a_measured_rate_cannot_suspend_in_the_notice_is_not_sent_and_why_is_told() {
    let mut w = one_site();
    measured_by(&mut w, 40e6);
    let id = w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(5));
    assert!(w.take_order().is_none(), "{}", why_site(&w));
    let told = why(&w, &id);
    for part in [
        "no site can take it; at site A, the notice of ",
        "is too short to suspend 2 GiB, which needs ",
        " at the 40 MB/s that were measured there (node node-1, ",
        "); that is forgotten at ",
    ] {
        assert!(told.contains(part), "no `{part}` in:\n{told}");
    }
    assert!(
        why_site(&w).contains("a pilot on node node-1 measured 40 MB/s in suspends"),
        "{}",
        why_site(&w)
    );
    // What is smaller fits, and so does what may be killed.
    w.submit("anna", owed(256));
    w.pass_ticking(Span::from_mins(1));
    assert!(w.take_order().is_some(), "{}", why_site(&w));
}

#[test]
fn a_measured_rate_is_forgotten_after_some_hours_and_replaced_by_a_later_one() {
    let mut w = one_site();
    measured_by(&mut w, 40e6);
    measured_by(&mut w, 60e6);
    w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(5));
    assert!(
        w.take_order().is_some(),
        "60 MB/s are enough: {}",
        why_site(&w)
    );

    let mut w = one_site();
    measured_by(&mut w, 40e6);
    w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(230));
    assert!(w.take_order().is_none());
    w.pass_ticking(Span::from_mins(15));
    assert!(w.take_order().is_some(), "{}", why_site(&w));
}

#[test]
fn a_better_rate_than_is_supposed_sends_no_pilot_that_would_decline() {
    let mut terms = site_config("A", room(2, 6144));
    terms.notice =
        notice::least(terms.margin, MEMORY, notice::ASSUMED_RATE).minus(Span::from_millis(1));
    let mut w = World::new(config(vec![terms]));
    measured_by(&mut w, 900e6);
    let id = w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(5));
    assert!(w.take_order().is_none(), "a new pilot has measured nothing");
    assert!(!why(&w, &id).contains("measured"), "{}", why(&w, &id));
}

#[test]
fn a_pilot_is_offered_what_its_own_rate_can_suspend() {
    for (planned, takes) in [(49e6, false), (50e6, true)] {
        let mut w = one_site();
        w.submit("bert", spec(64, Span::from_mins(40)));
        let pilot = w.pilot_up();
        tell(&mut w, pilot, rate(300e6, planned, 1));
        let id = w.submit("anna", owed(MEMORY));
        w.sync(pilot);
        let has = w.pilots[pilot].guests.contains_key(&id);
        assert_eq!(has, takes, "at {planned}: {}", why(&w, &id));
    }
}
