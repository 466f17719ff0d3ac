//! Figures as a table for the terminal and as `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use super::{BENCHMARKS, Figure, Target};

const HEAD: [&str; 8] = [
    "benchmark",
    "what",
    "figure",
    "samples",
    "baseline",
    "ratio",
    "target",
    "met",
];

/// The kind of machine that the figures are from.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_virtual = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let kind = if is_virtual {
        "virtual machine with a virtual disk"
    } else {
        "physical machine"
    };
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib.div_ceil(1024 * 1024));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "{kind}, {cores} cores, {gib} GiB of memory, load {load} at the end; guests under software emulation (TCG)"
    )
}

/// Today by UTC, as `date` says it.
pub fn today() -> String {
    let said = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    said.map_or_else(
        |_| "unknown".to_owned(),
        |said| String::from_utf8_lossy(&said.stdout).trim().to_owned(),
    )
}

/// The page `docs/benchmarks.md`.
pub fn page(figures: &[Figure], machine: &str, date: &str) -> String {
    let mut text = String::from(
        "# Benchmarks\n\
         Made by `scripts/bench`; run it to get your machine's own figures, or `scripts/bench NAME` for one\n\
         benchmark. A figure of several samples is their median, unless it says otherwise. A baseline is\n\
         measured in the same run, in turns with the figure, on the same disk; where there is one the target\n\
         is for the ratio. All programs run on one machine and speak plain HTTP over its loopback: a site's\n\
         network and TLS come on top.\n\n",
    );
    let _ = writeln!(text, "Date: {date}. Machine: {machine}.\n");
    let _ = writeln!(
        text,
        "| {} |\n|{}",
        HEAD.join(" | "),
        "---|".repeat(HEAD.len())
    );
    for figure in figures {
        let _ = writeln!(text, "| {} |", row(figure).join(" | "));
    }
    text.push_str("\n## What each measures\n");
    for (name, what) in BENCHMARKS {
        let _ = writeln!(text, "* `scripts/bench {name}`: {what}");
    }
    text
}

/// A table for the terminal.
pub fn table(figures: &[Figure]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(figures.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

fn row(figure: &Figure) -> [String; 8] {
    let baseline = figure.baseline.as_ref();
    [
        figure.bench.clone(),
        figure.metric.clone(),
        format!("{} {}", number(figure.value), figure.unit),
        figure.samples.to_string(),
        baseline.map_or(String::new(), |b| {
            format!("{} {} ({})", number(b.value), figure.unit, b.what)
        }),
        figure.ratio().map_or(String::new(), number),
        match figure.target {
            None => String::new(),
            Some(Target::AtMost(limit)) => format!("at most {}", number(limit)),
            Some(Target::AtLeast(limit)) => format!("at least {}", number(limit)),
        },
        match figure.met() {
            None => String::new(),
            Some(true) => "yes".to_owned(),
            Some(false) => "**no**".to_owned(),
        },
    ]
}

/// Three significant digits, no more than needed.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::super::Baseline;
    use super::*;

    fn figure() -> Figure {
        Figure {
            bench: "suspend".to_owned(),
            metric: "512 MiB guest".to_owned(),
            value: 412.3,
            unit: "MiB/s".to_owned(),
            samples: 5,
            baseline: Some(Baseline {
                what: "dd".to_owned(),
                value: 500.0,
            }),
            target: Some(Target::AtLeast(0.8)),
        }
    }

    #[test]
    fn a_row_has_ratio_and_verdict() {
        assert_eq!(
            row(&figure()),
            [
                "suspend",
                "512 MiB guest",
                "412 MiB/s",
                "5",
                "500 MiB/s (dd)",
                "0.825",
                "at least 0.800",
                "yes"
            ]
        );
    }

    #[test]
    fn the_page_is_a_table_of_markdown() {
        let page = page(&[figure()], "a machine", "2026-01-02");
        assert!(
            page.contains("|---|---|---|---|---|---|---|---|\n| suspend | 512 MiB guest |"),
            "{page}"
        );
        assert!(
            page.contains("Date: 2026-01-02. Machine: a machine."),
            "{page}"
        );
    }
}
