//! `deny.toml`: the keys of cargo-deny's format that are understood here. Any other key is an error:
//! a rule that is not checked must not look as if it were.

use anyhow::Result;
use serde::Deserialize;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What cargo-deny looks at; here always the Linux target and the features in use.
    #[serde(default, rename = "graph")]
    _graph: toml::Table,
    /// Allowed licences.
    pub licenses: Licenses,
    /// Banned packages.
    pub bans: Bans,
    /// Allowed sources.
    pub sources: Sources,
}

/// Allowed licences.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licenses {
    /// SPDX identifiers, with their exception where there is one.
    pub allow: Vec<String>,
}

/// Banned packages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bans {
    /// Only `allow` is understood: several versions of a package are no fault.
    #[serde(default, rename = "multiple-versions")]
    _multiple_versions: Permitted,
    /// What to do about a requirement `*`.
    #[serde(default)]
    pub wildcards: Rule,
    /// Whether our own crates may ask for each other without a version.
    #[serde(default)]
    pub allow_wildcard_paths: bool,
    /// The banned ones.
    pub deny: Vec<Ban>,
}

/// A banned package and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    /// Name in the registry.
    #[serde(rename = "crate")]
    pub krate: String,
    /// Why not.
    pub reason: String,
}

/// Allowed sources.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sources {
    /// What to do about another registry.
    pub unknown_registry: Rule,
    /// What to do about a git repository.
    pub unknown_git: Rule,
    /// Addresses of registries.
    pub allow_registry: Vec<String>,
}

/// What to do about something.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Nothing.
    #[default]
    Allow,
    /// It is a fault.
    Deny,
}

/// A rule that can only say `allow`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permitted {
    /// Nothing to check.
    #[default]
    Allow,
}

impl Policy {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_workspace_s_own_file() {
        let policy = Policy::parse(include_str!("../../../../deny.toml")).unwrap();
        assert!(
            policy
                .licenses
                .allow
                .iter()
                .any(|licence| licence == "Apache-2.0")
        );
        assert!(policy.bans.deny.iter().all(|ban| !ban.reason.is_empty()));
    }

    #[test]
    fn a_rule_that_is_not_checked_is_refused() {
        let text = "[licenses]\nallow = []\nunused-allowed-license = \"deny\"\n[bans]\ndeny = []\n[sources]\nunknown-registry = \"deny\"\nunknown-git = \"deny\"\nallow-registry = []\n";
        assert!(Policy::parse(text).is_err());
    }
}
