//! A pilot starts in its slot: the latest one to register for a pilot job is its pilot, and all
//! before it are fenced.

use std::collections::BTreeMap;

use protocol::api::PilotState;
use protocol::codes::ErrorCode;
use protocol::ids::EventSeq;
use protocol::messages::{RegisterReply, RegisterRequest};
use protocol::resources::Resources;
use protocol::slot::{EndSource, HostFacts, PilotPhase, SlotFacts, SlotStatus, SlotUse};
use protocol::time::{Span, Timestamp};

use crate::effect::Reply;
use crate::records::{Hold, Log, SlotRecord, SubmitProgress};
use crate::state::Broker;
use crate::tables::Note;

impl Broker {
    pub(crate) fn register(&mut self, now: Timestamp, request: RegisterRequest) -> Reply {
        let key = request.slot.submit_key.clone();
        let (p, new_member_of) = match self.find_registered(&key) {
            Ok(found) => found,
            Err(no) => return *no,
        };
        if p.site != request.slot.site {
            let detail = format!(
                "pilot job {key} belongs to site {}, not {}",
                p.site, request.slot.site
            );
            return Reply::refused(ErrorCode::Forbidden, detail);
        }
        if let Some(job) = new_member_of {
            self.new_member(now, &job, &key);
            return self.let_in(now, request);
        }
        if p.fenced.contains(&request.boot) {
            let detail = format!("pilot job {key} has a later pilot than {}", request.boot);
            return Reply::refused(ErrorCode::Fenced, detail);
        }
        let same_start = (p.slot.as_ref())
            .filter(|s| s.facts.incarnation == request.slot.incarnation)
            .map(|s| &s.boot);
        let again = same_start == Some(&request.boot);
        if same_start.is_some() && p.goodbye {
            let detail = format!(
                "the pilot of {key} has said goodbye to start {}: its slot is over",
                request.slot.incarnation
            );
            return Reply::refused(ErrorCode::Fenced, detail);
        }
        if again {
            self.tables.edit_pilot(&key, |p| {
                if let Some(slot) = &mut p.slot {
                    slot.heard = now;
                }
            });
            return self.registered(now, &request.slot, &request.host);
        }
        self.let_in(now, request)
    }

    fn let_in(&mut self, now: Timestamp, request: RegisterRequest) -> Reply {
        let (slot, host) = (request.slot.clone(), request.host.clone());
        self.take_in(now, request);
        self.registered(now, &slot, &host)
    }

    fn registered(&self, now: Timestamp, slot: &SlotFacts, host: &HostFacts) -> Reply {
        Reply::Registered(Box::new(RegisterReply {
            version: protocol::WIRE_VERSION,
            lease_ttl: self.config().lease_ttl,
            hold: self.hold(),
            idle_limit: self.site_config(&slot.site).and_then(|s| s.idle_limit),
            now,
            costs: self.known_costs(&slot.site, &slot.node, &host.store_filesystem),
        }))
    }

    fn take_in(&mut self, now: Timestamp, request: RegisterRequest) {
        let RegisterRequest {
            boot, slot, host, ..
        } = request;
        let (key, site) = (slot.submit_key.clone(), slot.site.clone());
        self.settle_slot(now, &key);
        if self
            .tables
            .pilots
            .get(&key)
            .is_some_and(|p| p.member_of.is_none())
        {
            self.has_started(now, &key);
        }
        let before: Vec<_> = (self.tables.leases_of(&key))
            .filter(|l| l.hold == Hold::Held)
            .map(|l| l.workspace.clone())
            .collect();
        for id in before {
            let why = format!("a later pilot, {boot}, took the slot's place");
            self.tables
                .edit_lease(&id, |l| l.hold = Hold::Orphaned { why });
        }
        let text = format!(
            "pilot {boot} registered on node {} with {} until {} (start {}, {} {} {})",
            slot.node,
            slot.resources,
            slot.end,
            slot.incarnation,
            host.hypervisor,
            host.hypervisor_version,
            host.accelerator
        );
        let status = SlotStatus {
            end: slot.end,
            end_source: EndSource::SlotFile,
            phase: PilotPhase::Open,
            useful: Span::ZERO,
        };
        self.tables.edit_pilot(&key, |p| {
            if let Some(old) = p.slot.take() {
                p.fenced.insert(old.boot);
            }
            p.state = PilotState::Active;
            p.since = now;
            p.reason = None;
            p.goodbye = false;
            p.signalled = None;
            p.settled = false;
            p.closed = false;
            p.submit = SubmitProgress::Known;
            if p.job.is_none() {
                p.job.clone_from(&slot.lrm_job_id);
            }
            p.slot = Some(SlotRecord {
                boot,
                facts: slot,
                host,
                registered: now,
                heard: now,
                number: 0,
                status,
                free: Resources::default(),
                used: SlotUse::default(),
                suspend_rate: None,
                suspend_budget: None,
                costs_measured: 0,
                acknowledged: EventSeq(0),
                told: None,
                declined: BTreeMap::new(),
                full: None,
            });
        });
        let note = Note::new(now, "registered", text);
        self.tables.append(Log::Pilot(key.clone()), note);
        self.member_registers(now, &key);
        self.tables.edit_site(&site, |s| s.died_young = 0);
    }
}
