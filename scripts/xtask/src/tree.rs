//! The rules of the source tree: folders, manifests, sizes of files, words that cores do not use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::graph::CORES;
use crate::metadata::Metadata;
use crate::workshop::Workshop;

/// The top-level folders; `target` and what begins with a dot do not count.
const FOLDERS: &[&str] = &[
    "broker",
    "docs",
    "lrm-adapters",
    "pilot",
    "scripts",
    "tests",
];

/// Longest source file, without its tests.
const LONGEST: usize = 500;

/// Words of the outside world that a pure core has no use for.
const NOT_IN_CORE_SOURCES: &[&str] = &[
    "HashMap",
    "HashSet",
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
];

/// All that is wrong with the tree.
pub fn faults(workshop: &Workshop, metadata: &Metadata) -> Result<Vec<String>> {
    let mut faults = wrong_folders(&folders(&workshop.root)?);
    for (name, package) in metadata.members() {
        let directory = package
            .manifest_path
            .parent()
            .with_context(|| format!("{} has no directory", package.manifest_path.display()))?;
        let manifest = read(&package.manifest_path)?;
        faults.extend(wrong_manifest(name, &manifest)?);
        for path in sources(directory)? {
            let shown = path
                .strip_prefix(&workshop.root)
                .unwrap_or(&path)
                .display()
                .to_string();
            let text = read(&path)?;
            faults.extend(too_long(&shown, &text));
            if CORES.contains(&name) && path.starts_with(directory.join("src")) {
                faults.extend(outside_words(&shown, &text));
            }
        }
        if CORES.contains(&name)
            && !read(&directory.join("src/lib.rs"))?.contains("#![forbid(unsafe_code)]")
        {
            faults.push(format!(
                "{name} is a core: its lib.rs must say #![forbid(unsafe_code)]"
            ));
        }
    }
    Ok(faults)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

fn folders(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("failed to list {}", root.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && !name.starts_with('.') && name != "target" {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn wrong_folders(found: &[String]) -> Vec<String> {
    let extra = found
        .iter()
        .filter(|name| !FOLDERS.contains(&name.as_str()));
    let missing = FOLDERS
        .iter()
        .filter(|name| !found.iter().any(|other| other == *name));
    extra
        .map(|name| {
            format!(
                "folder {name}/ at the top: the top-level folders are {}",
                FOLDERS.join(", ")
            )
        })
        .chain(missing.map(|name| format!("folder {name}/ is missing")))
        .collect()
}

/// Lints, versions and features are the workspace's: one set means one build of each dependency.
fn wrong_manifest(name: &str, text: &str) -> Result<Vec<String>> {
    let manifest: toml::Table =
        toml::from_str(text).with_context(|| format!("failed to read the manifest of {name}"))?;
    let mut faults = Vec::new();
    let lints = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        faults.push(format!(
            "{name}: its Cargo.toml must say `[lints] workspace = true`"
        ));
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(wanted) = manifest.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        for (needed, how) in wanted {
            let ours = how.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            let features = how.get("features").is_some();
            // A feature of one of our own crates is not a second build of anything foreign.
            if !ours || (features && needed != "protocol") {
                faults.push(format!(
                    "{name}: {needed} must be `workspace = true` without features; versions and features are in the root Cargo.toml"
                ));
            }
        }
    }
    Ok(faults)
}

/// All Rust files of a crate, without those of crates in folders below it.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in
            fs::read_dir(&next).with_context(|| format!("failed to list {}", next.display()))?
        {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if !path.join("Cargo.toml").exists() {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text before the tests at the end of a file.
fn without_tests(text: &str) -> &str {
    text.split_once("\n#[cfg(test)]\nmod ")
        .map_or(text, |(code, _)| code)
}

fn too_long(shown: &str, text: &str) -> Option<String> {
    let lines = without_tests(text).lines().count();
    let is_test = shown.contains("/tests/") || shown.ends_with("tests.rs");
    (lines > LONGEST && !is_test).then(|| {
        format!("{shown} has {lines} lines without its tests; at most {LONGEST}: split it")
    })
}

fn outside_words(shown: &str, text: &str) -> Vec<String> {
    without_tests(text)
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .flat_map(|(number, line)| {
            NOT_IN_CORE_SOURCES
                .iter()
                .filter(|word| line.contains(**word))
                .map(move |word| format!("{shown}:{}: a core does not use {word}", number + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_exactly_the_planned_ones() {
        let mut found: Vec<String> = FOLDERS.iter().map(ToString::to_string).collect();
        assert_eq!(wrong_folders(&found), Vec::<String>::new());
        found[0] = "utils".to_owned();
        assert_eq!(wrong_folders(&found).len(), 2);
    }

    #[test]
    fn manifests_take_everything_from_the_workspace() {
        let good = "[lints]\nworkspace = true\n[dependencies]\nserde.workspace = true\n";
        assert_eq!(wrong_manifest("a", good).unwrap(), Vec::<String>::new());
        let bad =
            "[dependencies]\nserde = \"1\"\ntokio = { workspace = true, features = [\"full\"] }\n";
        assert_eq!(wrong_manifest("a", bad).unwrap().len(), 3);
    }

    #[test]
    fn tests_do_not_count_as_length() {
        let code = "//! A\n".repeat(LONGEST);
        let text = format!(
            "{code}\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// t\n".repeat(900)
        );
        assert_eq!(too_long("a/src/b.rs", &text), None);
        let longer = format!("{code}fn a() {{}}\n");
        assert!(too_long("a/src/b.rs", &longer).is_some());
        assert_eq!(too_long("a/tests/b.rs", &longer), None);
    }

    #[test]
    fn cores_use_no_clock_and_no_hash_map() {
        let text = "use std::collections::HashMap;\n// a HashMap\nlet now = Instant::now();\n";
        let faults = outside_words("core.rs", text);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("core.rs:1:"), "{faults:?}");
    }
}
