//! What a slot has and a guest needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of each thing that a node has. Offered by slots, asked for by workspaces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    /// Processor cores.
    pub cores: u32,
    /// Memory in MiB (2^20 bytes).
    pub memory_mib: u64,
    /// Scratch disk in MiB (2^20 bytes).
    pub disk_mib: u64,
}

/// A size for people, exact: `6 GiB`, `1536 MiB`.
pub fn mib(mib: u64) -> String {
    if mib >= 1024 && mib.is_multiple_of(1024) {
        format!("{} GiB", mib / 1024)
    } else {
        format!("{mib} MiB")
    }
}

impl Resources {
    /// True when `need` fits into this in every dimension.
    pub const fn holds(&self, need: &Self) -> bool {
        need.cores <= self.cores
            && need.memory_mib <= self.memory_mib
            && need.disk_mib <= self.disk_mib
    }

    /// What is left after `used` is taken away; zero where more is used than there is.
    #[must_use]
    pub const fn minus(&self, used: &Self) -> Self {
        Self {
            cores: self.cores.saturating_sub(used.cores),
            memory_mib: self.memory_mib.saturating_sub(used.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(used.disk_mib),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            cores: self.cores.saturating_add(other.cores),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
        }
    }

    /// The first dimension in which `need` does not fit, in words: `6 GiB of memory (has 2 GiB)`.
    pub fn shortfall(&self, need: &Self) -> Option<String> {
        if need.cores > self.cores {
            Some(format!("{} cores (has {})", need.cores, self.cores))
        } else if need.memory_mib > self.memory_mib {
            Some(format!(
                "{} of memory (has {})",
                mib(need.memory_mib),
                mib(self.memory_mib)
            ))
        } else if need.disk_mib > self.disk_mib {
            Some(format!(
                "{} of disk (has {})",
                mib(need.disk_mib),
                mib(self.disk_mib)
            ))
        } else {
            None
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.cores == 1 { "" } else { "s" };
        write!(
            f,
            "{} core{s}, {} MiB memory, {} MiB disk",
            self.cores, self.memory_mib, self.disk_mib
        )
    }
}
