//! The pilots in the simulation: their cores, the guests that they run, and how they die.

use std::collections::BTreeMap;

use broker_core::Event as BrokerEvent;
use lrm_adapters::sim::model::{Event as LrmEvent, RunNumber, Start};
use pilot_core::agent::{self, Agent, Effect, ExitHow};
use pilot_core::guest::LeaseKey;
use pilot_core::now::Now;
use pilot_core::settings::Settings;
use protocol::codes::ErrorCode;
use protocol::ids::{Incarnation, LrmJobId, PilotBoot, SubmitKey};
use protocol::lease::Order;
use protocol::slot::{HostFacts, SlotFacts};
use protocol::time::{Mono, Span, Timestamp};

use super::options::Violation;
use super::truth::PilotNumber;
use super::world::{Coming, GuestWork, Sender, World};

/// A request of a pilot that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// When it was sent, on the pilot's clock.
    pub sent: Mono,
    /// Number of the sync; none for a registration.
    number: Option<u64>,
}

impl Wire {
    /// The pilot hears a refusal.
    pub fn refused(&self, code: ErrorCode, text: String) -> agent::Event {
        match self.number {
            Some(number) => agent::Event::SyncRefused { number, code, text },
            None => agent::Event::RegisterRefused { code, text },
        }
    }

    fn failed(&self) -> agent::Event {
        let text = "no answer".to_owned();
        match self.number {
            Some(number) => agent::Event::SyncFailed { number, text },
            None => agent::Event::RegisterFailed { text },
        }
    }
}

/// A pilot process.
pub struct Pilot {
    agent: Agent,
    /// Its site.
    pub site: usize,
    /// Its run.
    pub run: RunNumber,
    /// False once the process is gone.
    pub alive: bool,
    /// Zero of its monotonic clock.
    epoch: Timestamp,
    /// How much its node's wall clock is ahead.
    ahead: Span,
    /// The network between it and the broker is cut until then.
    cut_until: Timestamp,
    tick: Option<Timestamp>,
    /// When the LRM's first SIGTERM reached it.
    pub(super) told: Option<Timestamp>,
    /// What its leases are about.
    pub(super) orders: BTreeMap<LeaseKey, Order>,
    /// The last turn that a guest of it took.
    pub(super) turns: u64,
}

impl Pilot {
    fn now(&self, world: Timestamp) -> Now {
        Now {
            mono: Mono::from_millis(world.since(self.epoch).as_millis()),
            wall: world + self.ahead,
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
            lrm_job_id: LrmJobId::new(&start.job.to_string()).ok(),
            node: start.node.clone(),
            resources: start.resources,
            start: start.start,
            end: start.end,
            notice: config.notice,
            margin: config.margin,
        };
        let mut pilot = Pilot {
            agent: Agent::new(
                Now::default(),
                facts.clone(),
                HostFacts::default(),
                PilotBoot::new("b0").expect("a boot id"),
                Settings::default(),
            ),
            site,
            run: start.run,
            alive: true,
            epoch: self.now.before(Span::from_secs(1)),
            ahead: self.chance.millis(0, 800),
            cut_until: Timestamp::default(),
            tick: None,
            told: None,
            orders: BTreeMap::new(),
            turns: 0,
        };
        let settings = Settings {
            probe_every: Some(Span::from_secs(30)),
            ..Settings::default()
        };
        pilot.agent = Agent::new(
            pilot.now(self.now),
            facts,
            HostFacts::default(),
            PilotBoot::new(&format!("b{number}")).expect("a boot id"),
            settings,
        );
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
        if self.fault(60) {
            let dies = self.chance.millis(1000, 3_600_000);
            self.plan(dies, Coming::PilotDies(number));
        }
    }

    pub(super) fn pilot_ticks(&mut self, pilot: PilotNumber) -> Result<(), Box<Violation>> {
        if self.pilots[pilot].tick.is_some_and(|t| t <= self.now) {
            self.pilots[pilot].tick = None;
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
        if !self.pilots[pilot].alive {
            return Ok(());
        }
        let now = self.pilots[pilot].now(self.now);
        let effects = self.pilots[pilot].agent.step(now, event);
        for effect in effects {
            self.pilot_wants(pilot, effect)?;
            if !self.pilots[pilot].alive {
                return Ok(());
            }
        }
        if let Some(next) = self.pilots[pilot].agent.next_wakeup() {
            let at = self.pilots[pilot].epoch + Span::from_millis(next.as_millis());
            if self.pilots[pilot]
                .tick
                .is_none_or(|t| at < t || t < self.now)
            {
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
        if !self.pilots[pilot].alive {
            return Ok(());
        }
        self.summary.pilots_killed += 1;
        self.tell(|| format!("pilot {pilot} is killed by {why}"));
        self.pilot_ends(pilot, 137)
    }

    fn pilot_ends(&mut self, pilot: PilotNumber, code: i32) -> Result<(), Box<Violation>> {
        self.pilots[pilot].alive = false;
        for lease in self.truth.guests_of(pilot) {
            self.summary.kills += 1;
            self.truth.guest_goes(pilot, &lease);
        }
        let (site, run) = (self.pilots[pilot].site, self.pilots[pilot].run);
        let event = LrmEvent::Exited { run, code };
        self.plan(Span::from_millis(20), Coming::Lrm(site, Box::new(event)));
        Ok(())
    }

    /// The pilot gets no answer: its time limit passes, or the connection is refused.
    pub(super) fn sync_unanswered(&mut self, pilot: PilotNumber, wire: &Wire, after: Span) {
        self.plan(after, Coming::Pilot(pilot, Box::new(wire.failed())));
    }

    /// An answer of the broker goes on its way.
    pub(super) fn answer_pilot(&mut self, pilot: PilotNumber, wire: &Wire, event: agent::Event) {
        if self.pilots[pilot].cut_until > self.now || self.fault(10) {
            self.summary.lost_messages += 1;
            self.sync_unanswered(pilot, wire, Span::from_secs(25));
            return;
        }
        let delay = if self.fault(5) {
            self.chance.millis(1000, 90_000)
        } else {
            self.chance.millis(1, 40)
        };
        self.plan(delay, Coming::Pilot(pilot, Box::new(event)));
    }

    fn send_to_broker(&mut self, pilot: PilotNumber, event: BrokerEvent, wire: Wire) {
        if self.pilots[pilot].cut_until <= self.now && self.fault(3) {
            let cut = self.chance.millis(5_000, 900_000);
            self.pilots[pilot].cut_until = self.now + cut;
            self.tell(|| format!("the network of pilot {pilot} is cut for {cut}"));
        }
        if self.pilots[pilot].cut_until > self.now || self.fault(10) {
            self.summary.lost_messages += 1;
            self.sync_unanswered(pilot, &wire, Span::from_secs(25));
            return;
        }
        let delay = self.chance.millis(1, 40);
        if self.fault(5) {
            // The same request arrives a second time, later.
            let again = self.chance.millis(50, 20_000);
            self.plan(
                again,
                Coming::Broker(Box::new(event.clone()), Sender::Nobody),
            );
        }
        self.plan(
            delay,
            Coming::Broker(Box::new(event), Sender::Pilot(pilot, wire)),
        );
    }

    fn pilot_wants(&mut self, pilot: PilotNumber, effect: Effect) -> Result<(), Box<Violation>> {
        let now = self.pilots[pilot].now(self.now);
        match effect {
            Effect::Register => {
                let request = Box::new(self.pilots[pilot].agent.registration("sim"));
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
                let (site, run) = (self.pilots[pilot].site, self.pilots[pilot].run);
                let model = &self.sites[site].model;
                let job = model.runs().find(|(n, _)| *n == run).map(|(_, r)| r.job);
                let mut end = job
                    .and_then(|j| model.observe_one(self.now, j))
                    .and_then(|o| o.end);
                if self.fault(50) {
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
            Effect::Flush { .. } => {}
            Effect::Suspend {
                lease, state, run, ..
            } => self.suspends(pilot, lease, state, run),
            Effect::AbortSuspend { lease } => {
                // What is being written is dropped: its end no longer counts.
                self.turn(pilot, &lease);
            }
            Effect::Shutdown { lease } => {
                if self.chance.happens(900)
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
                if self.truth.guest_goes(pilot, &lease).is_some() {
                    self.summary.kills += 1;
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
                self.truth.states.remove(&(site, state.clone()));
                self.truth.discarded.insert(state.clone());
                let event = agent::Event::Discarded { state };
                self.plan(Span::from_millis(10), Coming::Pilot(pilot, Box::new(event)));
            }
            Effect::Record(event) => self.tell(|| {
                let of = event
                    .workspace
                    .map(|w| format!(" [{w}]"))
                    .unwrap_or_default();
                format!("pilot {pilot}{of}: {}", event.text)
            }),
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
