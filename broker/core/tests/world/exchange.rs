//! The exchange of a pilot with the broker: what it sends, and what it does with the answer.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::{Event, Reply, SyncDecision};
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::ids::StateId;
use protocol::lease::{EndOutcome, Goal, LeasePhase, LeaseReport};
use protocol::messages::{SyncReply, SyncRequest};
use protocol::resources::Resources;
use protocol::slot::{EndSource, PilotPhase, SlotStatus, SlotUse};
use protocol::workspace::OnEviction;

use super::{Guest, World, suspended};

impl World {
    /// The files of a state may be those of a guest that was started from it.
    fn nobody_runs_from(&self, state: &StateId) {
        for p in self.pilots.iter().filter(|p| !p.gone) {
            let runs = (p.guests.iter()).find(|(_, g)| g.alive() && g.from.as_ref() == Some(state));
            assert!(
                runs.is_none(),
                "{state} is deleted and {runs:?} runs from it"
            );
        }
    }

    /// What the pilot would send now.
    pub fn request(&mut self, pilot: usize) -> SyncRequest {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        p.number += 1;
        let used = (p.guests.values())
            .filter(|g| !matches!(g.phase, LeasePhase::Ended { .. }))
            .fold(Resources::default(), |sum, g| sum.plus(&g.need));
        let phase = if p.leaving {
            PilotPhase::Leaving
        } else {
            PilotPhase::Open
        };
        let request = SyncRequest {
            version: 1,
            submit_key: p.key.clone(),
            incarnation: p.incarnation.clone(),
            boot: p.boot.clone(),
            number: p.number,
            no_hold: p.failed_sync,
            slot: SlotStatus {
                end: p.end,
                end_source: EndSource::SlotFile,
                phase,
                useful: p.end.since(now).minus(p.cost),
            },
            free: p.resources.minus(&used),
            leases: (p.guests.iter())
                .map(|(id, g)| LeaseReport {
                    workspace: id.clone(),
                    generation: g.generation,
                    phase: g.phase.clone(),
                    run: g.run,
                    console_bytes: 0,
                    checkpoint: g.checkpoint.clone(),
                })
                .collect(),
            suspend_rate: None,
            costs: None,
            events: Vec::new(),
            used: SlotUse::default(),
            discarded: std::mem::take(&mut p.discarded),
        };
        p.sent = Some(request.clone());
        p.sent_at = now;
        request
    }

    /// The broker gets a request.
    pub fn deliver(&mut self, request: SyncRequest) -> Reply {
        let received = self.now;
        self.step(Event::Sync {
            request: Box::new(request),
            received,
        })
    }

    /// The pilot gets the answer to what it sent last; to anything else it does not listen.
    pub fn answered(&mut self, pilot: usize, reply: &SyncReply) {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        if p.gone || p.sent.as_ref().is_none_or(|s| s.number != reply.number) {
            return;
        }
        let sent = p.sent.take().unwrap();
        p.failed_sync = false;
        let expiry = p.sent_at + reply.held + reply.lease_ttl;
        let reported: BTreeSet<_> = (sent.leases.iter())
            .map(|l| (l.workspace.clone(), l.generation))
            .collect();
        let wanted: BTreeMap<_, _> = (reply.leases.iter())
            .map(|l| (l.workspace.clone(), l))
            .collect();
        p.guests.retain(|id, g| {
            wanted.get(id).is_some_and(|l| l.generation == g.generation)
                || !reported.contains(&(id.clone(), g.generation))
        });
        for (id, lease) in wanted {
            if let Some(g) = p.guests.get_mut(&id) {
                if matches!(g.phase, LeasePhase::Ended { .. }) {
                    continue;
                }
                g.expiry = g.expiry.max(expiry);
                match &lease.goal {
                    Goal::Stage | Goal::Run => {}
                    Goal::Pause => g.phase = LeasePhase::Paused,
                    Goal::Suspend { reason } => {
                        let outcome =
                            suspended(&mut self.states, &id, g, &p.site, now, reason.clone());
                        g.phase = LeasePhase::Ended { outcome };
                    }
                    Goal::Stop { reason } => {
                        let outcome = EndOutcome::Killed {
                            reason: reason.clone(),
                        };
                        g.phase = LeasePhase::Ended { outcome };
                    }
                }
            } else if let Some(order) = &lease.order
                && expiry > now
            {
                if let Some(state) = &order.state {
                    assert!(
                        self.states.contains_key(&state.id),
                        "{id} is to resume from {}, which does not exist",
                        state.id
                    );
                    assert_eq!(state.site, p.site, "{id} is sent where its state is not");
                }
                p.guests.insert(
                    id.clone(),
                    Guest {
                        generation: lease.generation,
                        phase: LeasePhase::Staging,
                        expiry,
                        run: order.run,
                        need: order.spec.resources,
                        suspends: order.spec.policy.on_eviction == OnEviction::Suspend,
                        from: order.state.as_ref().map(|s| s.id.clone()),
                        checkpoint: None,
                        made: 0,
                    },
                );
            }
        }
        for state in &reply.discard {
            self.nobody_runs_from(state);
            self.states.remove(state);
            self.pilots[pilot].discarded.push(state.clone());
        }
        if reply.leave.is_some() {
            self.evict(pilot, ReasonCode::Draining);
        }
        if self.pilots[pilot].leaving && sent.slot.phase == PilotPhase::Leaving {
            self.quit(pilot);
        }
    }

    /// A whole sync without any trouble. None: it is being held.
    pub fn sync(&mut self, pilot: usize) -> Option<SyncReply> {
        let request = self.request(pilot);
        match self.deliver(request) {
            Reply::Sync(SyncDecision::Answer(reply)) => {
                self.answered(pilot, &reply);
                Some(*reply)
            }
            Reply::Sync(SyncDecision::Hold { .. }) => None,
            Reply::Refused(e) => {
                let over = matches!(e.code, ErrorCode::Fenced | ErrorCode::NotFound);
                assert!(over, "sync was refused: {e:?}");
                self.quit(pilot);
                None
            }
            other => panic!("sync got {other:?}"),
        }
    }

    /// Polls a held sync.
    pub fn poll(&mut self, pilot: usize) -> Option<SyncReply> {
        let p = &self.pilots[pilot];
        let sent = p.sent.as_ref()?;
        let event = Event::SyncPoll {
            submit_key: p.key.clone(),
            incarnation: p.incarnation.clone(),
            boot: p.boot.clone(),
            number: sent.number,
            received: p.sent_at,
        };
        match self.step(event) {
            Reply::Sync(SyncDecision::Answer(reply)) => {
                self.answered(pilot, &reply);
                Some(*reply)
            }
            _ => None,
        }
    }
}
