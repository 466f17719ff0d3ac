//! What guests are told of their time left, and what their answers change.

mod world;

use pilot_core::agent::Signal;
use pilot_core::guest::LeaseKey;
use pilot_core::guest_words::Said;
use protocol::lease::{EndOutcome, Goal, LeasePhase};
use protocol::workspace::OnEviction;
use world::{Rules, World, spec, with_policy};

/// The lines that the guest of `key` has got, without the times of the world.
fn lines(w: &World, key: &LeaseKey) -> Vec<String> {
    let own = w.told.iter().filter(|(_, to, _)| to == key);
    own.map(|(_, _, line)| line.clone()).collect()
}

fn verbs(w: &World, key: &LeaseKey) -> Vec<String> {
    let first = |line: String| line.split(' ').next().unwrap_or_default().to_owned();
    lines(w, key).into_iter().map(first).collect()
}

fn seconds(line: &str) -> u64 {
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn running(w: &mut World, key: &LeaseKey) {
    let runs = w.run_until(30, |w| w.phase_of(key) == Some(LeasePhase::Running));
    assert!(runs, "{w}");
}

fn suspended_at(w: &World, key: &LeaseKey) -> u64 {
    let wanted = format!(
        "-> Suspend {{ lease: LeaseKey {{ workspace: {:?}",
        key.workspace
    );
    let line = w.log.iter().find(|l| l.contains(&wanted));
    let line = line.unwrap_or_else(|| panic!("{key} was not suspended\n{w}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_guest_that_listens_is_told_at_every_mark_and_at_the_end() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(512, 3600));
    running(&mut w, &key);
    w.run(5);
    assert!(w.told.is_empty(), "nobody listens: {:?}", w.told);
    w.say(&key, Said::Hello);
    w.run_to_end();
    let told = lines(&w, &key);
    assert_eq!(
        verbs(&w, &key),
        [
            "hello",
            "time-left",
            "time-left",
            "time-left",
            "suspend-soon",
            "suspend-soon"
        ],
        "{told:?}"
    );
    assert!(seconds(&told[1]) > 570, "{told:?}");
    assert_eq!(told[2], "time-left 300 slot_ending");
    assert_eq!(told[3], "time-left 60 slot_ending");
    assert_eq!(told[4], "suspend-soon 10 slot_ending");
    assert_eq!(told[5], "suspend-soon 0 slot_ending");
    let begin = suspended_at(&w, &key);
    for (at, _, line) in w
        .told
        .iter()
        .filter(|(_, _, line)| !line.starts_with("hello"))
    {
        let off = begin.abs_diff(at + seconds(line) * 1000);
        assert!(off <= 1000, "{line} at {at}, and it began at {begin}");
    }
}

#[test]
fn a_guest_without_an_agent_is_told_nothing() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(512, 3600));
    running(&mut w, &key);
    w.set_goal(&key, Goal::Pause);
    w.run(20);
    w.set_goal(&key, Goal::Run);
    w.run_to_end();
    assert_eq!(w.told, [], "{w}");
}

#[test]
fn an_end_that_moves_is_told_and_a_small_move_is_not() {
    let mut w = World::new(Rules {
        end: 3000,
        ..Rules::default()
    });
    let key = w.grant("ws", spec(512, 30_000));
    running(&mut w, &key);
    w.say(&key, Said::Hello);
    w.run(100);
    let before = lines(&w, &key).len();
    w.end_told = Some(2998);
    w.run(100);
    assert_eq!(lines(&w, &key).len(), before, "{:?}", w.told);
    w.end_told = Some(1000);
    w.run(100);
    let told = lines(&w, &key);
    assert_eq!(told.len(), before + 1, "{told:?}");
    assert!((600..800).contains(&seconds(&told[before])), "{told:?}");
}

#[test]
fn a_preempted_guest_is_told_before_it_is_stopped() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(512, 3600));
    running(&mut w, &key);
    w.say(&key, Said::Hello);
    w.run(50);
    w.signal(Signal::Term);
    w.run_to_end();
    assert_eq!(lines(&w, &key).last().unwrap(), "suspend-soon 0 preempted");
    let tell = w.log.iter().rposition(|l| l.contains("-> Tell")).unwrap();
    let suspend = w.log.iter().position(|l| l.contains("-> Suspend")).unwrap();
    assert!(tell < suspend, "{w}");
}

#[test]
fn a_guest_that_will_not_come_back_is_told_to_stop() {
    let mut w = World::new(Rules::default());
    let policy = OnEviction::Restart;
    let evicted = w.grant("evicted", with_policy(spec(512, 3600), policy, false));
    let done = w.grant("done", spec(256, 200));
    for key in [&evicted, &done] {
        running(&mut w, key);
        w.say(key, Said::Hello);
    }
    w.run_to_end();
    for (key, reason) in [(&evicted, "slot_ending"), (&done, "run_time_used")] {
        let told = lines(&w, key);
        assert_eq!(*told.last().unwrap(), format!("stop-soon 0 {reason}"));
        assert!(told.contains(&format!("stop-soon 10 {reason}")), "{told:?}");
    }
}

#[test]
fn a_guest_that_stood_still_is_told_for_how_long_and_what_time_it_is() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 3600));
    running(&mut w, &key);
    w.say(&key, Said::Hello);
    w.set_goal(&key, Goal::Pause);
    w.run(25);
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Paused), "{w}");
    w.run(100);
    let before = w.told.len();
    w.set_goal(&key, Goal::Run);
    running(&mut w, &key);
    let (at, _, line) = &w.told[before];
    let away = seconds(line);
    assert!(
        line.starts_with("resumed ") && (100..146).contains(&away),
        "{line}"
    );
    let now: i64 = line.split(' ').nth(2).unwrap().parse().unwrap();
    let true_now = world::EPOCH + i64::try_from(at / 1000).unwrap();
    assert!((0..=1).contains(&(true_now - now)), "{line} at {at}");
    assert!(
        w.told[before + 1].2.starts_with("time-left "),
        "{:?}",
        w.told
    );
}

#[test]
fn a_guest_whose_suspend_failed_is_told_that_it_stood_still() {
    let mut w = World::new(Rules {
        suspend_fails: 1,
        ..Rules::default()
    });
    let key = w.grant("ws", spec(256, 3600));
    running(&mut w, &key);
    w.say(&key, Said::Hello);
    w.signal(Signal::Term);
    w.run(3);
    assert!(
        verbs(&w, &key).contains(&"resumed".to_owned()),
        "{:?}",
        w.told
    );
}

#[test]
fn ready_brings_the_eviction_forward_within_the_last_mark_and_only_then() {
    let begin = |ready_before: Option<u64>| {
        let mut w = World::new(Rules::default());
        let key = w.grant("ws", spec(512, 3600));
        running(&mut w, &key);
        w.say(&key, Said::Hello);
        if let Some(before) = ready_before {
            let begin = w.agent.plan().begin[&key].as_millis();
            let pause = begin - before - w.now;
            w.run_ms(pause);
            w.say(&key, Said::Ready);
            w.say(&key, Said::Ready);
        }
        w.run_to_end();
        let outcome = w.outcome(&key);
        assert!(matches!(outcome, Some(EndOutcome::Suspended { .. })), "{w}");
        let notes = w.log.iter().filter(|l| l.contains("guest_ready")).count();
        (suspended_at(&w, &key), notes, w.now)
    };
    let (planned, _, gone) = begin(None);
    let (too_early, notes, _) = begin(Some(60_000));
    assert_eq!((too_early, notes), (planned, 0));
    let (forward, notes, gone_early) = begin(Some(8_000));
    assert_eq!((forward, notes), (planned - 8_000, 1));
    // The node is given back earlier by as much, not filled again.
    assert!(
        gone_early + 7_000 < gone,
        "gone at {gone_early}, else at {gone}"
    );
}

#[test]
fn ready_does_not_overtake_a_guest_that_is_first_in_line() {
    let mut w = World::new(Rules::default());
    let first = w.grant("first", spec(256, 3600));
    let second = w.grant("second", spec(1024, 3600));
    for key in [&first, &second] {
        running(&mut w, key);
        w.say(key, Said::Hello);
    }
    let plan = w.agent.plan();
    let (begin_first, begin_second) = (plan.begin[&first], plan.begin[&second]);
    assert!(begin_first < begin_second, "{plan:?}");
    let pause = begin_first.as_millis() - 3000 - w.now;
    w.run_ms(pause);
    w.say(&second, Said::Ready);
    w.run_to_end();
    assert!(suspended_at(&w, &first) >= begin_first.as_millis(), "{w}");
    assert!(suspended_at(&w, &second) >= begin_first.as_millis(), "{w}");
}

#[test]
fn a_resumed_guest_is_told_without_having_asked() {
    let mut w = World::new(Rules::default());
    let key = w.resume("ws", spec(256, 3600), 4000);
    running(&mut w, &key);
    let told = lines(&w, &key);
    assert_eq!(
        verbs(&w, &key),
        ["hello", "resumed", "time-left"],
        "{told:?}"
    );
    assert!((4000..4060).contains(&seconds(&told[1])), "{told:?}");
}
