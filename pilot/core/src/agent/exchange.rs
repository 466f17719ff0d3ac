//! The exchange with the broker: registration, then one sync at a time.

use std::collections::BTreeSet;

use protocol::codes::{ErrorCode, Reason, ReasonCode, exit};
use protocol::lease::{DesiredLease, EndOutcome, Goal};
use protocol::messages::{RegisterReply, SyncReply, SyncRequest};
use protocol::slot::{EndSource, PilotPhase, SlotStatus};
use protocol::time::{Mono, Span};

use super::{Agent, Effect, Life};
use crate::admission::{Situation, admit, risk};
use crate::deadline::Plan;
use crate::guest::{Lease, LeaseKey, Stage};
use crate::lease_book::LeaseTerms;

/// Where the exchange is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Exchange {
    /// Number of the last sync.
    number: u64,
    /// The sync that waits for its answer.
    under_way: Option<UnderWay>,
    /// Something happened that the broker should know at once.
    pub(super) news: bool,
    /// Calls in a row without an answer.
    failures: u32,
    /// No sync before this.
    not_before: Mono,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct UnderWay {
    number: u64,
    may_be_held: bool,
    farewell: bool,
}

impl Exchange {
    pub(super) fn wakeup(&self) -> Option<Mono> {
        self.under_way.is_none().then_some(self.not_before)
    }
}

impl Agent {
    pub(super) fn on_registered(&mut self, reply: &RegisterReply) {
        if !matches!(self.life, Life::Registering { .. }) {
            return;
        }
        self.registered_terms(reply);
        if let Some(known) = reply.costs.as_ref().filter(|k| !k.samples.is_empty()) {
            self.rates.know(known);
            let text = format!(
                "what a suspend costs is known from {} earlier ones on {}",
                known.samples.len(),
                if known.of_node {
                    "this node"
                } else {
                    "other nodes of the site"
                }
            );
            let data = serde_json::json!({
                "samples": known.samples.len(), "of_node": known.of_node,
            });
            self.record("costs_known", None, text, data);
        }
        self.idle_since = self.now.mono;
        self.exchange.failures = 0;
        self.exchange.not_before = self.now.mono;
        self.life = Life::Serving;
    }

    pub(super) fn on_register_failed(&mut self, _text: &str) {
        let now = self.now.mono;
        if let Life::Registering { attempts, .. } = self.life {
            self.life = Life::Registering {
                under_way: false,
                attempts: attempts.saturating_add(1),
                next: now + self.pause_after(attempts),
            };
        }
    }

    pub(super) fn on_register_refused(&mut self, code: ErrorCode, text: &str) {
        if !matches!(self.life, Life::Registering { .. }) {
            return;
        }
        match refusal(code, text) {
            None => self.on_register_failed(text),
            Some((reason, fenced, exit)) => self.evict(reason, fenced, exit),
        }
    }

    pub(super) fn on_sync_failed(&mut self, number: u64, text: &str) {
        if self.exchange.under_way.is_none_or(|u| u.number != number) {
            return;
        }
        let pause = self.pause_after(self.exchange.failures);
        self.exchange.under_way = None;
        self.exchange.not_before = self.now.mono + pause;
        self.exchange.failures = self.exchange.failures.saturating_add(1);
        if self.exchange.failures == 3 {
            let text = format!("no answer from the broker: {text}");
            self.record("broker_lost", None, text, serde_json::Value::Null);
        }
    }

    pub(super) fn on_sync_refused(&mut self, number: u64, code: ErrorCode, text: &str) {
        if self.exchange.under_way.is_none_or(|u| u.number != number) {
            return;
        }
        self.on_sync_failed(number, text);
        if let Some((reason, fenced, exit)) = refusal(code, text) {
            self.evict(reason, fenced, exit);
            if let Life::Leaving { told, .. } = &mut self.life {
                *told = true; // it will hear nothing from us any more
            }
        }
    }

    pub(super) fn on_answer(&mut self, sent: Mono, reply: SyncReply) {
        let Some(under_way) = self.exchange.under_way else {
            return;
        };
        if under_way.number != reply.number {
            return; // an answer to a sync that was given up: older than what we know
        }
        if self.exchange.failures >= 3 {
            let text = "the broker answers again".to_owned();
            self.record("broker_back", None, text, serde_json::Value::Null);
        }
        self.exchange.under_way = None;
        self.exchange.failures = 0;
        self.exchange.not_before = sent + self.settings.sync_gap;
        if let Some(terms) = &mut self.terms {
            terms.ttl = reply.lease_ttl;
            terms.contact = self.now.mono;
        }
        self.spool.acknowledge(reply.acknowledged);
        if self.spool.overflows_a_sync() {
            self.exchange.news = true;
        }
        if let Some(end) = reply.slot_end {
            self.hear(EndSource::Broker, end);
        }
        if let (true, Some(every)) = (reply.watched, self.settings.probe_every) {
            // One listing for all pilots instead of a question from each, as long as the broker
            // speaks: it answers at least every third of the time that a lease lives.
            let silence = Span::from_millis(reply.lease_ttl.as_millis() / 2);
            let next = self.now.mono + every.max(silence);
            self.next_probe = self.next_probe.max(next);
        }
        if let Some(reason) = reply.leave {
            self.evict(reason, false, exit::OK);
        }
        self.discarded.retain(|s| reply.discard.contains(s));
        let expiry = LeaseTerms::expiry(sent, reply.held, reply.lease_ttl);
        self.take_leases(&reply.leases, expiry, reply.number);
        for state in reply.discard {
            let used = self
                .leases
                .values()
                .any(|l| l.is_alive() && l.state.as_ref().is_some_and(|s| s.id == state));
            if !used && !self.discarded.contains(&state) && self.discarding.insert(state.clone()) {
                self.effects.push(Effect::Discard { state });
            }
        }
        if let Life::Leaving { told, .. } = &mut self.life
            && under_way.farewell
        {
            *told = true;
        }
    }

    fn take_leases(&mut self, desired: &[DesiredLease], expiry: Mono, number: u64) {
        let wanted: BTreeSet<LeaseKey> = desired.iter().map(LeaseKey::of).collect();
        self.leases.retain(|key, lease| {
            wanted.contains(key) || lease.end_told_in.is_none_or(|n| n > number)
        });
        for lease in self.leases.values_mut() {
            if lease.is_alive() && !wanted.contains(&lease.key) {
                lease.lost = true;
            }
        }
        for d in desired {
            match self.leases.get_mut(&LeaseKey::of(d)) {
                Some(lease) => {
                    lease.expiry = lease.expiry.max(expiry);
                    lease.goal = d.goal.clone();
                }
                None => self.consider(d, expiry),
            }
        }
    }

    /// A lease that we do not have yet: take it or say why not.
    fn consider(&mut self, desired: &DesiredLease, expiry: Mono) {
        let Some(order) = desired.order.clone() else {
            return; // nothing to start it from; it will come again with its order
        };
        if self.now.mono >= expiry {
            return; // over before its order came: the next answer says whether it is still wanted
        }
        let key = LeaseKey::of(desired);
        let rival = |l: &Lease| l.is_alive() && l.key.workspace == key.workspace;
        if self.leases.values().any(rival) {
            return; // an older lease of the same workspace is still being ended; ask again
        }
        let mut lease = Lease::new(key.clone(), (*order).clone(), desired.goal.clone(), expiry);
        match self.refusal_of(desired, &order) {
            Some(outcome) => {
                // Nothing came of it: the pilot has been idle all the while.
                let idle_since = self.idle_since;
                self.end(&mut lease, outcome);
                self.idle_since = idle_since;
            }
            None => {
                let mut text = format!(
                    "lease taken: {}, {} of guest time wanted",
                    order.spec.resources,
                    order.spec.run_time.minus(order.run)
                );
                if let Some(risk) = risk(&self.situation(&self.plan()), &order) {
                    text = format!("{text}; {risk}");
                }
                self.record("lease_taken", Some(&key), text, serde_json::Value::Null);
                self.effects.push(Effect::Stage {
                    lease: key.clone(),
                    order,
                });
            }
        }
        self.leases.insert(key, lease);
    }

    fn refusal_of(
        &self,
        desired: &DesiredLease,
        order: &protocol::lease::Order,
    ) -> Option<EndOutcome> {
        match &desired.goal {
            Goal::Stop { reason } => {
                let reason = reason.clone();
                return Some(EndOutcome::Killed { reason });
            }
            Goal::Suspend { reason } => {
                let reason = reason.clone();
                return Some(EndOutcome::Declined { reason });
            }
            Goal::Stage | Goal::Run | Goal::Pause => {}
        }
        if self.eviction.is_some() || self.life != Life::Serving {
            let reason = self.eviction_reason();
            return Some(EndOutcome::Declined { reason });
        }
        let key = LeaseKey::of(desired);
        let checkpoints = order.spec.policy.checkpoint_every.is_some();
        if key.state_id().is_none() || checkpoints && key.checkpoint_id(u32::MAX).is_none() {
            let text = format!("the workspace id `{}` is too long", desired.workspace);
            let reason = Reason::new(ReasonCode::Internal, text);
            return Some(EndOutcome::Failed {
                reason,
                permanent: true,
            });
        }
        if order.run >= order.spec.run_time {
            let text = format!("ran for {}, as was asked", order.run);
            let reason = Reason::new(ReasonCode::RunTimeUsed, text);
            return Some(EndOutcome::Finished { reason });
        }
        admit(&self.situation(&self.plan()), order)
            .err()
            .map(|reason| EndOutcome::Declined { reason })
    }

    fn situation<'a>(&'a self, plan: &'a Plan) -> Situation<'a> {
        Situation {
            now: self.now.mono,
            settings: &self.settings,
            clock: &self.clock,
            rates: &self.rates,
            plan,
            free: self.free(),
        }
    }

    pub(super) fn settle_exchange(&mut self) {
        let now = self.now.mono;
        if self.eviction.as_ref().is_some_and(|e| e.fenced) {
            return;
        }
        let farewell = match self.life {
            Life::Serving => false,
            Life::Leaving { told, .. } if !told => true,
            Life::Leaving { .. }
            | Life::New
            | Life::Registering { .. }
            | Life::CleaningUp
            | Life::Gone => return,
        };
        let send = match self.exchange.under_way {
            None => {
                now >= self.exchange.not_before
                    || (self.exchange.failures == 0 && (self.exchange.news || farewell))
            }
            Some(u) => (farewell && !u.farewell) || (self.exchange.news && u.may_be_held),
        };
        if send {
            self.send(farewell);
        }
    }

    fn send(&mut self, farewell: bool) {
        let exchange = &mut self.exchange;
        exchange.number += 1;
        let number = exchange.number;
        let no_hold = exchange.news || farewell;
        exchange.news = false;
        exchange.under_way = Some(UnderWay {
            number,
            may_be_held: !no_hold,
            farewell,
        });
        for lease in self.leases.values_mut() {
            if let Stage::Ended { .. } = lease.stage {
                lease.end_told_in.get_or_insert(number);
            }
        }
        let hold = self.terms.map_or(Span::ZERO, |t| t.hold);
        let timeout = if no_hold {
            self.settings.sync_timeout
        } else {
            hold + self.settings.sync_timeout
        };
        let request = Box::new(self.request(number, no_hold, farewell));
        self.effects.push(Effect::Sync { request, timeout });
    }

    fn request(&self, number: u64, no_hold: bool, farewell: bool) -> SyncRequest {
        let now = self.now.mono;
        let (end, end_source) = self.clock.end();
        let plan = self.plan();
        SyncRequest {
            version: protocol::WIRE_VERSION,
            submit_key: self.facts.submit_key.clone(),
            incarnation: self.facts.incarnation.clone(),
            boot: self.boot.clone(),
            number,
            no_hold,
            slot: SlotStatus {
                end,
                end_source,
                phase: if farewell {
                    PilotPhase::Leaving
                } else {
                    self.phase_by(&plan)
                },
                useful: self.useful(&plan),
            },
            free: self.free(),
            leases: self.leases.values().map(|l| l.report(now)).collect(),
            suspend_rate: self.rates.measured(),
            costs: Some(self.rates.report()),
            events: self.spool.batch(),
            used: self.usage.report(now, self.clock.end_at()),
            discarded: self.discarded.iter().cloned().collect(),
        }
    }

    /// The pause after `failures` calls in a row without an answer. Pilots that lost their
    /// broker at the same moment do not all come back at the same moment: the pause depends on
    /// the pilot's own id.
    fn pause_after(&self, failures: u32) -> Span {
        let doubled = self.settings.retry_min.times(1 << failures.min(16));
        let pause = doubled.min(self.settings.retry_max).as_millis();
        let seed = self
            .boot
            .as_str()
            .bytes()
            .fold(u64::from(failures), |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            });
        Span::from_millis(pause / 2 + (pause / 2) * (seed % 1024) / 1024)
    }
}

/// What a refusal means: reason, whether our guests are somebody else's now, exit code. None:
/// the same call may succeed later.
fn refusal(code: ErrorCode, text: &str) -> Option<(Reason, bool, i32)> {
    let words = format!("the broker refused this pilot: {text}");
    match code {
        ErrorCode::Fenced | ErrorCode::NotFound => {
            Some((Reason::new(ReasonCode::Requeued, words), true, exit::FENCED))
        }
        ErrorCode::Unauthenticated | ErrorCode::Forbidden => Some((
            Reason::new(ReasonCode::ByAdministrator, words),
            false,
            exit::DENIED,
        )),
        ErrorCode::VersionTooOld | ErrorCode::Impossible | ErrorCode::WrongState => {
            Some((Reason::new(ReasonCode::Other, words), false, exit::FAILED))
        }
        ErrorCode::BadRequest
        | ErrorCode::KeyReused
        | ErrorCode::TooLarge
        | ErrorCode::TooMany
        | ErrorCode::Internal
        | ErrorCode::Unavailable => None,
    }
}
