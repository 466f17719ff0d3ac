//! Checkpoints of guests that go on running, in situations that have a name.

mod world;

use pilot_core::agent::{Event, Signal};
use pilot_core::guest::LeaseKey;
use protocol::codes::{Reason, ReasonCode};
use protocol::lease::{EndOutcome, Goal, LeasePhase};
use protocol::time::Span;
use world::{Rules, World, spec, with_checkpoints};

fn running(w: &mut World, key: &LeaseKey) {
    assert!(
        w.run_until(20, |w| w.phase_of(key) == Some(LeasePhase::Running)),
        "{w}"
    );
}

/// Run times in the checkpoints so far, in seconds.
fn runs(w: &World) -> Vec<u64> {
    w.checkpoints
        .values()
        .map(|r| r.as_millis() / 1000)
        .collect()
}

fn is_suspended(outcome: Option<&EndOutcome>) -> bool {
    matches!(outcome, Some(EndOutcome::Suspended { .. }))
}

/// Runs until a checkpoint is being written.
fn until_one_is_written(w: &mut World) {
    let begun = |w: &World| {
        w.log
            .iter()
            .rev()
            .take(5)
            .any(|l| l.contains("-> Checkpoint"))
    };
    assert!(w.run_until(200, begun), "{w}");
}

fn said(w: &World, text: &str) -> usize {
    w.log.iter().filter(|l| l.contains(text)).count()
}

#[test]
fn one_is_made_each_time_that_the_guest_has_run_for_so_long_and_the_broker_is_told() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 100));
    running(&mut w, &key);
    w.run(320);
    assert_eq!(runs(&w), [100, 200, 300], "{w}");
    assert_eq!(w.told_checkpoint[&key].id.as_str(), "ws.g1.c3");
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Running));
    w.run_to_end();
    let Some(EndOutcome::Suspended { state, .. }) = w.outcome(&key) else {
        panic!("{w}")
    };
    assert_eq!(state.id.as_str(), "ws.g1");
    // What a checkpoint of 512 MiB takes is no run time.
    assert!(state.run.as_secs_f64() < 590.0 - 4.0 * 1.2, "{}", state.run);
}

#[test]
fn none_is_made_unless_asked_for() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 3600));
    w.run_to_end();
    assert!(
        is_suspended(w.outcome(&key)) && w.checkpoints.is_empty(),
        "{w}"
    );
}

#[test]
fn a_paused_guest_has_none_and_its_pause_does_not_count() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", with_checkpoints(spec(256, 3600), 100));
    running(&mut w, &key);
    w.run(60);
    w.set_goal(&key, Goal::Pause);
    w.run(200);
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Paused), "{w}");
    assert!(w.checkpoints.is_empty(), "{w}");
    w.set_goal(&key, Goal::Run);
    w.run(60);
    assert_eq!(runs(&w), [100], "{w}");
}

#[test]
fn guests_take_turns_and_what_takes_long_is_made_less_often() {
    let mut w = World::new(Rules {
        end: 1000,
        rate: 40_000_000, // 13 s for 512 MiB
        ..Rules::default()
    });
    let a = w.grant("a", with_checkpoints(spec(512, 3600), 60));
    let b = w.grant("b", with_checkpoints(spec(512, 3600), 60));
    running(&mut w, &a);
    running(&mut w, &b);
    w.run(600); // that they take turns is checked after every step
    let of = |key: &LeaseKey| -> Vec<u64> {
        (w.checkpoints.iter())
            .filter(|(id, _)| id.checkpoint_of(&key.workspace, key.generation).is_some())
            .map(|(_, run)| run.as_millis() / 1000)
            .collect()
    };
    for runs in [of(&a), of(&b)] {
        assert!(runs.len() >= 3, "{runs:?}\n{w}");
        assert!(
            runs.windows(2).all(|w| w[1] - w[0] >= 130),
            "a guest stands still for a tenth of its time at most: {runs:?}\n{w}"
        );
    }
}

#[test]
fn none_is_begun_when_the_suspend_is_near() {
    let mut w = World::new(Rules {
        end: 120,
        ..Rules::default()
    });
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 97));
    w.run_to_end();
    assert!(is_suspended(w.outcome(&key)), "{w}");
    assert_eq!(said(&w, "-> Checkpoint"), 0, "{w}");
}

#[test]
fn a_signal_during_one_that_fits_waits_for_it_and_suspends() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 60));
    running(&mut w, &key);
    until_one_is_written(&mut w);
    w.signal(Signal::Term);
    w.run_to_end();
    assert_eq!(said(&w, "AbortSuspend"), 0, "{w}");
    assert_eq!(runs(&w), [60], "{w}");
    assert!(is_suspended(w.outcome(&key)), "{w}");
}

#[test]
fn a_signal_during_one_that_would_cost_the_suspend_gives_it_up() {
    let mut w = World::new(Rules {
        notice: 14,
        rate: 100_000_000, // 16 s for the checkpoint, and nobody knows
        ..Rules::default()
    });
    let key = w.grant("ws", with_checkpoints(spec(1500, 3600), 60));
    running(&mut w, &key);
    until_one_is_written(&mut w);
    w.signal(Signal::Term);
    w.run_ms(100);
    assert_eq!(said(&w, "-> AbortSuspend"), 1, "{w}");
    assert_eq!(said(&w, "-> Suspend"), 1, "{w}");
    assert!(w.checkpoints.is_empty());
    w.run_to_end();
}

#[test]
fn a_signal_during_anothers_checkpoint_does_not_cost_the_own_suspend() {
    let mut w = World::new(Rules {
        notice: 14,
        rate: 200_000_000,
        ..Rules::default()
    });
    let small = w.grant("small", spec(200, 3600));
    let large = w.grant("large", with_checkpoints(spec(2000, 3600), 60));
    running(&mut w, &small);
    running(&mut w, &large);
    until_one_is_written(&mut w);
    w.signal(Signal::Term);
    w.run_to_end();
    assert!(is_suspended(w.outcome(&small)), "{w}");
}

#[test]
fn the_end_of_the_run_time_and_a_cancel_do_not_wait_for_one() {
    let mut w = World::new(Rules {
        rate: 20_000_000, // 25 s
        ..Rules::default()
    });
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 60));
    running(&mut w, &key);
    until_one_is_written(&mut w);
    w.set_goal(
        &key,
        Goal::Stop {
            reason: Reason::new(ReasonCode::CancelledByUser, "cancelled"),
        },
    );
    w.run(3);
    assert_eq!(said(&w, "-> AbortSuspend"), 1, "{w}");
    assert!(
        matches!(w.outcome(&key), Some(EndOutcome::Killed { .. })),
        "{w}"
    );
}

#[test]
fn one_that_fails_is_tried_again_and_the_guest_goes_on() {
    let mut w = World::new(Rules {
        suspend_fails: 2,
        seed: 5,
        ..Rules::default()
    });
    let key = w.grant("ws", with_checkpoints(spec(256, 3600), 60));
    running(&mut w, &key);
    w.run(400);
    assert!(said(&w, "<- CheckpointFailed") > 1, "{w}");
    assert!(w.checkpoints.len() > 2, "{w}");
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Running), "{w}");
}

#[test]
fn a_crash_during_one_is_a_crash_and_the_newest_stays_known() {
    let mut w = World::new(Rules {
        rate: 40_000_000, // 13 s
        ..Rules::default()
    });
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 60));
    running(&mut w, &key);
    assert!(w.run_until(120, |w| w.checkpoints.len() == 1), "{w}");
    w.log.clear();
    assert!(
        w.run_until(400, |w| w.log.iter().any(|l| l.contains("-> Checkpoint"))),
        "{w}"
    );
    w.crash(&key);
    w.run(5);
    assert!(
        matches!(w.outcome(&key), Some(EndOutcome::Failed { .. })),
        "{w}"
    );
    assert_eq!(w.told_checkpoint[&key].id.as_str(), "ws.g1.c1");
    assert_eq!(
        w.told_checkpoint[&key].run,
        w.checkpoints.values().copied().sum()
    );
}

#[test]
fn one_that_is_complete_when_its_guest_is_given_up_counts_and_later_ones_are_deleted() {
    let mut w = World::new(Rules {
        rate: 20_000_000,
        ..Rules::default()
    });
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 60));
    running(&mut w, &key);
    until_one_is_written(&mut w);
    let made = |number: u32| Event::Checkpointed {
        lease: key.clone(),
        state: key.checkpoint_id(number).unwrap(),
        manifest: "m".into(),
        bytes: 1,
        written: 1,
        took: Span::from_millis(1),
        paused: Span::from_millis(1),
    };
    // The broker has ended the lease: the guest is killed at the next answer.
    w.book.get_mut(&key).unwrap().outcome = Some(EndOutcome::Staged);
    while said(&w, "-> Kill") == 0 {
        assert!(w.now < 200_000, "{w}");
        w.run_ms(1);
    }
    let first = key.checkpoint_id(1).unwrap();
    w.checkpoints.insert(first.clone(), Span::from_secs(60));
    w.step(made(1));
    let newest = |w: &World| {
        let lease = w.agent.leases().find(|l| l.key == key);
        lease
            .and_then(|l| l.checkpoints.newest.clone())
            .map(|s| s.id)
    };
    assert_eq!(newest(&w), Some(first), "{w}");
    w.run_ms(60);
    w.step(made(1));
    w.step(made(2));
    assert_eq!(said(&w, "-> Discard { state: ws.g1.c1"), 0, "{w}");
    assert_eq!(said(&w, "-> Discard { state: ws.g1.c2"), 1, "{w}");
}

#[test]
fn a_guest_that_does_not_fit_the_notice_is_taken_for_its_checkpoints_and_told_why() {
    let short = || Rules {
        notice: 5,
        ..Rules::default()
    };
    let mut w = World::new(short());
    let key = w.grant("ws", spec(512, 3600));
    w.run(5);
    let reason = w.outcome(&key).and_then(|o| o.reason()).cloned();
    assert_eq!(
        reason.as_ref().map(|r| r.code),
        Some(ReasonCode::NoticeTooShort)
    );
    assert!(reason.unwrap().text.contains("checkpoint_every"), "{w}");

    let mut w = World::new(short());
    let key = w.grant("ws", with_checkpoints(spec(512, 3600), 60));
    running(&mut w, &key);
    let told = |text: &str| w.log.iter().any(|l| l.contains(text));
    assert!(told("since its last checkpoint, one every 1m"), "{w}");
    w.run(90);
    w.signal(Signal::Term);
    w.run_to_end();
    let lost = w.told_checkpoint[&key].run;
    assert!(lost >= Span::from_secs(60), "{w}");
}
