//! How pilots fail: they are killed, they hang, their node's clock jumps.

use pilot_core::agent::{self, ExitHow};
use pilot_core::guest::Stage;
use protocol::codes::{Reason, ReasonCode};
use protocol::time::Span;

use super::fault::Fault;
use super::options::Violation;
use super::truth::PilotNumber;
use super::world::{Coming, World};

impl World {
    /// Draws what is to go wrong with a pilot that has just landed.
    pub(super) fn plan_pilot_faults(&mut self, pilot: PilotNumber) {
        // They are counted when they happen, if the pilot lives so long.
        let draw = |world: &mut Self, per_mille| {
            world.options.faults > 0 && world.chance.happens(per_mille, world.options.faults)
        };
        if draw(self, 60) {
            let when = self.chance.millis(1000, 3_600_000);
            self.plan(when, Coming::PilotDies(pilot));
        }
        if draw(self, 60) {
            let when = self.chance.millis(1000, 3_600_000);
            let how_long = self.chance.millis(2_000, 480_000);
            self.plan(when, Coming::PilotStops(pilot, how_long));
        }
        if draw(self, 40) {
            let when = self.chance.millis(1000, 3_600_000);
            self.plan(when, Coming::ClockJumps(pilot));
        }
    }

    pub(super) fn pilot_killed_by_fault(
        &mut self,
        pilot: PilotNumber,
    ) -> Result<(), Box<Violation>> {
        if self.pilots[pilot].alive() {
            self.summary.faults.count(Fault::PilotKilled);
        }
        self.pilot_dies(pilot, "somebody")
    }

    /// The pilot process does not run for a while; its guests do. What comes for it waits.
    pub(super) fn pilot_stops(&mut self, pilot: PilotNumber, how_long: Span) {
        let Some(agent) = &self.pilots[pilot].agent else {
            return;
        };
        let fence = agent.fence_at();
        self.summary.faults.count(Fault::PilotStopped);
        self.pilots[pilot].stopped_until = self.now + how_long;
        self.pilots[pilot].excuse = Some("its pilot hung");
        self.tell(|| format!("pilot {pilot} hangs for {how_long}"));
        // Its warden knows when the leases of its guests run out.
        if let Some(fence) = fence {
            let at = self.pilots[pilot].epoch + Span::from_millis(fence.as_millis());
            self.plan(at.since(self.now), Coming::Warden(pilot));
        }
        let wakes = agent::Event::Tick;
        self.plan(how_long, Coming::Pilot(pilot, Box::new(wakes)));
    }

    /// The lease of a guest has run out while the pilot hangs: its warden ends all guests.
    pub(super) fn warden_acts(&mut self, pilot: PilotNumber) {
        if !self.pilots[pilot].alive() || self.pilots[pilot].stopped_until <= self.now {
            return;
        }
        for lease in self.truth.guests_of(pilot) {
            self.tell(|| format!("the warden of pilot {pilot} kills {lease}"));
            self.truth.guest_goes(pilot, &lease);
            self.summary.kills.excused += 1;
            let writing = (self.pilots[pilot].agent.iter())
                .flat_map(|a| a.leases())
                .any(|l| l.key == lease && matches!(l.stage, Stage::Suspending { .. }));
            let event = if writing {
                let reason = Reason::new(ReasonCode::SuspendFailed, "the hypervisor is gone");
                agent::Event::SuspendFailed {
                    lease,
                    reason,
                    guest_alive: false,
                }
            } else {
                let how = ExitHow::Crashed {
                    text: "signal 9".into(),
                };
                agent::Event::GuestExited { lease, how }
            };
            self.plan(Span::from_millis(1), Coming::Pilot(pilot, Box::new(event)));
        }
    }

    /// The node's wall clock jumps, by seconds or by minutes, to either side.
    pub(super) fn clock_jumps(&mut self, pilot: PilotNumber) {
        if !self.pilots[pilot].alive() {
            return;
        }
        self.summary.faults.count(Fault::NodeClockJump);
        let by = self.chance.between(1_000, 900_000);
        let by = i64::try_from(by).unwrap_or(0);
        let by = if self.chance.happens(500, 100) {
            -by
        } else {
            by
        };
        self.pilots[pilot].ahead_ms += by;
        self.pilots[pilot].excuse = Some("its node's clock jumped");
        self.tell(|| format!("the clock of pilot {pilot}'s node jumps by {by} ms"));
    }
}
