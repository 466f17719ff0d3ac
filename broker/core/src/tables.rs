//! The records with their indexes, and what the running step has touched. Every change goes
//! through here, so no index and no write to the store can be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{
    Generation, IdempotencyKey, NodeName, SiteName, StateId, SubmitKey, UserName, WorkspaceId,
};
use protocol::suspend_cost::CostLine;
use protocol::time::Timestamp;
use protocol::workspace::WorkspaceState;

use crate::changes::{Changes, Forgotten, Records};
use crate::crowd::{Crowd, Place};
use crate::discards::Discards;
use crate::queue::Queue;
use crate::records::{
    CostRecord, DiscardRecord, EventRecord, IdempotencyRecord, LeaseRecord, Log, Meta, PilotRecord,
    SiteRecord, WorkspaceRecord,
};

/// What one owner has.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Owned {
    /// Numbers of all workspaces.
    pub(crate) numbers: BTreeSet<u64>,
    /// How many are not final.
    pub(crate) open: u32,
    /// How many have a lease.
    pub(crate) leased: u32,
}

/// Computes when time alone changes a pilot job; see `pilot_due.rs`.
pub(crate) type DueOf = fn(&crate::BrokerConfig, &PilotRecord) -> Option<Timestamp>;

#[derive(Clone, Debug, Default)]
struct Touched {
    workspaces: BTreeSet<WorkspaceId>,
    leases: BTreeSet<WorkspaceId>,
    pilots: BTreeSet<SubmitKey>,
    sites: BTreeSet<SiteName>,
    costs: BTreeSet<(SiteName, NodeName)>,
    idempotency: BTreeSet<(UserName, IdempotencyKey)>,
    discards: BTreeSet<StateId>,
    events: Vec<EventRecord>,
    meta: bool,
    forgotten: Forgotten,
}

/// All records, all indexes.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) config: crate::BrokerConfig,
    due_of: DueOf,
    pub(crate) meta: Meta,
    pub(crate) workspaces: BTreeMap<WorkspaceId, WorkspaceRecord>,
    pub(crate) numbers: BTreeMap<u64, WorkspaceId>,
    pub(crate) owners: BTreeMap<UserName, Owned>,
    pub(crate) queue: Queue,
    pub(crate) leases: BTreeMap<WorkspaceId, LeaseRecord>,
    slot_leases: BTreeMap<SubmitKey, BTreeSet<WorkspaceId>>,
    pub(crate) lease_due: BTreeSet<(Timestamp, WorkspaceId)>,
    pub(crate) pilots: BTreeMap<SubmitKey, PilotRecord>,
    pub(crate) crowd: Crowd,
    pub(crate) pilot_due: BTreeSet<(Timestamp, SubmitKey)>,
    pub(crate) sites: BTreeMap<SiteName, SiteRecord>,
    pub(crate) costs: BTreeMap<(SiteName, NodeName), CostRecord>,
    /// What a pilot on a new node of a site sets aside, by those.
    pub(crate) budgets: BTreeMap<SiteName, CostLine>,
    pub(crate) idempotency: BTreeMap<(UserName, IdempotencyKey), IdempotencyRecord>,
    pub(crate) discards: Discards,
    touched: Touched,
}

impl Tables {
    pub(crate) fn load(config: crate::BrokerConfig, due_of: DueOf, records: Records) -> Self {
        let mut t = Self {
            config,
            due_of,
            meta: records.meta,
            workspaces: BTreeMap::new(),
            numbers: BTreeMap::new(),
            owners: BTreeMap::new(),
            queue: Queue::default(),
            leases: BTreeMap::new(),
            slot_leases: BTreeMap::new(),
            lease_due: BTreeSet::new(),
            pilots: BTreeMap::new(),
            crowd: Crowd::default(),
            pilot_due: BTreeSet::new(),
            sites: BTreeMap::new(),
            costs: BTreeMap::new(),
            budgets: BTreeMap::new(),
            idempotency: BTreeMap::new(),
            discards: Discards::default(),
            touched: Touched::default(),
        };
        for w in records.workspaces {
            t.insert_workspace(w);
        }
        for l in records.leases {
            t.insert_lease(l);
        }
        for p in records.pilots {
            t.insert_pilot(p);
        }
        for s in records.sites {
            t.sites.insert(s.name.clone(), s);
        }
        for c in records.costs {
            t.put_cost(c);
        }
        for i in records.idempotency {
            t.insert_idempotency(i);
        }
        for d in records.discards {
            t.insert_discard(d);
        }
        t.touched = Touched::default();
        t
    }

    /// What the step changed; the next step starts with nothing.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let touched = std::mem::take(&mut self.touched);
        let find = |id: &WorkspaceId| self.leases.get(id).cloned();
        Changes {
            workspaces: (touched.workspaces.into_iter())
                .filter_map(|id| self.workspaces.get(&id).map(|w| (id, w.clone())))
                .collect(),
            leases: (touched.leases.into_iter())
                .map(|id| (id.clone(), find(&id)))
                .collect(),
            pilots: (touched.pilots.into_iter())
                .filter_map(|k| self.pilots.get(&k).map(|p| (k, p.clone())))
                .collect(),
            sites: (touched.sites.into_iter())
                .filter_map(|n| self.sites.get(&n).map(|s| (n, s.clone())))
                .collect(),
            costs: (touched.costs.into_iter())
                .map(|key| (key.clone(), self.costs.get(&key).cloned()))
                .collect(),
            idempotency: (touched.idempotency.into_iter())
                .filter_map(|k| self.idempotency.get(&k).map(|i| (k, i.clone())))
                .collect(),
            discards: (touched.discards.into_iter())
                .map(|id| (id.clone(), self.discards.get(&id).cloned()))
                .collect(),
            events: touched.events,
            meta: touched.meta.then(|| self.meta.clone()),
            forgotten: touched.forgotten,
        }
    }

    /// True when this step has moved a workspace.
    pub(crate) fn moved_workspaces(&self) -> bool {
        !self.touched.workspaces.is_empty()
    }

    pub(crate) fn edit_meta(&mut self) -> &mut Meta {
        self.touched.meta = true;
        &mut self.meta
    }

    // Workspaces.

    pub(crate) fn insert_workspace(&mut self, w: WorkspaceRecord) {
        self.numbers.insert(w.number, w.id.clone());
        let owned = self.owners.entry(w.owner.clone()).or_default();
        owned.numbers.insert(w.number);
        owned.open += u32::from(!w.state.is_final());
        self.queue.add(&w);
        self.touched.workspaces.insert(w.id.clone());
        self.workspaces.insert(w.id.clone(), w);
    }

    /// Changes a workspace that exists; owner and number stay.
    pub(crate) fn edit_workspace(
        &mut self,
        id: &WorkspaceId,
        change: impl FnOnce(&mut WorkspaceRecord),
    ) {
        let Some(w) = self.workspaces.get_mut(id) else {
            return;
        };
        self.queue.remove(w);
        let was_open = !w.state.is_final();
        change(w);
        if was_open
            && w.state.is_final()
            && let Some(owned) = self.owners.get_mut(&w.owner)
        {
            owned.open -= 1;
        }
        self.queue.add(w);
        self.touched.workspaces.insert(id.clone());
    }

    /// Forgets a workspace that has ended, with its key and its log.
    pub(crate) fn forget_workspace(&mut self, id: &WorkspaceId) {
        let Some(w) = self.workspaces.remove(id) else {
            return;
        };
        self.numbers.remove(&w.number);
        if let Some(owned) = self.owners.get_mut(&w.owner) {
            owned.numbers.remove(&w.number);
            if owned.numbers.is_empty() {
                self.owners.remove(&w.owner);
            }
        }
        if let Some(key) = w.key.map(|key| (w.owner, key)) {
            self.idempotency.remove(&key);
            self.touched.forgotten.idempotency.insert(key);
        }
        self.touched.forgotten.workspaces.insert(w.id);
    }

    // Leases.

    fn lease_end(&self, l: &LeaseRecord) -> Timestamp {
        l.expiry + self.config.lease_margin
    }

    pub(crate) fn insert_lease(&mut self, l: LeaseRecord) {
        let due = (self.lease_end(&l), l.workspace.clone());
        self.lease_due.insert(due);
        let of_slot = self.slot_leases.entry(l.slot.clone()).or_default();
        of_slot.insert(l.workspace.clone());
        if of_slot.len() == 1 {
            self.slot_filled(&l.slot, false);
        }
        if let Some(owned) = self.owner_of(&l.workspace) {
            owned.leased += 1;
        }
        self.touched.leases.insert(l.workspace.clone());
        self.leases.insert(l.workspace.clone(), l);
    }

    pub(crate) fn edit_lease(&mut self, id: &WorkspaceId, change: impl FnOnce(&mut LeaseRecord)) {
        let margin = self.config.lease_margin;
        let Some(l) = self.leases.get_mut(id) else {
            return;
        };
        let old = l.expiry;
        change(l);
        if l.expiry != old {
            self.lease_due.remove(&(old + margin, id.clone()));
            self.lease_due.insert((l.expiry + margin, id.clone()));
        }
        self.touched.leases.insert(id.clone());
    }

    pub(crate) fn remove_lease(&mut self, id: &WorkspaceId) -> Option<LeaseRecord> {
        let l = self.leases.remove(id)?;
        let due = (self.lease_end(&l), id.clone());
        self.lease_due.remove(&due);
        if let Some(ids) = self.slot_leases.get_mut(&l.slot) {
            ids.remove(id);
            if ids.is_empty() {
                self.slot_leases.remove(&l.slot);
                self.slot_filled(&l.slot, true);
            }
        }
        if let Some(owned) = self.owner_of(id) {
            owned.leased -= 1;
        }
        self.touched.leases.insert(id.clone());
        Some(l)
    }

    /// A slot got its first lease, or lost its last.
    fn slot_filled(&mut self, slot: &SubmitKey, leased_before: bool) {
        if let Some(p) = self.pilots.get(slot) {
            let (from, to) = (Place::of(p, leased_before), Place::of(p, !leased_before));
            self.crowd.moved(p, from, to);
        }
    }

    fn owner_of(&mut self, id: &WorkspaceId) -> Option<&mut Owned> {
        self.owners.get_mut(&self.workspaces.get(id)?.owner)
    }

    /// The live leases of a slot, those of its former pilots too.
    pub(crate) fn leases_of(&self, slot: &SubmitKey) -> impl Iterator<Item = &LeaseRecord> {
        self.slot_leases
            .get(slot)
            .into_iter()
            .flatten()
            .filter_map(|id| self.leases.get(id))
    }

    // Pilots.

    pub(crate) fn insert_pilot(&mut self, p: PilotRecord) {
        let place = Place::of(&p, self.slot_leases.contains_key(&p.key));
        self.crowd.enter(&p, place);
        if let Some(due) = (self.due_of)(&self.config, &p) {
            self.pilot_due.insert((due, p.key.clone()));
        }
        self.touched.pilots.insert(p.key.clone());
        self.pilots.insert(p.key.clone(), p);
    }

    pub(crate) fn edit_pilot(&mut self, key: &SubmitKey, change: impl FnOnce(&mut PilotRecord)) {
        let Some(p) = self.pilots.get_mut(key) else {
            return;
        };
        let leased = self.slot_leases.contains_key(key);
        let (was, was_due) = (Place::of(p, leased), (self.due_of)(&self.config, p));
        change(p);
        self.crowd.moved(p, was, Place::of(p, leased));
        let due = (self.due_of)(&self.config, p);
        if due != was_due {
            if let Some(at) = was_due {
                self.pilot_due.remove(&(at, key.clone()));
            }
            if let Some(at) = due {
                self.pilot_due.insert((at, key.clone()));
            }
        }
        self.touched.pilots.insert(key.clone());
    }

    /// Forgets a pilot job that has ended and counts nowhere any more, with its log.
    pub(crate) fn forget_pilot(&mut self, key: &SubmitKey) {
        if let Some(p) = self.pilots.remove(key) {
            let leased = self.slot_leases.contains_key(key);
            self.crowd.leave(&p, Place::of(&p, leased));
            self.touched.forgotten.pilots.insert(key.clone());
        }
    }

    /// The pilot jobs of a site that count against its limits, oldest first.
    pub(crate) fn live(&self, site: &SiteName) -> impl DoubleEndedIterator<Item = &PilotRecord> {
        (self.crowd.live(site)).filter_map(|k| self.pilots.get(k))
    }

    /// Of those, the ones whose pilot had room for another guest when it spoke last.
    pub(crate) fn roomy(&self, site: &SiteName) -> impl Iterator<Item = &PilotRecord> {
        (self.crowd.roomy(site)).filter_map(|k| self.pilots.get(k))
    }

    /// Of those, the ones that wait, start, or are there without a lease.
    pub(crate) fn spare(&self, site: &SiteName) -> impl DoubleEndedIterator<Item = &PilotRecord> {
        (self.crowd.spare(site)).filter_map(|k| self.pilots.get(k))
    }

    // Sites, keys, discards.

    pub(crate) fn site(&self, name: &SiteName) -> SiteRecord {
        self.sites
            .get(name)
            .cloned()
            .unwrap_or_else(|| SiteRecord::new(name.clone()))
    }

    /// Changes what is known of a site; nothing is written when the change changes nothing.
    pub(crate) fn edit_site(&mut self, name: &SiteName, change: impl FnOnce(&mut SiteRecord)) {
        let mut after = self.site(name);
        change(&mut after);
        let before = self.sites.get(name);
        if before.map_or_else(|| after != SiteRecord::new(name.clone()), |b| after != *b) {
            self.sites.insert(name.clone(), after);
            self.touched.sites.insert(name.clone());
        }
    }

    /// Says that what suspends cost on a node has changed.
    pub(crate) fn touch_cost(&mut self, key: (SiteName, NodeName)) {
        self.touched.costs.insert(key);
    }

    pub(crate) fn insert_idempotency(&mut self, i: IdempotencyRecord) {
        let key = (i.owner.clone(), i.key.clone());
        self.touched.idempotency.insert(key.clone());
        self.idempotency.insert(key, i);
    }

    pub(crate) fn insert_discard(&mut self, d: DiscardRecord) {
        self.touched.discards.insert(d.state.clone());
        self.discards.insert(d);
    }

    pub(crate) fn remove_discard(&mut self, id: &StateId) {
        if self.discards.remove(id).is_some() {
            self.touched.discards.insert(id.clone());
        }
    }

    // Events.

    /// Appends to a log, under the next number.
    pub(crate) fn append(&mut self, log: Log, note: Note) {
        let seq = match &log {
            Log::Workspace(id) => {
                let Some(w) = self.workspaces.get_mut(id) else {
                    return;
                };
                w.last_seq = w.last_seq.next();
                self.touched.workspaces.insert(id.clone());
                w.last_seq
            }
            Log::Pilot(key) => {
                let Some(p) = self.pilots.get_mut(key) else {
                    return;
                };
                p.last_seq = p.last_seq.next();
                self.touched.pilots.insert(key.clone());
                p.last_seq
            }
        };
        let (generation, slot) = note.lease.unzip();
        self.touched.events.push(EventRecord {
            log,
            seq,
            at: note.at,
            kind: note.kind,
            state: note.state,
            generation,
            slot,
            text: note.text,
            data: note.data,
        });
    }
}

/// An event before it has its number.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    pub(crate) text: String,
    pub(crate) state: Option<WorkspaceState>,
    pub(crate) lease: Option<(Generation, SubmitKey)>,
    pub(crate) data: serde_json::Value,
}

impl Note {
    pub(crate) fn new(at: Timestamp, kind: &str, text: impl Into<String>) -> Self {
        Self {
            at,
            kind: kind.to_owned(),
            text: text.into(),
            state: None,
            lease: None,
            data: serde_json::Value::Null,
        }
    }

    /// The same, said of a lease.
    pub(crate) fn of_lease(self, l: &LeaseRecord) -> Self {
        Self {
            lease: Some((l.generation, l.slot.clone())),
            ..self
        }
    }
}
