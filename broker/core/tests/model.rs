//! Random lives: users, pilots, LRMs and the network do anything they can; whatever they do,
//! nothing runs twice, nothing is lost, nothing leaves its final state, and a broker that is
//! killed between any two steps goes on in the same way. Then all behave, and all work ends.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use std::collections::BTreeMap;

use broker_core::{Effect, Event, Reply, SyncDecision};
use proptest::prelude::*;
use proptest::sample::Index;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{PilotBoot, WorkspaceId};
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, SubmitAnswer};
use protocol::messages::{SyncReply, SyncRequest};
use protocol::time::Span;
use protocol::workspace::OnEviction;
use world::{World, admin, config, room, site, site_config, spec};

#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Tick,
    Submit {
        big: bool,
        minutes: u64,
        policy: u8,
    },
    Owner(u8, Index),
    SubmitAnswer(u8),
    OtherAnswer(u8),
    Listing {
        site: bool,
        lie: u8,
    },
    StartJob(Index),
    EndJob(Index, u8),
    Requeue(Index),
    Register(Index),
    Send(Index),
    Deliver(Index),
    Repeat(Index),
    Poll(Index),
    GetAnswer(Index),
    LoseAnswer(Index),
    TimeOut(Index),
    Progress(Index),
    /// Nothing goes wrong for once: submits, starts, a whole sync and a step on.
    Work(Index),
    Outcome(Index, u8),
    Evict(Index),
    Die(Index),
    Restart,
    Drain(bool, bool),
}

fn act() -> impl Strategy<Value = Act> {
    let i = any::<Index>;
    prop_oneof![
        4 => (1u64..40_000).prop_map(Act::Pass),
        2 => (40_000u64..400_000).prop_map(Act::Pass),
        3 => Just(Act::Tick),
        3 => (any::<bool>(), 1u64..40, 0u8..6)
            .prop_map(|(big, minutes, policy)| Act::Submit { big, minutes, policy }),
        3 => (0u8..4, i()).prop_map(|(what, i)| Act::Owner(what, i)),
        4 => (0u8..8).prop_map(Act::SubmitAnswer),
        2 => (0u8..6).prop_map(Act::OtherAnswer),
        2 => (any::<bool>(), 0u8..6).prop_map(|(site, lie)| Act::Listing { site, lie }),
        5 => i().prop_map(Act::StartJob),
        1 => (i(), 0u8..4).prop_map(|(i, how)| Act::EndJob(i, how)),
        1 => i().prop_map(Act::Requeue),
        5 => i().prop_map(Act::Register),
        9 => i().prop_map(Act::Send),
        9 => i().prop_map(Act::Deliver),
        1 => i().prop_map(Act::Repeat),
        3 => i().prop_map(Act::Poll),
        9 => i().prop_map(Act::GetAnswer),
        1 => i().prop_map(Act::LoseAnswer),
        1 => i().prop_map(Act::TimeOut),
        6 => i().prop_map(Act::Progress),
        14 => i().prop_map(Act::Work),
        2 => (i(), 0u8..7).prop_map(|(i, how)| Act::Outcome(i, how)),
        1 => i().prop_map(Act::Evict),
        1 => i().prop_map(Act::Die),
        1 => Just(Act::Restart),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(site, on)| Act::Drain(site, on)),
    ]
}

/// The world and what is under way in its network.
struct Run {
    world: World,
    needed: BTreeMap<WorkspaceId, Span>,
    requests: Vec<SyncRequest>,
    old: Vec<SyncRequest>,
    /// Answers on their way, with the pilot process that they go to.
    answers: Vec<(PilotBoot, SyncReply)>,
}

fn site_name(first: bool) -> &'static str {
    if first { "A" } else { "B" }
}

impl Run {
    /// With so many nodes for each job of the two sites.
    fn new(a: u32, b: u32) -> Self {
        let mut sites = vec![
            site_config("A", room(2, 2048)),
            site_config("B", room(4, 8192)),
        ];
        (sites[0].nodes, sites[1].nodes) = (a, b);
        let mut config = config(sites);
        config.lease_ttl = Span::from_mins(5);
        config.hold = Span::from_secs(60);
        let mut world = World::new(config);
        // More than is configured, and less than what the calm rounds below cost: it is learned.
        world.cost = Span::from_mins(5);
        Self {
            world,
            needed: BTreeMap::new(),
            requests: Vec::new(),
            old: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn pilot(&self, i: &Index, which: impl Fn(&world::Pilot) -> bool) -> Option<usize> {
        let all: Vec<_> = (self.world.pilots.iter().enumerate())
            .filter(|(_, p)| !p.gone && which(p))
            .map(|(n, _)| n)
            .collect();
        (!all.is_empty()).then(|| all[i.index(all.len())])
    }

    fn take_reply(&mut self, to: PilotBoot, reply: Reply) {
        if let Reply::Sync(SyncDecision::Answer(reply)) = reply {
            self.answers.push((to, *reply));
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per thing that can happen")]
    fn act(&mut self, act: &Act) {
        match *act {
            Act::Pass(ms) => {
                self.world.pass(Span::from_millis(ms));
                self.world.nothing_runs_twice();
            }
            Act::Tick => drop(self.world.step(Event::Tick)),
            Act::Submit {
                big,
                minutes,
                policy,
            } if self.world.made < 12 => {
                let memory = if big { 4096 } else { 512 };
                let need = Span::from_mins(minutes);
                let mut s = spec(memory, need);
                s.policy.on_eviction = match policy {
                    0 => OnEviction::Restart,
                    1 => OnEviction::Fail,
                    _ => OnEviction::Suspend,
                };
                let owner = if minutes % 2 == 0 { "anna" } else { "ben" };
                let id = self.world.submit(owner, s);
                self.needed.insert(id, need);
            }
            Act::Submit { .. } => {}
            Act::Owner(what, ref i) => {
                let ids: Vec<_> = self.world.accepted.iter().cloned().collect();
                if ids.is_empty() {
                    return;
                }
                let (id, by) = (ids[i.index(ids.len())].clone(), admin());
                self.world.step(match what {
                    0 => Event::Cancel { id, by },
                    1 => Event::Suspend { id, by },
                    2 => Event::Pause { id, by },
                    _ => Event::Resume { id, by },
                });
            }
            Act::SubmitAnswer(how) => {
                let Some(order) = self.world.take_order() else {
                    return;
                };
                let key = order.key.clone();
                let answer = match how {
                    0 => SubmitAnswer::Refused("no".into()),
                    1 => SubmitAnswer::NoAnswer("lost before".into()),
                    2 => {
                        self.world.lrm_takes(order);
                        SubmitAnswer::NoAnswer("lost after".into())
                    }
                    _ => SubmitAnswer::Accepted(self.world.lrm_takes(order)),
                };
                self.world.step(Event::LrmSubmitted { key, answer });
            }
            Act::OtherAnswer(how) => match how {
                0 => {
                    let at =
                        (self.world.todo.iter()).position(|e| !matches!(e, Effect::SubmitPilot(_)));
                    let Some(at) = at else { return };
                    match self.world.todo.remove(at) {
                        Effect::LookUp { key, .. } => {
                            let observation = Observation::NoAnswer("hung".into());
                            self.world.step(Event::LrmFound { key, observation });
                        }
                        Effect::CancelPilot { key, .. } => {
                            let answer = CancelAnswer::NoAnswer("hung".into());
                            self.world.step(Event::LrmCancelled { key, answer });
                        }
                        Effect::SubmitPilot(_) | Effect::Wake(_) => {}
                    }
                }
                1 => {
                    let keys: Vec<_> = self.world.submitted.iter().cloned().collect();
                    for key in keys.into_iter().take(1) {
                        let observation = Observation::Listing(Vec::new());
                        self.world.step(Event::LrmFound { key, observation });
                    }
                }
                _ => self.world.honest_rest(),
            },
            Act::Listing { site: first, lie } => {
                let site = site(site_name(first));
                let observation = match (self.world.listing(&site), lie) {
                    (_, 0) => Observation::NoAnswer("hung".into()),
                    (_, 1) => Observation::Listing(Vec::new()),
                    (Observation::Listing(mut jobs), 2) => {
                        // The LRM says that everything is over, while it is not.
                        for j in &mut jobs {
                            j.state = JobState::Ended(JobEnd::NodeLost);
                        }
                        Observation::Listing(jobs)
                    }
                    (Observation::Listing(mut jobs), 3) => {
                        for j in &mut jobs {
                            j.state = JobState::Unknown("?".into());
                            j.key = None;
                        }
                        Observation::Listing(jobs)
                    }
                    (honest, _) => honest,
                };
                self.world.step(Event::LrmObserved { site, observation });
            }
            Act::StartJob(ref i) => {
                let queued: Vec<_> = (self.world.jobs.iter().enumerate())
                    .filter(|(_, j)| j.state == JobState::Queued)
                    .map(|(n, _)| n)
                    .collect();
                if !queued.is_empty() {
                    self.world.start_job(queued[i.index(queued.len())]);
                }
            }
            Act::EndJob(ref i, how) => {
                if let Some(job) = self.running(i) {
                    let end = match how {
                        0 => JobEnd::Preempted,
                        1 => JobEnd::Walltime,
                        _ => JobEnd::Exited(1),
                    };
                    self.world.end_job(job, end);
                }
            }
            Act::Requeue(ref i) => {
                // The node lost its daemon: the old pilot lives on, the job starts elsewhere.
                if let Some(job) = self.running(i) {
                    self.world.jobs[job].restarts += 1;
                    self.world.start_job(job);
                }
            }
            Act::Register(ref i) => {
                if let Some(p) = self.pilot(i, |_| true) {
                    self.world.register(p);
                }
            }
            Act::Send(ref i) => {
                if let Some(p) = self.pilot(i, |p| p.registered && p.sent.is_none()) {
                    let request = self.world.request(p);
                    self.requests.push(request);
                }
            }
            Act::Deliver(ref i) => {
                if !self.requests.is_empty() {
                    let at = i.index(self.requests.len());
                    let request = self.requests.remove(at);
                    self.old.push(request.clone());
                    let boot = request.boot.clone();
                    let reply = self.world.deliver(request);
                    self.take_reply(boot, reply);
                }
            }
            Act::Repeat(ref i) => {
                if !self.old.is_empty() {
                    let request = self.old[i.index(self.old.len())].clone();
                    let boot = request.boot.clone();
                    let reply = self.world.deliver(request);
                    self.take_reply(boot, reply);
                }
            }
            Act::Poll(ref i) => {
                if let Some(p) = self.pilot(i, |p| p.sent.is_some()) {
                    let p = &self.world.pilots[p];
                    let event = Event::SyncPoll {
                        submit_key: p.key.clone(),
                        incarnation: p.incarnation.clone(),
                        boot: p.boot.clone(),
                        number: p.number,
                        received: p.sent_at,
                    };
                    // Only a request that has arrived can be held.
                    let arrived = self
                        .old
                        .iter()
                        .any(|r| r.boot == p.boot && r.number == p.number && r.submit_key == p.key);
                    if arrived {
                        let boot = p.boot.clone();
                        let reply = self.world.step(event);
                        self.take_reply(boot, reply);
                    }
                }
            }
            Act::GetAnswer(ref i) => {
                if !self.answers.is_empty() {
                    let at = i.index(self.answers.len());
                    let (boot, answer) = self.answers.remove(at);
                    let to = self.world.pilots.iter().position(|p| p.boot == boot);
                    self.world.answered(to.unwrap(), &answer);
                    self.world.nothing_runs_twice();
                }
            }
            Act::LoseAnswer(ref i) => {
                if !self.answers.is_empty() {
                    let at = i.index(self.answers.len());
                    self.answers.remove(at);
                }
            }
            Act::TimeOut(ref i) => {
                if let Some(p) = self.pilot(i, |p| p.sent.is_some()) {
                    let p = &mut self.world.pilots[p];
                    p.sent = None;
                    p.failed_sync = true;
                }
            }
            Act::Progress(ref i) => {
                if let Some(p) = self.pilot(i, |_| true) {
                    self.world.progress(p, &self.needed);
                }
            }
            Act::Work(ref i) => self.work(i),
            Act::Outcome(ref i, how) => {
                if let Some(p) = self.pilot(i, |p| !p.guests.is_empty()) {
                    self.outcome(p, how);
                }
            }
            Act::Evict(ref i) => {
                if let Some(p) = self.pilot(i, |p| p.registered) {
                    self.world.evict(p, ReasonCode::Preempted);
                }
            }
            Act::Die(ref i) => {
                if let Some(p) = self.pilot(i, |_| true) {
                    self.world.quit(p);
                }
            }
            Act::Restart => self.world.restart_broker(),
            Act::Drain(first, on) => {
                let (site, by) = (site(site_name(first)), admin());
                self.world.step(if on {
                    Event::Drain { site, by }
                } else {
                    Event::Undrain { site, by }
                });
            }
        }
    }

    fn work(&mut self, i: &Index) {
        let Some(p) = self.pilot(i, |_| true) else {
            self.world.honest_submits();
            for job in 0..self.world.jobs.len() {
                if self.world.jobs[job].state == JobState::Queued {
                    self.world.start_job(job);
                }
            }
            return;
        };
        if !self.world.pilots[p].registered {
            self.world.register(p);
        }
        if self.world.pilots[p].gone || self.world.pilots[p].sent.is_some() {
            return;
        }
        self.world.sync(p);
        self.world.progress(p, &self.needed);
    }

    fn running(&self, i: &Index) -> Option<usize> {
        let all: Vec<_> = (self.world.jobs.iter().enumerate())
            .filter(|(_, j)| j.state == JobState::Running)
            .map(|(n, _)| n)
            .collect();
        (!all.is_empty()).then(|| all[i.index(all.len())])
    }

    fn outcome(&mut self, pilot: usize, how: u8) {
        let now = self.world.now;
        let (pilots, states) = (&mut self.world.pilots, &mut self.world.states);
        let p = &mut pilots[pilot];
        let Some((id, g)) = p.guests.iter_mut().next() else {
            return;
        };
        if matches!(g.phase, LeasePhase::Ended { .. }) {
            return;
        }
        let reason = |code| Reason::new(code, "so it went");
        let outcome = match how {
            0 => EndOutcome::Killed {
                reason: reason(ReasonCode::SuspendTooSlow),
            },
            1 => EndOutcome::Failed {
                reason: reason(ReasonCode::GuestCrashed),
                permanent: false,
            },
            2 => EndOutcome::Failed {
                reason: reason(ReasonCode::ImageMissing),
                permanent: true,
            },
            3 => EndOutcome::Failed {
                reason: reason(ReasonCode::StateCorrupt),
                permanent: false,
            },
            4 => EndOutcome::Declined {
                reason: reason(ReasonCode::SlotTooSmall),
            },
            5 => EndOutcome::Finished {
                reason: reason(ReasonCode::GuestPoweredOff),
            },
            _ => world::suspended(states, id, g, &p.site, now, reason(ReasonCode::SlotEnding)),
        };
        g.phase = LeasePhase::Ended { outcome };
    }

    /// Everybody behaves from now on: all work must come to its end.
    fn calm(&mut self) {
        for first in [true, false] {
            let (site, by) = (site(site_name(first)), admin());
            self.world.step(Event::Undrain { site, by });
        }
        for p in &mut self.world.pilots {
            p.sent = None;
            p.failed_sync = true;
        }
        let limit = self.world.now + Span::from_mins(60 * 24);
        while self.world.now < limit {
            let open: Vec<_> = (self.world.accepted.iter())
                .filter(|id| !self.world.state(id).is_final())
                .cloned()
                .collect();
            if open.is_empty() {
                return;
            }
            for id in open {
                let by = admin();
                self.world.step(Event::Resume { id, by });
            }
            self.calm_round();
        }
        let left: Vec<_> = (self.world.accepted.iter())
            .filter(|id| !self.world.state(id).is_final())
            .map(|id| {
                let why = self.world.broker.explain(self.world.now, &admin(), id);
                (id, self.world.state(id), why)
            })
            .collect();
        panic!("work does not end: {left:#?}");
    }

    fn calm_round(&mut self) {
        self.world.honest_submits();
        self.world.honest_rest();
        for job in 0..self.world.jobs.len() {
            let j = &self.world.jobs[job];
            match j.state {
                JobState::Queued => {
                    self.world.start_job(job);
                }
                JobState::Running if j.end.is_some_and(|end| end <= self.world.now) => {
                    self.world.end_job(job, JobEnd::Walltime);
                }
                _ => {}
            }
        }
        for first in [true, false] {
            self.world.observe(site_name(first));
        }
        for p in 0..self.world.pilots.len() {
            let (now, pilot) = (self.world.now, &self.world.pilots[p]);
            if pilot.gone {
                continue;
            }
            let ending = pilot.end.since(now) < Span::from_mins(4);
            if !pilot.registered {
                self.world.register(p);
            }
            if self.world.pilots[p].gone {
                continue;
            }
            self.world.progress(p, &self.needed);
            if ending && !self.world.pilots[p].leaving {
                self.world.evict(p, ReasonCode::SlotEnding);
            }
            self.world.pilots[p].sent = None;
            self.world.pilots[p].failed_sync = true;
            self.world.sync(p);
        }
        self.world.pass_ticking(Span::from_secs(90));
    }
}

fn live(mut run: Run, acts: Vec<Act>) {
    run.world.step(Event::Started);
    for act in acts {
        run.act(&act);
    }
    run.world.twin = false;
    run.world.strict = false;
    run.calm();
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_promises_hold(acts in prop::collection::vec(act(), 1..200)) {
        live(Run::new(1, 1), acts);
    }

    #[test]
    fn whatever_happens_to_jobs_of_several_nodes_the_promises_hold(
        acts in prop::collection::vec(act(), 1..200)
    ) {
        live(Run::new(3, 2), acts);
    }
}
