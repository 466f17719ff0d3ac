//! Part `docs`: no link in the documents leads nowhere, and documents that are made from code (tests
//! in programs named `docs*`) are in step with it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::Log;
use crate::nextest::{self, Kind};
use crate::parts::{Tally, cargo, minutes, verdict};
use crate::workshop::Workshop;

/// Checks links, then runs the tests.
pub fn run(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let pages = pages(&workshop.root)?;
    let mut faults = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page)
            .with_context(|| format!("failed to read {}", page.display()))?;
        let shown = page.strip_prefix(&workshop.root).unwrap_or(page).display();
        for link in links(&text) {
            if leads_nowhere(page, link) {
                faults.push(format!("{shown}: the link to {link} leads nowhere"));
            }
        }
    }
    let own = verdict(
        log,
        &faults,
        &format!("{} documents: every link leads somewhere", pages.len()),
    );
    Ok(own.and(nextest::run(workshop, log, Kind::Docs)?))
}

/// Writes the pages that are made from code, by the test that compares them otherwise.
pub fn write(workshop: &Workshop, log: &mut Log) -> Result<()> {
    let test = [
        "test",
        "--locked",
        "--package",
        "e2e",
        "--test",
        "docs_commands",
    ];
    cargo(&workshop.root, &test, minutes(40))
        .env("UPDATE_DOCS", "1")
        .run(log)
        .map(drop)
}

fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next)
            .with_context(|| format!("failed to list {}", next.display()))?
        {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Targets of `[text](target)`, outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let targets = line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target));
        }
    }
    found
}

/// Whether the link on `page` has no target: no such file, or no such heading in it.
fn leads_nowhere(page: &Path, link: &str) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return false;
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match page.parent() {
        Some(folder) if !path.is_empty() => folder.join(path),
        Some(_) | None => page.to_path_buf(),
    };
    if heading.is_empty() || target.extension().is_none_or(|e| e != "md") {
        return !target.exists();
    }
    std::fs::read_to_string(target).map_or(true, |text| {
        !headings(&text).iter().any(|known| known == heading)
    })
}

/// The names by which links reach the headings of a page.
fn headings(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code && line.starts_with('#') {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            found.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_links_outside_code() {
        let text = "See [a](a.md) and [b](b/#part).\n```\n[c](c.md)\n```\n[d](https://example.org)";
        assert_eq!(links(text), ["a.md", "b/#part", "https://example.org"]);
    }

    #[test]
    fn a_link_must_lead_to_a_file_and_a_heading() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        let text = "# A page, `with` code\n```\n# no heading\n```\n## Part two\n";
        std::fs::write(&page, text).unwrap();
        std::fs::write(folder.path().join("code.rs"), "").unwrap();
        for good in [
            "page.md",
            "page.md#part-two",
            "#a-page-with-code",
            "code.rs#L1",
            "https://example.org/x#y",
        ] {
            assert!(!leads_nowhere(&page, good), "{good}");
        }
        for bad in [
            "nowhere.md",
            "#no-heading",
            "page.md#part-three",
            "nowhere.md#x",
        ] {
            assert!(leads_nowhere(&page, bad), "{bad}");
        }
    }
}
