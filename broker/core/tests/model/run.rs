//! Does what can happen to the world.

use broker_core::{Effect, Event, Reply, SyncDecision};
use proptest::sample::Index;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::PilotBoot;
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::lrm::{CancelAnswer, JobEnd, JobState, Observation, SubmitAnswer};
use protocol::time::Span;
use protocol::workspace::OnEviction;

use super::acts::Act;
use super::{Run, site_name};
use crate::world;
use crate::world::{admin, site, spec};

impl Run {
    #[expect(clippy::too_many_lines, reason = "one arm per thing that can happen")]
    pub(super) fn act(&mut self, act: &Act) {
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
                s.policy.checkpoint_every = (policy > 2).then_some(Span::from_mins(1));
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
            Act::Checkpoint(ref i) => {
                let running = |p: &world::Pilot| p.guests.values().any(world::Guest::alive);
                if let Some(p) = self.pilot(i, running) {
                    let ids: Vec<_> = self.world.pilots[p].guests.keys().cloned().collect();
                    self.world.checkpoint(p, &ids[i.index(ids.len())]);
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
            Act::Forget(after, limit) => {
                let ended_before = self.world.now.before(Span::from_millis(after));
                self.world.step(Event::Forget {
                    ended_before,
                    limit,
                });
            }
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

    fn running(&self, i: &Index) -> Option<usize> {
        let all: Vec<_> = (self.world.jobs.iter().enumerate())
            .filter(|(_, j)| j.state == JobState::Running)
            .map(|(n, _)| n)
            .collect();
        (!all.is_empty()).then(|| all[i.index(all.len())])
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
}
