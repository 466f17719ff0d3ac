//! What is really there, whatever the machines believe: guests on nodes and states in stores.
//! The promises are checked against this.

use std::collections::{BTreeMap, BTreeSet};

use pilot_core::guest::LeaseKey;
use protocol::ids::{Generation, StateId, WorkspaceId};
use protocol::time::{Span, Timestamp};

/// Which pilot process.
pub type PilotNumber = usize;

/// A guest that exists on a node.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The state that it was started from, by site number and id: its disks' layers are there.
    pub from: Option<(usize, StateId)>,
    /// Guest-running time before `since`.
    pub ran: Span,
    /// Executes since then; none while it stands still.
    pub since: Option<Timestamp>,
    /// A checkpoint of it is being written.
    pub checkpoint: bool,
    /// What a suspend of it writes when nothing is in the store.
    pub bytes: u64,
    /// What the last suspend or checkpoint of it has to write, whatever a flush that was under way
    /// would have saved.
    pub writing: u64,
    /// From when on its memory is in the store but for what it has written since.
    pub flushed: Option<Timestamp>,
    /// When it first executed here.
    pub up: Option<Timestamp>,
    /// The broker has had no such lease since then.
    pub unowned: Option<Timestamp>,
    /// Changes whenever it starts or stops executing, so that plans for it can be dropped.
    pub turn: u64,
}

impl Guest {
    /// What a suspend of it writes.
    pub fn left_at(&self, now: Timestamp) -> u64 {
        match self.flushed {
            Some(done) if done <= now => self.bytes / 8,
            Some(_) | None => self.bytes,
        }
    }

    /// Guest-running time now.
    pub fn ran_at(&self, now: Timestamp) -> Span {
        self.ran + self.since.map_or(Span::ZERO, |s| now.since(s))
    }
}

/// A state in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Guest-running time that it contains.
    pub run: Span,
    /// The hash of its manifest.
    pub manifest: String,
}

/// All that is really there.
#[derive(Debug)]
pub struct Truth {
    /// Guests by pilot and lease.
    pub guests: BTreeMap<(PilotNumber, LeaseKey), Guest>,
    /// States by site number and id.
    pub states: BTreeMap<(usize, StateId), SavedState>,
    /// States that a pilot deleted when it was told to.
    pub discarded: BTreeSet<StateId>,
    alive: BTreeMap<WorkspaceId, u32>,
    /// Guests that run from each state.
    users: BTreeMap<(usize, StateId), u32>,
    /// Before all ids of workspaces.
    least: WorkspaceId,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            guests: BTreeMap::new(),
            states: BTreeMap::new(),
            discarded: BTreeSet::new(),
            alive: BTreeMap::new(),
            users: BTreeMap::new(),
            least: WorkspaceId::new("0").expect("an id"),
        }
    }
}

impl Truth {
    /// A hypervisor has started. Says how many guests of this workspace exist now.
    pub fn guest_appears(&mut self, pilot: PilotNumber, lease: LeaseKey, guest: Guest) -> u32 {
        let workspace = lease.workspace.clone();
        if let Some(from) = &guest.from {
            *self.users.entry(from.clone()).or_default() += 1;
        }
        match self.guests.insert((pilot, lease), guest) {
            None => *self.alive.entry(workspace.clone()).or_default() += 1,
            Some(before) => self.no_longer_uses(&before),
        }
        self.alive.get(&workspace).copied().unwrap_or_default()
    }

    /// A hypervisor is gone.
    pub fn guest_goes(&mut self, pilot: PilotNumber, lease: &LeaseKey) -> Option<Guest> {
        let gone = self.guests.remove(&(pilot, lease.clone()))?;
        self.no_longer_uses(&gone);
        if let Some(count) = self.alive.get_mut(&lease.workspace) {
            *count -= 1;
            if *count == 0 {
                self.alive.remove(&lease.workspace);
            }
        }
        Some(gone)
    }

    fn no_longer_uses(&mut self, guest: &Guest) {
        let Some(from) = &guest.from else {
            return;
        };
        if let Some(count) = self.users.get_mut(from) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(from);
            }
        }
    }

    /// A guest that runs from this state, and its pilot; none when no guest does.
    pub fn user_of(&self, state: &(usize, StateId)) -> Option<(PilotNumber, &LeaseKey)> {
        if !self.users.contains_key(state) {
            return None;
        }
        let mut all = self.guests.iter();
        let user = all.find(|(_, guest)| guest.from.as_ref() == Some(state));
        user.map(|((pilot, lease), _)| (*pilot, lease))
    }

    /// All guests of a pilot.
    pub fn guests_of(&self, pilot: PilotNumber) -> Vec<LeaseKey> {
        let none = LeaseKey {
            workspace: self.least.clone(),
            generation: Generation(0),
        };
        self.guests
            .range((pilot, none)..)
            .take_while(|((p, _), _)| *p == pilot)
            .map(|((_, lease), _)| lease.clone())
            .collect()
    }
}
