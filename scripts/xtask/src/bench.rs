//! `scripts/bench`: builds for release, runs the program `wp-bench` of the crate e2e once per
//! benchmark, and turns its lines of JSON into a table; a full run writes `docs/benchmarks.md`.
//!
//! `wp-bench NAME --programs DIR --guest DIR --static-pilot FILE` prints one [`Figure`] per line on
//! stdout and what it does on stderr; exit 0 when it could measure, whether or not targets are met.

mod report;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock::{Stopwatch, spoken};
use crate::command::{Log, Step};
use crate::guest;
use crate::parts::{cargo, minutes};
use crate::workshop::{Profile, Workshop};

/// Name of a benchmark and what it measures.
pub const BENCHMARKS: &[(&str, &str)] = &[
    (
        "pilot-start",
        "start of the pilot's program until the broker's answer to its registration",
    ),
    (
        "lease-to-running",
        "the broker's answer with the lease until the pilot says that QEMU runs the guest, with the image in place",
    ),
    (
        "suspend",
        "suspend to a durable, verified state against a plain write and fsync of as many bytes; and the suspend of a guest whose memory was flushed while it ran, against one of all of it (`--guest-mb N`, `--dirty idle|busy`: only that)",
    ),
    (
        "resume",
        "lease with a state until QEMU runs it, every byte read from disk and verified, against a plain read of as many bytes",
    ),
    (
        "evict",
        "SIGTERM to the pilot until no process and no file of its slot is left",
    ),
    (
        "sync",
        "sync calls a second and their latency at one broker, with 1,000 pilots that only pretend (on the same machine) and 10,000 queued requests",
    ),
    (
        "footprint",
        "memory of an idle pilot, and the size of its file",
    ),
];

/// One measured figure: a line of `wp-bench`'s output and of `scripts/bench --json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Which benchmark.
    pub bench: String,
    /// What was measured, in a few words.
    pub metric: String,
    /// The figure: the median where it was measured several times.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// How many times it was measured.
    pub samples: u32,
    /// What the same machine does without us, measured in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// What it must reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// What a figure is compared with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// What it is.
    pub what: String,
    /// In the figure's unit.
    pub value: f64,
}

/// What a figure, or its ratio to the baseline if there is one, must reach.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Figure {
    /// The figure as a multiple of its baseline.
    pub fn ratio(&self) -> Option<f64> {
        self.baseline
            .as_ref()
            .map(|baseline| self.value / baseline.value)
    }

    /// Whether the target is met; nothing without a target.
    pub fn met(&self) -> Option<bool> {
        let measured = self.ratio().unwrap_or(self.value);
        self.target.map(|target| match target {
            Target::AtMost(limit) => measured <= limit,
            Target::AtLeast(limit) => measured >= limit,
        })
    }
}

/// Names of the benchmarks and what each measures.
pub fn list() -> String {
    let mut text = String::new();
    for (name, what) in BENCHMARKS {
        let _ = writeln!(text, "{name:<18} {what}");
    }
    text
}

/// Runs the named benchmarks, or all; `false` if a target is missed.
/// `options` are for the benchmark `suspend`, and only that has any.
pub fn run(workshop: &Workshop, names: &[String], options: &[String], json: bool) -> Result<bool> {
    let known: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "there is no benchmark {unknown}; the benchmarks are: {}",
            known.join(", ")
        );
    }
    if !options.is_empty() && names != ["suspend"] {
        bail!("{} is only for: scripts/bench suspend", options.join(" "));
    }
    let chosen: Vec<&str> = if names.is_empty() {
        known
    } else {
        names
            .iter()
            .map(String::as_str)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let mut log = Log::to_file(&workshop.target.join("test-logs/bench-build.log"))?;
    build(workshop, &mut log)?;

    let mut figures = Vec::new();
    for name in chosen {
        let watch = Stopwatch::start();
        eprintln!("bench: {name}");
        let measured = measure(workshop, name, options)?;
        for figure in &measured {
            if json {
                println!("{}", serde_json::to_string(figure)?);
            }
        }
        figures.extend(measured);
        eprintln!("bench: {name} took {}", spoken(watch.elapsed()));
    }
    if !json {
        println!("{}", report::table(&figures));
    }
    if names.is_empty() {
        let path = workshop.root.join("docs/benchmarks.md");
        let page = report::page(&figures, &report::machine(), &report::today());
        std::fs::write(&path, page)
            .with_context(|| format!("failed to write {}", path.display()))?;
        eprintln!("bench: wrote {}", path.display());
    }
    let missed: Vec<&Figure> = figures
        .iter()
        .filter(|figure| figure.met() == Some(false))
        .collect();
    for figure in &missed {
        eprintln!("bench: target missed: {}: {}", figure.bench, figure.metric);
    }
    Ok(missed.is_empty())
}

fn build(workshop: &Workshop, log: &mut Log) -> Result<()> {
    guest::build(workshop, log)?;
    let programs = "--package broker --bin pilot-broker --package e2e --bin wp-bench";
    let arguments: Vec<&str> = ["build", "--release", "--locked"]
        .into_iter()
        .chain(programs.split(' '))
        .collect();
    cargo(&workshop.root, &arguments, minutes(60)).run(log)?;
    let script = workshop.root.join("scripts/build-static");
    Step::new(&workshop.root, script, &[] as &[&str], minutes(30)).run(log)?;
    Ok(())
}

fn measure(workshop: &Workshop, name: &str, options: &[String]) -> Result<Vec<Figure>> {
    let programs = workshop.programs(Profile::Release);
    let output = Command::new(programs.join("wp-bench"))
        .arg(name)
        .arg("--programs")
        .arg(&programs)
        .arg("--guest")
        .arg(workshop.guest())
        .arg("--static-pilot")
        .arg(workshop.static_pilot())
        .args(options)
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start wp-bench")?;
    if !output.status.success() {
        bail!("wp-bench {name} ended with {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("wp-bench printed no text")?;
    parse(name, &text)
}

fn parse(name: &str, text: &str) -> Result<Vec<Figure>> {
    let figures: Vec<Figure> = text
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("wp-bench {name} printed `{line}`"))
        })
        .collect::<Result<_>>()?;
    if figures.is_empty() {
        bail!("wp-bench {name} measured nothing");
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"bench":"suspend","metric":"512 MiB guest","value":400.0,"unit":"MiB/s","samples":5,"baseline":{"what":"dd","value":500.0},"target":{"at-least":0.8}}"#;

    #[test]
    fn a_figure_with_a_baseline_is_judged_by_its_ratio() {
        let mut figure = parse("suspend", LINE).unwrap().remove(0);
        assert_eq!(figure.ratio(), Some(0.8));
        assert_eq!(figure.met(), Some(true));
        figure.value = 399.0;
        assert_eq!(figure.met(), Some(false));
        figure.baseline = None;
        figure.target = Some(Target::AtMost(100.0));
        assert_eq!(figure.met(), Some(false));
        figure.target = None;
        assert_eq!(figure.met(), None);
    }

    #[test]
    fn what_is_no_figure_is_an_error() {
        assert!(parse("suspend", "").is_err());
        assert!(parse("suspend", "hello").is_err());
    }
}
