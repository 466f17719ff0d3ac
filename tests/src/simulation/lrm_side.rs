//! The sites' batch systems in the simulation: the model that ships, and how it fails its users.

use broker_core::{CancelScope, Event as BrokerEvent, SiteConfig};
use lrm_adapters::sim::model::{
    Answer, Effect, Event, JobNumber, JobPhase, JobRequest, Model, ModelConfig, RunNumber,
};
use lrm_adapters::sim::profiles::{Launch, Profile, ProfileName, Signal, Target};
use pilot_core::agent;
use protocol::ids::{LrmJobId, SiteName};
use protocol::lrm::{CancelAnswer, Observation, SubmitAnswer};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use super::chance::Chance;
use super::options::{Options, Violation};
use super::truth::PilotNumber;
use super::world::{Coming, Command, Sender, World};

/// A site.
pub struct Site {
    /// What the broker knows of it.
    pub config: SiteConfig,
    /// Its batch system.
    pub model: Model,
    /// Which pilot process each run is.
    pub runs: std::collections::BTreeMap<RunNumber, PilotNumber>,
    /// Hears nothing and answers nothing until then.
    silent_until: Timestamp,
    tick: Option<Timestamp>,
}

impl Site {
    /// Two sites with profiles of two different batch systems.
    pub fn draw(chance: &mut Chance, options: &Options) -> Vec<Self> {
        let first = usize::try_from(options.seed % 4).unwrap_or(0);
        [first, first + 1]
            .map(|p| {
                let profile = ProfileName::ALL[p % 4];
                let resources = Resources {
                    cores: 4,
                    memory_mib: 8192,
                    disk_mib: 100_000,
                };
                let nodes = u32::try_from(chance.between(3, 6)).unwrap_or(3);
                let model = ModelConfig::uniform(
                    profile,
                    nodes,
                    resources,
                    chance.between(0, u64::MAX - 1),
                );
                let measured: Profile = model.profile();
                let name =
                    SiteName::new(&format!("site-{}", profile.as_str())).expect("a site name");
                let config = SiteConfig {
                    name,
                    preference: 0,
                    lrm: Some("sim".into()),
                    slot: Resources {
                        cores: 2,
                        memory_mib: 4096,
                        disk_mib: 20_000,
                    },
                    // With every third seed each job is of two nodes.
                    nodes: if options.seed % 3 == 2 { 2 } else { 1 },
                    walltime_min: Span::from_mins(10),
                    walltime_max: Span::from_mins(chance.between(20, 60)),
                    notice: measured.guaranteed_notice(Launch::Step),
                    margin: Span::from_secs(2),
                    overhead: Span::from_secs(20),
                    max_queued: 3,
                    max_running: 8,
                    idle_limit: Some(Span::from_mins(5)),
                    enabled: true,
                };
                Self {
                    config,
                    model: Model::new(model),
                    runs: std::collections::BTreeMap::new(),
                    silent_until: Timestamp::default(),
                    tick: None,
                }
            })
            .into()
    }
}

impl World {
    /// The site with this name.
    pub(super) fn site_number(&self, name: &SiteName) -> Option<usize> {
        self.sites.iter().position(|s| s.config.name == *name)
    }

    /// Something happens in a batch system.
    pub(super) fn lrm_hears(&mut self, site: usize, event: Event) -> Result<(), Box<Violation>> {
        if event == Event::Tick {
            if self.sites[site].tick.is_none_or(|t| t > self.now) {
                return Ok(());
            }
            self.sites[site].tick = None;
        }
        self.lrm_step(site, event).map(drop)
    }

    fn lrm_step(&mut self, site: usize, event: Event) -> Result<Answer, Box<Violation>> {
        let submitted = matches!(event, Event::Submit(_));
        let step = self.sites[site].model.step(self.now, event);
        for effect in step.effects {
            self.lrm_wants(site, effect)?;
        }
        if let Some(next) = self.sites[site].model.next_wakeup()
            && self.sites[site]
                .tick
                .is_none_or(|t| next < t || t < self.now)
        {
            let at = next.max(self.now + Span::from_millis(1));
            self.sites[site].tick = Some(at);
            self.plan(at.since(self.now), Coming::Lrm(site, Box::new(Event::Tick)));
        }
        if submitted {
            self.check_site(site)?;
        }
        Ok(step.answer)
    }

    fn lrm_wants(&mut self, site: usize, effect: Effect) -> Result<(), Box<Violation>> {
        match effect {
            Effect::Start(start) => {
                let key = self.sites[site]
                    .model
                    .job(start.job)
                    .and_then(|j| j.request.key.clone())
                    .map(|key| match start.nodes {
                        1 => key,
                        _ => key.member(start.rank).expect("a short key"),
                    });
                match key {
                    Some(key) => self.pilot_lands(site, &start, &key),
                    None => {
                        // A job of the site itself: ends some time before its walltime.
                        let length = start.end.since(start.start).as_millis();
                        let after = self.chance.millis(1000, length.max(2000));
                        let event = Event::Exited {
                            run: start.run,
                            code: 0,
                        };
                        self.plan(after, Coming::Lrm(site, Box::new(event)));
                    }
                }
            }
            Effect::Signal {
                run,
                target,
                signal,
            } => {
                let Some(&pilot) = self.sites[site].runs.get(&run) else {
                    return Ok(());
                };
                self.pilot_signalled(site, pilot, target, signal)?;
            }
            Effect::CleanUp { .. } | Effect::Forget { .. } => {}
        }
        Ok(())
    }

    fn pilot_signalled(
        &mut self,
        site: usize,
        pilot: PilotNumber,
        target: Target,
        signal: Signal,
    ) -> Result<(), Box<Violation>> {
        self.summary.signals += 1;
        if !self.pilots[pilot].alive {
            return Ok(());
        }
        self.tell(|| format!("pilot {pilot}: the LRM sends {signal:?} to {target:?}"));
        match signal {
            Signal::Cont | Signal::Term => {
                if signal == Signal::Term {
                    let now = self.now;
                    self.pilots[pilot].told.get_or_insert(now);
                }
                let which = if signal == Signal::Term {
                    agent::Signal::Term
                } else {
                    agent::Signal::Cont
                };
                let event = agent::Event::Signal {
                    which,
                    from: "the LRM".into(),
                };
                self.plan(Span::from_millis(1), Coming::Pilot(pilot, Box::new(event)));
                Ok(())
            }
            Signal::Kill => {
                self.check_killed_in_time(site, pilot)?;
                self.pilot_dies(pilot, "the LRM's SIGKILL")
            }
        }
    }

    /// The broker's command arrives, or does not.
    pub(super) fn lrm_commanded(
        &mut self,
        site: usize,
        command: Command,
    ) -> Result<(), Box<Violation>> {
        let silent = self.lrm_is_silent(site);
        let answered = Span::from_millis(self.chance.between(10, 400));
        let timeout = Span::from_secs(30);
        let (event, after) = match command {
            Command::Submit(job) => {
                // A submit that gets no answer may have been taken.
                let taken = !silent || self.chance.happens(500);
                let mut answer = SubmitAnswer::NoAnswer("time limit of 30s".into());
                if !silent && self.fault(30) {
                    answer = SubmitAnswer::Refused("invalid qos".into());
                    self.summary.lrm_lies += 1;
                } else if taken {
                    let mut request =
                        JobRequest::pilot(job.key.clone(), job.resources, job.walltime);
                    request.nodes = job.nodes;
                    request.rerunnable = self.chance.happens(500);
                    match self.lrm_step(site, Event::Submit(request))? {
                        Answer::Submitted(number) if !silent && !self.fault(40) => {
                            let id = LrmJobId::new(&number.to_string()).expect("digits");
                            answer = SubmitAnswer::Accepted(id);
                        }
                        Answer::Refused(why) if !silent => answer = SubmitAnswer::Refused(why),
                        Answer::Submitted(_)
                        | Answer::Refused(_)
                        | Answer::Started
                        | Answer::Done
                        | Answer::NoSuchJob
                        | Answer::NoSuchNode => self.summary.lrm_lies += 1,
                    }
                }
                let after = if matches!(answer, SubmitAnswer::NoAnswer(_)) {
                    timeout
                } else {
                    answered
                };
                let key = job.key.clone();
                self.tell(|| format!("submit of {key}: {answer:?}"));
                (
                    BrokerEvent::LrmSubmitted {
                        key: job.key,
                        answer,
                    },
                    after,
                )
            }
            Command::LookUp(key) => {
                let observation = if silent {
                    Observation::NoAnswer("time limit of 30s".into())
                } else if self.fault(50) {
                    self.summary.lrm_lies += 1;
                    Observation::Listing(Vec::new())
                } else {
                    Observation::Listing(self.sites[site].model.find_by_key(self.now, &key))
                };
                let after = if silent { timeout } else { answered };
                (BrokerEvent::LrmFound { key, observation }, after)
            }
            Command::Cancel(key, id, scope) => {
                let number = id.as_str().parse().map(JobNumber).ok();
                let answer = match number {
                    _ if silent => CancelAnswer::NoAnswer("time limit of 30s".into()),
                    Some(number)
                        if self.sites[site]
                            .model
                            .job(number)
                            .is_some_and(|j| j.request.key.as_ref() == Some(&key)) =>
                    {
                        let order = match scope {
                            CancelScope::Whatever => Event::Cancel(number),
                            CancelScope::WhileQueued => Event::Withdraw(number),
                        };
                        match self.lrm_step(site, order)? {
                            Answer::Started => CancelAnswer::Started,
                            Answer::NoSuchJob => CancelAnswer::NoSuchJob,
                            Answer::Done
                            | Answer::Submitted(_)
                            | Answer::Refused(_)
                            | Answer::NoSuchNode => CancelAnswer::Taken,
                        }
                    }
                    _ => CancelAnswer::NoSuchJob,
                };
                let after = if silent { timeout } else { answered };
                (BrokerEvent::LrmCancelled { key, answer }, after)
            }
        };
        self.plan(after, Coming::Broker(Box::new(event), Sender::Nobody));
        Ok(())
    }

    /// The broker's periodic bulk listing.
    pub(super) fn lrm_observed(&mut self, site: usize) -> Result<(), Box<Violation>> {
        let silent = self.lrm_is_silent(site);
        let mut listing = self.sites[site].model.observe(self.now);
        if !listing.is_empty() && self.fault(50) {
            // One job is missing from the listing.
            let last = u64::try_from(listing.len() - 1).unwrap_or(0);
            let gone = usize::try_from(self.chance.between(0, last)).unwrap_or(0);
            listing.remove(gone);
            self.summary.lrm_lies += 1;
        }
        let observation = if silent {
            Observation::NoAnswer("slurm_load_jobs error".into())
        } else {
            Observation::Listing(listing)
        };
        let name = self.sites[site].config.name.clone();
        let event = BrokerEvent::LrmObserved {
            site: name,
            observation,
        };
        self.plan(
            Span::from_millis(200),
            Coming::Broker(Box::new(event), Sender::Nobody),
        );
        self.plan(Span::from_secs(30), Coming::Observe(site));
        Ok(())
    }

    fn lrm_is_silent(&mut self, site: usize) -> bool {
        if self.sites[site].silent_until <= self.now && self.fault(10) {
            let how_long = self.chance.millis(5_000, 600_000);
            self.sites[site].silent_until = self.now + how_long;
            self.summary.lrm_lies += 1;
            self.tell(|| format!("the LRM of site {site} is silent for {how_long}"));
        }
        self.sites[site].silent_until > self.now
    }

    /// The site's own users and administrators do something.
    pub(super) fn site_lives(&mut self, site: usize) -> Result<(), Box<Violation>> {
        let running: Vec<JobNumber> = self.sites[site]
            .model
            .jobs()
            .filter(|j| matches!(j.phase, JobPhase::Running(_)) && j.request.key.is_some())
            .map(|j| j.number)
            .collect();
        let node = self
            .chance
            .pick(&self.sites[site].model.config().nodes)
            .name
            .clone();
        let event = match self.chance.between(0, 99) {
            0..=39 => {
                let resources = Resources {
                    cores: 4,
                    memory_mib: 4096,
                    disk_mib: 1000,
                };
                let minutes = self.chance.between(2, 15);
                Some(Event::Submit(JobRequest::site(
                    resources,
                    Span::from_mins(minutes),
                )))
            }
            40..=49 if !running.is_empty() => Some(Event::Preempt(*self.chance.pick(&running))),
            50..=54 if !running.is_empty() => Some(Event::Requeue(*self.chance.pick(&running))),
            55..=59 if !running.is_empty() => Some(Event::Cancel(*self.chance.pick(&running))),
            60..=64 if !running.is_empty() => {
                let job = *self.chance.pick(&running);
                let after = self.chance.millis(30_000, 3_000_000);
                Some(Event::SetEnd {
                    job,
                    end: self.now + after,
                })
            }
            65..=69 if self.options.faults > 0 => Some(Event::NodeLost(node.clone())),
            70..=72 if self.options.faults > 0 => Some(Event::NodeDown(node.clone())),
            73..=75 if self.options.faults > 0 => Some(Event::NodePowerLoss(node.clone())),
            76..=79 => Some(Event::Drain(node.clone())),
            _ => None,
        };
        if let Some(event) = event {
            self.tell(|| format!("site {site}: {event:?}"));
            if matches!(
                event,
                Event::NodeLost(_) | Event::NodeDown(_) | Event::NodePowerLoss(_) | Event::Drain(_)
            ) {
                let back = self.chance.millis(60_000, 3_600_000);
                self.plan(back, Coming::Lrm(site, Box::new(Event::NodeRestore(node))));
            }
            // The walltime was cut or the node taken by order: what the site promised holds.
            self.lrm_step(site, event)?;
        }
        let next = self.chance.millis(30_000, 300_000);
        self.plan(next, Coming::SiteLife(site));
        Ok(())
    }
}
