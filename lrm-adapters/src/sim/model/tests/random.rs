//! Random lives of a cluster.

use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
use protocol::time::Span;

use super::world::World;
use super::{NODE, at, key, need, pilot};
use crate::sim::model::{Effect, Event, JobNumber, JobRequest, Model, ModelConfig};
use crate::sim::profiles::{Cause, ProfileName};

#[derive(Clone, Debug)]
enum Move {
    Submit {
        cores: u32,
        minutes: u64,
        site: bool,
        nodes: u32,
        rerunnable: bool,
    },
    OnJob(u8, u64),
    OnNode(u8, u32),
    Exit(usize),
    Pass(u64),
    Crash,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (1u32..5, 1u64..30, any::<bool>(), 1u32..4, any::<bool>())
            .prop_map(|(cores, minutes, site, nodes, rerunnable)| Move::Submit { cores, minutes, site, nodes, rerunnable }),
        4 => (0u8..7, 1u64..20).prop_map(|(a, b)| Move::OnJob(a, b)),
        2 => (0u8..7, 0u32..3).prop_map(|(a, b)| Move::OnNode(a, b)),
        2 => (0usize..6).prop_map(Move::Exit),
        4 => (0u64..400_000).prop_map(Move::Pass),
        1 => prop::strategy::Just(Move::Crash),
    ];
    prop::collection::vec(one, 1..60)
}

fn play(name: ProfileName, seed: u64, moves: &[Move]) -> World {
    let mut w = World::new(ModelConfig::uniform(name, 3, NODE, seed));
    for (i, m) in moves.iter().enumerate() {
        match m {
            Move::Submit {
                cores,
                minutes,
                site,
                nodes,
                rerunnable,
            } => {
                let walltime = Span::from_mins(*minutes);
                let request = if *site {
                    JobRequest::site(need(*cores), walltime)
                } else {
                    let key = key(u32::try_from(i).unwrap());
                    JobRequest {
                        rerunnable: *rerunnable,
                        nodes: *nodes,
                        ..JobRequest::pilot(key, need(*cores), walltime)
                    }
                };
                w.submit(request);
            }
            Move::OnJob(what, job) => {
                let job = JobNumber(*job);
                let end = w.now + Span::from_mins(3);
                w.tell(match what {
                    0 | 1 => Event::Cancel(job),
                    2 => Event::Preempt(job),
                    3 => Event::Requeue(job),
                    4 => Event::Hold(job),
                    5 => Event::Release(job),
                    _ => Event::SetEnd { job, end },
                });
            }
            Move::OnNode(what, node) => {
                let node = w.node(*node);
                w.tell(match what {
                    0 => Event::Drain(node),
                    1 => Event::NodeDown(node),
                    2 => Event::NodeLost(node),
                    3 => Event::NodePowerLoss(node),
                    _ => Event::NodeRestore(node),
                });
            }
            Move::Exit(n) => {
                if let Some(run) = w.processes.keys().nth(*n).copied() {
                    w.processes.remove(&run);
                    w.tell(Event::Exited { run, code: 1 });
                }
            }
            Move::Pass(ms) => w.pass(Span::from_millis(*ms)),
            Move::Crash => {
                w.tell(Event::CrashLosingNewest);
            }
        }
    }
    w
}

fn profile() -> impl Strategy<Value = ProfileName> {
    (0usize..4).prop_map(|i| ProfileName::ALL[i])
}

proptest! {
    /// Whatever happens: no node is oversubscribed, the model knows every process (both are
    /// checked at each step), and once the nodes are back everything comes to its end.
    #[test]
    fn everything_comes_to_its_end(name in profile(), seed in any::<u64>(), moves in moves()) {
        let mut w = play(name, seed, &moves);
        for n in 0..3 {
            let node = w.node(n);
            w.tell(Event::NodeRestore(node));
        }
        let jobs: Vec<_> = w.model.jobs().map(|j| j.number).collect();
        for job in jobs {
            w.tell(Event::Cancel(job));
        }
        // Forgotten runs are nobody's: only their own end ends them.
        let forgotten: Vec<_> = w.story.iter().filter_map(|(_, e)| match e {
            Effect::Forget { run } => Some(*run),
            Effect::Start(_) | Effect::Signal { .. } | Effect::CleanUp { .. } => None,
        }).collect();
        w.pass(Span::from_mins(60));
        for (run, process) in &w.processes {
            assert!(forgotten.contains(run), "run {run} lives: {:?}", process.start);
        }
        for job in w.model.jobs() {
            assert!(job.is_over(), "{job:?}");
        }
    }

    /// No job runs past its walltime by more than its profile's lateness and kill wait, as long
    /// as its node can be reached.
    #[test]
    fn walltime_is_kept(name in profile(), seed in any::<u64>(), minutes in 1u64..60) {
        let mut w = World::new(ModelConfig::uniform(name, 1, NODE, seed));
        w.submit(pilot(1, 1));
        let job = w.submit(JobRequest { walltime: Span::from_mins(minutes), ..pilot(2, 1) });
        let run = w.run_of(job);
        let profile = w.model.config().profile();
        let beats = profile.ending(Cause::Walltime).beats;
        let latest: Span = beats.iter().map(|b| profile.window(b.after).1).sum();
        w.pass(Span::from_mins(minutes) + latest);
        assert!(!w.processes.contains_key(&run));
        let signals = w.signals_to(run);
        assert!(signals.iter().all(|s| s.0 >= at(0) + Span::from_mins(minutes)), "{signals:?}");
    }

    /// The same moves with the same seed give the same story, also over a save and a load.
    #[test]
    fn a_replay_is_the_same(name in profile(), seed in any::<u64>(), moves in moves(), cut in 0usize..60) {
        let whole = play(name, seed, &moves);
        assert_eq!(whole.story, play(name, seed, &moves).story);
        let text = serde_json::to_string(&play(name, seed, &moves[..cut.min(moves.len())]).model).unwrap();
        let loaded: Model = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&loaded).unwrap(), text);
    }
}
