//! What a reclaim did, for people and programs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::journal::Holder;

/// Which slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotName {
    /// Its scratch directory.
    pub scratch: PathBuf,
    /// Its pilot job; empty if there was no journal to tell.
    pub submit_key: String,
    /// Which start of that; empty if there was no journal to tell.
    pub incarnation: String,
}

/// Something of ours that is still there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leftover {
    /// What.
    pub what: String,
    /// Why it could not be removed.
    pub why: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// What was undone of one slot, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The slot.
    pub slot: SlotName,
    /// What was there and is gone now. What had gone before is not listed.
    pub removed: Vec<String>,
    /// What is still there.
    pub leftovers: Vec<Leftover>,
}

impl Report {
    pub(super) fn empty(scratch: &Path) -> Self {
        Self {
            slot: SlotName {
                scratch: scratch.to_owned(),
                submit_key: String::new(),
                incarnation: String::new(),
            },
            removed: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    pub(super) fn of(holder: &Holder) -> Self {
        Self {
            slot: SlotName {
                scratch: holder.scratch.clone(),
                submit_key: holder.submit_key.clone(),
                incarnation: holder.incarnation.clone(),
            },
            removed: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    /// True when nothing of the slot is left.
    pub fn is_clean(&self) -> bool {
        self.leftovers.is_empty()
    }

    pub(super) fn removed(&mut self, what: impl fmt::Display) {
        self.removed.push(what.to_string());
    }

    pub(super) fn left(&mut self, what: impl fmt::Display, why: impl fmt::Display) {
        self.leftovers.push(Leftover {
            what: what.to_string(),
            why: why.to_string(),
        });
    }

    /// Writes down what the helper for Xen has done.
    pub(super) fn reclaimed(&mut self, done: xen_helper::Reclaimed) {
        done.removed.iter().for_each(|what| self.removed(what));
        for (what, why) in done.left {
            self.left(what, why);
        }
    }

    /// Writes down how the removal of one thing went: `Ok(false)` says that it was not there.
    pub(super) fn note(&mut self, what: impl fmt::Display, result: std::io::Result<bool>) {
        match result {
            Ok(true) => self.removed(what),
            Ok(false) => {}
            Err(e) => self.left(what, e),
        }
    }
}

impl fmt::Display for Report {
    /// One line per thing, with a last line that sums up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in &self.removed {
            writeln!(f, "removed  {what}")?;
        }
        for leftover in &self.leftovers {
            writeln!(f, "LEFT     {leftover}")?;
        }
        write!(
            f,
            "{}: {} removed, {} left",
            self.slot.scratch.display(),
            self.removed.len(),
            self.leftovers.len()
        )
    }
}
