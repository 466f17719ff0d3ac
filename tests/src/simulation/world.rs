//! The world: all machines, and the one queue of things to come.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use broker_core::CancelScope;
use pilot_core::agent;
use pilot_core::guest::LeaseKey;
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::lrm::PilotJob;
use protocol::time::{Span, Timestamp};

use super::broker_side::BrokerSide;
use super::chance::Chance;
use super::fault::Fault;
use super::lrm_side::Site;
use super::options::{Break, Options, Promise, Violation};
use super::pilot_side::Pilot;
use super::size::Size;
use super::story::Story;
use super::summary::{Spread, Summary};
use super::truth::{PilotNumber, Truth};
use super::users::Users;
use super::wire::Wire;

/// When the simulation begins.
const BEGIN: Timestamp = Timestamp::from_secs(1_800_000_000);
/// If requests are open after so long, something is stuck.
const PATIENCE: Span = Span::from_mins(5 * 24 * 60);

/// How often it is looked whether all is over.
const LOOK: Span = Span::from_mins(1);

/// Something to come.
#[derive(Clone, Debug)]
pub enum Coming {
    /// A user does something.
    User,
    /// Something reaches the broker.
    Broker(Box<broker_core::Event>, Sender),
    /// The broker's tick.
    BrokerTick,
    /// A held sync is to be looked at again.
    Poll(SubmitKey),
    /// The broker comes back.
    BrokerStarts,
    /// Something reaches a pilot process.
    Pilot(PilotNumber, Box<agent::Event>),
    /// A pilot's tick.
    PilotTick(PilotNumber),
    /// The outcome of a pilot's work on a guest; `turn` tells whether it still counts.
    Guest(PilotNumber, LeaseKey, GuestWork, u64),
    /// A pilot process dies by a fault.
    PilotDies(PilotNumber),
    /// A pilot process hangs for so long.
    PilotStops(PilotNumber, Span),
    /// A pilot's warden ends its guests, if the pilot still hangs.
    Warden(PilotNumber),
    /// A node's wall clock jumps.
    ClockJumps(PilotNumber),
    /// The broker is to crash at its next change.
    BrokerFails,
    /// A site's batch system: something happens there.
    Lrm(usize, Box<lrm_adapters::sim::model::Event>),
    /// The broker's command reaches a site's batch system.
    Command(usize, Command),
    /// The broker asks a site for its listing.
    Observe(usize),
    /// The site's own life: jobs, drains, failing nodes.
    SiteLife(usize),
}

/// Who waits for the broker's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Nobody.
    Nobody,
    /// A user who submits the request with this number.
    User(u32),
    /// A pilot.
    Pilot(PilotNumber, Wire),
}

/// Work on a guest that takes time.
#[derive(Clone, Debug)]
pub enum GuestWork {
    /// It boots or loads.
    Start,
    /// It is written to the store.
    Suspend(Box<SuspendWork>),
    /// A checkpoint of it is written to the store.
    Checkpoint(Box<SuspendWork>),
    /// It switches itself off.
    PowerOff,
    /// It dies by itself.
    Crash,
}

/// A suspend or checkpoint under way.
#[derive(Clone, Debug)]
pub struct SuspendWork {
    /// Name of the state.
    pub state: protocol::ids::StateId,
    /// Run time in it.
    pub run: Span,
    /// Bytes.
    pub bytes: u64,
    /// How long it takes.
    pub took: Span,
    /// It will fail, with the guest alive.
    pub fails: bool,
    /// When it was begun.
    pub begun: Timestamp,
    /// The guest stood still before.
    pub was_paused: bool,
}

/// A command of the broker to a batch system.
#[derive(Clone, Debug)]
pub enum Command {
    /// Submit.
    Submit(Box<PilotJob>),
    /// Look up.
    LookUp(SubmitKey),
    /// Cancel.
    Cancel(SubmitKey, protocol::ids::LrmJobId, CancelScope),
}

/// All of it.
pub struct World {
    pub(super) options: Options,
    pub(super) size: Size,
    pub(super) now: Timestamp,
    pub(super) chance: Chance,
    pub(super) story: Story,
    pub(super) summary: Summary,
    pub(super) truth: Truth,
    pub(super) broker: BrokerSide,
    pub(super) sites: Vec<Site>,
    pub(super) pilots: Vec<Pilot>,
    pub(super) users: Users,
    /// How long each workspace really needs, by its guest's own program.
    pub(super) work: BTreeMap<WorkspaceId, Span>,
    /// Actual time of each suspend that no fault slowed down, in thousandths of its budget.
    pub(super) actual: Vec<u64>,
    /// Its budget in thousandths of the actual time, where the pilot had measured before.
    pub(super) learned: Vec<u64>,
    queue: BinaryHeap<Reverse<Turn>>,
    next: u64,
}

/// Something to come, when, and in which order of those that come at the same moment.
struct Turn {
    at: Timestamp,
    number: u64,
    what: Coming,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

impl World {
    /// A world in which nothing has happened.
    pub fn new(options: Options) -> Self {
        let mut chance = Chance::new(options.seed);
        let size = Size::of(&options);
        let sites = Site::draw(&mut chance, &options, &size);
        let broker = BrokerSide::new(&sites, options.seed);
        let mut world = Self {
            options,
            size,
            now: BEGIN,
            chance,
            story: Story::default(),
            summary: Summary::default(),
            truth: Truth::default(),
            broker,
            users: Users::default(),
            sites,
            pilots: Vec::new(),
            work: BTreeMap::new(),
            actual: Vec::new(),
            learned: Vec::new(),
            queue: BinaryHeap::new(),
            next: 0,
        };
        world.plan(Span::ZERO, Coming::BrokerStarts);
        world.plan(Span::from_millis(1), Coming::User);
        for site in 0..world.sites.len() {
            world.plan(Span::from_secs(7), Coming::Observe(site));
            world.plan(Span::from_secs(60), Coming::SiteLife(site));
        }
        world.plan_broker_failure();
        world
    }

    /// Lets it run until all requests have ended and enough slots were given.
    ///
    /// # Errors
    /// A promise was broken.
    pub fn run(&mut self) -> Result<Summary, Box<Violation>> {
        let mut look_at = BEGIN;
        loop {
            if self.now >= look_at {
                if self.is_over() {
                    break;
                }
                self.check_owners()?;
                self.check_nodes()?;
                look_at = self.now + LOOK;
            }
            let Some(Reverse(turn)) = self.queue.pop() else {
                let what = "nothing is to come, and requests are open";
                return Err(self.violation(Promise::Ends, what, &[]));
            };
            self.now = self.now.max(turn.at);
            if self.now.since(BEGIN) > self.patience() {
                let open = self.open_requests();
                let what = format!(
                    "stuck after {} with {} open requests\n{}",
                    self.patience(),
                    open.len(),
                    self.explain(open.first())
                );
                let about = &open[..1.min(open.len())];
                return Err(self.violation(Promise::Ends, &what, about));
            }
            self.summary.steps += 1;
            self.happen(turn.what)?;
        }
        self.check_end()?;
        self.summary.virtual_s = self.now.since(BEGIN).as_millis() / 1000;
        self.summary.actual_of_budget = Spread::of(std::mem::take(&mut self.actual));
        self.summary.learned_budget_of_actual = Spread::of(std::mem::take(&mut self.learned));
        Ok(self.summary.clone())
    }

    /// The more goes wrong, the longer a request takes.
    fn patience(&self) -> Span {
        PATIENCE.times(self.options.faults.div_ceil(100).max(1))
    }

    fn happen(&mut self, coming: Coming) -> Result<(), Box<Violation>> {
        match coming {
            Coming::User => self.user_acts(),
            Coming::Broker(event, sender) => self.broker_hears(*event, sender),
            Coming::BrokerTick => self.broker_ticks(),
            Coming::Poll(key) => self.broker_polls(&key),
            Coming::BrokerStarts => self.broker_starts(),
            Coming::Pilot(pilot, event) => self.pilot_hears(pilot, *event),
            Coming::PilotTick(pilot) => self.pilot_ticks(pilot),
            Coming::Guest(pilot, lease, work, turn) => {
                self.guest_work_ends(pilot, &lease, work, turn)
            }
            Coming::PilotDies(pilot) => self.pilot_killed_by_fault(pilot),
            Coming::PilotStops(pilot, span) => {
                self.pilot_stops(pilot, span);
                Ok(())
            }
            Coming::Warden(pilot) => {
                self.warden_acts(pilot);
                Ok(())
            }
            Coming::ClockJumps(pilot) => {
                self.clock_jumps(pilot);
                Ok(())
            }
            Coming::BrokerFails => {
                self.broker_fails();
                Ok(())
            }
            Coming::Lrm(site, event) => self.lrm_hears(site, *event),
            Coming::Command(site, command) => self.lrm_commanded(site, command),
            Coming::Observe(site) => self.lrm_observed(site),
            Coming::SiteLife(site) => self.site_lives(site),
        }
    }

    /// Puts something in the queue.
    pub(super) fn plan(&mut self, after: Span, coming: Coming) {
        let number = self.next;
        self.next += 1;
        self.queue.push(Reverse(Turn {
            at: self.now + after,
            number,
            what: coming,
        }));
    }

    /// Adds to the story.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        self.story.tell(self.now, line());
    }

    /// Whether a fault happens now: `per_mille` times in a thousand, scaled by the options.
    pub(super) fn fault(&mut self, fault: Fault, per_mille: u64) -> bool {
        self.fault_of_one(fault, per_mille, 1)
    }

    /// The same for what so many share: it happens to all of them at once, so that much rarer when
    /// each is asked.
    pub(super) fn fault_of_one(&mut self, fault: Fault, per_mille: u64, of: u64) -> bool {
        let happens = self.options.faults > 0
            && (self.chance).happens_among(per_mille, self.options.faults, of);
        if happens {
            self.summary.faults.count(fault);
        }
        happens
    }

    /// True when this rule is to be broken.
    pub(super) fn breaks(&self, rule: Break) -> bool {
        self.options.breaks == Some(rule)
    }

    /// A broken promise, with the story of what it is about.
    pub(super) fn violation(
        &self,
        promise: Promise,
        what: &str,
        about: &[String],
    ) -> Box<Violation> {
        Box::new(Violation {
            promise,
            what: format!("at {}: {what}", self.now),
            replay: self.options.replay(),
            story: self.story.about(about, 120),
        })
    }
}
