//! What the simulated broker's store holds.

use broker_core::records::{LeaseRecord, Meta, WorkspaceRecord};
use broker_core::{Changes, Records};
use protocol::ids::{SiteName, WorkspaceId};

/// The durable records, indexed: [`Records`] alone is too slow at this size.
pub(super) struct Store {
    all: Changes,
    meta: Meta,
}

impl Store {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            all: Changes::default(),
            meta: Meta::new("sim"),
        }
    }

    /// Takes what a transaction changes.
    pub(super) fn apply(&mut self, changes: Changes) {
        if let Some(meta) = &changes.meta {
            self.meta = meta.clone();
        }
        let all = &mut self.all;
        all.workspaces.extend(changes.workspaces);
        for (id, lease) in changes.leases {
            match lease {
                Some(_) => all.leases.insert(id, lease),
                None => all.leases.remove(&id),
            };
        }
        all.pilots.extend(changes.pilots);
        all.sites.extend(changes.sites);
        for (node, cost) in changes.costs {
            match cost {
                Some(_) => all.costs.insert(node, cost),
                None => all.costs.remove(&node),
            };
        }
        all.idempotency.extend(changes.idempotency);
        for (id, discard) in changes.discards {
            match discard {
                Some(_) => all.discards.insert(id, discard),
                None => all.discards.remove(&id),
            };
        }
    }

    /// All of it, as a broker reads it when it starts.
    pub(super) fn load(&self) -> Records {
        let mut records = Records::empty(self.meta.clone());
        records.workspaces = self.all.workspaces.values().cloned().collect();
        records.leases = self.all.leases.values().flatten().cloned().collect();
        records.pilots = self.all.pilots.values().cloned().collect();
        records.sites = self.all.sites.values().cloned().collect();
        records.costs = self.all.costs.values().flatten().cloned().collect();
        records.idempotency = self.all.idempotency.values().cloned().collect();
        records.discards = self.all.discards.values().flatten().cloned().collect();
        records
    }

    /// The live leases.
    pub(super) fn leases(&self) -> impl Iterator<Item = &LeaseRecord> {
        self.all.leases.values().flatten()
    }

    /// True while the broker submits nothing to a site until somebody has looked.
    pub(super) fn is_paused(&self, site: &SiteName) -> bool {
        (self.all.sites.get(site)).is_some_and(|s| s.paused.is_some())
    }

    /// A workspace.
    pub(super) fn workspace(&self, id: &WorkspaceId) -> Option<&WorkspaceRecord> {
        self.all.workspaces.get(id)
    }

    /// The live lease of a workspace.
    pub(super) fn lease(&self, id: &WorkspaceId) -> Option<&LeaseRecord> {
        self.all.leases.get(id)?.as_ref()
    }
}
