//! The broker: one owner, one step at a time.

use std::collections::BTreeSet;

use protocol::ids::SubmitKey;
use protocol::time::{Span, Timestamp};

use crate::changes::Records;
use crate::config::{BrokerConfig, SiteConfig};
use crate::effect::{Effect, Reply, Step};
use crate::event::Event;
use crate::pilot_due;
use crate::tables::Tables;

/// The broker. Made by [`Broker::load`], moved by [`Broker::step`].
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) tables: Tables,
    pub(crate) effects: Vec<Effect>,
    pub(crate) wake: BTreeSet<SubmitKey>,
    /// When housekeeping was last done. Only [`Broker::next_wakeup`] depends on it.
    ticked: Option<Timestamp>,
}

impl Broker {
    /// Rebuilds everything from what was stored. In a new process, send [`Event::Started`] next.
    pub fn load(config: BrokerConfig, records: Records) -> Self {
        Self {
            tables: Tables::load(config, pilot_due::due, records),
            effects: Vec::new(),
            wake: BTreeSet::new(),
            ticked: None,
        }
    }

    /// Takes one event: changes the state, says what to store, to do and to answer.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Step {
        let reply = match event {
            Event::Started => self.started(now),
            Event::Submit {
                id,
                owner,
                key,
                spec,
            } => self.submit(now, &id, owner, key, *spec),
            Event::Cancel { id, by } => self.cancel(now, &id, &by),
            Event::Suspend { id, by } => self.suspend(now, &id, &by),
            Event::Resume { id, by } => self.resume(now, &id, &by),
            Event::Pause { id, by } => self.pause(now, &id, &by),
            Event::Register { request } => self.register(now, *request),
            Event::Sync { request, received } => self.sync(now, *request, received),
            Event::SyncPoll {
                submit_key,
                incarnation,
                boot,
                number,
                received,
            } => self.sync_poll(now, &submit_key, &incarnation, &boot, number, received),
            Event::LrmSubmitted { key, answer } => self.lrm_submitted(now, &key, answer),
            Event::LrmFound { key, observation } => self.lrm_found(now, &key, observation),
            Event::LrmObserved { site, observation } => self.lrm_observed(now, &site, observation),
            Event::LrmCancelled { key, answer } => self.lrm_cancelled(now, &key, answer),
            Event::HandPilot { site, by } => self.hand_pilot(now, &site, &by),
            Event::Drain { site, by } => self.drain(now, &site, &by),
            Event::Undrain { site, by } => self.undrain(now, &site, &by),
            Event::Forget {
                ended_before,
                limit,
            } => self.forget(ended_before, limit),
            Event::Tick => self.tick(now),
        };
        if self.tables.moved_workspaces() {
            self.provision(now);
        }
        let mut effects = std::mem::take(&mut self.effects);
        let wake: Vec<_> = std::mem::take(&mut self.wake).into_iter().collect();
        if !wake.is_empty() {
            effects.push(Effect::Wake(wake));
        }
        Step {
            changes: self.tables.take_changes(),
            effects,
            reply,
        }
    }

    /// When the next [`Event::Tick`] is due, if time alone can change anything.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let round = self.tables.config.provision.round;
        let work = !self.tables.queue.is_empty()
            || !self.tables.pilot_due.is_empty()
            || self.may_be_surplus();
        let regular = work.then(|| self.ticked.map_or(Timestamp::default(), |t| t + round));
        let lease = self.tables.lease_due.first().map(|(at, _)| *at);
        let pilot = self.tables.pilot_due.first().map(|(at, _)| *at);
        [regular, lease, pilot].into_iter().flatten().min()
    }

    fn started(&mut self, now: Timestamp) -> Reply {
        self.take_over(now);
        self.look_up_unanswered_submits(now);
        self.tick(now)
    }

    fn tick(&mut self, now: Timestamp) -> Reply {
        self.ticked = Some(now);
        let due: Vec<_> = (self.tables.lease_due.iter())
            .take_while(|(at, _)| *at <= now)
            .map(|(_, id)| id.clone())
            .collect();
        for id in due {
            self.expire_lease(now, &id);
        }
        self.pilots_due(now);
        self.forget_refusals(now);
        self.provision(now);
        self.withdraw_surplus(now);
        Reply::None
    }

    pub(crate) fn config(&self) -> &BrokerConfig {
        &self.tables.config
    }

    pub(crate) fn site_config(&self, name: &protocol::ids::SiteName) -> Option<&SiteConfig> {
        self.tables.config.sites.iter().find(|s| s.name == *name)
    }

    /// How long a sync is held at most: never so long that a lease could not be renewed twice.
    pub(crate) fn hold(&self) -> Span {
        let config = self.config();
        config
            .hold
            .min(Span::from_millis(config.lease_ttl.as_millis() / 3))
    }
}
