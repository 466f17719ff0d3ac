//! `scripts/chaos`: builds the programs and the guest, then runs a campaign of faults (program
//! `wp-chaos` of the crate e2e). Part `chaos` of the test: a short one with a fixed seed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use crate::command::{Log, Step};
use crate::guest;
use crate::parts::{Tally, cargo, minutes, verdict};
use crate::workshop::{Profile, Workshop};

/// The short campaign: its seed meets every kind of target, real guests too, within its length.
const SEED: &str = "11";
/// Minutes in which faults are made; about as long again until all has ended.
const MINUTES: &str = "0.8";

/// What others read of a summary.
const KEYS: [&str; 12] = [
    "seed",
    "minutes",
    "evictions",
    "overruns",
    "leftovers",
    "lost",
    "doubled",
    "suspends",
    "actual_budget",
    "faults",
    "requests",
    "violations",
];
/// The counts that must be 0.
const NONE: [&str; 4] = ["overruns", "leftovers", "lost", "doubled"];

fn build(workshop: &Workshop, log: &mut Log) -> Result<()> {
    guest::build(workshop, log)?;
    let arguments = ["build", "--workspace", "--bins", "--locked"];
    cargo(&workshop.root, &arguments, minutes(40)).run(log)?;
    Ok(())
}

/// Builds and runs a campaign; `arguments` go to it as they are.
pub fn run(workshop: &Workshop, arguments: &[String]) -> Result<bool> {
    let mut log = Log::to_file(&workshop.target.join("test-logs/chaos-build.log"))?;
    eprintln!("chaos: building (a few minutes the first time)");
    build(workshop, &mut log)?;
    let programs = workshop.programs(Profile::Dev);
    let status = Command::new(programs.join("wp-chaos"))
        .arg("--programs")
        .arg(&programs)
        .arg("--guest")
        .arg(workshop.guest())
        .args(arguments)
        .status()
        .context("failed to start wp-chaos")?;
    Ok(status.success())
}

/// The short campaign, and its summary as others read it.
pub fn part(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    build(workshop, log)?;
    let programs = workshop.programs(Profile::Dev);
    let summary = workshop.target.join("test-logs/chaos-summary.json");
    let path = |p: &Path| p.display().to_string();
    let arguments = [
        "--programs".to_owned(),
        path(&programs),
        "--guest".to_owned(),
        path(&workshop.guest()),
        "--seed".to_owned(),
        SEED.to_owned(),
        "--minutes".to_owned(),
        MINUTES.to_owned(),
        "--summary".to_owned(),
        path(&summary),
    ];
    let program = programs.join("wp-chaos");
    Step::new(&workshop.root, program, &arguments, minutes(15)).run(log)?;
    let text = std::fs::read_to_string(&summary)
        .with_context(|| format!("failed to read {}", summary.display()))?;
    let read: Map<String, Value> =
        serde_json::from_str(&text).context("the summary is no JSON object")?;
    let good = "the summary has what others read, and no promise was broken";
    Ok(Tally::ONE.and(verdict(log, &faults(&read), good)))
}

/// What is wrong with a summary.
fn faults(summary: &Map<String, Value>) -> Vec<String> {
    let mut faults = Vec::new();
    let (is, want): (BTreeSet<&str>, BTreeSet<&str>) = (
        summary.keys().map(String::as_str).collect(),
        KEYS.into_iter().collect(),
    );
    if is != want {
        faults.push(format!("the summary has the keys {is:?}, not {want:?}"));
    }
    for key in NONE {
        if summary.get(key).and_then(Value::as_u64) != Some(0) {
            faults.push(format!("`{key}` is {:?}, not 0", summary.get(key)));
        }
    }
    // A campaign in which nothing happened proves nothing.
    let some = |key: &str| summary.get(key).and_then(Value::as_u64).unwrap_or(0);
    if some("evictions") < 10 {
        faults.push(format!("only {} guests were evicted", some("evictions")));
    }
    let met = summary.get("faults").and_then(Value::as_object);
    let met = met.map_or(0, Map::len);
    if met < 5 {
        faults.push(format!("only {met} kinds of faults met anybody"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_as_others_do() {
        let mut good = Map::new();
        for key in KEYS {
            good.insert(key.to_owned(), Value::from(0));
        }
        good.insert("evictions".to_owned(), Value::from(30));
        let kinds = ["a", "b", "c", "d", "e"].map(|k| (k.to_owned(), Value::from(1)));
        good.insert(
            "faults".to_owned(),
            Value::Object(kinds.into_iter().collect()),
        );
        assert_eq!(faults(&good), Vec::<String>::new());
        for (key, value) in [("lost", 1), ("evictions", 3), ("faults", 1), ("new", 1)] {
            let mut bad = good.clone();
            bad.insert(key.to_owned(), Value::from(value));
            assert_eq!(faults(&bad).len(), 1, "{key}");
        }
    }
}
