//! The promises, checked against what is really there.

use broker_core::Changes;
use lrm_adapters::sim::model::JobPhase;
use pilot_core::guest::LeaseKey;
use protocol::ids::StateId;
use protocol::time::{Span, Timestamp};
use protocol::workspace::WorkspaceState;

use super::options::{Promise, Violation};
use super::truth::{PilotNumber, SavedState};
use super::world::World;

type Checked = Result<(), Box<Violation>>;

impl World {
    /// Promise 2: a guest never runs twice at once.
    pub(super) fn check_alone(&self, pilot: PilotNumber, lease: &LeaseKey, count: u32) -> Checked {
        if count == 1 {
            return Ok(());
        }
        let others: Vec<String> = self
            .truth
            .guests
            .keys()
            .filter(|(_, l)| l.workspace == lease.workspace)
            .map(|(p, l)| format!("{l} in pilot {p}"))
            .collect();
        let what = format!(
            "{count} guests of one workspace: pilot {pilot} starts {lease}; there are {}",
            others.join(" and ")
        );
        let mut about = vec![lease.workspace.to_string()];
        about.extend(
            self.truth
                .guests
                .keys()
                .filter(|(_, l)| l.workspace == lease.workspace)
                .flat_map(|(p, _)| self.names_of(*p)),
        );
        Err(self.violation(Promise::Alone, &what, &about))
    }

    /// Promises 3 and 8: nothing leaves a final state, every final state has a reason, the
    /// site's caps hold; and generations only rise.
    pub(super) fn check_changes(&self, changes: &Changes) -> Checked {
        for (id, new) in &changes.workspaces {
            let about = [id.to_string()];
            if new.state.is_final() && new.reason.as_ref().is_none_or(|r| r.text.is_empty()) {
                let what = format!("{id} is {} without a reason", new.state);
                return Err(self.violation(Promise::Kept, &what, &about));
            }
            let Some(old) = self.broker.workspace(id) else {
                continue;
            };
            if old.state.is_final() && old.state != new.state {
                let what = format!("{id} left {} for {}", old.state, new.state);
                return Err(self.violation(Promise::Kept, &what, &about));
            }
            if let (Some(was), Some(is)) = (&old.saved, &new.saved)
                && is.run < was.run
            {
                let what = format!("{id} gave up {was:?} for {is:?}, which has less");
                return Err(self.violation(Promise::Complete, &what, &about));
            }
            if new.saved.as_ref().is_some_and(|s| s.run != new.run) {
                let what = format!("{id} has {} behind it and {:?}", new.run, new.saved);
                return Err(self.violation(Promise::Complete, &what, &about));
            }
            if new.generation < old.generation {
                return Err(self.violation(
                    Promise::Alone,
                    &format!("{id} went back to generation {}", new.generation),
                    &about,
                ));
            }
        }
        Ok(())
    }

    /// Promise 8: never more pilot jobs at a site than its caps allow.
    pub(super) fn check_site(&self, site: usize) -> Checked {
        let Some(site) = self.sites.get(site) else {
            return Ok(());
        };
        // A held job waits for nobody: it is to be withdrawn, and takes nothing meanwhile.
        let live = || {
            let ours = site.model.jobs().filter(|j| j.request.key.is_some());
            ours.filter(|j| !matches!(j.phase, JobPhase::Over { .. } | JobPhase::Held { .. }))
        };
        // A listing that lies, or a job that is queued again after its pilot has left, is not known
        // at the moment of a submit.
        let slack = if self.options.faults == 0 {
            0
        } else {
            site.config.max_queued
        };
        let cap = site.config.max_running + slack;
        let count = live().count();
        if count > usize::try_from(cap).unwrap_or(usize::MAX) {
            let jobs = live().map(|j| format!("{} {:?} {:?}", j.number, j.request.key, j.phase));
            let what = format!(
                "{count} pilot jobs at {}, the cap is {cap}:\n  {}",
                site.config.name,
                jobs.collect::<Vec<_>>().join("\n  ")
            );
            return Err(self.violation(Promise::Polite, &what, &[]));
        }
        Ok(())
    }

    /// Promises 1 and 7: a pilot that was told as early as the site promises is gone before the
    /// LRM's SIGKILL. (A node that loses its power, or its daemon, tells nobody.)
    pub(super) fn check_killed_in_time(&mut self, site: usize, pilot: PilotNumber) -> Checked {
        let Some(told) = self.pilots[pilot].told else {
            return Ok(());
        };
        let had = self.now.since(told);
        let promised = self.sites[site].config.notice;
        if !self.pilots[pilot].alive() || had < promised {
            return Ok(());
        }
        // Nobody acts in a process that is stopped; what the LRM kills is gone all the same.
        if self.pilots[pilot].stopped_until >= told {
            self.summary.overruns += 1;
            return Ok(());
        }
        let what =
            format!("pilot {pilot} was still there at the LRM's SIGKILL, {had} after it was told");
        Err(self.violation(Promise::InTime, &what, &self.names_of(pilot)))
    }

    /// The names under which the story speaks of a pilot.
    pub(super) fn names_of(&self, pilot: PilotNumber) -> Vec<String> {
        vec![format!("pilot {pilot}"), self.pilots[pilot].key.to_string()]
    }

    /// Promise 1: a pilot leaves no guest behind.
    pub(super) fn check_left(&self, pilot: PilotNumber) -> Checked {
        let left = self.truth.guests_of(pilot);
        if let Some(lease) = left.first() {
            let mut about = self.names_of(pilot);
            about.push(lease.workspace.to_string());
            let what = format!("pilot {pilot} leaves {lease} behind");
            return Err(self.violation(Promise::Clean, &what, &about));
        }
        Ok(())
    }

    /// A lease is over only when its guest is gone.
    pub(super) fn check_released(&self, pilot: PilotNumber, lease: &LeaseKey) -> Checked {
        if self.truth.guests.contains_key(&(pilot, lease.clone())) {
            let what = format!("pilot {pilot} calls {lease} over while its guest is there");
            return Err(self.violation(Promise::Alone, &what, &[lease.workspace.to_string()]));
        }
        Ok(())
    }

    /// A state that is deleted is none that a guest runs from: its disks' layers may be there.
    pub(super) fn check_discard(&self, site: usize, state: &StateId) -> Checked {
        if let Some((pilot, lease)) = self.truth.user_of(&(site, state.clone())) {
            let what = format!("{state} is deleted while {lease} runs from it");
            let mut about = self.names_of(pilot);
            about.push(lease.workspace.to_string());
            return Err(self.violation(Promise::Complete, &what, &about));
        }
        Ok(())
    }

    /// Promise 4: a state says no more run time than its guest had.
    pub(super) fn check_saved(
        &self,
        pilot: PilotNumber,
        lease: &LeaseKey,
        saved: &SavedState,
    ) -> Checked {
        let Some(guest) = self.truth.guests.get(&(pilot, lease.clone())) else {
            return Ok(());
        };
        let really = guest.ran_at(self.now);
        // A pilot that hung may have heard of a start later than it was.
        let hung = self.pilots[pilot].stopped_until > Timestamp::default();
        let less = if hung {
            Span::ZERO
        } else {
            really.minus(saved.run)
        };
        let off = less + saved.run.minus(really);
        if off > Span::from_secs(2) {
            let what = format!(
                "the state of {lease} says {} of run time, the guest had {really}",
                saved.run
            );
            return Err(self.violation(Promise::Complete, &what, &[lease.workspace.to_string()]));
        }
        Ok(())
    }

    /// At the end: every accepted request is there and final, and no guest is anywhere.
    pub(super) fn check_end(&mut self) -> Checked {
        for id in &self.users.accepted {
            let Some(state) = self.broker.state_of(id) else {
                let what = format!("{id} was accepted and is lost");
                return Err(self.violation(Promise::Kept, &what, &[id.to_string()]));
            };
            match state {
                WorkspaceState::Done => self.summary.done += 1,
                WorkspaceState::Cancelled => self.summary.cancelled += 1,
                WorkspaceState::Failed => self.summary.failed += 1,
                _ => {
                    let what = format!("{id} ends as {state}");
                    return Err(self.violation(Promise::Kept, &what, &[id.to_string()]));
                }
            }
        }
        Ok(())
    }
}
