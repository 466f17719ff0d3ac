//! Part `graph`: the crates' arrows are those of the architecture, and the cores stay pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::command::Log;
use crate::metadata::Metadata;
use crate::parts::{Tally, verdict};
use crate::tree;
use crate::workshop::Workshop;

/// Which of our crates each of our crates may need, in any role (docs/architecture.md).
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("broker-core", &["protocol"]),
    (
        "broker",
        &["protocol", "broker-core", "lrm-adapters", "image-store"],
    ),
    ("pilot-submit", &["protocol", "image-store"]),
    ("pilot-core", &["protocol"]),
    (
        "pilot",
        &["protocol", "pilot-core", "image-store", "xen-helper"],
    ),
    ("xen-helper", &[]),
    ("image-store", &["protocol"]),
    ("lrm-adapters", &["protocol"]),
    (
        "e2e",
        &[
            "protocol",
            "broker-core",
            "broker",
            "pilot-submit",
            "pilot-core",
            "pilot",
            "image-store",
            "lrm-adapters",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that decide and do nothing else.
pub const CORES: &[&str] = &["protocol", "broker-core", "pilot-core"];

/// What must not be linked into a core, not even by a detour.
const NOT_IN_CORES: &[&str] = &[
    "axum",
    "getrandom",
    "hyper",
    "mio",
    "nix",
    "rand",
    "rand_core",
    "reqwest",
    "ring",
    "rusqlite",
    "rustix",
    "rustls",
    "signal-hook",
    "socket2",
    "sqlx",
    "sysinfo",
    "tempfile",
    "tokio",
];

/// Checks arrows, cores and the tree.
pub fn run(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let metadata = Metadata::load(workshop)?;
    let members: BTreeMap<&str, BTreeSet<&str>> = metadata
        .members()
        .iter()
        .map(|(name, package)| {
            (
                *name,
                package
                    .dependencies
                    .iter()
                    .map(|needed| needed.name.as_str())
                    .collect(),
            )
        })
        .collect();
    let mut faults = wrong_arrows(&members);
    for (name, package) in metadata.members() {
        if CORES.contains(&name) {
            faults.extend(impure(name, &metadata.linked_into(&package.id)));
        }
    }
    faults.extend(tree::faults(workshop, &metadata)?);
    Ok(verdict(
        log,
        &faults,
        &format!(
            "{} crates, arrows and tree as the architecture says",
            members.len()
        ),
    ))
}

/// Arrows between our own crates that are not allowed, crates that nobody planned, plans without a crate.
fn wrong_arrows(members: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let plan: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for (name, needs) in members {
        let Some(allowed) = plan.get(name) else {
            faults.push(format!("crate {name} has no place in the architecture: add it to docs/architecture.md and to scripts/xtask/src/graph.rs"));
            continue;
        };
        for needed in needs.iter().filter(|needed| members.contains_key(*needed)) {
            if !allowed.contains(needed) {
                faults.push(format!(
                    "{name} must not need {needed}; it may need: {}",
                    allowed.join(", ")
                ));
            }
        }
    }
    for name in plan.keys().filter(|name| !members.contains_key(*name)) {
        faults.push(format!(
            "the architecture has a crate {name}, the workspace has not"
        ));
    }
    faults
}

fn impure(core: &str, linked: &BTreeSet<&str>) -> Vec<String> {
    NOT_IN_CORES
        .iter()
        .filter(|name| linked.contains(*name))
        .map(|name| format!("{core} is a pure core, but {name} is linked into it (`cargo tree -p {core} -i {name}` says why)"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_planned() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
        ARROWS
            .iter()
            .map(|(name, needs)| (*name, needs.iter().copied().collect()))
            .collect()
    }

    #[test]
    fn the_plan_itself_passes() {
        assert_eq!(wrong_arrows(&as_planned()), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_arrow_is_named() {
        let mut members = as_planned();
        members.entry("pilot").or_default().insert("lrm-adapters");
        let faults = wrong_arrows(&members);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].starts_with("pilot must not need lrm-adapters"),
            "{faults:?}"
        );
    }

    #[test]
    fn unplanned_and_missing_crates_are_named() {
        let mut members = as_planned();
        members.remove("e2e");
        members.insert("utils", BTreeSet::new());
        let faults = wrong_arrows(&members);
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_runtime_in_a_core_is_named() {
        let faults = impure("broker-core", &BTreeSet::from(["serde", "tokio"]));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("tokio is linked into it"), "{faults:?}");
    }
}
