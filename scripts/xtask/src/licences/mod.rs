//! Part `licences`: every dependency has a licence that `deny.toml` allows, is not banned there and
//! comes from an allowed source. The same file works with cargo-deny, which is not needed here.

mod expression;
mod policy;

use anyhow::{Context as _, Result};

use crate::command::Log;
use crate::metadata::{Metadata, Package};
use crate::parts::{Tally, verdict};
use crate::workshop::Workshop;
use expression::Expression;
use policy::{Policy, Rule};

/// Checks all packages in use, those of tests and build scripts included.
pub fn run(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let path = workshop.root.join("deny.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let policy = Policy::parse(&text).context("failed to read deny.toml")?;
    let metadata = Metadata::load(workshop)?;
    let packages = metadata.in_use();
    let mut faults: Vec<String> = packages
        .iter()
        .flat_map(|package| package_faults(&policy, package))
        .collect();
    for licence in policy
        .licenses
        .allow
        .iter()
        .filter(|allowed| !packages.iter().any(|package| names(package, allowed)))
    {
        faults.push(format!(
            "deny.toml allows {licence}, which no dependency names: remove it"
        ));
    }
    Ok(verdict(
        log,
        &faults,
        &format!(
            "{} packages: licences, bans and sources as deny.toml says",
            packages.len()
        ),
    ))
}

fn names(package: &Package, licence: &str) -> bool {
    package
        .license
        .as_deref()
        .is_some_and(|text| text.contains(licence))
}

fn package_faults(policy: &Policy, package: &Package) -> Vec<String> {
    let shown = format!("{} {}", package.name, package.version);
    let mut faults = Vec::new();
    match package.license.as_deref().map(Expression::parse) {
        None => faults.push(format!("{shown}: names no licence")),
        Some(Err(error)) => faults.push(format!("{shown}: licence not understood: {error}")),
        Some(Ok(licence)) => {
            if !licence.satisfied_by(&policy.licenses.allow) {
                faults.push(format!(
                    "{shown}: licence `{licence}` is not allowed by deny.toml"
                ));
            }
        }
    }
    if let Some(ban) = policy
        .bans
        .deny
        .iter()
        .find(|ban| ban.krate == package.name)
    {
        faults.push(format!(
            "{shown}: banned: {} (`cargo tree -i {}` says who needs it)",
            ban.reason, package.name
        ));
    }
    match package.source.as_deref() {
        // Our own, by path.
        None => faults.extend(wildcards(policy, package)),
        Some(source) => {
            let allowed = match (
                source.strip_prefix("registry+"),
                source.strip_prefix("git+"),
            ) {
                (Some(registry), _) => {
                    policy.sources.unknown_registry != Rule::Deny
                        || policy
                            .sources
                            .allow_registry
                            .iter()
                            .any(|allowed| allowed == registry)
                }
                (None, Some(_)) => policy.sources.unknown_git != Rule::Deny,
                (None, None) => false,
            };
            if !allowed {
                faults.push(format!(
                    "{shown}: comes from {source}, which deny.toml does not allow"
                ));
            }
        }
    }
    faults
}

fn wildcards(policy: &Policy, package: &Package) -> Vec<String> {
    if policy.bans.wildcards != Rule::Deny {
        return Vec::new();
    }
    package
        .dependencies
        .iter()
        .filter(|needed| needed.req == "*")
        .filter(|needed| needed.path.is_none() || !policy.bans.allow_wildcard_paths)
        .map(|needed| format!("{}: asks for any version of {}", package.name, needed.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    const POLICY: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0"]
        [bans]
        wildcards = "deny"
        allow-wildcard-paths = true
        deny = [{ crate = "openssl-sys", reason = "one TLS stack" }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
        allow-registry = ["https://example.org/index"]
    "#;

    fn package(name: &str, licence: Option<&str>, source: Option<&str>) -> Package {
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: licence.map(str::to_owned),
            source: source.map(str::to_owned),
            manifest_path: "Cargo.toml".into(),
            dependencies: Vec::new(),
        }
    }

    fn faults(package: &Package) -> Vec<String> {
        package_faults(&Policy::parse(POLICY).unwrap(), package)
    }

    const REGISTRY: Option<&str> = Some("registry+https://example.org/index");

    #[test]
    fn a_good_package_passes() {
        assert_eq!(
            faults(&package("serde", Some("MIT OR GPL-3.0-only"), REGISTRY)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn copyleft_missing_and_garbled_licences_fail() {
        for licence in [
            Some("GPL-3.0-only"),
            Some("MIT AND GPL-2.0-only"),
            None,
            Some("MIT OR"),
        ] {
            assert_eq!(
                faults(&package("a", licence, REGISTRY)).len(),
                1,
                "{licence:?}"
            );
        }
    }

    #[test]
    fn a_ban_gives_its_reason() {
        let faults = faults(&package("openssl-sys", Some("MIT"), REGISTRY));
        assert!(faults[0].contains("one TLS stack"), "{faults:?}");
    }

    #[test]
    fn unknown_sources_fail() {
        for source in [
            "registry+https://other.example/index",
            "git+https://example.org/x",
            "sparse",
        ] {
            assert_eq!(
                faults(&package("a", Some("MIT"), Some(source))).len(),
                1,
                "{source}"
            );
        }
    }

    #[test]
    fn wildcards_fail_but_for_paths() {
        let mut ours = package("ours", Some("MIT"), None);
        ours.dependencies = vec![
            Dependency {
                name: "path".to_owned(),
                req: "*".to_owned(),
                path: Some("x".into()),
            },
            Dependency {
                name: "any".to_owned(),
                req: "*".to_owned(),
                path: None,
            },
        ];
        assert_eq!(faults(&ours), ["ours: asks for any version of any"]);
    }
}
