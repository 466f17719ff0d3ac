//! The signal profiles of real batch systems, walked in virtual time: every state of the pilot x
//! every way in which its slot ends x delays. Measured values: who tells the pilot what, how
//! late, how often, and when the kill comes.

mod world;

use pilot_core::agent::Signal;
use pilot_core::guest::LeaseKey;
use protocol::lease::{EndOutcome, Goal, LeasePhase};
use protocol::workspace::OnEviction;
use world::{Rules, World, spec, with_policy};

/// One way in which a batch system takes a slot away.
struct Profile {
    name: &'static str,
    /// What the site promises between the first signal and the kill, seconds.
    notice: u64,
    /// Signals, with their time in ms after the first word.
    signals: &'static [(u64, Signal)],
    /// The end that the probe tells from then on, seconds after the first word.
    new_end: Option<u64>,
    /// When the kill comes, ms after the first signal, at the least.
    kill_after: u64,
}

/// Measured: see the sources of each line in the documentation of the adapters.
const PROFILES: &[Profile] = &[
    Profile {
        name: "slurm, scancel or requeue: CONT, TERM, KILL after KillWait",
        notice: 30,
        signals: &[(0, Signal::Cont), (5, Signal::Term)],
        new_end: None,
        kill_after: 29_700,
    },
    Profile {
        name: "slurm, walltime or preemption of a step: TERM comes twice",
        notice: 30,
        signals: &[(0, Signal::Cont), (5, Signal::Term), (40, Signal::Term)],
        new_end: None,
        kill_after: 29_700,
    },
    Profile {
        name: "slurm, preemption with a grace time: TERM, then TERM again at its end",
        notice: 30,
        signals: &[
            (0, Signal::Cont),
            (5, Signal::Term),
            (15_500, Signal::Cont),
            (15_505, Signal::Term),
        ],
        new_end: Some(10),
        kill_after: 29_700,
    },
    Profile {
        name: "slurm, early warning by --signal=B:USR1",
        notice: 30,
        signals: &[(0, Signal::Usr1), (50_000, Signal::Term)],
        new_end: None,
        kill_after: 79_700,
    },
    Profile {
        name: "slurm, preemption that only the probe tells: the batch process gets nothing",
        notice: 30,
        signals: &[],
        new_end: Some(40),
        kill_after: 69_700,
    },
    Profile {
        name: "pbs, qdel or preemption: TERM, KILL after about kill_delay",
        notice: 10,
        signals: &[(100, Signal::Term)],
        new_end: None,
        kill_after: 8_500,
    },
    Profile {
        name: "pbs, suspension: STOP, then CONT on resume",
        notice: 10,
        signals: &[(60_000, Signal::Cont)],
        new_end: None,
        kill_after: u64::MAX,
    },
    Profile {
        name: "htcondor, rm, hold, vacate, drain: TERM, KILL at the vacate time",
        notice: 12,
        signals: &[(200, Signal::Term)],
        new_end: None,
        kill_after: 11_200,
    },
    Profile {
        name: "by hand: a person loses patience",
        notice: 30,
        signals: &[
            (0, Signal::Int),
            (300, Signal::Int),
            (600, Signal::Int),
            (900, Signal::Term),
            (950, Signal::Hup),
        ],
        new_end: None,
        kill_after: 29_000,
    },
];

/// States in which the pilot may be hit.
const STATES: &[(&str, u64)] = &[
    ("just started", 0),
    ("registering", 10),
    ("registered, idle", 25),
    ("staging", 100),
    ("starting", 900),
    ("running", 5_000),
    ("running for long", 100_000),
    ("paused", 60_000),
    ("suspending at the user's wish", 60_300),
    ("shutting down", 70_400),
    ("its slot's end is near", 580_000),
    ("suspending at the slot's end", 594_600),
];

fn life(world: &mut World, until: u64) -> Vec<LeaseKey> {
    let mut keys = Vec::new();
    let at = |world: &mut World, ms: u64| {
        if ms <= until {
            world.run_ms(ms - world.now);
        }
        ms <= until
    };
    if at(world, 20) {
        keys.push(world.grant("a", spec(128, 3600)));
        keys.push(world.grant("b", spec(192, 3600)));
        let restart = with_policy(spec(128, 3600), OnEviction::Restart, false);
        keys.push(world.grant("c", restart));
    }
    if at(world, 50_000) {
        world.set_goal(&keys[0], Goal::Pause);
    }
    let reason = protocol::codes::Reason::new(protocol::codes::ReasonCode::SuspendedByUser, "test");
    if at(world, 60_100) {
        let reason = reason.clone();
        world.set_goal(&keys[1], Goal::Suspend { reason });
    }
    if at(world, 70_000) {
        world.set_goal(&keys[2], Goal::Stop { reason });
    }
    if at(world, 80_000) {
        world.set_goal(&keys[0], Goal::Run);
    }
    world.run_ms(until.saturating_sub(world.now));
    keys
}

#[test]
fn every_state_meets_every_profile() {
    for profile in PROFILES {
        for (state, since) in STATES {
            for delay in [0, 1, 7, 50, 333, 1_000, 2_500] {
                meet(profile, state, since + delay);
            }
        }
    }
}

fn meet(profile: &Profile, state: &str, hit_at: u64) {
    let mut world = World::new(Rules {
        notice: profile.notice,
        ..Rules::default()
    });
    let keys = life(&mut world, hit_at);
    let ended_before = world.exit.is_some();
    let start = world.now;
    let was_running: Vec<_> = keys
        .iter()
        .filter(|k| world.phase_of(k) == Some(LeasePhase::Running))
        .cloned()
        .collect();
    if let Some(end) = profile.new_end {
        world.end_told = Some((start / 1000) + end);
    }
    for (after, which) in profile.signals {
        world.run_ms((start + after).saturating_sub(world.now));
        world.signal(*which);
    }
    world.run_to_end();
    let story = format!("{} / {state} / hit at {hit_at} ms\n{world}", profile.name);
    // A stop of the whole job passes; otherwise the pilot is gone before the kill.
    if profile.kill_after < u64::MAX && !ended_before {
        let first = profile.signals.first().map_or(0, |s| s.0);
        let kill = start + first + profile.kill_after;
        assert!(world.now < kill.max(start + 1), "killed at {kill}: {story}");
    }
    for key in was_running {
        let suspendable = world.book[&key].order.spec.policy.on_eviction == OnEviction::Suspend;
        let outcome = world.outcome(&key);
        assert!(outcome.is_some(), "{key} was lost: {story}");
        if suspendable {
            assert!(
                matches!(outcome, Some(EndOutcome::Suspended { .. })),
                "{key} could have been suspended: {story}"
            );
        }
    }
}
