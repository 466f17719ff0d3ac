//! The pilots in the simulation: their cores, the guests that they run, and how they die.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::Event as BrokerEvent;
use lrm_adapters::sim::model::{Event as LrmEvent, JobNumber, RunNumber, Start};
use pilot_core::agent::{self, Agent, Effect, ExitHow};
use pilot_core::guest::LeaseKey;
use pilot_core::now::Now;
use pilot_core::settings::Settings;
use protocol::ids::{Incarnation, PilotBoot, SubmitKey};
use protocol::lease::Order;
use protocol::slot::{HostFacts, SlotFacts};
use protocol::time::{Mono, Span, Timestamp};

use super::fault::Fault;
use super::options::{Break, Violation};
use super::truth::PilotNumber;
use super::wire::Wire;
use super::world::{Coming, GuestWork, World};

/// The name of a pilot process.
pub fn boot(number: PilotNumber) -> PilotBoot {
    PilotBoot::new(&format!("b{number}")).expect("a boot id")
}

/// The pilot process with this name.
pub fn number_of(boot: &PilotBoot) -> Option<PilotNumber> {
    boot.as_str().strip_prefix('b')?.parse().ok()
}

/// A pilot process.
pub struct Pilot {
    /// Its mind; none once the process is gone.
    pub(super) agent: Option<Box<Agent>>,
    /// Its pilot job, or its share of one.
    pub(super) key: SubmitKey,
    /// Its site.
    pub site: usize,
    /// Its job and run there.
    job: JobNumber,
    pub run: RunNumber,
    /// What its node really writes, MB a second.
    pub(super) rate: u64,
    /// Zero of its monotonic clock.
    pub(super) epoch: Timestamp,
    /// How much its node's wall clock is ahead.
    pub(super) ahead_ms: i64,
    /// The network between it and the broker is cut until then.
    pub(super) cut_until: Timestamp,
    /// It hangs until then.
    pub(super) stopped_until: Timestamp,
    tick: Option<Timestamp>,
    /// When the LRM's first SIGTERM reached it.
    pub(super) told: Option<Timestamp>,
    /// When its kill time last came nearer.
    pub(super) known_since: Timestamp,
    /// When it was gone.
    pub(super) ended: Option<Timestamp>,
    /// The last fault that can have cost it time.
    pub(super) excuse: Option<&'static str>,
    /// The budget of each suspend that it said it begins.
    pub(super) budgets: BTreeMap<LeaseKey, Span>,
    /// Suspends that ended, with a state or without: when, and how long they took.
    pub(super) written: Vec<(Timestamp, Span)>,
    /// Guests whose end was judged already.
    pub(super) judged: BTreeSet<LeaseKey>,
    /// What its leases are about.
    pub(super) orders: BTreeMap<LeaseKey, Order>,
    /// The last turn that a guest of it took.
    pub(super) turns: u64,
}

impl Pilot {
    /// True while the process exists.
    pub fn alive(&self) -> bool {
        self.agent.is_some()
    }

    pub(super) fn now(&self, world: Timestamp) -> Now {
        let wall = world.as_millis() + self.ahead_ms;
        Now {
            mono: Mono::from_millis(world.since(self.epoch).as_millis()),
            wall: Timestamp::from_millis(wall),
        }
    }
}

impl World {
    /// The LRM has started the job of a pilot.
    pub(super) fn pilot_lands(&mut self, site: usize, start: &Start, key: &SubmitKey) {
        let number = self.pilots.len();
        self.summary.slots += 1;
        let config = &self.sites[site].config;
        let facts = SlotFacts {
            site: config.name.clone(),
            submit_key: key.clone(),
            incarnation: Incarnation::new(&format!("{}/{}/{}", site, start.job, start.run))
                .expect("an incarnation"),
            lrm_job_id: Some(self.lrm_id(start.job)),
            node: start.node.clone(),
            resources: start.resources,
            start: start.start,
            end: start.end,
            notice: config.notice,
            margin: config.margin,
        };
        let rate = self.rate_of(site, &start.node);
        let mut pilot = Pilot {
            agent: None,
            key: key.clone(),
            site,
            job: start.job,
            run: start.run,
            rate,
            epoch: self.now.before(Span::from_secs(1)),
            ahead_ms: i64::try_from(self.chance.between(0, 1600)).unwrap_or(0) - 800,
            cut_until: Timestamp::default(),
            stopped_until: Timestamp::default(),
            tick: None,
            told: None,
            known_since: self.now,
            ended: None,
            excuse: None,
            budgets: BTreeMap::new(),
            written: Vec::new(),
            judged: BTreeSet::new(),
            orders: BTreeMap::new(),
            turns: 0,
        };
        let settings = Settings {
            probe_every: Some(Span::from_secs(30)),
            ..Settings::default()
        };
        pilot.agent = Some(Box::new(Agent::new(
            pilot.now(self.now),
            facts,
            HostFacts::default(),
            boot(number),
            settings,
        )));
        self.pilots.push(pilot);
        self.sites[site].runs.insert(start.run, number);
        self.tell(|| {
            format!(
                "pilot {number} of job {key} lands on {} of site {site} as run {}, until {}",
                start.node, start.run, start.end
            )
        });
        let after = self.chance.millis(200, 3000);
        self.plan(
            after,
            Coming::Pilot(number, Box::new(agent::Event::Started)),
        );
        self.plan_pilot_faults(number);
    }

    pub(super) fn pilot_ticks(&mut self, pilot: PilotNumber) -> Result<(), Box<Violation>> {
        if self.pilots[pilot].tick.is_some_and(|t| t <= self.now) {
            self.pilots[pilot].tick = None;
            if self.pilots[pilot].stopped_until > self.now {
                return Ok(()); // it ticks when it goes on
            }
            return self.pilot_hears(pilot, agent::Event::Tick);
        }
        Ok(())
    }

    /// Something reaches a pilot process.
    pub(super) fn pilot_hears(
        &mut self,
        pilot: PilotNumber,
        event: agent::Event,
    ) -> Result<(), Box<Violation>> {
        let (world, p) = (self.now, &mut self.pilots[pilot]);
        let now = p.now(world);
        let Some(agent) = &mut p.agent else {
            return Ok(());
        };
        if p.stopped_until > world {
            // It hears of it when it goes on.
            let later = p.stopped_until.since(world) + Span::from_millis(1);
            self.plan(later, Coming::Pilot(pilot, Box::new(event)));
            return Ok(());
        }
        let kill_at = agent.clock().kill_at();
        let effects = agent.step(now, event);
        if agent.clock().kill_at() < kill_at {
            p.known_since = world;
        }
        for effect in effects {
            self.pilot_wants(pilot, effect)?;
        }
        let p = &self.pilots[pilot];
        if let Some(next) = p.agent.as_ref().and_then(|a| a.next_wakeup()) {
            let at = p.epoch + Span::from_millis(next.as_millis());
            if p.tick.is_none_or(|t| at < t || t < self.now) {
                let at = at.max(self.now + Span::from_millis(1));
                self.pilots[pilot].tick = Some(at);
                self.plan(at.since(self.now), Coming::PilotTick(pilot));
            }
        }
        Ok(())
    }

    /// The pilot process is killed: its guests go with it (parent-death signal).
    pub(super) fn pilot_dies(
        &mut self,
        pilot: PilotNumber,
        why: &str,
    ) -> Result<(), Box<Violation>> {
        if !self.pilots[pilot].alive() {
            return Ok(());
        }
        self.tell(|| format!("pilot {pilot} is killed by {why}"));
        self.pilot_ends(pilot, 137)
    }

    fn pilot_ends(&mut self, pilot: PilotNumber, code: i32) -> Result<(), Box<Violation>> {
        self.pilots[pilot].agent = None;
        self.pilots[pilot].ended = Some(self.now);
        if !self.breaks(Break::Guests) {
            for lease in self.truth.guests_of(pilot) {
                self.summary.kills.with_pilot += 1;
                self.truth.guest_goes(pilot, &lease);
            }
        }
        let (site, run) = (self.pilots[pilot].site, self.pilots[pilot].run);
        let event = LrmEvent::Exited { run, code };
        self.plan(Span::from_millis(20), Coming::Lrm(site, Box::new(event)));
        Ok(())
    }

    fn pilot_wants(&mut self, pilot: PilotNumber, effect: Effect) -> Result<(), Box<Violation>> {
        let now = self.pilots[pilot].now(self.now);
        match effect {
            Effect::Register => {
                let Some(agent) = &self.pilots[pilot].agent else {
                    return Ok(());
                };
                let request = Box::new(agent.registration("sim"));
                let wire = Wire {
                    sent: now.mono,
                    number: None,
                };
                self.send_to_broker(pilot, BrokerEvent::Register { request }, wire);
            }
            Effect::Sync { request, .. } => {
                let wire = Wire {
                    sent: now.mono,
                    number: Some(request.number),
                };
                let event = BrokerEvent::Sync {
                    request,
                    received: self.now,
                };
                self.send_to_broker(pilot, event, wire);
            }
            Effect::Probe => {
                let (site, job) = (self.pilots[pilot].site, self.pilots[pilot].job);
                let seen = self.sites[site].model.observe_one(self.now, job);
                let mut end = seen.and_then(|o| o.end);
                if self.fault(Fault::ProbeUnanswered, 50) || self.breaks(Break::Signals) {
                    end = None;
                }
                let event = agent::Event::Probed(end);
                self.plan(Span::from_millis(60), Coming::Pilot(pilot, Box::new(event)));
            }
            Effect::Stage { lease, order } => self.stages(pilot, lease, *order)?,
            Effect::Boot { lease } => self.starts(pilot, lease, Span::ZERO)?,
            Effect::Resume { lease } => {
                let run = self.pilots[pilot]
                    .orders
                    .get(&lease)
                    .map_or(Span::ZERO, |o| o.run);
                self.summary.resumes += 1;
                self.starts(pilot, lease, run)?;
            }
            Effect::Pause { lease } => {
                self.stands_still(pilot, &lease);
                let event = agent::Event::Paused { lease };
                self.plan(Span::from_millis(5), Coming::Pilot(pilot, Box::new(event)));
            }
            Effect::Continue { lease } => {
                self.executes(pilot, &lease);
                let event = agent::Event::Continued { lease };
                self.plan(Span::from_millis(5), Coming::Pilot(pilot, Box::new(event)));
            }
            // A driver that writes nothing ahead: its suspends cost what they cost.
            Effect::Suspend {
                lease, state, run, ..
            } => self.suspends(pilot, lease, state, run, false),
            Effect::Checkpoint {
                lease, state, run, ..
            } => self.suspends(pilot, lease, state, run, true),
            Effect::Flush { lease } => self.flushes(pilot, lease),
            Effect::AbortSuspend { lease } => {
                // What is being written is dropped: its end no longer counts.
                self.summary.suspends.given_up += 1;
                self.drops_what_is_written(pilot, lease);
            }
            Effect::Shutdown { lease } => {
                self.check_worth_a_state(pilot, &lease)?;
                if self.chance.happens(900, 100)
                    && let Some(turn) = self
                        .truth
                        .guests
                        .get(&(pilot, lease.clone()))
                        .map(|g| g.turn)
                {
                    let after = self.chance.millis(500, 6000);
                    self.plan(
                        after,
                        Coming::Guest(pilot, lease, GuestWork::PowerOff, turn),
                    );
                }
            }
            Effect::Kill { lease } => {
                self.check_worth_a_state(pilot, &lease)?;
                if self.truth.guest_goes(pilot, &lease).is_some() {
                    self.tell(|| format!("pilot {pilot} kills {lease}"));
                }
                let event = agent::Event::GuestExited {
                    lease,
                    how: ExitHow::Killed,
                };
                self.plan(Span::from_millis(8), Coming::Pilot(pilot, Box::new(event)));
            }
            Effect::ReleaseGuest { lease } => {
                self.pilots[pilot].orders.remove(&lease);
                self.check_released(pilot, &lease)?;
            }
            Effect::Discard { state } => {
                let site = self.pilots[pilot].site;
                self.check_discard(site, &state)?;
                self.truth.states.remove(&(site, state.clone()));
                self.truth.discarded.insert(state.clone());
                let event = agent::Event::Discarded { state };
                self.plan(Span::from_millis(10), Coming::Pilot(pilot, Box::new(event)));
            }
            Effect::Tell { .. } => {} // its guests have no agents
            Effect::Record(event) => {
                self.note_budget(pilot, &event);
                self.tell(|| {
                    let of = event
                        .workspace
                        .map(|w| format!(" [{w}]"))
                        .unwrap_or_default();
                    format!("pilot {pilot}{of}: {}", event.text)
                });
            }
            Effect::CleanUp => {
                let event = agent::Event::CleanedUp {
                    leftovers: Vec::new(),
                };
                self.plan(Span::from_millis(40), Coming::Pilot(pilot, Box::new(event)));
            }
            Effect::Exit { code, reason } => {
                self.tell(|| format!("pilot {pilot} exits with {code}: {reason}"));
                self.check_left(pilot)?;
                self.pilot_ends(pilot, code)?;
            }
        }
        Ok(())
    }
}
