//! The queue: workspaces that wait, by what kind of slot they can use, so that neither matching
//! nor provisioning looks at each of ten thousand requests. Derived from the records.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{SiteName, UserName};
use protocol::resources::Resources;
use protocol::time::Span;
use protocol::workspace::{AdvanceTo, OnEviction, WorkspaceState};

use crate::records::WorkspaceRecord;

/// Requests that the same slots can hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ClassKey {
    cores: u32,
    memory_mib: u64,
    disk_mib: u64,
    /// The one site that has its state; none: any site.
    pub(crate) site: Option<SiteName>,
    /// True for those that must get all the time that they need in one slot, because what they
    /// have done is lost at its end.
    pub(crate) unbroken: bool,
    /// True for those that must be suspended and never killed (nor have checkpoints), so that the notice has to be long
    /// enough for all of their memory.
    pub(crate) owed: bool,
}

impl ClassKey {
    pub(crate) fn of(w: &WorkspaceRecord) -> Self {
        let Resources {
            cores,
            memory_mib,
            disk_mib,
        } = w.spec.resources;
        Self {
            cores,
            memory_mib,
            disk_mib,
            site: w.saved.as_ref().map(|s| s.site.clone()),
            unbroken: w.spec.policy.on_eviction != OnEviction::Suspend,
            owed: w.spec.policy.on_eviction == OnEviction::Suspend
                && !w.spec.policy.bears_a_kill()
                && w.spec.advance_to == AdvanceTo::Finished,
        }
    }

    /// What each of them needs.
    pub(crate) const fn resources(&self) -> Resources {
        Resources {
            cores: self.cores,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
        }
    }

    /// True when a slot of this site may take them.
    pub(crate) fn allows(&self, site: &SiteName) -> bool {
        self.site.as_ref().is_none_or(|s| s == site)
    }
}

/// The waiting requests of one class.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Class {
    /// Per owner, in order of acceptance.
    pub(crate) owners: BTreeMap<UserName, BTreeSet<u64>>,
    /// By the time that they still need.
    pub(crate) needs: BTreeSet<(Span, u64)>,
    /// That time, summed.
    pub(crate) total: Span,
}

/// All waiting requests.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Queue {
    pub(crate) classes: BTreeMap<ClassKey, Class>,
}

/// Guest time that a request still needs from a slot; nothing when it is only to be staged.
pub(crate) fn need(w: &WorkspaceRecord) -> Span {
    match w.spec.advance_to {
        AdvanceTo::Staged => Span::ZERO,
        AdvanceTo::Finished => w.remaining(),
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    pub(crate) fn add(&mut self, w: &WorkspaceRecord) {
        if w.state != WorkspaceState::Queued {
            return;
        }
        let class = self.classes.entry(ClassKey::of(w)).or_default();
        class
            .owners
            .entry(w.owner.clone())
            .or_default()
            .insert(w.number);
        class.needs.insert((need(w), w.number));
        class.total += need(w);
    }

    pub(crate) fn remove(&mut self, w: &WorkspaceRecord) {
        if w.state != WorkspaceState::Queued {
            return;
        }
        let key = ClassKey::of(w);
        let Some(class) = self.classes.get_mut(&key) else {
            return;
        };
        if let Some(numbers) = class.owners.get_mut(&w.owner) {
            numbers.remove(&w.number);
            if numbers.is_empty() {
                class.owners.remove(&w.owner);
            }
        }
        class.needs.remove(&(need(w), w.number));
        class.total = class.total.minus(need(w));
        if class.needs.is_empty() {
            self.classes.remove(&key);
        }
    }
}
