//! What suspends cost is kept for each node of a site, given to the pilots that come after, and
//! decides what is sent there.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use broker_core::{Event, Reply};
use protocol::messages::{CostReport, KnownCosts, PilotEvent};
use protocol::notice;
use protocol::suspend_cost::{CostModel, KEPT, Sample, Samples};
use protocol::time::Span;
use protocol::workspace::WorkspaceSpec;
use world::{World, admin, config, room, site, site_config, spec};

const MEMORY: u64 = 2048;

/// Suspends of large guests at so many MB a second.
fn suspends(rate: u64, count: usize) -> Vec<Sample> {
    let sample = Sample {
        bytes: 1_000_000_000,
        took: Span::from_millis(1_000_000 / rate),
    };
    vec![sample; count]
}

fn report(measured: u32, samples: Vec<Sample>) -> CostReport {
    let all: Samples = samples.iter().copied().collect();
    CostReport {
        measured,
        samples,
        budget: CostModel::of(&all).budget,
    }
}

fn tell(w: &mut World, pilot: usize, report: &CostReport) {
    let mut request = w.request(pilot);
    request.costs = Some(report.clone());
    w.deliver(request);
}

/// A pilot on this node.
fn pilot_on(w: &mut World, node: &str) -> usize {
    node.clone_into(&mut w.node);
    w.pass_ticking(Span::from_mins(70)); // longer than any back-off
    w.submit("bert", spec(64, Span::from_mins(20)));
    w.pilot_up()
}

/// It says goodbye, and what it was wanted for is cancelled.
fn leave(w: &mut World, pilot: usize) {
    let waiting = w.accepted.clone();
    for id in waiting {
        w.step(Event::Cancel { id, by: admin() });
    }
    w.sync(pilot);
    w.sync(pilot);
    w.quit(pilot);
    w.end_job(w.jobs.len() - 1, protocol::lrm::JobEnd::Exited(0));
    w.observe("A");
}

fn measured(w: &mut World, node: &str, rate: u64, count: usize) {
    let pilot = pilot_on(w, node);
    let samples = suspends(rate, count);
    let told = u32::try_from(count).unwrap();
    tell(w, pilot, &report(told, samples));
    leave(w, pilot);
}

/// What the pilot is told when it registers (again).
fn known(w: &mut World, pilot: usize) -> Option<KnownCosts> {
    match w.register(pilot) {
        Reply::Registered(reply) => reply.costs,
        other => panic!("{other:?}"),
    }
}

fn new_world() -> World {
    World::new(config(vec![site_config("A", room(2, 6144))]))
}

fn owed(memory_mib: u64) -> WorkspaceSpec {
    let mut s = spec(memory_mib, Span::from_mins(40));
    s.policy.may_be_killed = false;
    s
}

fn why_site(w: &World) -> String {
    let explained = w.broker.explain_site(w.now, &site("A")).unwrap();
    explained.sentences.join("\n")
}

#[test]
fn a_pilot_is_told_what_was_measured_on_its_node_and_no_sample_counts_twice() {
    let mut w = new_world();
    let pilot = pilot_on(&mut w, "n1");
    assert_eq!(known(&mut w, pilot), None);
    let first = suspends(400, 3);
    tell(&mut w, pilot, &report(3, first.clone()));
    // The same again, and one more with the old ones.
    tell(&mut w, pilot, &report(3, first.clone()));
    let mut more = first;
    more.extend(suspends(100, 1));
    tell(&mut w, pilot, &report(4, more.clone()));
    leave(&mut w, pilot);
    let next = pilot_on(&mut w, "n1");
    let told = known(&mut w, next).unwrap();
    assert_eq!((told.of_node, told.samples), (true, more));
    // What it measures goes on from there, and the oldest are forgotten.
    for n in 1..=5_u32 {
        tell(&mut w, next, &report(16 * n, suspends(200, 16)));
    }
    let told = known(&mut w, next).unwrap();
    assert_eq!(told.samples, suspends(200, KEPT));
    assert_eq!(w.store.costs[0].measured, 84);
    let said = why_site(&w);
    let part = "on node n1 (store on /shared nfs4 server:/export) 84 suspends were measured, the last told at";
    assert!(said.contains(part), "{said}");
    // A broker that starts again knows it.
    w.restart_broker();
    assert_eq!(known(&mut w, next).unwrap().samples, suspends(200, KEPT));
}

#[test]
fn a_pilot_on_an_unknown_node_hears_a_little_of_the_others_with_the_same_file_system() {
    let mut w = new_world();
    measured(&mut w, "n1", 400, 12);
    let pilot = pilot_on(&mut w, "n2");
    let told = known(&mut w, pilot).unwrap();
    assert!(!told.of_node);
    assert_eq!(told.samples, suspends(400, 7), "not enough to be believed");
    leave(&mut w, pilot);
    for (node, rate) in [("n3", 300), ("n4", 350), ("n5", 380)] {
        measured(&mut w, node, rate, 12);
    }
    let pilot = pilot_on(&mut w, "n2");
    let told = known(&mut w, pilot).unwrap();
    assert_eq!((told.samples.len(), told.nodes), (4, 4), "one of each");
    leave(&mut w, pilot);
    "/local ext4 /dev/sda1".clone_into(&mut w.filesystem);
    let pilot = pilot_on(&mut w, "n1");
    assert_eq!(known(&mut w, pilot), None, "another file system");
    tell(&mut w, pilot, &report(1, suspends(900, 1)));
    assert_eq!(known(&mut w, pilot).unwrap().samples, suspends(900, 1));
}

/// A site whose notice is enough for a guest of [`MEMORY`] at the assumed rate, and no less.
fn tight() -> World {
    let mut terms = site_config("A", room(2, 6144));
    terms.notice = notice::least(terms.margin, MEMORY, notice::ASSUMED_RATE);
    World::new(config(vec![terms]))
}

#[test]
fn a_slow_store_keeps_guests_away_that_it_cannot_suspend_until_that_is_old() {
    let mut w = tight();
    measured(&mut w, "n1", 40, 12);
    let id = w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(5));
    assert!(w.take_order().is_none(), "{}", why_site(&w));
    let explained = w.broker.explain(w.now, &admin(), &id).unwrap();
    let told = explained.sentences.join("\n");
    for part in [
        "is too short to suspend 2 GiB, which needs ",
        " by what suspends have cost there (on node n1 the last, ",
    ] {
        assert!(told.contains(part), "no `{part}` in:\n{told}");
    }
    w.pass_ticking(Span::from_mins(4 * 60));
    assert!(w.take_order().is_some(), "{}", why_site(&w));
    assert!(w.store.costs.is_empty());
}

#[test]
fn what_shows_a_store_to_be_well_is_kept_for_a_month_and_lets_more_in() {
    let mut terms = site_config("A", room(2, 6144));
    let least = notice::least(terms.margin, MEMORY, notice::ASSUMED_RATE);
    terms.notice = least.minus(Span::from_secs(5));
    let mut w = World::new(config(vec![terms]));
    w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(5));
    assert!(
        w.take_order().is_none(),
        "by the assumed rate: {}",
        why_site(&w)
    );
    for node in ["n1", "n2", "n3", "n4"] {
        measured(&mut w, node, 400, 12);
    }
    w.pass_ticking(Span::from_mins(6 * 60));
    w.submit("anna", owed(MEMORY));
    w.pass_ticking(Span::from_mins(5));
    // A pilot is submitted for it, and takes it on a node that nobody knows, since it is told of
    // the others.
    "n9".clone_into(&mut w.node);
    let pilot = w.pilot_up();
    let told: Samples = known(&mut w, pilot).unwrap().samples.into_iter().collect();
    let (budget, terms) = (CostModel::of(&told).budget, &w.pilots[pilot]);
    let site = w.terms(&terms.site);
    assert!(notice::holds(site.notice, site.margin, MEMORY, &budget));
    w.pass(Span::from_mins(31 * 24 * 60));
    w.step(Event::Tick);
    assert!(w.store.costs.is_empty());
}

#[test]
fn a_pilot_is_offered_what_it_sets_aside_enough_time_for() {
    for (rate, takes) in [(60, false), (400, true)] {
        let mut w = tight();
        let pilot = pilot_on(&mut w, "n1");
        tell(&mut w, pilot, &report(12, suspends(rate, 12)));
        let id = w.submit("anna", owed(MEMORY));
        w.sync(pilot);
        let has = w.pilots[pilot].guests.contains_key(&id);
        assert_eq!(has, takes, "at {rate} MB/s: {}", why_site(&w));
    }
}

#[test]
fn an_administrator_can_have_it_forgotten() {
    let mut w = new_world();
    measured(&mut w, "n1", 400, 12);
    assert_eq!(w.store.costs.len(), 1);
    w.step(Event::Undrain {
        site: site("A"),
        by: admin(),
    });
    assert!(w.store.costs.is_empty());
}

#[test]
fn the_site_tells_how_suspends_went_beside_what_was_foreseen() {
    let mut w = new_world();
    let pilot = pilot_on(&mut w, "n1");
    for n in 1..=20_u64 {
        let mut request = w.request(pilot);
        let data = serde_json::json!({
            "means": "suspend", "outcome": "suspended", "actual_ms": n * 50, "budget_ms": 1000,
        });
        let kill = serde_json::json!({
            "means": "kill", "outcome": "killed", "actual_ms": 9000, "budget_ms": 500,
        });
        for (seq, data) in [(2 * n - 1, data), (2 * n, kill)] {
            request.events.push(PilotEvent {
                seq: protocol::ids::EventSeq(seq),
                at: w.now,
                kind: "guest_evicted".to_owned(),
                workspace: None,
                generation: None,
                text: "gone".to_owned(),
                data,
            });
        }
        w.deliver(request);
    }
    let said = why_site(&w);
    let part = "of the last 20 suspends, half took at most 50 % of the time that was set aside, 95 of 100 at most 95 %, the slowest 100 %; none ever took longer";
    assert!(said.contains(part), "{said}");
}
