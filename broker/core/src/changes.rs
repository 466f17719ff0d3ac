//! What a step changed, as plain data, and all of it, as it is loaded.

use std::collections::BTreeMap;

use protocol::ids::{IdempotencyKey, SiteName, StateId, SubmitKey, UserName, WorkspaceId};

use crate::records::{
    DiscardRecord, EventRecord, IdempotencyRecord, LeaseRecord, Meta, PilotRecord, SiteRecord,
    WorkspaceRecord,
};

/// What a step changed. `Some` is an insert or update of the whole record, `None` a delete.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// Workspaces; never deleted by a step.
    pub workspaces: BTreeMap<WorkspaceId, WorkspaceRecord>,
    /// Live leases: one per workspace at most.
    pub leases: BTreeMap<WorkspaceId, Option<LeaseRecord>>,
    /// Pilot jobs; never deleted by a step.
    pub pilots: BTreeMap<SubmitKey, PilotRecord>,
    /// Sites.
    pub sites: BTreeMap<SiteName, SiteRecord>,
    /// Idempotency keys; only inserts.
    pub idempotency: BTreeMap<(UserName, IdempotencyKey), IdempotencyRecord>,
    /// States that nobody needs any more.
    pub discards: BTreeMap<StateId, Option<DiscardRecord>>,
    /// Events to append. Each log's `seq` has no gaps.
    pub events: Vec<EventRecord>,
    /// The counters.
    pub meta: Option<Meta>,
}

impl Changes {
    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the changes of a later step, so that both are written in one transaction.
    pub fn merge(&mut self, later: Self) {
        self.workspaces.extend(later.workspaces);
        self.leases.extend(later.leases);
        self.pilots.extend(later.pilots);
        self.sites.extend(later.sites);
        self.idempotency.extend(later.idempotency);
        self.discards.extend(later.discards);
        self.events.extend(later.events);
        if later.meta.is_some() {
            self.meta = later.meta;
        }
    }
}

/// All records of a broker: what [`crate::Broker::load`] takes. The events are not among them;
/// the store keeps and serves those.
#[derive(Clone, PartialEq, Debug)]
pub struct Records {
    /// Workspaces.
    pub workspaces: Vec<WorkspaceRecord>,
    /// Live leases.
    pub leases: Vec<LeaseRecord>,
    /// Pilot jobs.
    pub pilots: Vec<PilotRecord>,
    /// Sites.
    pub sites: Vec<SiteRecord>,
    /// Idempotency keys.
    pub idempotency: Vec<IdempotencyRecord>,
    /// States to discard.
    pub discards: Vec<DiscardRecord>,
    /// The counters.
    pub meta: Meta,
}

impl Records {
    /// Those of a broker that has never run.
    pub const fn empty(meta: Meta) -> Self {
        Self {
            workspaces: Vec::new(),
            leases: Vec::new(),
            pilots: Vec::new(),
            sites: Vec::new(),
            idempotency: Vec::new(),
            discards: Vec::new(),
            meta,
        }
    }

    /// What a store holds after it has written `changes`. For stores in memory and for tests.
    pub fn apply(&mut self, changes: &Changes) {
        fn put<T: Clone>(rows: &mut Vec<T>, row: &T, same: impl Fn(&T) -> bool) {
            match rows.iter_mut().find(|r| same(r)) {
                Some(r) => *r = row.clone(),
                None => rows.push(row.clone()),
            }
        }
        for (id, w) in &changes.workspaces {
            put(&mut self.workspaces, w, |r| r.id == *id);
        }
        for (id, l) in &changes.leases {
            match l {
                Some(l) => put(&mut self.leases, l, |r| r.workspace == *id),
                None => self.leases.retain(|r| r.workspace != *id),
            }
        }
        for (key, p) in &changes.pilots {
            put(&mut self.pilots, p, |r| r.key == *key);
        }
        for (name, s) in &changes.sites {
            put(&mut self.sites, s, |r| r.name == *name);
        }
        for ((owner, key), i) in &changes.idempotency {
            put(&mut self.idempotency, i, |r| {
                r.owner == *owner && r.key == *key
            });
        }
        for (id, d) in &changes.discards {
            match d {
                Some(d) => put(&mut self.discards, d, |r| r.state == *id),
                None => self.discards.retain(|r| r.state != *id),
            }
        }
        if let Some(meta) = &changes.meta {
            self.meta = meta.clone();
        }
    }
}
