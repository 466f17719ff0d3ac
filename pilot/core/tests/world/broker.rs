//! The broker: its book of leases, and its answers.

use std::collections::BTreeMap;

use pilot_core::agent::Event;
use pilot_core::guest::LeaseKey;
use protocol::ids::{EventSeq, Generation, SiteName, StateId, WorkspaceId};
use protocol::lease::{DesiredLease, EndOutcome, Goal, LeasePhase, LeaseReport, Order, StateRef};
use protocol::messages::{SyncReply, SyncRequest};
use protocol::slot::PilotPhase;
use protocol::time::{Mono, Span, Timestamp};
use protocol::workspace::WorkspaceSpec;

use super::{Due, EPOCH, Granted, World};

impl World {
    /// The broker grants a lease.
    pub fn grant(&mut self, name: &str, spec: WorkspaceSpec) -> LeaseKey {
        let generations = self.book.keys().filter(|k| k.workspace.as_str() == name);
        let generation = Generation(generations.count() as u64 + 1);
        let key = LeaseKey {
            workspace: WorkspaceId::new(name).unwrap(),
            generation,
        };
        let order = Order {
            spec,
            state: None,
            run: Span::ZERO,
            suspends: 0,
        };
        self.book.insert(
            key.clone(),
            Granted {
                goal: Goal::Run,
                order,
                expiry: None,
                outcome: None,
            },
        );
        self.nudge();
        key
    }

    /// The broker grants a lease on a state that was made `secs` before the slot's start.
    pub fn resume(&mut self, name: &str, spec: WorkspaceSpec, secs: i64) -> LeaseKey {
        let key = self.grant(name, spec);
        let state = StateRef {
            id: StateId::new("earlier.g1").unwrap(),
            manifest: "m".into(),
            site: SiteName::new("lab").unwrap(),
            bytes: 1,
            run: Span::from_secs(1),
            at: Timestamp::from_secs(EPOCH - secs),
        };
        self.book.get_mut(&key).unwrap().order.state = Some(state);
        key
    }

    pub fn set_goal(&mut self, key: &LeaseKey, goal: Goal) {
        if let Some(lease) = self.book.get_mut(key) {
            lease.goal = goal;
        }
        self.nudge();
    }

    pub(super) fn take_sync(&mut self, request: Box<SyncRequest>, timeout: Span) {
        self.syncs += 1;
        assert!(
            request.number > self.last_sync,
            "sync numbers go back\n{self}"
        );
        self.last_sync = request.number;
        self.due.retain(|_, d| !matches!(d, Due::Answer(..)));
        for report in &request.leases {
            let key = LeaseKey {
                workspace: report.workspace.clone(),
                generation: report.generation,
            };
            self.take_checkpoint(&key, report);
            if let LeasePhase::Ended { outcome } = &report.phase {
                let entry = self.reported.entry(key.clone());
                let first = entry.or_insert(outcome.clone()).clone();
                assert_eq!(first, *outcome, "{key} ended in two ways\n{self}");
                assert!(
                    !self.fenced.contains(&key) || !matches!(outcome, EndOutcome::Failed { .. }),
                    "{key} is said to have crashed, and was ended by the warden\n{self}"
                );
                if matches!(outcome, EndOutcome::Suspended { .. }) {
                    assert!(
                        self.states.contains(&key),
                        "{key}: no such state was made\n{self}"
                    );
                }
            }
        }
        let sent = Mono::from_millis(self.now);
        let lost = self.now < self.deaf_until || self.one_in(self.rules.answers_lost);
        if lost {
            self.under_way = None;
            let event = Event::SyncFailed {
                number: request.number,
                text: "lost".into(),
            };
            self.later(timeout.as_millis(), Due::Report(event));
            return;
        }
        self.under_way = Some((request.clone(), sent));
        let news = request.no_hold || !self.agrees(&request);
        let after = if news {
            self.any(2, 30)
        } else {
            self.rules.hold * 1000
        };
        self.later(after, Due::Answer(request, sent));
    }

    /// A checkpoint that is told of exists, contains no more than its guest has run, and is no
    /// older than what was told before.
    fn take_checkpoint(&mut self, key: &LeaseKey, report: &LeaseReport) {
        let Some(state) = &report.checkpoint else {
            let before = self.told_checkpoint.get(key);
            assert!(before.is_none(), "{key}: {before:?} is forgotten\n{self}");
            return;
        };
        assert_eq!(
            self.checkpoints.get(&state.id),
            Some(&state.run),
            "{key}: no such checkpoint was made\n{self}"
        );
        assert!(state.run <= report.run, "{key}: {state:?}\n{self}");
        let before = self.told_checkpoint.insert(key.clone(), state.clone());
        assert!(
            before.is_none_or(|b| b.run <= state.run),
            "{key} goes back to {state:?}\n{self}"
        );
    }

    /// True when the broker has nothing to say to this.
    fn agrees(&self, request: &SyncRequest) -> bool {
        let live = self.book.values().filter(|g| g.outcome.is_none()).count();
        self.leave.is_none()
            && live == request.leases.len()
            && request
                .leases
                .iter()
                .all(|l| !matches!(l.phase, LeasePhase::Ended { .. }))
    }

    pub(super) fn answer(&mut self, request: &SyncRequest, sent: Mono) {
        self.under_way = None;
        let known: BTreeMap<_, _> = request
            .leases
            .iter()
            .map(|l| ((l.workspace.clone(), l.generation), &l.phase))
            .collect();
        let mut leases = Vec::new();
        for (key, lease) in &mut self.book {
            let phase = known.get(&(key.workspace.clone(), key.generation));
            if let Some(LeasePhase::Ended { outcome }) = phase {
                lease.outcome.get_or_insert((*outcome).clone());
            }
            if lease.outcome.is_some() {
                continue;
            }
            let expiry = self.now + self.rules.ttl * 1000;
            lease.expiry = Some(lease.expiry.unwrap_or(0).max(expiry));
            leases.push(DesiredLease {
                workspace: key.workspace.clone(),
                generation: key.generation,
                goal: lease.goal.clone(),
                order: phase.is_none().then(|| Box::new(lease.order.clone())),
            });
        }
        let reply = SyncReply {
            version: 1,
            number: request.number,
            held: Span::from_millis(self.now.saturating_sub(sent.as_millis() + 30)),
            lease_ttl: Span::from_secs(self.rules.ttl),
            leases,
            slot_end: None,
            watched: self.rules.watched,
            leave: self.leave.clone(),
            acknowledged: request.events.last().map_or(EventSeq(0), |e| e.seq),
            discard: vec![],
        };
        if request.slot.phase == PilotPhase::Leaving {
            assert!(
                request
                    .leases
                    .iter()
                    .all(|l| matches!(l.phase, LeasePhase::Ended { .. })),
                "it says goodbye with guests\n{self}"
            );
        }
        self.step(Event::SyncAnswered {
            sent,
            reply: Box::new(reply),
        });
    }

    /// A held sync is answered when there is something to say.
    fn nudge(&mut self) {
        if let Some((request, sent)) = self.under_way.clone() {
            self.later(5, Due::Answer(request, sent));
        }
    }
}
