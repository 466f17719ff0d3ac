//! Random lives of a slot: whatever happens in whatever order, the promises hold. The world
//! checks them after every step (see `world::World`).

mod world;

use pilot_core::agent::Signal;
use pilot_core::guest::LeaseKey;
use pilot_core::guest_words::Said;
use proptest::prelude::*;
use protocol::codes::{Reason, ReasonCode};
use protocol::lease::Goal;
use protocol::workspace::OnEviction;
use world::{Rules, World, spec, with_checkpoints, with_policy};

#[derive(Clone, Debug)]
enum Act {
    Grant {
        memory: u64,
        run: u64,
        on_eviction: OnEviction,
        may_be_killed: bool,
        checkpoint_every: Option<u64>,
    },
    Regrant(usize),
    Goal(usize, Goal),
    Signal(Signal),
    End(u64),
    Deaf(u64),
    JumpWall(i64),
    /// The pilot is stopped for so many seconds.
    Stop(u64, bool),
    PowerOff(usize),
    Crash(usize),
    Forget(usize),
    Say(usize, Said),
    Leave,
}

fn reason(code: ReasonCode) -> Reason {
    Reason::new(code, "as the test wants it")
}

fn goals() -> impl Strategy<Value = Goal> {
    prop_oneof![
        Just(Goal::Run),
        Just(Goal::Pause),
        Just(Goal::Suspend {
            reason: reason(ReasonCode::SuspendedByUser)
        }),
        Just(Goal::Stop {
            reason: reason(ReasonCode::CancelledByUser)
        }),
    ]
}

fn acts() -> impl Strategy<Value = Act> {
    let policy = prop_oneof![
        4 => Just(OnEviction::Suspend),
        1 => Just(OnEviction::Restart),
        1 => Just(OnEviction::Fail),
    ];
    prop_oneof![
        8 => (
            (64..2048u64, 5..2000u64),
            (policy, any::<bool>(), prop::option::of(10..200u64)),
        ).prop_map(
            |((memory, run), (on_eviction, may_be_killed, checkpoint_every))| Act::Grant {
                memory, run, on_eviction, may_be_killed, checkpoint_every,
            }
        ),
        2 => (0..8usize).prop_map(Act::Regrant),
        4 => (0..8usize, goals()).prop_map(|(n, goal)| Act::Goal(n, goal)),
        2 => prop::sample::select(Signal::ALL.to_vec()).prop_map(Act::Signal),
        2 => (0..1500u64).prop_map(Act::End),
        2 => (1..200u64).prop_map(Act::Deaf),
        1 => (-5_000_000..5_000_000i64).prop_map(Act::JumpWall),
        2 => (1..200u64, any::<bool>()).prop_map(|(secs, first)| Act::Stop(secs, first)),
        1 => (0..8usize).prop_map(Act::PowerOff),
        1 => (0..8usize).prop_map(Act::Crash),
        1 => (0..8usize).prop_map(Act::Forget),
        3 => (0..8usize, prop::sample::select(vec![Said::Hello, Said::Ready]))
            .prop_map(|(n, said)| Act::Say(n, said)),
        1 => Just(Act::Leave),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    (
        (
            20..900u64,
            prop::sample::select(vec![0, 5, 10, 30, 120]),
            0..5u64,
        ),
        (10..120u64, 0..30u64, prop::option::of(5..100u64)),
        (5_000_000..1_000_000_000u64, 0..4u64, 0..6u64),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<u64>()),
    )
        .prop_map(
            |(
                (end, notice, margin),
                (ttl, hold, idle_limit),
                (rate, suspend_fails, answers_lost),
                (obedient, watched, measures, seed),
            )| Rules {
                end,
                notice,
                margin,
                ttl,
                hold: hold.min(ttl / 3),
                idle_limit,
                rate,
                suspend_fails,
                answers_lost: if answers_lost == 1 { 2 } else { answers_lost },
                obedient,
                watched,
                measures,
                seed,
                ..Rules::default()
            },
        )
}

fn act(world: &mut World, keys: &mut Vec<LeaseKey>, act: Act) {
    match act {
        Act::Grant {
            memory,
            run,
            on_eviction,
            may_be_killed,
            checkpoint_every,
        } => {
            let name = format!("w{}", keys.len());
            let mut spec = with_policy(spec(memory, run), on_eviction, may_be_killed);
            if let Some(every) = checkpoint_every.filter(|_| on_eviction == OnEviction::Suspend) {
                spec = with_checkpoints(spec, every);
            }
            keys.push(world.grant(&name, spec));
        }
        Act::Regrant(n) => {
            // A new generation, only when the broker knows the end of the last one.
            let over = keys.get(n).filter(|k| world.outcome(k).is_some());
            if let Some(key) = over.cloned() {
                keys[n] = world.grant(key.workspace.as_str(), spec(128, 500));
            }
        }
        Act::Goal(n, goal) => {
            if let Some(key) = keys.get(n).cloned() {
                world.set_goal(&key, goal);
            }
        }
        Act::Signal(which) => world.signal(which),
        Act::End(secs) => world.end_told = Some(secs),
        Act::Deaf(secs) => world.deaf_until = world.now + secs * 1000,
        Act::JumpWall(ms) => world.jump_wall(ms),
        Act::Stop(secs, guests_first) => {
            // A pilot that is stopped past the end of its slot is not there any more.
            let last_kill = world.agent.plan().last_kill.as_millis();
            if world.exit.is_none() && world.now + secs * 1000 < last_kill {
                world.stop(secs, guests_first);
            }
        }
        Act::PowerOff(n) => {
            if let Some(key) = keys.get(n).cloned() {
                world.power_off(&key);
            }
        }
        Act::Crash(n) => {
            if let Some(key) = keys.get(n).cloned() {
                world.crash(&key);
            }
        }
        Act::Forget(n) => {
            let lease = keys.get(n).and_then(|k| world.book.get_mut(k));
            if let Some(lease) = lease {
                lease
                    .outcome
                    .get_or_insert(protocol::lease::EndOutcome::Staged);
            }
        }
        Act::Say(n, said) => {
            if let Some(key) = keys.get(n).cloned() {
                world.say(&key, said);
            }
        }
        Act::Leave => world.leave = Some(reason(ReasonCode::Draining)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_slot_is_given_back(
        rules in rules(),
        life in prop::collection::vec((0..40_000u64, acts()), 0..25),
    ) {
        let mut world = World::new(rules);
        let mut keys = Vec::new();
        for (pause, what) in life {
            world.run_ms(pause);
            act(&mut world, &mut keys, what);
        }
        // An end in the past of the wall clock may have jumped to the far future: bring it back.
        world.end_told = Some(world.now / 1000 + 5);
        if world.exit.is_none() {
            world.signal(Signal::Term);
        }
        world.run_to_end();
    }
}
