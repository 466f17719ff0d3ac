//! A small world around one agent, in virtual time: hypervisor, broker and batch system, with
//! every promise checked after every step.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "shared by several test programs, none of which uses all of it"
)]

use std::collections::{BTreeMap, BTreeSet};

use pilot_core::agent::{Agent, Effect, Event, ExitHow, Signal};
use pilot_core::guest::{LeaseKey, Stage};
use pilot_core::now::Now;
use pilot_core::settings::Settings;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{
    EventSeq, Generation, Incarnation, NodeName, PilotBoot, SiteName, SubmitKey, WorkspaceId,
};
use protocol::lease::{DesiredLease, EndOutcome, Goal, LeasePhase, Order};
use protocol::messages::{RegisterReply, SyncReply, SyncRequest};
use protocol::resources::Resources;
use protocol::slot::{HostFacts, PilotPhase, SlotFacts};
use protocol::time::{Mono, Span, Timestamp};
use protocol::workspace::{AdvanceTo, Artefact, Image, OnEviction, Policy, WorkspaceSpec};

pub const EPOCH: i64 = 1_800_000_000;

/// How the world behaves.
#[derive(Clone, Debug)]
pub struct Rules {
    pub end: u64,
    pub notice: u64,
    pub margin: u64,
    pub ttl: u64,
    pub hold: u64,
    pub idle_limit: Option<u64>,
    /// True write rate, bytes a second.
    pub rate: u64,
    /// One in so many suspends fails; 0: none.
    pub suspend_fails: u64,
    /// One in so many answers is lost; 0: none.
    pub answers_lost: u64,
    /// Guests obey an ACPI shutdown.
    pub obedient: bool,
    pub seed: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            end: 600,
            notice: 30,
            margin: 2,
            ttl: 60,
            hold: 20,
            idle_limit: None,
            rate: 400_000_000,
            suspend_fails: 0,
            answers_lost: 0,
            obedient: true,
            seed: 1,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Vm {
    Staging,
    Staged,
    Starting,
    Running,
    Paused,
    Suspending,
    Gone,
}

#[derive(Clone, Debug)]
struct Guest {
    vm: Vm,
    killed_at: Option<u64>,
    /// Distinguishes a suspend from an earlier one of the same guest.
    attempt: u64,
    bytes: u64,
}

/// A lease by the broker's book.
#[derive(Clone, Debug)]
pub struct Granted {
    pub goal: Goal,
    pub order: Order,
    pub expiry: Option<u64>,
    pub outcome: Option<EndOutcome>,
}

#[derive(Clone, Debug)]
enum Due {
    Report(Event),
    Answer(Box<SyncRequest>, Mono),
    Vm(LeaseKey, VmEvent),
}

#[derive(Clone, Debug)]
enum VmEvent {
    Staged,
    Started,
    Paused,
    Continued,
    Suspended(u64, u64),
    PoweredOff,
    Dead,
}

pub struct World {
    pub rules: Rules,
    pub agent: Agent,
    pub now: u64,
    /// When the agent was last asked.
    stepped: u64,
    wall_shift: i64,
    due: BTreeMap<(u64, u64), Due>,
    next: u64,
    guests: BTreeMap<LeaseKey, Guest>,
    pub book: BTreeMap<LeaseKey, Granted>,
    pub states: BTreeSet<LeaseKey>,
    /// Guests that the warden has ended.
    pub fenced: BTreeSet<LeaseKey>,
    pub deaf_until: u64,
    pub end_told: Option<u64>,
    pub leave: Option<Reason>,
    under_way: Option<(Box<SyncRequest>, Mono)>,
    last_sync: u64,
    reported: BTreeMap<LeaseKey, EndOutcome>,
    least_kill_at: Option<Mono>,
    clean_up_at: Option<u64>,
    cleaned: bool,
    pub exit: Option<(i32, Reason)>,
    pub log: Vec<String>,
    pub syncs: u64,
    random: u64,
}

impl World {
    pub fn new(rules: Rules) -> Self {
        Self::with(rules, 0)
    }

    /// A world in which the broker never answers.
    pub fn deaf(rules: Rules) -> Self {
        Self::with(rules, u64::MAX)
    }

    fn with(rules: Rules, deaf_until: u64) -> Self {
        let facts = SlotFacts {
            site: SiteName::new("lab").unwrap(),
            submit_key: SubmitKey::new("wp-1").unwrap(),
            incarnation: Incarnation::new("1").unwrap(),
            lrm_job_id: None,
            node: NodeName::new("n1").unwrap(),
            resources: Resources {
                cores: 8,
                memory_mib: 4096,
                disk_mib: 100_000,
            },
            start: Timestamp::from_secs(EPOCH),
            end: wall(rules.end),
            notice: Span::from_secs(rules.notice),
            margin: Span::from_secs(rules.margin),
        };
        let settings = Settings {
            probe_every: Some(Span::from_secs(30)),
            ..Settings::default()
        };
        let now = Now {
            mono: Mono::from_millis(0),
            wall: wall(0),
        };
        let boot = PilotBoot::new("boot-1").unwrap();
        let agent = Agent::new(now, facts, HostFacts::default(), boot, settings);
        let random = rules.seed | 1;
        let mut world = Self {
            rules,
            agent,
            now: 0,
            stepped: 0,
            wall_shift: 0,
            due: BTreeMap::new(),
            next: 0,
            guests: BTreeMap::new(),
            book: BTreeMap::new(),
            states: BTreeSet::new(),
            fenced: BTreeSet::new(),
            deaf_until,
            end_told: None,
            leave: None,
            under_way: None,
            last_sync: 0,
            reported: BTreeMap::new(),
            least_kill_at: None,
            clean_up_at: None,
            cleaned: false,
            exit: None,
            log: Vec::new(),
            syncs: 0,
            random,
        };
        world.step(Event::Started);
        world
    }

    /// The broker grants a lease.
    pub fn grant(&mut self, name: &str, spec: WorkspaceSpec) -> LeaseKey {
        let generations = self.book.keys().filter(|k| k.workspace.as_str() == name);
        let generation = Generation(generations.count() as u64 + 1);
        let key = LeaseKey {
            workspace: WorkspaceId::new(name).unwrap(),
            generation,
        };
        let order = Order {
            spec,
            state: None,
            run: Span::ZERO,
            suspends: 0,
        };
        self.book.insert(
            key.clone(),
            Granted {
                goal: Goal::Run,
                order,
                expiry: None,
                outcome: None,
            },
        );
        self.nudge();
        key
    }

    pub fn set_goal(&mut self, key: &LeaseKey, goal: Goal) {
        if let Some(lease) = self.book.get_mut(key) {
            lease.goal = goal;
        }
        self.nudge();
    }

    pub fn signal(&mut self, which: Signal) {
        self.step(Event::Signal {
            which,
            from: "the kernel".into(),
        });
    }

    pub fn jump_wall(&mut self, by_ms: i64) {
        self.wall_shift += by_ms;
    }

    /// The guest switches itself off, if there is one.
    pub fn power_off(&mut self, key: &LeaseKey) {
        if self.guests.get(key).is_some_and(|g| g.vm == Vm::Running) {
            self.vm_event(key, VmEvent::PoweredOff);
        }
    }

    /// The hypervisor dies, if there is one.
    pub fn crash(&mut self, key: &LeaseKey) {
        let Some(guest) = self.guests.get_mut(key) else {
            return;
        };
        let (lease, was) = (key.clone(), guest.vm.clone());
        match was {
            Vm::Running | Vm::Paused => {
                guest.vm = Vm::Gone;
                self.step(Event::GuestExited {
                    lease,
                    how: ExitHow::Crashed {
                        text: "boom".into(),
                    },
                });
            }
            Vm::Suspending => {
                guest.vm = Vm::Gone;
                self.step(Event::SuspendFailed {
                    lease,
                    reason: Reason::new(ReasonCode::GuestCrashed, "boom"),
                    guest_alive: false,
                });
            }
            Vm::Staging | Vm::Staged | Vm::Starting | Vm::Gone => {}
        }
    }

    /// The pilot is stopped for `secs` while its guests run on: nobody steps the agent, and its
    /// warden ends the guests when the fence that it was told has passed. What happened meanwhile
    /// is told after; news of the guests first, or after the rest.
    pub fn stop(&mut self, secs: u64, guests_first: bool) {
        let fence = self.agent.fence_at().map_or(u64::MAX, Mono::as_millis);
        self.now += secs * 1000;
        if self.now < fence {
            return;
        }
        let alive = self.guests.iter().filter(|(_, g)| is_alive(g));
        let keys: Vec<LeaseKey> = alive.map(|(k, _)| k.clone()).collect();
        let mut news = Vec::new();
        for lease in keys {
            self.log.push(format!("{fence:>9} the warden ends {lease}"));
            self.fenced.insert(lease.clone());
            let guest = self.guests.get_mut(&lease).unwrap();
            let was = std::mem::replace(&mut guest.vm, Vm::Gone);
            let text = "killed by signal 9".to_owned();
            let reason = Reason::new(ReasonCode::GuestCrashed, text.clone());
            news.push(match was {
                Vm::Starting => Event::StartFailed {
                    lease,
                    reason,
                    permanent: false,
                },
                Vm::Suspending => Event::SuspendFailed {
                    lease,
                    reason,
                    guest_alive: false,
                },
                Vm::Running | Vm::Paused | Vm::Staging | Vm::Staged | Vm::Gone => {
                    let how = ExitHow::Crashed { text };
                    Event::GuestExited { lease, how }
                }
            });
        }
        for event in news {
            if guests_first {
                self.step(event);
            } else {
                self.later(50, Due::Report(event));
            }
        }
    }

    /// Lets `secs` pass.
    pub fn run(&mut self, secs: u64) {
        self.run_ms(secs * 1000);
    }

    pub fn run_ms(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.exit.is_none() {
            let due = self.due.keys().next().map(|k| k.0);
            let wake = self.agent.next_wakeup().map(|m| m.as_millis());
            if let Some(wake) = wake {
                assert!(
                    wake > self.stepped,
                    "it wants to be woken in the past\n{self}"
                );
            }
            let at = due.into_iter().chain(wake).min().unwrap_or(until);
            if at > until {
                break;
            }
            self.now = self.now.max(at);
            match due.filter(|d| *d <= self.now) {
                Some(_) => {
                    let (_, due) = self.due.pop_first().unwrap();
                    self.happen(due);
                }
                None if wake.is_some() => self.step(Event::Tick),
                None => break,
            }
        }
        if self.exit.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Lets time pass until the pilot has gone, which must be before its kill time.
    pub fn run_to_end(&mut self) {
        for _ in 0..200 {
            if self.exit.is_some() {
                return;
            }
            self.run(30);
        }
        panic!("the pilot never leaves\n{self}");
    }

    /// Runs until `condition` or for `secs` at most; true when it holds.
    pub fn run_until(&mut self, secs: u64, condition: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..secs * 10 {
            if condition(self) {
                return true;
            }
            self.run_ms(100);
        }
        condition(self)
    }

    pub fn outcome(&self, key: &LeaseKey) -> Option<&EndOutcome> {
        self.book[key].outcome.as_ref()
    }

    pub fn phase_of(&self, key: &LeaseKey) -> Option<LeasePhase> {
        let now = Mono::from_millis(self.now);
        let mut leases = self.agent.leases();
        leases.find(|l| l.key == *key).map(|l| l.report(now).phase)
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Report(event) => self.step(event),
            Due::Answer(request, sent) => self.answer(&request, sent),
            Due::Vm(key, event) => self.vm_event(&key, event),
        }
    }

    fn later(&mut self, ms: u64, due: Due) {
        self.next += 1;
        self.due.insert((self.now + ms, self.next), due);
    }

    /// A held sync is answered when there is something to say.
    fn nudge(&mut self) {
        if let Some((request, sent)) = self.under_way.clone() {
            self.later(5, Due::Answer(request, sent));
        }
    }

    pub fn step(&mut self, event: Event) {
        if self.exit.is_some() {
            return;
        }
        let now = self.clocks();
        self.stepped = self.now;
        if !matches!(
            event,
            Event::Tick | Event::SyncAnswered { .. } | Event::Probed(_)
        ) {
            self.log.push(format!("{:>9} <- {event:?}", self.now));
        }
        for effect in self.agent.step(now, event) {
            self.carry_out(effect);
        }
        self.check();
    }

    fn clocks(&self) -> Now {
        let ms = i64::try_from(self.now).unwrap();
        Now {
            mono: Mono::from_millis(self.now),
            wall: Timestamp::from_millis(EPOCH * 1000 + ms + self.wall_shift),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        if !matches!(effect, Effect::Sync { .. } | Effect::Probe) {
            self.log.push(format!("{:>9} -> {effect:?}", self.now));
        }
        assert!(self.exit.is_none(), "an effect after the end\n{self}");
        match effect {
            Effect::Register => {
                let event = if self.now < self.deaf_until {
                    Event::RegisterFailed {
                        text: "deaf".into(),
                    }
                } else {
                    Event::Registered(RegisterReply {
                        version: 1,
                        lease_ttl: Span::from_secs(self.rules.ttl),
                        hold: Span::from_secs(self.rules.hold),
                        idle_limit: self.rules.idle_limit.map(Span::from_secs),
                        now: self.clocks().wall,
                    })
                };
                self.later(20, Due::Report(event));
            }
            Effect::Sync { request, timeout } => self.take_sync(request, timeout),
            Effect::Probe => {
                let end = self.end_told.map(wall);
                self.later(15, Due::Report(Event::Probed(end)));
            }
            Effect::Stage { lease, order } => {
                self.check_acceptance(&lease);
                let bytes = order.spec.resources.memory_mib << 20;
                let guest = Guest {
                    vm: Vm::Staging,
                    killed_at: None,
                    attempt: 0,
                    bytes,
                };
                assert!(
                    self.guests.insert(lease.clone(), guest).is_none(),
                    "{lease} is staged twice\n{self}"
                );
                let ms = self.any(10, 400);
                self.later(ms, Due::Vm(lease, VmEvent::Staged));
            }
            Effect::Boot { lease } | Effect::Resume { lease } => {
                self.expect(&lease, &[Vm::Staged], "started");
                self.set(&lease, Vm::Starting);
                let ms = self.any(50, 2000);
                self.later(ms, Due::Vm(lease, VmEvent::Started));
            }
            Effect::Pause { lease } => self.later(5, Due::Vm(lease, VmEvent::Paused)),
            Effect::Continue { lease } => self.later(5, Due::Vm(lease, VmEvent::Continued)),
            Effect::Suspend { lease, state, .. } => {
                self.expect(&lease, &[Vm::Running, Vm::Paused, Vm::Gone], "suspended");
                assert_eq!(state.as_str(), lease.to_string());
                let fails = self.one_in(self.rules.suspend_fails);
                let guest = self.guests.get_mut(&lease).unwrap();
                if guest.vm == Vm::Gone {
                    return; // its exit is on the way
                }
                guest.vm = Vm::Suspending;
                guest.attempt += 1;
                let (attempt, bytes) = (guest.attempt, guest.bytes);
                let took = 30 + bytes * 1000 / self.rules.rate;
                if fails {
                    guest.vm = Vm::Running;
                    let event = Event::SuspendFailed {
                        lease,
                        reason: Reason::new(ReasonCode::DiskFull, "no space"),
                        guest_alive: true,
                    };
                    self.later(20, Due::Report(event));
                } else {
                    self.later(took, Due::Vm(lease, VmEvent::Suspended(attempt, took)));
                }
            }
            Effect::AbortSuspend { .. } => {}
            Effect::Shutdown { lease } => {
                if self.rules.obedient {
                    let ms = self.any(60, 900);
                    self.later(ms, Due::Vm(lease, VmEvent::PoweredOff));
                }
            }
            Effect::Kill { lease } => {
                let now = self.now;
                if let Some(guest) = self.guests.get_mut(&lease) {
                    guest.killed_at.get_or_insert(now);
                    guest.attempt += 1;
                }
                self.later(50, Due::Vm(lease, VmEvent::Dead));
            }
            Effect::ReleaseGuest { lease } => {
                if let Some(guest) = self.guests.get(&lease) {
                    assert!(
                        matches!(guest.vm, Vm::Gone | Vm::Staging | Vm::Staged),
                        "{lease} is released while it is {:?}\n{self}",
                        guest.vm
                    );
                }
                self.set(&lease, Vm::Gone);
            }
            Effect::Discard { state } => {
                self.later(10, Due::Report(Event::Discarded { state }));
            }
            Effect::Record(_) => {}
            Effect::CleanUp => {
                assert!(self.clean_up_at.is_none(), "cleaned up twice\n{self}");
                self.clean_up_at = Some(self.now);
                for (key, guest) in &self.guests {
                    assert!(
                        !is_alive(guest) || guest.killed_at.is_some(),
                        "{key} runs when the clean-up begins\n{self}"
                    );
                }
                for guest in self.guests.values_mut() {
                    guest.vm = Vm::Gone;
                }
                self.cleaned = true;
                self.later(300, Due::Report(Event::CleanedUp { leftovers: vec![] }));
            }
            Effect::Exit { code, reason } => {
                assert!(self.cleaned, "it leaves without cleaning up\n{self}");
                self.exit = Some((code, reason));
            }
        }
    }

    fn vm_event(&mut self, key: &LeaseKey, event: VmEvent) {
        let Some(guest) = self.guests.get_mut(key) else {
            return;
        };
        let lease = key.clone();
        let report = match (event, guest.vm.clone()) {
            (VmEvent::Staged, Vm::Staging) => {
                guest.vm = Vm::Staged;
                Event::Staged { lease }
            }
            (VmEvent::Started, Vm::Starting) => {
                guest.vm = Vm::Running;
                Event::Running { lease }
            }
            (VmEvent::Paused, Vm::Running) => {
                guest.vm = Vm::Paused;
                Event::Paused { lease }
            }
            (VmEvent::Continued, Vm::Paused) => {
                guest.vm = Vm::Running;
                Event::Continued { lease }
            }
            (VmEvent::Suspended(attempt, took), Vm::Suspending) if attempt == guest.attempt => {
                guest.vm = Vm::Gone;
                let bytes = guest.bytes;
                self.states.insert(lease.clone());
                Event::Suspended {
                    lease,
                    manifest: "m".into(),
                    bytes,
                    written: bytes,
                    took: Span::from_millis(took),
                }
            }
            (VmEvent::PoweredOff, Vm::Running) => {
                guest.vm = Vm::Gone;
                Event::GuestExited {
                    lease,
                    how: ExitHow::PoweredOff,
                }
            }
            (VmEvent::Dead, _) => {
                guest.vm = Vm::Gone;
                Event::GuestExited {
                    lease,
                    how: ExitHow::Killed,
                }
            }
            _ => return,
        };
        self.step(report);
    }

    fn take_sync(&mut self, request: Box<SyncRequest>, timeout: Span) {
        self.syncs += 1;
        assert!(
            request.number > self.last_sync,
            "sync numbers go back\n{self}"
        );
        self.last_sync = request.number;
        self.due.retain(|_, d| !matches!(d, Due::Answer(..)));
        for report in &request.leases {
            let key = LeaseKey {
                workspace: report.workspace.clone(),
                generation: report.generation,
            };
            if let LeasePhase::Ended { outcome } = &report.phase {
                let entry = self.reported.entry(key.clone());
                let first = entry.or_insert(outcome.clone()).clone();
                assert_eq!(first, *outcome, "{key} ended in two ways\n{self}");
                assert!(
                    !self.fenced.contains(&key) || !matches!(outcome, EndOutcome::Failed { .. }),
                    "{key} is said to have crashed, and was ended by the warden\n{self}"
                );
                if matches!(outcome, EndOutcome::Suspended { .. }) {
                    assert!(
                        self.states.contains(&key),
                        "{key}: no such state was made\n{self}"
                    );
                }
            }
        }
        let sent = Mono::from_millis(self.now);
        let lost = self.now < self.deaf_until || self.one_in(self.rules.answers_lost);
        if lost {
            self.under_way = None;
            let event = Event::SyncFailed {
                number: request.number,
                text: "lost".into(),
            };
            self.later(timeout.as_millis(), Due::Report(event));
            return;
        }
        self.under_way = Some((request.clone(), sent));
        let news = request.no_hold || !self.agrees(&request);
        let after = if news {
            self.any(2, 30)
        } else {
            self.rules.hold * 1000
        };
        self.later(after, Due::Answer(request, sent));
    }

    /// True when the broker has nothing to say to this.
    fn agrees(&self, request: &SyncRequest) -> bool {
        let live = self.book.values().filter(|g| g.outcome.is_none()).count();
        self.leave.is_none()
            && live == request.leases.len()
            && request
                .leases
                .iter()
                .all(|l| !matches!(l.phase, LeasePhase::Ended { .. }))
    }

    fn answer(&mut self, request: &SyncRequest, sent: Mono) {
        self.under_way = None;
        let known: BTreeMap<_, _> = request
            .leases
            .iter()
            .map(|l| ((l.workspace.clone(), l.generation), &l.phase))
            .collect();
        let mut leases = Vec::new();
        for (key, lease) in &mut self.book {
            let phase = known.get(&(key.workspace.clone(), key.generation));
            if let Some(LeasePhase::Ended { outcome }) = phase {
                lease.outcome.get_or_insert((*outcome).clone());
            }
            if lease.outcome.is_some() {
                continue;
            }
            let expiry = self.now + self.rules.ttl * 1000;
            lease.expiry = Some(lease.expiry.unwrap_or(0).max(expiry));
            leases.push(DesiredLease {
                workspace: key.workspace.clone(),
                generation: key.generation,
                goal: lease.goal.clone(),
                order: phase.is_none().then(|| Box::new(lease.order.clone())),
            });
        }
        let reply = SyncReply {
            version: 1,
            number: request.number,
            held: Span::from_millis(self.now.saturating_sub(sent.as_millis() + 30)),
            lease_ttl: Span::from_secs(self.rules.ttl),
            leases,
            slot_end: None,
            leave: self.leave.clone(),
            acknowledged: request.events.last().map_or(EventSeq(0), |e| e.seq),
            discard: vec![],
        };
        if request.slot.phase == PilotPhase::Leaving {
            assert!(
                request
                    .leases
                    .iter()
                    .all(|l| matches!(l.phase, LeasePhase::Ended { .. })),
                "it says goodbye with guests\n{self}"
            );
        }
        self.step(Event::SyncAnswered {
            sent,
            reply: Box::new(reply),
        });
    }

    fn check_acceptance(&self, lease: &LeaseKey) {
        assert!(
            !self.agent.clock().is_signalled(),
            "{lease} was taken after a signal\n{self}"
        );
        let plan = self.agent.plan();
        if self.book[lease].order.spec.advance_to == AdvanceTo::Finished {
            assert!(
                plan.begin.values().all(|b| b.as_millis() > self.now),
                "{lease} was taken when the eviction had begun\n{self}"
            );
        }
    }

    /// What the warden was told is after the pilot's own last moment and before the broker's.
    fn check_fence(&self) {
        let fence = self.agent.fence_at().map(Mono::as_millis);
        for lease in self.agent.leases() {
            let key = &lease.key;
            let alive = self.guests.get(key).is_some_and(is_alive);
            if alive && !lease.lost {
                let expiry = self.book[key].expiry.unwrap_or(0);
                assert!(
                    fence.is_some_and(|f| f <= expiry),
                    "{key} is not fenced at {expiry} but at {fence:?}\n{self}"
                );
            }
            if let Some(fence) = fence
                && lease.has_guest()
                && !lease.lost
            {
                let dying = matches!(lease.stage, Stage::Killing { .. });
                assert!(
                    dying || self.now < fence,
                    "{key} was to be given up before {fence}\n{self}"
                );
            }
        }
    }

    /// The promises.
    fn check(&mut self) {
        let kill_at = self.agent.clock().kill_at();
        if self.agent.clock().is_signalled() {
            let least = self.least_kill_at.get_or_insert(kill_at);
            assert!(kill_at <= *least, "a signal was forgotten\n{self}");
            *least = kill_at;
        }
        let writing = self
            .guests
            .values()
            .filter(|g| g.vm == Vm::Suspending && g.killed_at.is_none());
        assert!(writing.count() <= 1, "two suspends at once\n{self}");
        for (key, guest) in self.guests.iter().filter(|(_, g)| is_alive(g)) {
            let dying = guest.killed_at.is_some_and(|k| self.now <= k + 50);
            assert!(
                self.now < kill_at.as_millis() || dying,
                "{key} lives after the kill time {}\n{self}",
                kill_at.as_millis()
            );
            let expiry = self.book[key].expiry.unwrap_or(0);
            assert!(
                self.now <= expiry,
                "{key} lives after its lease ended at {expiry}\n{self}"
            );
        }
        let rivals = self.guests.iter().filter(|(_, g)| is_alive(g));
        let names: BTreeSet<_> = rivals.clone().map(|(k, _)| &k.workspace).collect();
        assert_eq!(
            names.len(),
            rivals.count(),
            "a workspace runs twice\n{self}"
        );
        self.check_fence();
        if self.exit.is_some() {
            assert!(
                self.agent.leases().all(|l| !l.is_alive()),
                "a lease has no end\n{self}"
            );
        } else if self.now > kill_at.as_millis() + 1000 {
            assert!(self.cleaned, "still here after the kill time\n{self}");
        }
    }

    fn expect(&self, key: &LeaseKey, wanted: &[Vm], what: &str) {
        let vm = self.guests.get(key).map(|g| &g.vm);
        assert!(
            vm.is_some_and(|vm| wanted.contains(vm)),
            "{key} is {what} while it is {vm:?}\n{self}"
        );
    }

    fn set(&mut self, key: &LeaseKey, vm: Vm) {
        if let Some(guest) = self.guests.get_mut(key) {
            guest.vm = vm;
        }
    }

    fn any(&mut self, least: u64, most: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        least + (self.random >> 33) % (most - least + 1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.any(1, n) == 1
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "now {} ms, {:?}", self.now, self.rules)?;
        let skip = self.log.len().saturating_sub(60);
        self.log
            .iter()
            .skip(skip)
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn is_alive(guest: &Guest) -> bool {
    matches!(
        guest.vm,
        Vm::Starting | Vm::Running | Vm::Paused | Vm::Suspending
    )
}

pub fn wall(secs: u64) -> Timestamp {
    Timestamp::from_secs(EPOCH + i64::try_from(secs).unwrap())
}

/// A request for a guest of `memory_mib` that wants to run for `run_secs`.
pub fn spec(memory_mib: u64, run_secs: u64) -> WorkspaceSpec {
    WorkspaceSpec {
        name: "test".into(),
        image: Image {
            kernel: Some(Artefact {
                url: "/kernel".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib,
            disk_mib: 0,
        },
        run_time: Span::from_secs(run_secs),
        policy: Policy::default(),
        advance_to: AdvanceTo::Finished,
        network: protocol::workspace::Network::None,
        context: protocol::workspace::Context::default(),
    }
}

pub fn with_policy(
    mut spec: WorkspaceSpec,
    on_eviction: OnEviction,
    may_be_killed: bool,
) -> WorkspaceSpec {
    spec.policy.on_eviction = on_eviction;
    spec.policy.may_be_killed = may_be_killed;
    spec
}
