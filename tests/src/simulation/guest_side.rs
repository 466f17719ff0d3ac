//! The guests in the simulation: what pilots do with them takes time, and can fail.

use pilot_core::agent::{self, ExitHow};
use pilot_core::guest::LeaseKey;
use protocol::codes::{Reason, ReasonCode};
use protocol::lease::{Order, StateRef};
use protocol::time::Span;

use super::fault::Fault;
use super::options::{Break, Promise, Violation};
use super::truth::{Guest, PilotNumber, SavedState};
use super::world::{Coming, GuestWork, SuspendWork, World};

impl World {
    pub(super) fn stages(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        order: Order,
    ) -> Result<(), Box<Violation>> {
        let site = self.pilots[pilot].site;
        let mut failure = None;
        if let Some(state) = &order.state {
            self.check_state_known(site, state, &lease)?;
            if state.id.as_str().contains(".c") {
                self.summary.from_checkpoints += 1;
            }
            let saved = self.truth.states.get(&(site, state.id.clone()));
            let altered = saved.is_none_or(|s| s.manifest != state.manifest);
            if altered || self.fault(Fault::StateCorrupt, 5) {
                failure = Some(Reason::new(
                    ReasonCode::StateCorrupt,
                    "the state's memory is cut short",
                ));
            }
        }
        if order.state.is_none() && self.store_is_full(site) {
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

    pub(super) fn turn(&mut self, pilot: PilotNumber, lease: &LeaseKey) -> u64 {
        let turn = self.pilots[pilot].turns + 1;
        self.pilots[pilot].turns = turn;
        if let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) {
            guest.turn = turn;
        }
        turn
    }

    /// A hypervisor is there from the moment that it is started, whether or not its guest runs.
    pub(super) fn starts(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        ran: Span,
    ) -> Result<(), Box<Violation>> {
        self.summary.starts += 1;
        let (site, order) = (
            self.pilots[pilot].site,
            self.pilots[pilot].orders.get(&lease),
        );
        let memory = order.map_or(256, |o| o.spec.resources.memory_mib);
        let from = order.and_then(|o| o.state.as_ref());
        let guest = Guest {
            from: from.map(|s| (site, s.id.clone())),
            ran,
            since: None,
            checkpoint: false,
            flushed: None,
            writing: 0,
            bytes: self.chance.between(60, memory.max(61)) << 20,
            up: None,
            unowned: None,
            turn: 0,
        };
        let count = self.truth.guest_appears(pilot, lease.clone(), guest);
        self.check_alone(pilot, &lease, count)?;
        let turn = self.turn(pilot, &lease);
        let after = self.chance.millis(300, 9000);
        self.plan(after, Coming::Guest(pilot, lease, GuestWork::Start, turn));
        Ok(())
    }

    pub(super) fn stands_still(&mut self, pilot: PilotNumber, lease: &LeaseKey) {
        let now = self.now;
        self.turn(pilot, lease);
        if let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) {
            guest.ran = guest.ran_at(now);
            guest.since = None;
        }
    }

    pub(super) fn executes(&mut self, pilot: PilotNumber, lease: &LeaseKey) {
        let now = self.now;
        let turn = self.turn(pilot, lease);
        let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) else {
            return;
        };
        guest.since = Some(now);
        guest.up.get_or_insert(now);
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
        if self.options.faults > 0 && self.chance.happens(15, self.options.faults) {
            let crash = self.chance.millis(1000, 1_800_000);
            self.plan(
                crash,
                Coming::Guest(pilot, lease.clone(), GuestWork::Crash, turn),
            );
        }
    }

    /// What is being written is dropped: its end no longer counts. The guest goes on where that was
    /// a checkpoint.
    pub(super) fn drops_what_is_written(&mut self, pilot: PilotNumber, lease: LeaseKey) {
        let turn = self.turn(pilot, &lease);
        let guest = self.truth.guests.get(&(pilot, lease.clone()));
        if guest.is_some_and(|g| g.checkpoint) {
            let work = SuspendWork {
                state: lease.state_id().expect("a name"),
                run: Span::ZERO,
                bytes: 0,
                took: Span::ZERO,
                fails: true,
                begun: self.now,
                was_paused: false,
            };
            let work = GuestWork::Checkpoint(Box::new(work));
            self.plan(
                Span::from_millis(10),
                Coming::Guest(pilot, lease, work, turn),
            );
        }
    }

    pub(super) fn suspends(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        state: protocol::ids::StateId,
        run: Span,
        goes_on: bool,
    ) {
        let here = self.truth.guests.get(&(pilot, lease.clone())).cloned();
        let was_paused = here.as_ref().is_none_or(|g| g.since.is_none());
        self.stands_still(pilot, &lease);
        let turn = self.turn(pilot, &lease);
        if let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) {
            guest.checkpoint = goes_on;
            guest.writing = guest.left_at(self.now);
        }
        let bytes = here.map_or(0, |g| g.left_at(self.now));
        let site = self.pilots[pilot].site;
        // The node's rate, give or take a fifth; now and then the disk has other things to do.
        let mut rate = self.pilots[pilot].rate * self.chance.between(80, 120) / 100;
        if self.fault(Fault::SuspendStuck, 10) {
            rate = 2;
            self.pilots[pilot].excuse = Some("a suspend was stuck");
        } else if self.fault(Fault::SuspendSlow, 20) {
            rate /= 4;
            self.pilots[pilot].excuse = Some("a suspend was slow");
        }
        if self.breaks(Break::Suspends) {
            rate /= 10;
        }
        let took = Span::from_millis(20 + (bytes >> 20) * 1000 / rate.max(1));
        let fails = self.store_is_full(site) || self.fault(Fault::SuspendFailed, 30);
        if fails {
            self.pilots[pilot].excuse = Some("a suspend failed");
        }
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
            begun: self.now,
            was_paused,
        };
        let work = if goes_on {
            GuestWork::Checkpoint(Box::new(work))
        } else {
            GuestWork::Suspend(Box::new(work))
        };
        self.plan(after, Coming::Guest(pilot, lease, work, turn));
    }

    /// A guest's memory is brought to the store while it runs.
    pub(super) fn flushes(&mut self, pilot: PilotNumber, lease: LeaseKey) {
        self.summary.flushes += 1;
        let rate = self.pilots[pilot].rate.max(1);
        let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) else {
            return;
        };
        let takes = Span::from_millis((guest.bytes >> 20) * 1000 / rate);
        let done = self.now + takes;
        guest.flushed = Some(done);
        let bytes = guest.left_at(done);
        let measured = agent::Event::Measured { lease, bytes };
        self.plan(takes, Coming::Pilot(pilot, Box::new(measured)));
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
        if !self.pilots[pilot].alive() || here.is_none_or(|g| g.turn != turn) {
            return Ok(());
        }
        let lease = lease.clone();
        let event = match work {
            GuestWork::Start => {
                if self.fault(Fault::StartFailed, 10) {
                    self.truth.guest_goes(pilot, &lease);
                    let reason = Reason::new(ReasonCode::BootFailed, "qemu: could not allocate");
                    agent::Event::StartFailed {
                        lease,
                        reason,
                        permanent: false,
                    }
                } else {
                    self.executes(pilot, &lease);
                    let here = self.truth.guests.get(&(pilot, lease.clone()));
                    let bytes = here.map_or(0, |g| g.bytes);
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
                self.summary.faults.count(Fault::GuestCrashed);
                self.truth.guest_goes(pilot, &lease);
                let how = ExitHow::Crashed {
                    text: "signal 11".into(),
                };
                agent::Event::GuestExited { lease, how }
            }
            GuestWork::Checkpoint(work) => self.checkpoint_ends(pilot, lease, &work)?,
            GuestWork::Suspend(work) if work.fails => {
                self.summary.suspends.failed += 1;
                self.pilots[pilot].written.push((self.now, work.took));
                if !work.was_paused {
                    self.executes(pilot, &lease);
                }
                let reason = Reason::new(ReasonCode::DiskFull, "no space left on device");
                agent::Event::SuspendFailed {
                    lease,
                    reason,
                    guest_alive: true,
                }
            }
            GuestWork::Suspend(work) => {
                self.summary.suspends.made += 1;
                self.pilots[pilot].written.push((self.now, work.took));
                self.check_budget(pilot, &lease, &work)?;
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

    /// A checkpoint is complete, or failed; the guest goes on.
    fn checkpoint_ends(
        &mut self,
        pilot: PilotNumber,
        lease: LeaseKey,
        work: &SuspendWork,
    ) -> Result<agent::Event, Box<Violation>> {
        if let Some(guest) = self.truth.guests.get_mut(&(pilot, lease.clone())) {
            guest.checkpoint = false;
        }
        if work.fails {
            self.executes(pilot, &lease);
            return Ok(agent::Event::CheckpointFailed {
                lease,
                reason: Reason::new(ReasonCode::DiskFull, "no space left on device"),
                guest_alive: true,
            });
        }
        self.summary.checkpoints += 1;
        let manifest = format!("m-{}", work.state);
        let saved = SavedState {
            run: work.run,
            manifest: manifest.clone(),
        };
        self.check_saved(pilot, &lease, &saved)?;
        let site = self.pilots[pilot].site;
        self.truth.states.insert((site, work.state.clone()), saved);
        self.executes(pilot, &lease);
        self.tell(|| format!("pilot {pilot} has written the checkpoint {}", work.state));
        Ok(agent::Event::Checkpointed {
            lease,
            state: work.state.clone(),
            manifest,
            bytes: work.bytes,
            written: work.bytes,
            took: work.took,
            paused: work.took,
        })
    }

    /// The state that a lease is to resume from must not have been given up before.
    fn check_state_known(
        &self,
        site: usize,
        state: &StateRef,
        lease: &LeaseKey,
    ) -> Result<(), Box<Violation>> {
        let about = [lease.workspace.to_string(), state.id.to_string()];
        if self.truth.discarded.contains(&state.id) {
            let what = format!(
                "{lease} is to resume from {}, which was discarded",
                state.id
            );
            return Err(self.violation(Promise::Complete, &what, &about));
        }
        let saved = self.truth.states.get(&(site, state.id.clone()));
        if saved.is_none_or(|s| s.run != state.run) {
            let what = format!("{lease} is to resume from {state:?}; there is {saved:?}");
            return Err(self.violation(Promise::Complete, &what, &about));
        }
        if self.sites[site].config.name != state.site {
            let what = format!(
                "{lease} is sent to site {site}, its state is at {}",
                state.site
            );
            return Err(self.violation(Promise::Complete, &what, &about));
        }
        let saved = self.truth.states.get(&(site, state.id.clone()));
        if saved.is_none_or(|s| s.manifest != state.manifest || s.run != state.run) {
            let what = format!("{lease} is to resume from {}, which is {saved:?}", state.id);
            return Err(self.violation(Promise::Complete, &what, &about));
        }
        Ok(())
    }

    /// True while a site's store takes nothing more.
    fn store_is_full(&mut self, site: usize) -> bool {
        let crowd = self.size.crowd;
        if self.sites[site].full_until <= self.now && self.fault_of_one(Fault::StoreFull, 5, crowd)
        {
            let how_long = self.chance.millis(10_000, 600_000);
            self.sites[site].full_until = self.now + how_long;
            self.tell(|| format!("the store of site {site} is full for {how_long}"));
        }
        self.sites[site].full_until > self.now
    }
}
