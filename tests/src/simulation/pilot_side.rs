//! The pilots in the simulation: their cores, the guests that they run, and how they die.

use std::collections::BTreeMap;

use broker_core::Event as BrokerEvent;
use lrm_adapters::sim::model::{Event as LrmEvent, RunNumber, Start};
use pilot_core::agent::{self, Agent, Effect, ExitHow};
use pilot_core::guest::LeaseKey;
use pilot_core::now::Now;
use pilot_core::settings::Settings;
use protocol::codes::{ErrorCode, Reason, ReasonCode};
use protocol::ids::{Incarnation, LrmJobId, PilotBoot, SubmitKey};
use protocol::lease::{Order, StateRef};
use protocol::slot::{HostFacts, SlotFacts};
use protocol::time::{Mono, Span, Timestamp};

use super::options::Violation;
use super::truth::{Guest, PilotNumber, SavedState};
use super::world::{Coming, GuestWork, Sender, SuspendWork, World};

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
    orders: BTreeMap<LeaseKey, Order>,
    turns: u64,
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
    pub(super) fn pilot_lands(&mut self, site: usize, start: &Start, key: SubmitKey) {
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
            let cut = self.chance.millis(5_000, 400_000);
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

    fn stages(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        order: Order,
    ) -> Result<(), Box<Violation>> {
        let site = self.pilots[pilot].site;
        let mut failure = None;
        if let Some(state) = &order.state {
            self.check_state_known(site, state, &lease)?;
            let saved = self.truth.states.get(&(site, state.id.clone()));
            if saved.is_none_or(|s| s.manifest != state.manifest) || self.fault(5) {
                failure = Some(Reason::new(
                    ReasonCode::StateCorrupt,
                    "the state's memory is cut short",
                ));
            }
        }
        if order.state.is_none() && self.fault(5) {
            failure = Some(Reason::new(
                ReasonCode::DiskFull,
                "no space left in the store",
            ));
        }
        self.pilots[pilot].orders.insert(lease.clone(), order);
        let event = match failure {
            Some(reason) => agent::Event::StageFailed {
                lease,
                reason,
                permanent: false,
            },
            None => agent::Event::Staged { lease },
        };
        let after = self.chance.millis(100, 8000);
        self.plan(after, Coming::Pilot(pilot, Box::new(event)));
        Ok(())
    }

    fn turn(&mut self, pilot: PilotNumber, lease: &LeaseKey) -> u64 {
        let turn = self.pilots[pilot].turns + 1;
        self.pilots[pilot].turns = turn;
        if let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) {
            guest.turn = turn;
        }
        turn
    }

    /// A hypervisor is there from the moment that it is started, whether or not its guest runs.
    fn starts(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        ran: Span,
    ) -> Result<(), Box<Violation>> {
        self.summary.starts += 1;
        let guest = Guest {
            ran,
            since: None,
            turn: 0,
        };
        let count = self.truth.guest_appears(pilot, lease.clone(), guest);
        self.check_alone(pilot, &lease, count)?;
        let turn = self.turn(pilot, &lease);
        let after = self.chance.millis(300, 9000);
        self.plan(after, Coming::Guest(pilot, lease, GuestWork::Start, turn));
        Ok(())
    }

    fn stands_still(&mut self, pilot: PilotNumber, lease: &LeaseKey) {
        let now = self.now;
        self.turn(pilot, lease);
        if let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) {
            guest.ran = guest.ran_at(now);
            guest.since = None;
        }
    }

    fn executes(&mut self, pilot: PilotNumber, lease: &LeaseKey) {
        let now = self.now;
        let turn = self.turn(pilot, lease);
        let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) else {
            return;
        };
        guest.since = Some(now);
        let ran = guest.ran;
        let work = self
            .work
            .get(&lease.workspace)
            .copied()
            .unwrap_or(Span::from_mins(10));
        let left = work.minus(ran);
        self.plan(
            left,
            Coming::Guest(pilot, lease.clone(), GuestWork::PowerOff, turn),
        );
        if self.fault(15) {
            let crash = self.chance.millis(1000, 1_800_000);
            self.plan(
                crash,
                Coming::Guest(pilot, lease.clone(), GuestWork::Crash, turn),
            );
        }
    }

    fn suspends(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        state: protocol::ids::StateId,
        run: Span,
    ) {
        self.stands_still(pilot, &lease);
        let turn = self.turn(pilot, &lease);
        let memory = self.pilots[pilot]
            .orders
            .get(&lease)
            .map_or(256, |o| o.spec.resources.memory_mib);
        let bytes = self.chance.between(60, memory.max(61)) << 20;
        // 100 to 400 MB/s; sometimes the disk is as good as dead.
        let rate = if self.fault(20) {
            2
        } else {
            self.chance.between(100, 400)
        };
        let took = Span::from_millis(20 + (bytes >> 20) * 1000 / rate);
        let fails = self.fault(30);
        let after = if fails {
            Span::from_millis(took.as_millis() / 2)
        } else {
            took
        };
        let work = SuspendWork {
            state,
            run,
            bytes,
            took,
            fails,
        };
        self.plan(
            after,
            Coming::Guest(pilot, lease, GuestWork::Suspend(Box::new(work)), turn),
        );
    }

    /// Work on a guest has ended, if nothing came in between.
    pub(super) fn guest_work_ends(
        &mut self,
        pilot: PilotNumber,
        lease: &LeaseKey,
        work: GuestWork,
        turn: u64,
    ) -> Result<(), Box<Violation>> {
        let here = self.truth.guests.get(&(pilot, lease.clone()));
        if !self.pilots[pilot].alive || here.is_none_or(|g| g.turn != turn) {
            return Ok(());
        }
        let lease = lease.clone();
        let event = match work {
            GuestWork::Start => {
                if self.fault(10) {
                    self.truth.guest_goes(pilot, &lease);
                    let reason = Reason::new(ReasonCode::BootFailed, "qemu: could not allocate");
                    agent::Event::StartFailed {
                        lease,
                        reason,
                        permanent: false,
                    }
                } else {
                    self.executes(pilot, &lease);
                    let bytes = self.chance.between(60, 2048) << 20;
                    let measured = agent::Event::Measured {
                        lease: lease.clone(),
                        bytes,
                    };
                    self.plan(Span::from_secs(1), Coming::Pilot(pilot, Box::new(measured)));
                    agent::Event::Running { lease }
                }
            }
            GuestWork::PowerOff => {
                self.truth.guest_goes(pilot, &lease);
                agent::Event::GuestExited {
                    lease,
                    how: ExitHow::PoweredOff,
                }
            }
            GuestWork::Crash => {
                self.truth.guest_goes(pilot, &lease);
                let how = ExitHow::Crashed {
                    text: "signal 11".into(),
                };
                agent::Event::GuestExited { lease, how }
            }
            GuestWork::Suspend(work) if work.fails => {
                self.executes(pilot, &lease);
                let reason = Reason::new(ReasonCode::DiskFull, "no space left on device");
                agent::Event::SuspendFailed {
                    lease,
                    reason,
                    guest_alive: true,
                }
            }
            GuestWork::Suspend(work) => {
                self.summary.suspends += 1;
                let manifest = format!("m-{}", work.state);
                let saved = SavedState {
                    run: work.run,
                    manifest: manifest.clone(),
                };
                self.check_saved(pilot, &lease, &saved)?;
                let site = self.pilots[pilot].site;
                self.truth.states.insert((site, work.state.clone()), saved);
                self.truth.guest_goes(pilot, &lease);
                self.tell(|| format!("pilot {pilot} has written {}", work.state));
                agent::Event::Suspended {
                    lease,
                    manifest,
                    bytes: work.bytes,
                    written: work.bytes,
                    took: work.took,
                }
            }
        };
        self.plan(Span::from_millis(2), Coming::Pilot(pilot, Box::new(event)));
        Ok(())
    }

    /// The state that a lease is to resume from must not have been given up before.
    fn check_state_known(
        &self,
        site: usize,
        state: &StateRef,
        lease: &LeaseKey,
    ) -> Result<(), Box<Violation>> {
        if self.truth.discarded.contains(&state.id) {
            let what = format!(
                "{lease} is to resume from {}, which was discarded",
                state.id
            );
            return Err(self.violation(&what, &[lease.workspace.to_string()]));
        }
        if self.sites[site].config.name != state.site {
            let what = format!(
                "{lease} is sent to site {site}, its state is at {}",
                state.site
            );
            return Err(self.violation(&what, &[lease.workspace.to_string()]));
        }
        Ok(())
    }
}
