//! The invariants of the records, checked by tests after each step.

use protocol::api::PilotState;
use protocol::workspace::WorkspaceState;

use crate::Records;
use crate::records::CancelProgress;
use crate::state::Broker;

impl Broker {
    /// All records, in order: what a store holds when it has written all changes.
    pub fn records(&self) -> Records {
        let t = &self.tables;
        Records {
            workspaces: t.workspaces.values().cloned().collect(),
            leases: t.leases.values().cloned().collect(),
            pilots: t.pilots.values().cloned().collect(),
            sites: t.sites.values().cloned().collect(),
            costs: t.costs.values().cloned().collect(),
            idempotency: t.idempotency.values().cloned().collect(),
            discards: t.discards.values().cloned().collect(),
            meta: t.meta.clone(),
        }
    }

    /// Says which invariant is broken, if any. Costs as much as there are records.
    ///
    /// # Errors
    /// The first that is broken, with the names of what breaks it.
    pub fn check(&self) -> Result<(), String> {
        let t = &self.tables;
        for w in t.workspaces.values() {
            let leased = t.leases.contains_key(&w.id);
            let free = w.state.is_final()
                || matches!(w.state, WorkspaceState::Queued | WorkspaceState::Suspended);
            if leased == free {
                return Err(format!("{} is {} with lease: {leased}", w.id, w.state));
            }
            if w.state.is_final() && w.reason.is_none() {
                return Err(format!("{} is {} without a reason", w.id, w.state));
            }
            if w.state.is_final() && w.saved.is_some() {
                return Err(format!("{} is {} and keeps a state", w.id, w.state));
            }
            if let Some(s) = &w.saved
                && t.discards.contains_key(&s.id)
            {
                return Err(format!("{} needs {}, which is discarded", w.id, s.id));
            }
        }
        for l in t.leases.values() {
            let w = t.workspaces.get(&l.workspace);
            if w.is_none_or(|w| w.generation != l.generation) {
                return Err(format!(
                    "lease {} of {} is stale",
                    l.generation, l.workspace
                ));
            }
            if !t.pilots.contains_key(&l.slot) {
                return Err(format!(
                    "lease of {} in unknown slot {}",
                    l.workspace, l.slot
                ));
            }
            if (l.resumed_from.as_ref()).is_some_and(|s| t.discards.contains_key(s)) {
                return Err(format!("{} runs from a discarded state", l.workspace));
            }
        }
        for p in t.pilots.values() {
            let registered = p.state == PilotState::Active || p.state == PilotState::Lost;
            if registered && p.slot.is_none() {
                return Err(format!("{} is {:?} without a pilot", p.key, p.state));
            }
            if p.is_shared() && (p.slot.is_some() || p.member_of.is_some()) {
                return Err(format!("{} is a job on several nodes with a slot", p.key));
            }
            let Some(job) = &p.member_of else { continue };
            let job = t.pilots.get(job).filter(|j| j.is_shared());
            let waits = matches!(
                p.state,
                PilotState::Submitting | PilotState::Queued | PilotState::Started
            );
            if waits || p.cancel != CancelProgress::No {
                return Err(format!("member {} is {:?} by itself", p.key, p.state));
            }
            let over = job.is_none_or(|j| j.state == PilotState::Ended);
            if over && p.state != PilotState::Ended {
                return Err(format!("{} is {:?} after its job's end", p.key, p.state));
            }
        }
        let again = Self::load(t.config.clone(), self.records());
        if again.tables.queue != t.queue || again.tables.owners != t.owners {
            return Err("the indexes are not those of the records".to_owned());
        }
        if again.tables.crowd != t.crowd {
            return Err("what the pilot jobs count for is not what the records say".to_owned());
        }
        if again.tables.discards != t.discards {
            return Err("who was asked to delete what is not what the records say".to_owned());
        }
        if again.tables.lease_due != t.lease_due || again.tables.pilot_due != t.pilot_due {
            return Err("the deadlines are not those of the records".to_owned());
        }
        Ok(())
    }
}
