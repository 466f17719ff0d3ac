use std::collections::BTreeMap;

use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
use protocol::ids::SubmitKey;
use protocol::lrm::JobState;
use protocol::resources::Resources;

use super::*;
use crate::sim::profiles::{Cause, Fate, Launch, Leftovers, ProfileName, Signal, Target};

mod nodes;

const NODE: Resources = Resources {
    cores: 4,
    memory_mib: 4096,
    disk_mib: 4096,
};

fn need(cores: u32) -> Resources {
    Resources {
        cores,
        memory_mib: 256,
        disk_mib: 0,
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_763_712_000_000 + millis)
}

fn key(n: u32) -> SubmitKey {
    SubmitKey::new(&format!("wp-{n}")).unwrap()
}

fn pilot(n: u32, cores: u32) -> JobRequest {
    JobRequest::pilot(key(n), need(cores), Span::from_mins(10))
}

/// A model with its owner: processes that react, and a record of what happened to them.
struct World {
    model: Model,
    now: Timestamp,
    processes: BTreeMap<RunNumber, Process>,
    story: Vec<(Timestamp, Effect)>,
}

struct Process {
    start: Start,
    /// How long after its first SIGTERM it leaves; never if none.
    leaves_after: Option<Span>,
    leaves_at: Option<Timestamp>,
}

impl World {
    fn new(config: ModelConfig) -> Self {
        Self {
            model: Model::new(config),
            now: at(0),
            processes: BTreeMap::new(),
            story: Vec::new(),
        }
    }

    fn tell(&mut self, event: Event) -> Answer {
        let step = self.model.step(self.now, event);
        for effect in step.effects {
            self.story.push((self.now, effect.clone()));
            match effect {
                Effect::Start(start) => {
                    // Odd jobs obey, even ones have to be killed.
                    let leaves_after = (start.job.0 % 2 == 1).then(|| Span::from_millis(500));
                    let process = Process {
                        start: start.clone(),
                        leaves_after,
                        leaves_at: None,
                    };
                    assert!(self.processes.insert(start.run, process).is_none());
                }
                Effect::Signal { run, signal, .. } => {
                    let now = self.now;
                    if let Some(process) = self.processes.get_mut(&run) {
                        let leaves = match signal {
                            Signal::Kill => Some(now),
                            Signal::Term => process.leaves_after.map(|s| now + s),
                            Signal::Cont => None,
                        };
                        process.leaves_at = match (process.leaves_at, leaves) {
                            (Some(a), Some(b)) => Some(a.min(b)),
                            (a, b) => a.or(b),
                        };
                    }
                }
                Effect::CleanUp { run, .. } | Effect::Forget { run } => {
                    assert!(!self.story.is_empty(), "run {run}");
                }
            }
        }
        self.check();
        step.answer
    }

    /// What always holds.
    fn check(&self) {
        for node in self.model.nodes() {
            let used = self
                .model
                .runs()
                .filter(|(_, r)| r.attached && r.node == *node.name)
                .fold(Resources::default(), |sum, (_, r)| sum.plus(&r.resources));
            assert_eq!(used, node.used, "{}", node.name);
            assert!(
                node.resources.holds(&used),
                "{} is oversubscribed",
                node.name
            );
        }
        for job in self.model.jobs() {
            if let Some(run) = job.run() {
                let run = self.model.runs().find(|(n, _)| *n == run);
                assert!(run.is_some_and(|(_, r)| r.attached && r.job == job.number));
            }
        }
        // The model knows every live process.
        for run in self.processes.keys() {
            assert!(
                self.model.runs().any(|(n, _)| n == *run),
                "run {run} is unknown"
            );
        }
    }

    /// Lets time pass, with processes leaving when they do.
    fn pass(&mut self, span: Span) {
        let until = self.now + span;
        loop {
            let leaving = self
                .processes
                .iter()
                .filter_map(|(n, p)| Some((p.leaves_at?, *n)))
                .min();
            let due = [self.model.next_wakeup(), leaving.map(|(t, _)| t)];
            let Some(next) = due.into_iter().flatten().min().filter(|t| *t <= until) else {
                break;
            };
            self.now = next.max(self.now);
            match leaving {
                Some((t, run)) if t <= next => {
                    self.processes.remove(&run);
                    self.tell(Event::Exited { run, code: 0 });
                }
                Some(_) | None => {
                    self.tell(Event::Tick);
                }
            }
        }
        self.now = until;
        self.tell(Event::Tick);
    }

    fn submit(&mut self, request: JobRequest) -> JobNumber {
        match self.tell(Event::Submit(request)) {
            Answer::Submitted(job) => job,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self, job: JobNumber) -> JobState {
        self.model.observe_one(self.now, job).unwrap().state
    }

    fn run_of(&self, job: JobNumber) -> RunNumber {
        self.model.job(job).and_then(Job::run).unwrap()
    }

    fn node(&self, n: u32) -> NodeName {
        self.model.nodes().nth(n as usize).unwrap().name.clone()
    }

    fn signals_to(&self, wanted: RunNumber) -> Vec<(Timestamp, Target, Signal)> {
        let signal = |(t, e): &(Timestamp, Effect)| match e {
            Effect::Signal {
                run,
                target,
                signal,
            } if *run == wanted => Some((*t, *target, *signal)),
            Effect::Signal { .. }
            | Effect::Start(_)
            | Effect::CleanUp { .. }
            | Effect::Forget { .. } => None,
        };
        self.story.iter().filter_map(signal).collect()
    }
}

fn world(profile: ProfileName, nodes: u32) -> World {
    World::new(ModelConfig::uniform(profile, nodes, NODE, 7))
}

#[test]
fn higher_priority_goes_first_and_nothing_overtakes() {
    let mut w = world(ProfileName::Slurm, 1);
    let first = w.submit(pilot(1, 3));
    let big = w.submit(pilot(2, 4));
    let small = w.submit(pilot(3, 1));
    assert_eq!(w.state(first), JobState::Running);
    assert_eq!(
        [w.state(big), w.state(small)],
        [JobState::Queued, JobState::Queued]
    );
    let urgent = w.submit(JobRequest {
        priority: 5,
        ..pilot(4, 1)
    });
    assert_eq!(w.state(urgent), JobState::Running);
}

/// Every cause under every profile: the signals that the profile says, within its windows.
#[test]
fn every_ending_is_played_as_the_profile_says() {
    for name in ProfileName::ALL {
        for cause in Cause::ALL {
            for launch in [Launch::Step, Launch::Batch] {
                let mut config = ModelConfig::uniform(name, 1, NODE, 3);
                if name == ProfileName::Slurm {
                    config.grace = Some(Span::from_secs(20));
                }
                let mut w = World::new(config);
                // Job 1 obeys, job 2 has to be killed.
                let gone = w.submit(pilot(1, 1));
                w.tell(Event::Cancel(gone));
                w.pass(Span::from_secs(700));
                let job = w.submit(JobRequest {
                    launch,
                    ..pilot(2, 1)
                });
                let run = w.run_of(job);
                let node = w.node(0);
                w.pass(Span::from_secs(1));
                let began = match cause {
                    Cause::Walltime => w.now.before(Span::from_secs(1)) + Span::from_mins(10),
                    _ => w.now,
                };
                let answer = match cause {
                    Cause::Walltime => Answer::Done,
                    Cause::Cancel => w.tell(Event::Cancel(job)),
                    Cause::Preempt => w.tell(Event::Preempt(job)),
                    Cause::Requeue => w.tell(Event::Requeue(job)),
                    Cause::NodeDown => w.tell(Event::NodeDown(node)),
                    Cause::NodeLost => w.tell(Event::NodeLost(node)),
                    Cause::Drain => w.tell(Event::Drain(node)),
                };
                assert_eq!(answer, Answer::Done);
                let ending = w.model.config().profile().ending(cause);
                w.pass(match ending.fate {
                    // Before its walltime is over.
                    Fate::RunsOn => Span::from_secs(500),
                    Fate::Over | Fate::Requeued(_) | Fate::Held => Span::from_mins(60),
                });
                let case = format!("{name:?} {cause:?} {launch:?}");
                let profile = w.model.config().profile();
                if ending.fate == Fate::RunsOn {
                    assert_eq!(w.state(job), JobState::Running, "{case}");
                    assert!(w.signals_to(run).is_empty(), "{case}");
                    continue;
                }
                let mut low = began;
                let mut high = began;
                let mut expected = Vec::new();
                for beat in &ending.beats {
                    let (min, max) = profile.window(beat.after);
                    low = low + min;
                    high = high + max;
                    if beat.who != Target::Steps || launch == Launch::Step {
                        expected.push((low, high, beat.who, beat.signal));
                    }
                }
                let sent = w.signals_to(run);
                // A kill that is not heard of is repeated (a lost node tells nothing).
                assert!(sent.len() >= expected.len(), "{case}: {sent:?}");
                for ((t, who, signal), want) in sent.iter().zip(&expected) {
                    assert_eq!((*who, *signal), (want.2, want.3), "{case}");
                    assert!(want.0 <= *t && *t <= want.1, "{case}: {t} not in {want:?}");
                }
            }
        }
    }
}

#[test]
fn a_preemption_takes_the_fewest_pilots_and_the_site_job_gets_the_node() {
    let mut w = world(ProfileName::Slurm, 2);
    let pilots = [
        w.submit(pilot(1, 2)),
        w.submit(pilot(2, 2)),
        w.submit(pilot(3, 4)),
    ];
    let site = w.submit(JobRequest::site(need(4), Span::from_mins(5)));
    assert_eq!(w.state(site), JobState::Queued);
    w.pass(Span::from_mins(2));
    assert_eq!(w.state(site), JobState::Running);
    let preempted = JobState::Ended(JobEnd::Preempted);
    assert_eq!(
        pilots.map(|p| w.state(p)),
        [JobState::Running, JobState::Running, preempted]
    );
}

#[test]
fn two_site_jobs_preempt_two_nodes_at_once() {
    let mut w = world(ProfileName::Pbs, 2);
    let pilots = [w.submit(pilot(1, 4)), w.submit(pilot(2, 4))];
    for _ in 0..2 {
        w.submit(JobRequest::site(need(4), Span::from_mins(5)));
    }
    w.pass(Span::from_secs(1));
    let told = |job| {
        w.model
            .job(job)
            .and_then(Job::run)
            .map(|r| w.signals_to(r).len())
    };
    assert!(pilots.iter().all(|p| told(*p) != Some(0)));
}

#[test]
fn an_end_that_moves_moves_the_kill() {
    let mut w = world(ProfileName::Htcondor, 1);
    let job = w.submit(pilot(2, 1));
    let run = w.run_of(job);
    let end = at(0) + Span::from_mins(20);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_mins(15));
    assert!(w.signals_to(run).is_empty());
    let end = w.now + Span::from_secs(10);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_secs(12));
    assert_eq!(w.signals_to(run).first().map(|s| s.2), Some(Signal::Term));
}

#[test]
fn extending_in_the_lateness_of_the_walltime_calls_the_end_off() {
    let mut config = ModelConfig::uniform(ProfileName::Slurm, 1, NODE, 12);
    config.kill_wait = Some(Span::from_secs(5));
    let mut w = World::new(config);
    let job = w.submit(pilot(2, 1));
    let run = w.run_of(job);
    w.pass(Span::from_mins(10));
    assert!(w.signals_to(run).is_empty(), "this seed is late by 0");
    assert_eq!(w.state(job), JobState::Running);
    let end = w.now + Span::from_mins(5);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_mins(4));
    assert!(w.signals_to(run).is_empty());
    w.pass(Span::from_mins(3));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Walltime));
}

#[test]
fn a_cancel_during_a_preemption_ends_the_job_for_good() {
    let mut w = world(ProfileName::Htcondor, 1);
    w.submit(pilot(1, 1));
    let job = w.submit(pilot(2, 1));
    w.tell(Event::Preempt(job));
    w.pass(Span::from_secs(5));
    w.tell(Event::Cancel(job));
    assert_eq!(w.state(job), JobState::Ending);
    w.pass(Span::from_secs(602));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Cancelled));
}

#[test]
fn a_lost_node_runs_on_and_its_strays_are_ended_when_it_is_back() {
    let mut config = ModelConfig::uniform(ProfileName::Pbs, 2, NODE, 1);
    config.node_timeout = Some(Span::from_secs(60));
    let mut w = World::new(config);
    let job = w.submit(pilot(2, 4));
    let first = w.run_of(job);
    let node = w.node(0);
    w.tell(Event::NodeLost(node.clone()));
    w.pass(Span::from_secs(50));
    assert_eq!(w.state(job), JobState::Running);
    w.pass(Span::from_secs(20));
    // The same job twice: the measured behaviour that fencing is for.
    assert_eq!(w.model.observe_one(w.now, job).unwrap().restarts, 1);
    assert_eq!(w.processes.len(), 2);
    assert!(w.signals_to(first).is_empty());
    w.tell(Event::NodeRestore(node));
    w.pass(Span::from_secs(1));
    assert_eq!(w.processes.len(), 1);
    assert_eq!(w.state(job), JobState::Running);
}

#[test]
fn a_node_without_power_is_noticed_late() {
    let mut w = world(ProfileName::Slurm, 1);
    let job = w.submit(pilot(1, 1));
    let node = w.node(0);
    w.tell(Event::NodePowerLoss(node.clone()));
    w.pass(Span::from_secs(10));
    assert!(w.processes.is_empty());
    assert_eq!(w.state(job), JobState::Running, "nobody has told the LRM");
    w.pass(Span::from_mins(2));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::NodeLost));
    w.tell(Event::NodeRestore(node));
    let next = w.submit(pilot(3, 4));
    assert_eq!(w.state(next), JobState::Running);
}

#[test]
fn a_minimum_walltime_lets_a_job_run_before_its_node_closes() {
    let mut w = world(ProfileName::Slurm, 1);
    let node = w.node(0);
    let closes = w.now + Span::from_mins(6);
    w.tell(Event::CloseNode {
        node,
        at: Some(closes),
    });
    let stiff = w.submit(pilot(1, 1));
    assert_eq!(w.state(stiff), JobState::Queued);
    w.tell(Event::Cancel(stiff));
    let min_walltime = Some(Span::from_mins(5));
    let supple = w.submit(JobRequest {
        min_walltime,
        ..pilot(2, 1)
    });
    assert_eq!(
        w.model.observe_one(w.now, supple).unwrap().end,
        Some(closes)
    );
}

#[test]
fn a_crash_loses_the_newest_job_and_gives_its_id_again() {
    let mut w = world(ProfileName::Slurm, 1);
    let lost = w.submit(pilot(1, 1));
    let run = w.run_of(lost);
    w.tell(Event::CrashLosingNewest);
    assert_eq!(w.model.job(lost), None);
    let next = w.submit(pilot(2, 1));
    assert_eq!(next, lost);
    assert_ne!(w.run_of(next), run);
    assert_eq!(w.model.find_by_key(w.now, &key(1)), []);
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let mut w = world(ProfileName::Slurm, 1);
    for (request, want) in [
        (pilot(1, 5), "no node has"),
        (
            JobRequest {
                queue: "x".into(),
                ..pilot(1, 1)
            },
            "no queue is named `x`",
        ),
        (
            JobRequest {
                walltime: Span::ZERO,
                ..pilot(1, 1)
            },
            "more than 0s",
        ),
        (
            JobRequest {
                min_walltime: Some(Span::MAX),
                ..pilot(1, 1)
            },
            "longer",
        ),
    ] {
        let Answer::Refused(why) = w.tell(Event::Submit(request)) else {
            panic!("not refused: {want}");
        };
        assert!(why.contains(want), "{why}");
    }
}

#[test]
fn ended_jobs_are_forgotten() {
    let mut w = world(ProfileName::Slurm, 1);
    let job = w.submit(pilot(1, 1));
    let run = w.run_of(job);
    w.processes.remove(&run);
    w.tell(Event::Exited { run, code: 3 });
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Exited(3)));
    w.pass(Span::from_mins(6));
    assert_eq!(w.model.observe(w.now), []);
}

#[test]
fn leftovers_are_dealt_with_as_the_profile_says() {
    for (name, want) in [
        (ProfileName::Slurm, Leftovers::Survive),
        (ProfileName::SlurmCgroup, Leftovers::AllKilled),
        (ProfileName::Pbs, Leftovers::SessionKilled),
        (ProfileName::Htcondor, Leftovers::AllKilled),
    ] {
        let mut w = world(name, 1);
        let job = w.submit(pilot(1, 1));
        let run = w.run_of(job);
        w.processes.remove(&run);
        w.tell(Event::Exited { run, code: 0 });
        let effect = w.story.last().map(|(_, e)| e.clone());
        assert_eq!(
            effect,
            Some(Effect::CleanUp {
                run,
                leftovers: want
            })
        );
    }
}

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
