//! What a step changed, as plain data, and all of it, as it is loaded.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{
    IdempotencyKey, NodeName, SiteName, StateId, SubmitKey, UserName, WorkspaceId,
};

use crate::records::{
    CostRecord, DiscardRecord, EventRecord, IdempotencyRecord, LeaseRecord, Log, Meta, PilotRecord,
    SiteRecord, WorkspaceRecord,
};

/// What a step changed. `Some` is an insert or update of the whole record, `None` a delete.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// Workspaces.
    pub workspaces: BTreeMap<WorkspaceId, WorkspaceRecord>,
    /// Live leases: one per workspace at most.
    pub leases: BTreeMap<WorkspaceId, Option<LeaseRecord>>,
    /// Pilot jobs.
    pub pilots: BTreeMap<SubmitKey, PilotRecord>,
    /// Sites.
    pub sites: BTreeMap<SiteName, SiteRecord>,
    /// What suspends cost, by site and node.
    pub costs: BTreeMap<(SiteName, NodeName), Option<CostRecord>>,
    /// Idempotency keys.
    pub idempotency: BTreeMap<(UserName, IdempotencyKey), IdempotencyRecord>,
    /// States that nobody needs any more.
    pub discards: BTreeMap<StateId, Option<DiscardRecord>>,
    /// Events to append. Each log's `seq` has no gaps.
    pub events: Vec<EventRecord>,
    /// The counters.
    pub meta: Option<Meta>,
    /// What was over for long enough and is deleted, with the logs. Nothing of it is above.
    pub forgotten: Forgotten,
}

/// Records to delete; the logs of the workspaces and pilot jobs go with them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    /// Workspaces.
    pub workspaces: BTreeSet<WorkspaceId>,
    /// Pilot jobs.
    pub pilots: BTreeSet<SubmitKey>,
    /// Idempotency keys of those workspaces.
    pub idempotency: BTreeSet<(UserName, IdempotencyKey)>,
}

impl Forgotten {
    /// The logs that go.
    pub fn logs(&self) -> impl Iterator<Item = Log> {
        let workspaces = self.workspaces.iter().cloned().map(Log::Workspace);
        workspaces.chain(self.pilots.iter().cloned().map(Log::Pilot))
    }

    fn has(&self, log: &Log) -> bool {
        match log {
            Log::Workspace(id) => self.workspaces.contains(id),
            Log::Pilot(key) => self.pilots.contains(key),
        }
    }
}

impl Changes {
    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the changes of a later step, so that both are written in one transaction.
    pub fn merge(&mut self, later: Self) {
        let gone = &later.forgotten;
        self.workspaces
            .retain(|id, _| !gone.workspaces.contains(id));
        self.pilots.retain(|key, _| !gone.pilots.contains(key));
        self.idempotency
            .retain(|key, _| !gone.idempotency.contains(key));
        self.events.retain(|e| !gone.has(&e.log));
        // A key that was forgotten may be used for a new workspace.
        let used = &later.idempotency;
        (self.forgotten.idempotency).retain(|key| !used.contains_key(key));
        self.forgotten.workspaces.extend(later.forgotten.workspaces);
        self.forgotten.pilots.extend(later.forgotten.pilots);
        (self.forgotten.idempotency).extend(later.forgotten.idempotency);
        self.workspaces.extend(later.workspaces);
        self.leases.extend(later.leases);
        self.pilots.extend(later.pilots);
        self.sites.extend(later.sites);
        self.costs.extend(later.costs);
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
    /// What suspends cost.
    pub costs: Vec<CostRecord>,
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
            costs: Vec::new(),
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
        for ((site, node), c) in &changes.costs {
            let same = |r: &CostRecord| r.site == *site && r.node == *node;
            match c {
                Some(c) => put(&mut self.costs, c, same),
                None => self.costs.retain(|r| !same(r)),
            }
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
        let gone = &changes.forgotten;
        self.workspaces.retain(|w| !gone.workspaces.contains(&w.id));
        self.pilots.retain(|p| !gone.pilots.contains(&p.key));
        self.idempotency.retain(|i| {
            let key = (i.owner.clone(), i.key.clone());
            !gone.idempotency.contains(&key)
        });
    }
}
