//! What the agent does in situations that have a name.

mod world;

use pilot_core::agent::Signal;
use protocol::codes::{Reason, ReasonCode, exit};
use protocol::lease::{EndOutcome, Goal, LeasePhase};
use protocol::workspace::OnEviction;
use world::{Rules, World, spec, with_policy};

fn code(outcome: Option<&EndOutcome>) -> Option<ReasonCode> {
    outcome.and_then(|o| o.reason()).map(|r| r.code)
}

fn is_suspended(outcome: Option<&EndOutcome>) -> bool {
    matches!(outcome, Some(EndOutcome::Suspended { .. }))
}

fn running(w: &mut World, key: &pilot_core::guest::LeaseKey) {
    assert!(
        w.run_until(20, |w| w.phase_of(key) == Some(LeasePhase::Running)),
        "{w}"
    );
}

#[test]
fn a_guest_that_needs_more_than_the_slot_is_suspended_before_its_end() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(512, 3600));
    w.run_to_end();
    assert!(is_suspended(w.outcome(&key)), "{w}");
    assert_eq!(code(w.outcome(&key)), Some(ReasonCode::SlotEnding));
    assert_eq!(w.exit.as_ref().unwrap().0, exit::OK);
    assert!(w.now < 600_000, "gone before the end: {w}");
    let Some(EndOutcome::Suspended { state, .. }) = w.outcome(&key) else {
        unreachable!()
    };
    assert!(
        state.run.as_secs_f64() > 570.0,
        "used the slot: {}",
        state.run
    );
}

#[test]
fn a_guest_that_has_had_its_run_time_is_shut_down_and_finished() {
    for obedient in [true, false] {
        let mut w = World::new(Rules {
            obedient,
            idle_limit: Some(10),
            ..Rules::default()
        });
        let key = w.grant("ws", spec(256, 100));
        w.run_to_end();
        assert!(
            matches!(w.outcome(&key), Some(EndOutcome::Finished { .. })),
            "{w}"
        );
        assert_eq!(code(w.outcome(&key)), Some(ReasonCode::RunTimeUsed));
        assert_eq!(w.exit.as_ref().unwrap().1.code, ReasonCode::Idle);
    }
}

#[test]
fn paused_time_is_not_run_time() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 100));
    running(&mut w, &key);
    w.run(50);
    w.set_goal(&key, Goal::Pause);
    w.run(200);
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Paused), "{w}");
    w.set_goal(&key, Goal::Run);
    w.run(40);
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Running), "{w}");
    w.run(20);
    assert_eq!(code(w.outcome(&key)), Some(ReasonCode::RunTimeUsed), "{w}");
}

#[test]
fn preemption_suspends_within_the_notice() {
    let mut w = World::new(Rules::default());
    let a = w.grant("a", spec(512, 3600));
    let b = w.grant("b", spec(256, 3600));
    w.run(60);
    w.signal(Signal::Term);
    let at = w.now;
    w.run_to_end();
    assert!(
        is_suspended(w.outcome(&a)) && is_suspended(w.outcome(&b)),
        "{w}"
    );
    assert_eq!(code(w.outcome(&a)), Some(ReasonCode::Preempted));
    assert!(w.now - at < 28_000, "{w}");
}

#[test]
fn a_suspend_that_would_be_too_late_is_discarded_whole_and_the_guest_killed() {
    let mut w = World::new(Rules {
        rate: 10_000_000, // fifty seconds, and nobody knows
        ..Rules::default()
    });
    let key = w.grant("ws", spec(512, 3600));
    running(&mut w, &key);
    w.signal(Signal::Term);
    w.run_to_end();
    assert!(
        matches!(w.outcome(&key), Some(EndOutcome::Killed { .. })),
        "{w}"
    );
    assert_eq!(code(w.outcome(&key)), Some(ReasonCode::SuspendTooSlow));
    assert!(w.states.is_empty());
}

#[test]
fn a_guest_that_is_to_restart_is_shut_down_at_the_end() {
    for policy in [OnEviction::Restart, OnEviction::Fail] {
        let mut w = World::new(Rules::default());
        let key = w.grant("ws", with_policy(spec(512, 3600), policy, false));
        w.run_to_end();
        assert!(
            matches!(w.outcome(&key), Some(EndOutcome::Killed { .. })),
            "{w}"
        );
        assert_eq!(code(w.outcome(&key)), Some(ReasonCode::SlotEnding));
        assert!(w.log.iter().any(|l| l.contains("Shutdown")), "{w}");
    }
}

#[test]
fn a_lost_broker_costs_the_guest_its_run_but_not_its_state() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 3600));
    running(&mut w, &key);
    w.deaf_until = w.now + 200_000;
    w.run(199);
    assert!(w.states.contains(&key), "{w}");
    assert!(w.exit.is_none(), "the pilot waits for its broker");
    w.run(30);
    assert!(
        is_suspended(w.outcome(&key)),
        "reported when it is back: {w}"
    );
    assert_eq!(code(w.outcome(&key)), Some(ReasonCode::LeaseExpired));
}

/// Whether the pilot, when it runs again, first hears of its guest or of the broker, whose answer
/// to the last sync may have been on its way all the time.
#[test]
fn a_pilot_that_is_stopped_until_its_lease_is_over_says_what_became_of_the_guest() {
    for guests_first in [true, false] {
        let mut w = World::new(Rules::default());
        let key = w.grant("ws", spec(256, 3600));
        running(&mut w, &key);
        let other = w.grant("done", spec(256, 1));
        w.run(30);
        assert!(w.outcome(&other).is_some(), "{w}");
        w.stop(30, guests_first);
        w.run(5);
        assert_eq!(
            w.phase_of(&key),
            Some(LeasePhase::Running),
            "too short for anything: {w}"
        );
        w.stop(80, guests_first);
        assert!(w.fenced.contains(&key), "{w}");
        w.run(30);
        assert_eq!(w.fenced.len(), 1, "{w}");
        assert!(
            matches!(w.outcome(&key), Some(EndOutcome::Killed { .. })),
            "{w}"
        );
        assert_eq!(code(w.outcome(&key)), Some(ReasonCode::LeaseExpired), "{w}");
        assert_eq!(w.agent.fence_at(), None, "{w}");
        let next = w.grant("next", spec(256, 3600));
        running(&mut w, &next);
        assert!(w.agent.fence_at().is_some(), "{w}");
    }
}

#[test]
fn a_lease_that_the_broker_leaves_out_is_killed() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 3600));
    running(&mut w, &key);
    let lease = w.book.get_mut(&key).unwrap();
    lease.outcome = Some(EndOutcome::Staged); // ended by the broker's own decision
    assert!(
        w.run_until(30, |w| w.phase_of(&key).is_none()),
        "forgotten after its end was told: {w}"
    );
    assert!(w.log.iter().any(|l| l.contains("-> Kill")), "{w}");
}

#[test]
fn what_cannot_be_evicted_in_time_is_declined_with_a_reason() {
    let mut w = World::new(Rules {
        notice: 5,
        ..Rules::default()
    });
    let big = w.grant("big", spec(2048, 3600));
    let expendable = w.grant(
        "exp",
        with_policy(spec(2048, 3600), OnEviction::Suspend, true),
    );
    let huge = w.grant("huge", spec(8192, 3600));
    w.run(5);
    for key in [&big, &huge] {
        assert!(
            matches!(w.outcome(key), Some(EndOutcome::Declined { .. })),
            "{w}"
        );
    }
    assert_eq!(code(w.outcome(&big)), Some(ReasonCode::NoticeTooShort));
    assert_eq!(code(w.outcome(&huge)), Some(ReasonCode::SlotTooSmall));
    let text = w.outcome(&big).unwrap().reason().unwrap().to_string();
    assert!(text.contains("notice of 5s"), "{text}");
    let text = w.outcome(&huge).unwrap().reason().unwrap().to_string();
    assert!(text.contains("8 GiB of memory"), "{text}");
    assert_eq!(w.phase_of(&expendable), Some(LeasePhase::Running), "{w}");
}

#[test]
fn too_late_in_the_slot_is_too_late() {
    let mut w = World::new(Rules {
        end: 60,
        ..Rules::default()
    });
    w.run(40);
    let key = w.grant("ws", spec(1024, 3600));
    w.run(3);
    let text = w.outcome(&key).unwrap().reason().unwrap().to_string();
    assert!(text.contains("too little time left"), "{text}");
}

#[test]
fn staging_only_ends_as_staged() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 3600));
    w.set_goal(&key, Goal::Stage);
    w.run(5);
    assert_eq!(w.outcome(&key), Some(&EndOutcome::Staged), "{w}");
}

#[test]
fn leave_suspends_all_and_says_goodbye() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 3600));
    running(&mut w, &key);
    w.leave = Some(Reason::new(ReasonCode::Draining, "the site drains"));
    w.run_to_end();
    assert_eq!(code(w.outcome(&key)), Some(ReasonCode::Draining), "{w}");
    assert!(is_suspended(w.outcome(&key)));
    assert_eq!(w.exit.as_ref().unwrap().1.code, ReasonCode::Draining);
}

#[test]
fn a_failed_suspend_is_tried_again_while_there_is_time() {
    let mut w = World::new(Rules {
        suspend_fails: 2,
        seed: 5,
        ..Rules::default()
    });
    let keys = [1, 2, 3].map(|n| w.grant(&format!("w{n}"), spec(256, 3600)));
    w.run(30);
    w.signal(Signal::Usr1);
    w.run_to_end();
    assert!(w.log.iter().any(|l| l.contains("SuspendFailed")), "{w}");
    for key in &keys {
        assert!(is_suspended(w.outcome(key)), "{key}: {w}");
    }
}

#[test]
fn a_pilot_that_never_reaches_its_broker_leaves_the_node_clean() {
    let mut w = World::deaf(Rules {
        end: 60,
        ..Rules::default()
    });
    w.run_to_end();
    assert_eq!(w.exit.as_ref().unwrap().0, exit::NO_ANSWER, "{w}");
    assert!(
        w.now < 60_000,
        "there was nothing to use the notice for: {w}"
    );
}

#[test]
fn a_pilot_that_cannot_say_goodbye_is_gone_by_the_end_of_its_slot() {
    let mut w = World::new(Rules {
        end: 60,
        ..Rules::default()
    });
    let key = w.grant("ws", spec(256, 3600));
    running(&mut w, &key);
    w.run(20);
    w.deaf_until = 600_000;
    w.run_to_end();
    assert!(w.states.contains(&key), "{w}");
    assert!(w.now < 61_000, "{w}");
}

#[test]
fn a_guest_that_does_not_obey_is_gone_by_the_end_of_its_slot() {
    for run in 48..58 {
        let mut w = World::new(Rules {
            end: 60,
            obedient: false,
            ..Rules::default()
        });
        let key = w.grant("ws", spec(256, run));
        w.run_to_end();
        assert!(w.outcome(&key).is_some(), "{w}");
        assert!(w.now < 60_000, "{w}");
    }
}

#[test]
fn an_idle_pilot_is_quiet() {
    let mut w = World::new(Rules::default());
    w.run(500);
    assert!(w.syncs < 40, "{} syncs in 500 s", w.syncs);
}

#[test]
fn a_pilot_that_takes_nothing_is_idle_however_often_it_is_asked() {
    let mut w = World::new(Rules {
        end: 7200,
        idle_limit: Some(300),
        ..Rules::default()
    });
    for n in 0..4 {
        w.grant(&format!("ws-{n}"), spec(1 << 20, 3600));
        w.run(100);
    }
    let (code, reason) = w.exit.as_ref().unwrap_or_else(|| panic!("it stays\n{w}"));
    assert_eq!((*code, reason.code), (exit::OK, ReasonCode::Idle), "{w}");
}

#[test]
fn the_slots_end_moves_both_ways_while_it_runs() {
    let mut w = World::new(Rules::default());
    let key = w.grant("ws", spec(256, 36_000));
    w.end_told = Some(1200);
    w.run(800);
    assert_eq!(w.phase_of(&key), Some(LeasePhase::Running), "extended: {w}");
    w.end_told = Some(840);
    w.run_to_end();
    assert!(w.now < 840_000 && is_suspended(w.outcome(&key)), "{w}");
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    for jump in [-3_600_000, 3_600_000] {
        let mut w = World::new(Rules::default());
        let key = w.grant("ws", spec(256, 3600));
        w.end_told = Some(600);
        w.run(100);
        w.jump_wall(jump);
        w.run_to_end();
        assert!(is_suspended(w.outcome(&key)), "{w}");
        assert!((550_000..600_000).contains(&w.now), "{w}");
    }
}

#[test]
fn the_lrm_is_asked_on_the_node_only_where_the_broker_does_not_hear_from_it() {
    let probes = |watched, answers_lost| {
        let mut w = World::new(Rules {
            end: 3600,
            watched,
            answers_lost,
            ..Rules::default()
        });
        w.run(600);
        w.probes
    };
    assert_eq!(probes(true, 0), 0, "one listing is enough for all");
    assert!(probes(false, 0) >= 18, "every 30 s");
    // Every answer is lost.
    assert!(probes(true, 1) >= 18, "the broker is silent");
}

/// A first measurement is planned with at half of it. That makes the guest that still waits look
/// too expensive for the time that is left; by the rate that was measured it is not.
#[test]
fn a_guest_is_not_given_up_for_a_reserve_that_nobody_needs() {
    let mut w = World::new(Rules {
        rate: 110_000_000,
        notice: 5,
        ..Rules::default()
    });
    let expendable = |memory| with_policy(spec(memory, 3600), OnEviction::Suspend, true);
    let small = w.grant("small", expendable(512));
    let large = w.grant("large", expendable(2048));
    w.run_to_end();
    assert!(is_suspended(w.outcome(&small)), "{w}");
    assert!(is_suspended(w.outcome(&large)), "{w}");
}
