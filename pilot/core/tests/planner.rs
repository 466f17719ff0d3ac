//! The eviction planner: learned costs, order, flush ahead, and what is recorded of each eviction.

mod world;

use pilot_core::agent::Signal;
use pilot_core::guest::LeaseKey;
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::slot::PilotPhase;
use protocol::suspend_cost::Sample;
use protocol::time::Span;
use protocol::workspace::OnEviction;
use world::{Rules, World, spec, with_policy};

fn running(w: &mut World, key: &LeaseKey) {
    let runs = |w: &World| w.phase_of(key) == Some(LeasePhase::Running);
    assert!(w.run_until(20, runs), "{w}");
}

fn is_suspended(w: &World, key: &LeaseKey) -> bool {
    matches!(w.outcome(key), Some(EndOutcome::Suspended { .. }))
}

fn number(w: &World, key: &LeaseKey, name: &str) -> u64 {
    w.evicted[key][name].as_u64().unwrap_or_else(|| {
        panic!("no {name} in {}\n{w}", w.evicted[key]);
    })
}

/// When the first of these was logged.
fn at(w: &World, what: &str) -> Option<u64> {
    let line = w.log.iter().find(|l| l.contains(what))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Suspends of the world's default disk.
fn known() -> Vec<Sample> {
    let sample = |n: u64| Sample {
        bytes: n << 20,
        took: Span::from_millis(30 + n * 1024 * 1024 / 400_000),
    };
    (1..20).map(|n| sample(n * 40)).collect()
}

#[test]
fn every_eviction_records_what_was_foreseen_and_what_came_of_it() {
    let mut w = World::new(Rules {
        obedient: false,
        ..Rules::default()
    });
    let a = w.grant("a", spec(512, 3600));
    let b = w.grant("b", with_policy(spec(64, 3600), OnEviction::Restart, false));
    let c = w.grant("c", spec(64, 30));
    w.run_to_end();
    let data = &w.evicted[&a];
    assert_eq!(
        (&data["means"], &data["outcome"]),
        (&"suspend".into(), &"suspended".into())
    );
    assert_eq!(
        number(&w, &a, "actual_ms"),
        number(&w, &a, "took_ms"),
        "{data}"
    );
    assert!(
        number(&w, &a, "actual_ms") <= number(&w, &a, "expected_ms"),
        "{data}"
    );
    assert!(
        number(&w, &a, "expected_ms") < number(&w, &a, "budget_ms"),
        "{data}"
    );
    assert_eq!(number(&w, &a, "written"), 512 << 20, "{data}");
    let (before, after) = (number(&w, &a, "left_ms"), number(&w, &a, "left_after_ms"));
    assert_eq!(before - after, number(&w, &a, "actual_ms"), "{data}");
    let data = &w.evicted[&b];
    assert_eq!(
        (&data["first_means"], &data["means"]),
        (&"shutdown".into(), &"kill".into())
    );
    assert!(
        number(&w, &b, "actual_ms") >= number(&w, &b, "budget_ms"),
        "{data}"
    );
    assert!(!w.evicted.contains_key(&c), "it had its run time: {w}");
}

#[test]
fn a_slot_begins_with_what_is_known_of_its_node() {
    let left_when_it_begins = |known| {
        let mut w = World::new(Rules {
            known,
            ..Rules::default()
        });
        let key = w.grant("ws", spec(1024, 3600));
        w.run_to_end();
        assert!(is_suspended(&w, &key), "{w}");
        let (actual, budget) = (number(&w, &key, "actual_ms"), number(&w, &key, "budget_ms"));
        assert!(actual <= budget, "{w}");
        (budget, actual)
    };
    let (budget, actual) = left_when_it_begins(Vec::new());
    assert!(budget > 4 * actual, "assumed: {budget} for {actual}");
    let (budget, actual) = left_when_it_begins(known());
    assert!(budget <= 2 * actual, "known: {budget} for {actual}");
}

#[test]
fn a_guest_is_flushed_once_so_long_ahead_that_its_suspend_is_short() {
    let mut w = World::new(Rules {
        measures: true,
        known: known(),
        ..Rules::default()
    });
    let key = w.grant("ws", spec(2048, 3600));
    let small = w.grant("small", spec(64, 3600));
    let ends = w.grant("ends", spec(256, 100));
    let restarts = w.grant(
        "again",
        with_policy(spec(1024, 3600), OnEviction::Restart, false),
    );
    w.run_to_end();
    assert!(is_suspended(&w, &key) && is_suspended(&w, &small), "{w}");
    let flushed = at(&w, &format!("Flush {{ lease: {key:?}")).unwrap_or_else(|| panic!("{w}"));
    let whole = 2048 * 1024 * 1024 / 400_000;
    let begun = at(&w, "-> Suspend").unwrap();
    assert!(begun > flushed + 2 * whole, "{flushed} {begun}: {w}");
    assert!(
        begun < flushed + 6 * whole,
        "not all the time: {flushed} {begun}: {w}"
    );
    let actual = number(&w, &key, "actual_ms");
    assert!(actual < whole / 4, "{actual} ms: {w}");
    assert_eq!(w.evicted[&key]["flushed"], true);
    for other in [&small, &ends, &restarts] {
        let flush = format!("Flush {{ lease: {other:?}");
        assert_eq!(at(&w, &flush), None, "{other}: {w}");
    }
}

#[test]
fn where_a_whole_suspend_does_not_fit_the_notice_a_guest_is_flushed_as_soon_as_it_runs() {
    // Seven seconds are left for suspends, and the slow disk needs twenty.
    let rules = Rules {
        notice: 10,
        rate: 50_000_000,
        measures: true,
        known: (known().iter())
            .map(|s| Sample {
                took: s.took.times(8),
                ..*s
            })
            .collect(),
        ..Rules::default()
    };
    let mut w = World::new(rules.clone());
    let expendable = with_policy(spec(1024, 3600), OnEviction::Suspend, true);
    let key = w.grant("ws", expendable);
    running(&mut w, &key);
    w.run(1);
    assert!(at(&w, "-> Flush").is_some(), "{w}");
    w.run(60);
    w.signal(Signal::Term);
    w.run_to_end();
    assert!(is_suspended(&w, &key), "{w}");
    // Without a notice a flush would not help.
    let mut w = World::new(Rules { notice: 0, ..rules });
    let expendable = with_policy(spec(1024, 3600), OnEviction::Suspend, true);
    let key = w.grant("ws", expendable);
    running(&mut w, &key);
    w.run(60);
    assert_eq!(at(&w, "-> Flush"), None, "{w}");
}

#[test]
fn an_eviction_that_began_does_not_go_back_when_less_is_to_be_written() {
    let mut w = World::new(Rules {
        measures: true,
        rate: 40_000_000,
        ..Rules::default()
    });
    let keys = ["a", "b", "c"].map(|n| w.grant(n, spec(700, 3600)));
    w.run(30);
    // The first takes longer than was set aside, so the second waits, and then its flush ends.
    let plan = w.agent.plan();
    let each = plan.cost[&keys[0]].budget;
    w.rules.flush_ms = Some((plan.budget.times(2) + each).as_millis() + 1000);
    let evicting = |w: &World| w.agent.phase() == PilotPhase::Evicting;
    assert!(w.run_until(600, evicting), "{w}");
    while w.exit.is_none() {
        let phase = w.agent.phase();
        assert!(
            matches!(
                phase,
                PilotPhase::Evicting | PilotPhase::Closing | PilotPhase::Leaving
            ),
            "{phase:?}: {w}"
        );
        w.run_ms(50);
    }
    for key in &keys {
        assert!(is_suspended(&w, key), "{key}: {w}");
    }
    let begun = |l: &&String| l.contains("-> Suspend {");
    let times = w.log.iter().filter(begun).map(|l| {
        let ms = l.split_whitespace().next().unwrap();
        ms.parse::<u64>().unwrap()
    });
    let times: Vec<u64> = times.collect();
    assert!(
        times[1] - times[0] < 19_000,
        "right after the first: {times:?} {w}"
    );
}

#[test]
fn a_guest_whose_suspend_fails_again_and_again_does_not_hold_up_the_others() {
    // Time enough for one try of the first and the two others.
    let mut w = World::new(Rules {
        broken: Some("a"),
        notice: 9,
        known: known(),
        ..Rules::default()
    });
    let expendable = |memory| with_policy(spec(memory, 3600), OnEviction::Suspend, true);
    let [a, b, c] = [("a", 256), ("b", 512), ("c", 512)]
        .map(|(name, memory)| w.grant(name, expendable(memory)));
    w.run(30);
    w.signal(Signal::Term);
    w.run_to_end();
    assert!(!is_suspended(&w, &a), "{w}");
    assert!(is_suspended(&w, &b) && is_suspended(&w, &c), "{w}");
    let tried = w.log.iter().filter(|l| l.contains("-> Suspend {"));
    assert!(tried.count() >= 3, "{w}");
    assert_eq!(w.evicted[&a]["outcome"], "killed", "{w}");
}

#[test]
fn when_time_is_short_the_guest_with_most_to_lose_is_saved() {
    let mut w = World::new(Rules {
        notice: 10,
        rate: 100_000_000, // half of what is assumed
        ..Rules::default()
    });
    let expendable = |memory| with_policy(spec(memory, 3600), OnEviction::Suspend, true);
    let old = w.grant("old", expendable(512));
    running(&mut w, &old);
    w.run(300);
    let young = w.grant("young", expendable(256));
    running(&mut w, &young);
    w.run(5);
    w.signal(Signal::Term);
    w.run_to_end();
    assert!(is_suspended(&w, &old), "300 s were lost for 5: {w}");
    assert!(
        !is_suspended(&w, &young),
        "both fit: the test shows nothing\n{w}"
    );
}

#[test]
fn a_hypervisor_that_cannot_flush_is_not_told_to() {
    let mut w = World::new(Rules {
        measures: true,
        known: known(),
        flushes: false,
        ..Rules::default()
    });
    let key = w.grant("ws", spec(2048, 3600));
    w.run_to_end();
    assert!(is_suspended(&w, &key), "{w}");
    assert_eq!(at(&w, "Flush"), None, "{w}");
}

/// 3 GiB at 30 MB/s: longer than a lease of 60 s.
fn slow_and_large() -> (World, LeaseKey) {
    let mut w = World::new(Rules {
        end: 1200,
        notice: 300,
        rate: 30_000_000,
        known: (0..8)
            .map(|_| Sample {
                bytes: 3 << 30,
                took: Span::from_secs((3 << 30) / 30_000_000),
            })
            .collect(),
        ..Rules::default()
    });
    let key = w.grant("ws", spec(3072, 3600));
    running(&mut w, &key);
    (w, key)
}

#[test]
fn a_suspend_may_take_longer_than_a_lease_as_long_as_the_broker_extends_it() {
    let (mut w, key) = slow_and_large();
    w.signal(Signal::Term);
    w.run_to_end();
    assert!(is_suspended(&w, &key), "{w}");
    assert!(number(&w, &key, "actual_ms") > 60_000, "{w}");
}

#[test]
fn a_suspend_that_outlasts_its_lease_is_ended_by_the_fence() {
    let (mut w, key) = slow_and_large();
    w.signal(Signal::Term);
    w.run(5);
    w.deaf_until = w.now + 120_000;
    w.run_to_end();
    assert_eq!(w.evicted[&key]["means"].as_str(), Some("kill"), "{w}");
    assert!(number(&w, &key, "actual_ms") < 90_000, "{w}");
    assert!(w.states.is_empty(), "{w}");
}

/// There is no time for a suspend before the fence: until then the broker may come back.
#[test]
fn a_guest_without_a_word_from_the_broker_is_not_given_up_before_its_lease_is_over() {
    for (away, lives) in [(25, true), (100, false)] {
        let (mut w, key) = slow_and_large();
        w.deaf_until = w.now + away * 1000;
        w.run(120);
        let running = w.phase_of(&key) == Some(LeasePhase::Running);
        assert_eq!(running, lives, "away for {away} s: {w}");
    }
}
