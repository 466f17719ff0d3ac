//! Pilots and their guests: how they come up, go on and leave.

use std::collections::BTreeMap;

use broker_core::{Event, Reply};
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{
    Generation, Incarnation, NodeName, PilotBoot, SiteName, StateId, SubmitKey, WorkspaceId,
};
use protocol::lease::{EndOutcome, LeasePhase, StateRef};
use protocol::messages::{RegisterRequest, SyncRequest};
use protocol::resources::Resources;
use protocol::slot::{HostFacts, SlotFacts};
use protocol::time::{Span, Timestamp};

use super::World;

/// A guest under a lease, as its pilot has it.
#[derive(Clone, Debug)]
pub struct Guest {
    pub generation: Generation,
    pub phase: LeasePhase,
    /// When the pilot gives it up, by its own count.
    pub expiry: Timestamp,
    pub run: Span,
    pub need: Resources,
    pub suspends: bool,
    /// The state that it was started from.
    pub from: Option<StateId>,
    /// Its newest checkpoint, and how many were made.
    pub checkpoint: Option<StateRef>,
    pub made: u32,
}

impl Guest {
    /// True while a process of it may exist.
    pub fn alive(&self) -> bool {
        !matches!(self.phase, LeasePhase::Ended { .. } | LeasePhase::Staging)
    }
}

/// A pilot process.
#[derive(Clone, Debug)]
pub struct Pilot {
    pub key: SubmitKey,
    pub site: SiteName,
    pub incarnation: Incarnation,
    pub boot: PilotBoot,
    pub resources: Resources,
    pub end: Timestamp,
    pub registered: bool,
    pub gone: bool,
    pub leaving: bool,
    pub number: u64,
    pub ttl: Span,
    pub sent: Option<SyncRequest>,
    pub sent_at: Timestamp,
    pub failed_sync: bool,
    pub guests: BTreeMap<WorkspaceId, Guest>,
    pub discarded: Vec<StateId>,
    /// Of its time, what it says that guests can't use.
    pub cost: Span,
}

impl World {
    pub fn new_pilot(
        &mut self,
        key: &SubmitKey,
        site: &SiteName,
        resources: Resources,
        end: Timestamp,
        restarts: u32,
    ) -> usize {
        self.boots += 1;
        self.pilots.push(Pilot {
            key: key.clone(),
            site: site.clone(),
            incarnation: Incarnation::new(&format!("start-{restarts}")).unwrap(),
            boot: PilotBoot::new(&format!("boot-{}", self.boots)).unwrap(),
            resources,
            end,
            registered: false,
            gone: false,
            leaving: false,
            number: 0,
            ttl: Span::ZERO,
            sent: None,
            sent_at: self.now,
            failed_sync: false,
            guests: BTreeMap::new(),
            discarded: Vec::new(),
            cost: self.cost,
        });
        self.pilots.len() - 1
    }

    pub fn register(&mut self, pilot: usize) -> Reply {
        let p = &self.pilots[pilot];
        let request = RegisterRequest {
            version: 1,
            boot: p.boot.clone(),
            pilot_version: "0".into(),
            slot: SlotFacts {
                site: p.site.clone(),
                submit_key: p.key.clone(),
                incarnation: p.incarnation.clone(),
                lrm_job_id: None,
                node: NodeName::new(&self.node).unwrap(),
                resources: p.resources,
                start: self.now,
                end: p.end,
                notice: self.terms(&p.site).notice,
                margin: self.terms(&p.site).margin,
            },
            host: HostFacts {
                store_filesystem: self.filesystem.clone(),
                ..HostFacts::default()
            },
        };
        let reply = self.step(Event::Register {
            request: Box::new(request),
        });
        let p = &mut self.pilots[pilot];
        match &reply {
            Reply::Registered(r) => {
                p.registered = true;
                p.ttl = r.lease_ttl;
            }
            Reply::Refused(_) => self.quit(pilot),
            other => panic!("register got {other:?}"),
        }
        reply
    }

    /// The pilot process and its guests are gone.
    pub fn quit(&mut self, pilot: usize) {
        self.pilots[pilot].gone = true;
    }

    /// Suspends or kills all guests and leaves.
    pub fn evict(&mut self, pilot: usize, code: ReasonCode) {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        for (id, g) in &mut p.guests {
            if matches!(g.phase, LeasePhase::Ended { .. }) {
                continue;
            }
            let reason = Reason::new(code, "has to leave");
            let outcome = match g.phase {
                LeasePhase::Staging => EndOutcome::Declined { reason },
                _ if g.suspends => suspended(&mut self.states, id, g, &p.site, now, reason),
                _ => EndOutcome::Killed { reason },
            };
            g.phase = LeasePhase::Ended { outcome };
        }
        p.leaving = true;
    }

    /// The pilot makes a checkpoint of a running guest, and does not tell of it yet.
    pub fn checkpoint(&mut self, pilot: usize, id: &WorkspaceId) -> Option<StateId> {
        let now = self.now;
        let p = &mut self.pilots[pilot];
        let g = p.guests.get_mut(id)?;
        if g.phase != LeasePhase::Running || !g.suspends {
            return None;
        }
        g.made += 1;
        let name = StateId::of_checkpoint(id, g.generation, g.made).unwrap();
        self.states.insert(name.clone(), g.run);
        g.checkpoint = Some(StateRef {
            id: name.clone(),
            manifest: "0".repeat(64),
            site: p.site.clone(),
            bytes: 1 << 20,
            run: g.run,
            at: now,
        });
        Some(name)
    }

    /// The guests of a pilot go one phase on; one whose time is used ends.
    pub fn progress(&mut self, pilot: usize, needed: &BTreeMap<WorkspaceId, Span>) {
        for (id, g) in &mut self.pilots[pilot].guests {
            let used = needed.get(id).is_some_and(|n| g.run >= *n);
            g.phase = match std::mem::replace(&mut g.phase, LeasePhase::Staged) {
                LeasePhase::Staging => LeasePhase::Booting,
                LeasePhase::Booting | LeasePhase::Resuming | LeasePhase::Staged => {
                    LeasePhase::Running
                }
                LeasePhase::Running if used => LeasePhase::Ended {
                    outcome: EndOutcome::Finished {
                        reason: Reason::new(ReasonCode::RunTimeUsed, "used its time"),
                    },
                },
                same => same,
            };
        }
    }
}

/// Makes a state, as a pilot does.
pub fn suspended(
    states: &mut BTreeMap<StateId, Span>,
    id: &WorkspaceId,
    g: &Guest,
    site: &SiteName,
    now: Timestamp,
    reason: Reason,
) -> EndOutcome {
    let name = StateId::new(&format!("{id}.g{}", g.generation)).unwrap();
    states.insert(name.clone(), g.run);
    EndOutcome::Suspended {
        state: StateRef {
            id: name,
            manifest: "0".repeat(64),
            site: site.clone(),
            bytes: 1 << 20,
            run: g.run,
            at: now,
        },
        reason,
    }
}
