//! What a node can do for a pilot, and what a pilot would refuse there and why.
//!
//! Called by `pilot doctor` (by hand) and by the canary of `pilot-broker doctor`. Everything is
//! looked at from the account and the place in which a pilot would run. What is made for it goes
//! again: files without a name, and one slot directory with a journal, which the next pilot
//! removes if the doctor is killed.

mod command;
mod disks;
mod guarded;
mod hypervisors;
mod limits;
mod slot;
mod xen;

use std::path::{Path, PathBuf};

use protocol::finding::Finding;
use protocol::ids::{Incarnation, SubmitKey};
use protocol::slot_file::{HypervisorSection, SlotFile};

pub use command::{DoctorArgs, run};

pub(crate) use limits::account_name;

use crate::journal::default_node_state;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// A slot's scratch directory to claim and remove: it may exist with nothing but `slot.toml`.
    pub scratch: PathBuf,
    /// The site's store; none: not looked at.
    pub store: Option<PathBuf>,
    /// Where pilots find each other's leftovers.
    pub node_state: PathBuf,
    /// Names the claim.
    pub key: SubmitKey,
    /// Names the claim.
    pub incarnation: Incarnation,
    /// The slot; none: only the node is looked at.
    pub slot: Option<SlotFile>,
}

impl Subject {
    /// The slot itself, as its own pilot would take it: its scratch directory is gone afterwards.
    pub fn whole_slot(slot: &SlotFile) -> Self {
        let scratch = slot.paths.scratch.clone();
        let node_state = slot.paths.node_state.clone();
        Self {
            node_state: node_state.unwrap_or_else(|| default_node_state(&scratch).to_owned()),
            store: Some(slot.paths.store.clone()),
            key: slot.submit_key.clone(),
            incarnation: slot.incarnation.clone(),
            slot: Some(slot.clone()),
            scratch,
        }
    }

    /// The same directory's neighbour: the slot itself is not touched.
    #[must_use]
    pub fn beside(mut self, name: &str) -> Self {
        self.scratch.set_file_name(name);
        self
    }

    fn hypervisor(&self) -> Option<&HypervisorSection> {
        self.slot.as_ref().map(|slot| &slot.hypervisor)
    }

    /// Where the slot's directory lies.
    fn scratch_parent(&self) -> &Path {
        self.scratch.parent().unwrap_or(Path::new("/"))
    }
}

/// Looks at everything. Call it inside a runtime with one thread; it takes some seconds, mostly
/// for the disks.
pub async fn examine(subject: &Subject) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(hypervisors::look(subject.hypervisor()).await);
    let memory = subject.slot.as_ref().map(|s| s.resources.memory.0);
    found.extend(xen::look(subject.hypervisor(), memory).await);
    found.extend(disks::look(subject));
    found.extend(limits::look(subject));
    found.push(guarded::leftovers(subject));
    found.extend(guarded::look(subject).await);
    if let Some(slot) = &subject.slot {
        found.extend(slot::look(slot).await);
    }
    found
}
