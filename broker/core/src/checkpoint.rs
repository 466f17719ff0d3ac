//! Checkpoints: states of guests that go on running.
//!
//! A pilot names the newest one of a lease in each report; it becomes the workspace's state at
//! once, while the lease goes on. So whatever ends the lease without a newer state, the workspace
//! goes on from there. Which states are discarded when:
//!
//! | state | discarded |
//! |---|---|
//! | the one that the lease started from | when the lease is over: on some nodes its files are the guest's |
//! | an earlier checkpoint of the lease | when a newer one is recorded: no guest runs from it |
//! | one that its pilot may have made and not told of | when the lease ended without its pilot's word |
//! | one that is told of when the lease is over | at once, unless it was told of before |
//! | the state of a suspend that its pilot may have made and not told of | when the workspace goes on without it, or is over |

use protocol::codes::Reason;
use protocol::ids::{Generation, StateId, SubmitKey, WorkspaceId};
use protocol::lease::StateRef;
use protocol::time::Span;

use crate::records::LeaseRecord;
use crate::state::Broker;

/// The most checkpoints of one lease that are taken to have been made without a word of them.
const MOST_UNTOLD: u32 = 64;

impl Broker {
    /// Takes the newest checkpoint of a live lease. One that is not of this lease, or no newer than
    /// what is known, says nothing.
    pub(crate) fn take_checkpoint(&mut self, lease: &LeaseRecord, state: StateRef) {
        let (id, generation) = (&lease.workspace, lease.generation);
        let number = state.id.checkpoint_of(id, generation).unwrap_or(0);
        let here = (self.tables.pilots.get(&lease.slot)).is_some_and(|p| p.site == state.site);
        if number <= lease.checkpoint || !here {
            return;
        }
        let site = state.site.clone();
        let mut old = None;
        self.tables.edit_workspace(id, |w| {
            w.run = state.run;
            w.resume_failures = 0;
            old = w.saved.replace(state);
        });
        self.tables.edit_lease(id, |l| l.checkpoint = number);
        if let Some(old) = old.filter(|old| lease.resumed_from.as_ref() != Some(&old.id)) {
            self.discard(old.id, old.site);
        }
        // Those whose reports were lost.
        let skipped = lease.checkpoint + 1..number;
        for number in skipped.rev().take(MOST_UNTOLD as usize) {
            if let Ok(skipped) = StateId::of_checkpoint(id, generation, number) {
                self.discard(skipped, site.clone());
            }
        }
    }

    /// A checkpoint of a lease that is over. It is not gone on from: what may have been made and
    /// not told of was given up with the lease.
    pub(crate) fn late_checkpoint(
        &mut self,
        key: &SubmitKey,
        id: &WorkspaceId,
        generation: Generation,
        state: StateRef,
    ) {
        let own = state.id.checkpoint_of(id, generation).is_some();
        let here = (self.tables.pilots.get(key)).is_some_and(|p| p.site == state.site);
        let saved = (self.tables.workspaces.get(id)).and_then(|w| w.saved.as_ref());
        let runs_from = (self.tables.leases.get(id)).and_then(|l| l.resumed_from.as_ref());
        let needed = saved.map(|s| &s.id) == Some(&state.id) || runs_from == Some(&state.id);
        if own && here && !needed {
            self.discard(state.id, state.site);
        }
    }

    /// A lease is over: no guest needs the state any more that it started from, unless the
    /// workspace goes on from it again.
    pub(crate) fn release_start(&mut self, lease: &LeaseRecord) {
        let saved = (self.tables.workspaces.get(&lease.workspace)).and_then(|w| w.saved.as_ref());
        let site = self.tables.pilots.get(&lease.slot).map(|p| p.site.clone());
        if let (Some(start), Some(site)) = (&lease.resumed_from, site)
            && saved.is_none_or(|s| s.id != *start)
        {
            self.discard(start.clone(), site);
        }
    }

    /// A lease is over and its pilot has not said how: what it may have made since it was heard is
    /// given up, so that it does not stay in the store for ever. The checkpoints at once; the state of
    /// its suspend, of which it may still tell, when the workspace goes on without it.
    pub(crate) fn give_up_untold(&mut self, lease: &LeaseRecord) {
        let id = &lease.workspace;
        let every = (self.tables.workspaces.get(id)).and_then(|w| w.spec.policy.checkpoint_every);
        let site = self.tables.pilots.get(&lease.slot).map(|p| p.site.clone());
        let Some(site) = site else { return };
        self.tables.edit_workspace(id, |w| {
            if let Some(past) = &mut w.last_lease {
                past.untold = Some(site.clone());
            }
        });
        let (Some(every), Some(_)) = (every, &lease.phase) else {
            return;
        };
        // Without an answer a guest does not live longer than a lease.
        let ttl = self.config().lease_ttl.as_millis();
        let most = ttl / every.as_millis().max(1) + 1;
        let most = u32::try_from(most).unwrap_or(u32::MAX).min(MOST_UNTOLD);
        for number in lease.checkpoint + 1..=lease.checkpoint + most {
            if let Ok(untold) = StateId::of_checkpoint(id, lease.generation, number) {
                self.discard(untold, site.clone());
            }
        }
    }

    /// The state that the last lease's pilot may have made without a word of it is not gone on from any
    /// more, should the word come yet.
    pub(crate) fn give_up_late_state(&mut self, id: &WorkspaceId) {
        let mut untold = None;
        self.tables.edit_workspace(id, |w| {
            let past = w.last_lease.as_mut();
            untold = past.and_then(|p| Some((p.generation, p.untold.take()?)));
        });
        let Some((generation, site)) = untold else {
            return;
        };
        if let Ok(state) = StateId::of_lease(id, generation) {
            self.discard(state, site);
        }
    }

    /// The reason of a lease's end that made no state, with what it has cost where the workspace
    /// goes on from a checkpoint of that lease. `run` is what the guest had by its pilot's word.
    pub(crate) fn cost_of_end(&self, lease: &LeaseRecord, run: Span, why: Reason) -> Reason {
        let w = self.tables.workspaces.get(&lease.workspace);
        match w.filter(|w| lease.checkpoint > 0 && w.saved.is_some()) {
            None => why,
            Some(w) => {
                let lost = run.max(lease.run).minus(w.run);
                let text = format!(
                    "{}; continues from its checkpoint at {} of {}; {lost} are lost",
                    why.text, w.run, w.spec.run_time
                );
                Reason::new(why.code, text)
            }
        }
    }
}
