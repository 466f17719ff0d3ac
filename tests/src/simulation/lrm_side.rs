//! The sites' batch systems in the simulation: the model that ships, and how it fails its users.

use std::collections::BTreeMap;

use broker_core::{CancelScope, Event as BrokerEvent, SiteConfig};
use lrm_adapters::sim::model::{
    Answer, Effect, Event, JobNumber, JobPhase, JobRequest, Model, ModelConfig, RunNumber,
};
use lrm_adapters::sim::profiles::{Launch, Profile, ProfileName, Signal, Target};
use pilot_core::agent;
use protocol::ids::{LrmJobId, NodeName, SiteName, SubmitKey};
use protocol::lrm::{CancelAnswer, JobState, Observation, ObservedJob, SubmitAnswer};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use super::chance::Chance;
use super::fault::Fault;
use super::options::{Break, Options, Violation};
use super::size::Size;
use super::truth::PilotNumber;
use super::world::{Coming, Command, Sender, World};

/// A site.
pub struct Site {
    /// What the broker knows of it.
    pub config: SiteConfig,
    /// Its batch system.
    pub model: Model,
    /// Which pilot process each run is.
    pub runs: BTreeMap<RunNumber, PilotNumber>,
    /// Its store takes nothing until then.
    pub full_until: Timestamp,
    /// What each node writes, MB a second.
    rates: BTreeMap<NodeName, u64>,
    /// Hears nothing and answers nothing until then.
    silent_until: Timestamp,
    tick: Option<Timestamp>,
}

impl Site {
    /// Sites with profiles of different batch systems.
    pub fn draw(chance: &mut Chance, options: &Options, size: &Size) -> Vec<Self> {
        let first = usize::try_from(options.seed % 4).unwrap_or(0);
        (first..first + size.sites)
            .map(|p| {
                let profile = ProfileName::ALL[p % 4];
                let nodes = chance.between(size.nodes.0, size.nodes.1);
                let model = ModelConfig::uniform(
                    profile,
                    u32::try_from(nodes).unwrap_or(3),
                    size.node,
                    chance.between(0, u64::MAX - 1),
                );
                let measured: Profile = model.profile();
                let name = match p - first {
                    0..4 => format!("site-{}", profile.as_str()),
                    n => format!("site-{}-{n}", profile.as_str()),
                };
                let config = SiteConfig {
                    name: SiteName::new(&name).expect("a site name"),
                    preference: 0,
                    lrm: Some("sim".into()),
                    slot: size.slot,
                    // With every third seed each job is of two nodes.
                    nodes: if options.seed % 3 == 2 { 2 } else { 1 },
                    walltime_min: Span::from_mins(10),
                    walltime_max: Span::from_mins(chance.between(size.walltime.0, size.walltime.1)),
                    notice: measured.guaranteed_notice(Launch::Step),
                    margin: Span::from_secs(2),
                    overhead: Span::from_secs(20),
                    max_queued: size.max_queued,
                    max_running: size.max_running,
                    idle_limit: Some(Span::from_mins(5)),
                    enabled: true,
                };
                Self {
                    config,
                    model: Model::new(model),
                    runs: BTreeMap::new(),
                    full_until: Timestamp::default(),
                    rates: BTreeMap::new(),
                    silent_until: Timestamp::default(),
                    tick: None,
                }
            })
            .collect()
    }
}

impl World {
    /// The site with this name.
    pub(super) fn site_number(&self, name: &SiteName) -> Option<usize> {
        self.sites.iter().position(|s| s.config.name == *name)
    }

    /// What a node of a site writes, MB a second: the same for all its pilots.
    pub(super) fn rate_of(&mut self, site: usize, node: &NodeName) -> u64 {
        let drawn = self.chance.between(130, 400);
        *(self.sites[site].rates.entry(node.clone())).or_insert(drawn)
    }

    /// The id by which a batch system calls its job. There are not many: they come again.
    pub(super) fn lrm_id(&self, job: JobNumber) -> LrmJobId {
        let number = match self.options.faults {
            0 => job.0,
            _ => job.0 % self.size.ids + 1,
        };
        LrmJobId::new(&number.to_string()).expect("digits")
    }

    /// The job of ours that has this id now.
    fn job_with_id(&self, site: usize, id: &LrmJobId, key: &SubmitKey) -> Option<JobNumber> {
        let jobs = self.sites[site].model.jobs();
        jobs.filter(|j| j.request.key.as_ref() == Some(key))
            .map(|j| j.number)
            .find(|n| self.lrm_id(*n) == *id)
    }

    /// The listing's jobs under the ids that they have for the broker.
    fn with_ids(&self, mut listing: Vec<ObservedJob>) -> Vec<ObservedJob> {
        for job in &mut listing {
            if let Ok(number) = job.id.as_str().parse() {
                job.id = self.lrm_id(JobNumber(number));
            }
        }
        listing
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
        if !self.pilots[pilot].alive() {
            return Ok(());
        }
        self.tell(|| format!("pilot {pilot}: the LRM sends {signal:?} to {target:?}"));
        match signal {
            Signal::Cont | Signal::Term => {
                if signal == Signal::Term {
                    let now = self.now;
                    if self.pilots[pilot].told.is_none() {
                        self.summary.evictions += 1;
                        self.pilots[pilot].told = Some(now);
                    }
                }
                if self.breaks(Break::Signals) {
                    return Ok(());
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
        let silent = self.sites[site].silent_until > self.now;
        let answered = Span::from_millis(self.chance.between(10, 400));
        let timeout = Span::from_secs(30);
        let (event, after) = match command {
            Command::Submit(job) => {
                // A submit that gets no answer may have been taken.
                let taken = !silent || self.chance.happens(500, 100);
                let mut answer = SubmitAnswer::NoAnswer("time limit of 30s".into());
                if !silent && self.fault(Fault::SubmitRefused, 30) {
                    answer = SubmitAnswer::Refused("invalid qos".into());
                } else if taken {
                    let mut request =
                        JobRequest::pilot(job.key.clone(), job.resources, job.walltime);
                    request.nodes = job.nodes;
                    request.rerunnable = self.chance.happens(500, 100);
                    match self.lrm_step(site, Event::Submit(request))? {
                        Answer::Submitted(number) => {
                            if self.options.faults > 0 && number.0 > self.size.ids {
                                self.summary.faults.count(Fault::IdReused);
                            }
                            if silent || self.fault(Fault::SubmitUnanswered, 40) {
                                self.job_may_be_forgotten(site)?;
                            } else {
                                answer = SubmitAnswer::Accepted(self.lrm_id(number));
                            }
                        }
                        Answer::Refused(why) if !silent => answer = SubmitAnswer::Refused(why),
                        Answer::Refused(_)
                        | Answer::Started
                        | Answer::Done
                        | Answer::NoSuchJob
                        | Answer::NoSuchNode => {}
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
                } else if self.fault(Fault::LookUpLied, 50) {
                    Observation::Listing(Vec::new())
                } else {
                    let found = self.sites[site].model.find_by_key(self.now, &key);
                    Observation::Listing(self.with_ids(found))
                };
                let after = if silent { timeout } else { answered };
                (BrokerEvent::LrmFound { key, observation }, after)
            }
            Command::Cancel(key, id, scope) => {
                let number = self.job_with_id(site, &id, &key);
                let answer = match number {
                    _ if silent => CancelAnswer::NoAnswer("time limit of 30s".into()),
                    Some(number) => {
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
                    None => CancelAnswer::NoSuchJob,
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
        let mut listing = self.with_ids(self.sites[site].model.observe(self.now));
        if self.breaks(Break::Signals) {
            listing.iter_mut().for_each(|job| job.end = None);
        }
        if !listing.is_empty() && self.fault(Fault::StateUnknown, 50) {
            let last = u64::try_from(listing.len() - 1).unwrap_or(0);
            let odd = usize::try_from(self.chance.between(0, last)).unwrap_or(0);
            listing[odd].state = JobState::Unknown("REVOKED?".into());
        }
        if !listing.is_empty() && self.fault(Fault::ListingShort, 50) {
            // One job is missing from the listing.
            let last = u64::try_from(listing.len() - 1).unwrap_or(0);
            let gone = usize::try_from(self.chance.between(0, last)).unwrap_or(0);
            listing.remove(gone);
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

    /// While a submit went without an answer, the controller may crash and forget what it took.
    fn job_may_be_forgotten(&mut self, site: usize) -> Result<(), Box<Violation>> {
        if self.fault(Fault::JobForgotten, 100) {
            self.tell(|| format!("site {site}: the controller forgets its newest job"));
            self.lrm_step(site, Event::CrashLosingNewest)?;
        }
        Ok(())
    }

    fn lrm_is_silent(&mut self, site: usize) -> bool {
        if self.sites[site].silent_until <= self.now && self.fault(Fault::LrmSilent, 10) {
            let how_long = self.chance.millis(5_000, 600_000);
            self.sites[site].silent_until = self.now + how_long;
            self.tell(|| format!("the LRM of site {site} is silent for {how_long}"));
        }
        self.sites[site].silent_until > self.now
    }

    /// After so many failures that the broker has stopped to submit, somebody looks after a while.
    fn administrator_looks(&mut self, site: usize) {
        let name = self.sites[site].config.name.clone();
        let pace = self.size.pace.max(1);
        if self.broker.records.is_paused(&name) && self.chance.happens(200 / pace, 100) {
            let by = super::users::administrator();
            let event = BrokerEvent::Undrain { site: name, by };
            self.tell(|| format!("an administrator lets site {site} get pilots again"));
            let after = Span::from_millis(5);
            self.plan(after, Coming::Broker(Box::new(event), Sender::Nobody));
        }
    }

    /// The site's own users and administrators do something.
    pub(super) fn site_lives(&mut self, site: usize) -> Result<(), Box<Violation>> {
        self.administrator_looks(site);
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
                    memory_mib: 4096,
                    disk_mib: 1000,
                    ..self.size.node
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
            let fault = match event {
                Event::NodeLost(_) => Some(Fault::NodeLost),
                Event::NodeDown(_) => Some(Fault::NodeDown),
                Event::NodePowerLoss(_) => Some(Fault::PowerLoss),
                _ => None,
            };
            if let Some(fault) = fault {
                self.summary.faults.count(fault);
            }
            if matches!(event, Event::Requeue(_)) {
                self.summary.requeues += 1;
            }
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
        self.plan(self.size.sooner(next), Coming::SiteLife(site));
        Ok(())
    }
}
