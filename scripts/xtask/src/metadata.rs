//! What `cargo metadata` says about the workspace and everything that it links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::workshop::Workshop;

/// The target that dependencies are looked at for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// All packages and who needs whom.
#[derive(Deserialize)]
pub struct Metadata {
    /// Every package that the lock file names.
    pub packages: Vec<Package>,
    /// Ids of our own crates.
    pub workspace_members: BTreeSet<String>,
    /// Who needs whom on our target.
    pub resolve: Resolve,
}

/// A crate at a version.
#[derive(Deserialize)]
pub struct Package {
    /// Cargo's id.
    pub id: String,
    /// Name in the registry.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression.
    pub license: Option<String>,
    /// Where it comes from; nothing for a path.
    pub source: Option<String>,
    /// Its Cargo.toml.
    pub manifest_path: PathBuf,
    /// What it asks for.
    pub dependencies: Vec<Dependency>,
}

/// What a Cargo.toml asks for.
#[derive(Deserialize)]
pub struct Dependency {
    /// Name in the registry.
    pub name: String,
    /// Version requirement.
    pub req: String,
    /// Directory, for a path.
    pub path: Option<PathBuf>,
}

/// The resolved graph.
#[derive(Deserialize)]
pub struct Resolve {
    /// One node per package in use.
    pub nodes: Vec<Node>,
}

/// A package in use.
#[derive(Deserialize)]
pub struct Node {
    /// Cargo's id.
    pub id: String,
    /// What it needs.
    pub deps: Vec<Needed>,
}

/// An arrow of the graph.
#[derive(Deserialize)]
pub struct Needed {
    /// Cargo's id.
    pub pkg: String,
    /// In which roles.
    pub dep_kinds: Vec<Role>,
}

/// What a dependency is for.
#[derive(Deserialize)]
pub struct Role {
    /// Nothing for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    pub fn load(workshop: &Workshop) -> Result<Self> {
        let output = Command::new("cargo")
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
                TARGET,
            ])
            .current_dir(&workshop.root)
            .output()
            .context("failed to run cargo metadata")?;
        if !output.status.success() {
            bail!(
                "cargo metadata: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("failed to read cargo metadata's answer")
    }

    /// Our own crates by name.
    pub fn members(&self) -> BTreeMap<&str, &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
            .map(|package| (package.name.as_str(), package))
            .collect()
    }

    /// Packages that are in use on our target, tests included.
    pub fn in_use(&self) -> Vec<&Package> {
        let used: BTreeSet<&str> = self
            .resolve
            .nodes
            .iter()
            .map(|node| node.id.as_str())
            .collect();
        self.packages
            .iter()
            .filter(|package| used.contains(package.id.as_str()))
            .collect()
    }

    /// Names of all that is linked into a crate, directly or not: no tests, no build scripts' needs.
    pub fn linked_into(&self, id: &str) -> BTreeSet<&str> {
        let names: BTreeMap<&str, &str> = self
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let nodes: BTreeMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let mut seen = BTreeSet::new();
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            for needed in nodes
                .get(next)
                .map(|node| node.deps.as_slice())
                .unwrap_or_default()
            {
                let linked = needed.dep_kinds.iter().any(|role| role.kind.is_none());
                if linked && seen.insert(needed.pkg.as_str()) {
                    open.push(&needed.pkg);
                }
            }
        }
        seen.iter()
            .filter_map(|id| names.get(id).copied())
            .collect()
    }
}
