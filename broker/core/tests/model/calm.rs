//! The calm after it: everybody behaves, and all work must come to its end.

use broker_core::Event;
use protocol::codes::ReasonCode;
use protocol::lrm::{JobEnd, JobState};
use protocol::time::Span;

use super::{Run, site_name};
use crate::world::{admin, site};

impl Run {
    /// Everybody behaves from now on: all work must come to its end.
    pub(super) fn calm(&mut self) {
        for first in [true, false] {
            let (site, by) = (site(site_name(first)), admin());
            self.world.step(Event::Undrain { site, by });
        }
        for p in &mut self.world.pilots {
            p.sent = None;
            p.failed_sync = true;
        }
        let limit = self.world.now + Span::from_mins(60 * 24);
        while self.world.now < limit {
            let open: Vec<_> = (self.world.accepted.iter())
                .filter(|id| !self.world.state(id).is_final())
                .cloned()
                .collect();
            if open.is_empty() {
                return;
            }
            for id in open {
                let by = admin();
                self.world.step(Event::Resume { id, by });
            }
            self.calm_round();
        }
        let left: Vec<_> = (self.world.accepted.iter())
            .filter(|id| !self.world.state(id).is_final())
            .map(|id| {
                let why = self.world.broker.explain(self.world.now, &admin(), id);
                (id, self.world.state(id), why)
            })
            .collect();
        panic!("work does not end: {left:#?}");
    }

    fn calm_round(&mut self) {
        self.world.honest_submits();
        self.world.honest_rest();
        for job in 0..self.world.jobs.len() {
            let j = &self.world.jobs[job];
            match j.state {
                JobState::Queued => {
                    self.world.start_job(job);
                }
                JobState::Running if j.end.is_some_and(|end| end <= self.world.now) => {
                    self.world.end_job(job, JobEnd::Walltime);
                }
                _ => {}
            }
        }
        for first in [true, false] {
            self.world.observe(site_name(first));
        }
        for p in 0..self.world.pilots.len() {
            let (now, pilot) = (self.world.now, &self.world.pilots[p]);
            if pilot.gone {
                continue;
            }
            let ending = pilot.end.since(now) < Span::from_mins(4);
            if !pilot.registered {
                self.world.register(p);
            }
            if self.world.pilots[p].gone {
                continue;
            }
            self.world.progress(p, &self.needed);
            if ending && !self.world.pilots[p].leaving {
                self.world.evict(p, ReasonCode::SlotEnding);
            }
            self.world.pilots[p].sent = None;
            self.world.pilots[p].failed_sync = true;
            self.world.sync(p);
        }
        self.world.pass_ticking(Span::from_secs(90));
    }
}
