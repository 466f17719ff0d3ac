//! The lease keeper: grant, take reports, end by the pilot's word or by expiry with margin.
//!
//! A workspace has one live lease at most. Its generation is over when the pilot process that
//! has it says so, or `lease_margin` after its expiry; nothing else ends it, no word of the LRM
//! either.

use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{Generation, NodeName, SiteName, SubmitKey, WorkspaceId};
use protocol::lease::{EndOutcome, LeasePhase, LeaseReport, StateRef};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{AdvanceTo, WorkspaceState};

use crate::moves::Loss;
use crate::records::{Hold, LeaseRecord, Log, NodeTrouble, PastLease, RECORD_VERSION};
use crate::state::Broker;
use crate::tables::Note;
use crate::words::hour;

/// Leases that start from one state and fail before that state is given up: it may be the guest in
/// it that always fails.
const MAX_RESUME_FAILURES: u32 = 3;

/// What users see of a phase; `None` for the end, which is decided and not shown.
const fn shown(phase: &LeasePhase) -> Option<WorkspaceState> {
    Some(match phase {
        LeasePhase::Staging => WorkspaceState::Staging,
        LeasePhase::Staged => WorkspaceState::Staged,
        LeasePhase::Booting => WorkspaceState::Booting,
        LeasePhase::Resuming => WorkspaceState::Resuming,
        LeasePhase::Running => WorkspaceState::Running,
        LeasePhase::Paused => WorkspaceState::Paused,
        LeasePhase::Suspending => WorkspaceState::Suspending,
        LeasePhase::Stopping => WorkspaceState::Stopping,
        LeasePhase::Ended { .. } => return None,
    })
}

/// The state that lease `generation` of `id` would make: no other name is taken from a pilot.
fn is_own_state(
    state: &StateRef,
    id: &WorkspaceId,
    generation: Generation,
    site: &protocol::ids::SiteName,
) -> bool {
    state.id.as_str() == format!("{id}.g{generation}") && state.site == *site
}

impl Broker {
    /// Gives a queued workspace to the pilot that is registered for `key`.
    pub(crate) fn grant(&mut self, now: Timestamp, key: &SubmitKey, id: &WorkspaceId) {
        let ttl = self.config().lease_ttl;
        let expiry = now + ttl;
        let Some(slot) = self.tables.pilots.get(key).and_then(|p| p.slot.as_ref()) else {
            return;
        };
        let (boot, facts) = (slot.boot.clone(), slot.facts.clone());
        let mut lease = None;
        self.give_up_late_state(id);
        self.tables.edit_workspace(id, |w| {
            w.generation = w.generation.next();
            if w.saved.is_none() && w.spec.advance_to == AdvanceTo::Finished {
                w.image_starts += 1;
            }
            lease = Some(LeaseRecord {
                version: RECORD_VERSION,
                workspace: id.clone(),
                generation: w.generation,
                slot: key.clone(),
                incarnation: facts.incarnation.clone(),
                boot,
                node: facts.node.clone(),
                granted: now,
                expiry,
                life: Some(ttl),
                phase: None,
                run: w.run,
                run_before: w.run,
                resources: w.spec.resources,
                resumed_from: w.saved.as_ref().map(|s| s.id.clone()),
                checkpoint: 0,
                hold: Hold::Held,
                console_bytes: 0,
            });
        });
        if let Some(lease) = lease {
            self.tables.insert_lease(lease);
            let text = format!("given to slot {key} on node {}", facts.node);
            let reason = Reason::new(ReasonCode::Other, text);
            self.move_to(now, id, WorkspaceState::Claimed, "claimed", reason);
        }
    }

    /// Takes a pilot's word on a lease. The caller has checked that the pilot is the registered
    /// one. True when the report is of a lease that the pilot must be told is over.
    pub(crate) fn report(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        mut report: LeaseReport,
    ) -> bool {
        let checkpoint = report.checkpoint.take();
        let id = report.workspace;
        let boot = (self.tables.pilots.get(key))
            .and_then(|p| p.slot.as_ref())
            .map(|s| s.boot.clone());
        let live = self.tables.leases.get(&id).filter(|l| {
            l.generation == report.generation && l.slot == *key && Some(&l.boot) == boot.as_ref()
        });
        let Some(lease) = live.cloned() else {
            if let Some(state) = checkpoint {
                self.late_checkpoint(key, &id, report.generation, state);
            }
            if let LeasePhase::Ended { outcome } = report.phase {
                self.late_outcome(now, key, &id, report.generation, outcome, report.run);
            }
            return true;
        };
        if let Some(state) = checkpoint {
            self.take_checkpoint(&lease, state);
        }
        match (shown(&report.phase), &lease.hold) {
            (Some(_), Hold::Orphaned { .. }) => true,
            (Some(state), Hold::Held) => {
                let changed = lease.phase.as_ref() != Some(&report.phase);
                self.tables.edit_lease(&id, |l| {
                    l.phase = Some(report.phase);
                    l.run = report.run;
                    l.console_bytes = report.console_bytes;
                });
                if changed {
                    let text = format!("{state} in slot {key} on node {}", lease.node);
                    let reason = Reason::new(ReasonCode::Other, text);
                    self.move_to(now, &id, state, state.as_str(), reason);
                    if state == WorkspaceState::Running {
                        self.node_is_well(key);
                        self.slot_bears_fruit(key, &lease.resources);
                    }
                }
                false
            }
            (None, _) => {
                if let LeasePhase::Ended { outcome } = report.phase {
                    self.end_lease(now, &id, outcome, report.run);
                }
                true
            }
        }
    }

    /// A lease's guest is gone by its pilot's word.
    pub(crate) fn end_lease(
        &mut self,
        now: Timestamp,
        id: &WorkspaceId,
        outcome: EndOutcome,
        run: Span,
    ) {
        let Some(lease) = self.close_lease(id) else {
            return;
        };
        let site = self.tables.pilots.get(&lease.slot).map(|p| p.site.clone());
        self.learn_from_stay(&lease, &outcome, run);
        self.learn_size(now, &lease, &outcome);
        self.learn_fruit(&lease, &outcome, run);
        match outcome {
            EndOutcome::Finished { reason } => self.finished(now, id, run, reason),
            EndOutcome::Staged => self.staged(now, id),
            EndOutcome::Suspended { state, reason } => {
                let own = site.is_some_and(|s| is_own_state(&state, id, lease.generation, &s));
                if own {
                    self.suspended(now, id, state, reason);
                } else {
                    let text = format!(
                        "the pilot named a state `{}` that is not its lease's",
                        state.id
                    );
                    let why = Reason::new(ReasonCode::StateCorrupt, text);
                    self.settle(now, id, Loss::Evicted, why);
                }
            }
            EndOutcome::Killed { reason } => {
                let reason = self.cost_of_end(&lease, run, reason);
                self.settle(now, id, Loss::Evicted, reason);
            }
            EndOutcome::Declined { reason } => {
                self.declined(now, &lease);
                self.note_decline(now, &lease, &reason);
                self.tables.edit_workspace(id, |w| {
                    if lease.resumed_from.is_none() {
                        w.image_starts = w.image_starts.saturating_sub(1);
                    }
                });
                self.settle(now, id, Loss::Nothing, reason);
            }
            EndOutcome::Failed { reason, permanent } => {
                self.failed(now, id, &lease, run, reason, permanent);
            }
        }
    }

    fn finished(&mut self, now: Timestamp, id: &WorkspaceId, run: Span, reason: Reason) {
        self.tables.edit_workspace(id, |w| w.run = w.run.max(run));
        match (self.tables.workspaces.get(id)).map(|w| w.wish.clone()) {
            Some(crate::records::Wish::Cancel { reason }) => {
                self.finish(now, id, WorkspaceState::Cancelled, reason);
            }
            _ => self.finish(now, id, WorkspaceState::Done, reason),
        }
    }

    fn staged(&mut self, now: Timestamp, id: &WorkspaceId) {
        let asked = (self.tables.workspaces.get(id)).map(|w| w.spec.advance_to);
        let reason = Reason::new(
            ReasonCode::StagedAsAsked,
            "its image is in the site's store, as was asked",
        );
        match asked {
            Some(AdvanceTo::Staged) => self.finished(now, id, Span::ZERO, reason),
            Some(AdvanceTo::Finished) | None => self.settle(now, id, Loss::Nothing, reason),
        }
    }

    fn suspended(&mut self, now: Timestamp, id: &WorkspaceId, state: StateRef, reason: Reason) {
        self.save(id, Some(state));
        self.tables.edit_workspace(id, |w| w.suspends += 1);
        self.settle(now, id, Loss::Nothing, reason);
    }

    fn failed(
        &mut self,
        now: Timestamp,
        id: &WorkspaceId,
        lease: &LeaseRecord,
        run: Span,
        reason: Reason,
        permanent: bool,
    ) {
        let corrupt = reason.code == ReasonCode::StateCorrupt;
        if permanent && !corrupt {
            let cancelled = (self.tables.workspaces.get(id))
                .is_some_and(|w| matches!(w.wish, crate::records::Wish::Cancel { .. }));
            if cancelled {
                return self.settle(now, id, Loss::Failed, reason);
            }
            return self.finish(now, id, WorkspaceState::Failed, reason);
        }
        self.declined(now, lease);
        if !corrupt && reason.code != ReasonCode::StateIncompatible {
            self.guest_failed_on(now, lease);
        }
        let at_fault = (self.tables.workspaces.get(id))
            .and_then(|w| w.saved.as_ref())
            .is_some_and(|s| lease.resumed_from.as_ref() == Some(&s.id));
        if at_fault {
            let mut give_up = corrupt;
            self.tables.edit_workspace(id, |w| {
                w.resume_failures += 1;
                give_up |= w.resume_failures >= MAX_RESUME_FAILURES;
            });
            if give_up {
                let text = format!("its state is given up, it falls back to its image: {reason}");
                let note = Note::new(now, "state_dropped", text).of_lease(lease);
                self.tables.append(Log::Workspace(id.clone()), note);
                self.drop_saved(id);
            }
        }
        let reason = self.cost_of_end(lease, run, reason);
        self.settle(now, id, Loss::Failed, reason);
    }

    /// The pilot has not spoken of a lease until its expiry with margin: no guest can live.
    pub(crate) fn expire_lease(&mut self, now: Timestamp, id: &WorkspaceId) {
        let Some(lease) = self.close_lease(id) else {
            return;
        };
        let pilot = self.tables.pilots.get(&lease.slot);
        let (code, why) = match &lease.hold {
            Hold::Orphaned { why } => (ReasonCode::Requeued, why.clone()),
            Hold::Held => {
                let heard = pilot.and_then(|p| p.slot.as_ref()).map(|s| s.heard);
                let since = heard.map_or(String::new(), |h| format!(" since {}", hour(h, now)));
                (
                    ReasonCode::PilotLost,
                    format!("its pilot was not heard{since}"),
                )
            }
        };
        let text = format!(
            "lease {} in slot {} on node {} is over: {why}",
            lease.generation, lease.slot, lease.node
        );
        self.give_up_untold(&lease);
        let why = self.cost_of_end(&lease, lease.run, Reason::new(code, text));
        self.settle(now, id, Loss::Evicted, why);
    }

    /// A report of a lease that is over here. What the guest achieved is taken if nothing has
    /// run since; else its state is of no use to anybody.
    fn late_outcome(
        &mut self,
        now: Timestamp,
        key: &SubmitKey,
        id: &WorkspaceId,
        generation: Generation,
        outcome: EndOutcome,
        run: Span,
    ) {
        let Some(site) = self.tables.pilots.get(key).map(|p| p.site.clone()) else {
            return;
        };
        let Some(w) = self.tables.workspaces.get(id) else {
            // It was over for so long that it is forgotten.
            if let EndOutcome::Suspended { state, .. } = outcome
                && is_own_state(&state, id, generation, &site)
            {
                self.discard(state.id, site);
            }
            return;
        };
        let fresh = matches!(w.state, WorkspaceState::Queued | WorkspaceState::Suspended)
            && (w.last_lease.as_ref())
                .is_some_and(|l| l.generation == generation && l.slot == *key)
            && w.generation == generation;
        match outcome {
            EndOutcome::Finished { reason } if fresh => self.finished(now, id, run, reason),
            EndOutcome::Suspended { state, reason } => {
                // A report that comes again, when the next guest may run from that state already.
                let runs_from = (self.tables.leases.get(id)).and_then(|l| l.resumed_from.as_ref());
                if !is_own_state(&state, id, generation, &site)
                    || w.saved.as_ref().is_some_and(|s| s.id == state.id)
                    || runs_from == Some(&state.id)
                {
                    return;
                }
                let better = w.saved.as_ref().is_none_or(|s| s.run <= state.run);
                if fresh && better {
                    let text = format!("its lost pilot had suspended it after all: {reason}");
                    let note = Note::new(now, "state_found", text);
                    self.tables.append(Log::Workspace(id.clone()), note);
                    self.tables.edit_workspace(id, |w| {
                        if let Some(past) = &mut w.last_lease {
                            past.untold = None;
                        }
                    });
                    self.suspended(now, id, state, reason);
                } else if !self.tables.discards.contains_key(&state.id) {
                    let text =
                        format!("a state of lease {generation} came too late and is discarded");
                    let note = Note::new(now, "state_refused", text);
                    self.tables.append(Log::Workspace(id.clone()), note);
                    self.discard(state.id, site);
                }
            }
            EndOutcome::Finished { .. }
            | EndOutcome::Staged
            | EndOutcome::Killed { .. }
            | EndOutcome::Failed { .. }
            | EndOutcome::Declined { .. } => {}
        }
    }

    /// Takes the lease away and remembers it as the last one.
    fn close_lease(&mut self, id: &WorkspaceId) -> Option<LeaseRecord> {
        let lease = self.tables.remove_lease(id)?;
        self.tables.edit_workspace(id, |w| {
            w.last_lease = Some(PastLease {
                generation: lease.generation,
                slot: lease.slot.clone(),
                node: lease.node.clone(),
                untold: None,
            });
        });
        self.release_start(&lease);
        Some(lease)
    }

    fn guest_failed_on(&mut self, now: Timestamp, lease: &LeaseRecord) {
        let Some(site) = self.tables.pilots.get(&lease.slot).map(|p| p.site.clone()) else {
            return;
        };
        let limit = self.config().provision.avoid_node_after;
        self.node_failed(now, &site, &lease.node, limit);
    }

    /// Remembers a failure on a node; at the `limit`th in a row the node is avoided for a while.
    pub(crate) fn node_failed(
        &mut self,
        now: Timestamp,
        site: &SiteName,
        node: &NodeName,
        limit: u32,
    ) {
        let pause = self.config().provision.avoid_node_for;
        self.tables.edit_site(site, |s| {
            let trouble = s.nodes.entry(node.clone()).or_insert(NodeTrouble {
                failures: 0,
                avoid_until: None,
            });
            trouble.failures += 1;
            if trouble.failures >= limit {
                trouble.avoid_until = Some(now + pause);
            }
        });
    }

    fn node_is_well(&mut self, key: &SubmitKey) {
        let Some(p) = self.tables.pilots.get(key) else {
            return;
        };
        if let Some(slot) = &p.slot {
            let (site, node) = (p.site.clone(), slot.facts.node.clone());
            if (self.tables.sites.get(&site)).is_some_and(|s| s.nodes.contains_key(&node)) {
                self.tables.edit_site(&site, |s| {
                    s.nodes.remove(&node);
                });
            }
        }
    }
}
