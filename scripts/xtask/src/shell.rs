//! Part `shell`: shellcheck over every shell script.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{Log, Step};
use crate::parts::{Tally, minutes};
use crate::workshop::Workshop;

/// Checks what begins with `#!/bin/sh` or bash in `scripts/`, `.ci/` and `tests/`.
pub fn run(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let mut scripts = Vec::new();
    for folder in ["scripts", ".ci", "tests"] {
        collect(&workshop.root.join(folder), &mut scripts)?;
    }
    scripts.sort();
    let mut arguments = vec![
        "-x".to_owned(),
        "-P".to_owned(),
        "SCRIPTDIR".to_owned(),
        "-S".to_owned(),
        "warning".to_owned(),
    ];
    arguments.extend(scripts.iter().map(|path| path.display().to_string()));
    Step::new(&workshop.root, "shellcheck", &arguments, minutes(2)).run(log)?;
    log.line(&format!("{} shell scripts", scripts.len()));
    Ok(Tally::ONE)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let list = std::fs::read_dir(directory)
        .with_context(|| format!("failed to list {}", directory.display()))?;
    for entry in list {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, found)?;
        } else if is_shell(
            &std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?,
        ) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_shell(content: &[u8]) -> bool {
    let first = content
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    first.starts_with(b"#!") && (first.ends_with(b"/sh") || first.ends_with(b"bash"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_shell_script() {
        assert!(is_shell(b"#!/bin/sh\necho\n"));
        assert!(is_shell(b"#!/usr/bin/env bash\n"));
        assert!(!is_shell(b"#!/usr/bin/python3\n"));
        assert!(!is_shell(b"//! sh"));
        assert!(!is_shell(b""));
    }
}
