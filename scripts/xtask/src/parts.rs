//! The parts of the test: one table. A new part is a line here and a function.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::command::{Log, Step};
use crate::nextest::Kind;
use crate::workshop::Workshop;
use crate::{chaos, docs, graph, guest, licences, nextest, shell, xen};

/// A part: can be run alone, in any order, twice.
pub struct Part {
    /// Name on the command line and of its log.
    pub name: &'static str,
    /// What it does, for `--list`.
    pub what: &'static str,
    /// How it is done.
    work: Work,
    /// Only when it is named.
    pub on_request: bool,
}

/// How a part is done.
#[derive(Clone, Copy)]
enum Work {
    /// By a function.
    Own(fn(&Workshop, &mut Log) -> Result<Tally>),
    /// By the tests of a kind.
    Tests(Kind),
}

impl Part {
    const fn own(
        name: &'static str,
        what: &'static str,
        run: fn(&Workshop, &mut Log) -> Result<Tally>,
    ) -> Self {
        Self {
            name,
            what,
            work: Work::Own(run),
            on_request: false,
        }
    }

    const fn tests(name: &'static str, what: &'static str, kind: Kind) -> Self {
        Self {
            name,
            what,
            work: Work::Tests(kind),
            on_request: false,
        }
    }

    const fn on_request(self) -> Self {
        Self {
            on_request: true,
            ..self
        }
    }

    /// Does it. An error counts as one failure.
    pub fn run(&self, workshop: &Workshop, log: &mut Log) -> Result<Tally> {
        match self.work {
            Work::Own(run) => run(workshop, log),
            Work::Tests(kind) => nextest::run(workshop, log, kind),
        }
    }
}

/// How many checks or tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Held.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
}

impl Tally {
    /// One check that held.
    pub const ONE: Self = Self {
        passed: 1,
        failed: 0,
    };

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
        }
    }
}

/// All parts, in the order in which a full run takes them: what fails fast comes first.
pub const PARTS: &[Part] = &[
    Part::own("fmt", "formatting (rustfmt)", fmt),
    Part::own("shell", "shell scripts (shellcheck)", shell::run),
    Part::own(
        "graph",
        "crate arrows, pure cores, folders, manifests, file sizes",
        graph::run,
    ),
    Part::own(
        "licences",
        "licences, bans and sources of all dependencies (deny.toml)",
        licences::run,
    ),
    Part::own("clippy", "lints, warnings are errors", clippy),
    Part::tests(
        "unit",
        "unit, property and model tests of all crates",
        Kind::Unit,
    ),
    Part::own(
        "docs",
        "links in the documents; documents made from code are in step with it",
        docs::run,
    ),
    Part::tests(
        "api",
        "the broker's HTTP API on the real router and a fresh database",
        Kind::Api,
    ),
    Part::tests(
        "adapters-sim",
        "the adapters' contract on the simulated LRM, with every signal profile",
        Kind::AdaptersSim,
    ),
    Part::tests(
        "pbs-fakes",
        "the contract and a scenario on played PBS; the other adapters on played commands",
        Kind::PbsFakes,
    ),
    Part::tests(
        "slurm",
        "the contract and scenarios, with and without guests, on a real Slurm",
        Kind::Slurm,
    ),
    Part::tests(
        "htcondor",
        "the contract and scenarios, with and without guests, on a real HTCondor",
        Kind::Htcondor,
    ),
    Part::tests(
        "simulation",
        "the whole system on a virtual clock, seeded faults",
        Kind::Simulation,
    ),
    Part::own(
        "guest",
        "real guests in QEMU: the guest itself, the driver, suspend and resume",
        guest::run,
    ),
    Part::own(
        "xen",
        "real guests in a real Xen dom0: the driver, the demo's scenario, SIGKILL",
        xen::part,
    ),
    Part::own(
        "xen-long",
        "there, too: all rules of the driver's contract, two hosts; only when named",
        xen::long,
    )
    .on_request(),
    Part::tests(
        "e2e",
        "real broker, simulated LRM, real pilots, SIGKILL at any moment",
        Kind::EndToEnd,
    ),
    Part::own(
        "chaos",
        "a short campaign of faults against real processes, null and real guests",
        chaos::part,
    ),
    Part::own(
        "static",
        "the pilot as one static file, within its limits",
        static_pilot,
    ),
];

/// One part by its name.
pub fn find(name: &str) -> Result<&'static Part> {
    match PARTS.iter().find(|part| part.name == name) {
        Some(part) => Ok(part),
        None => {
            let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
            bail!(
                "there is no part {name}; the parts are: {}",
                names.join(", ")
            )
        }
    }
}

/// Reports a list of faults as one check.
pub fn verdict(log: &mut Log, faults: &[String], good: &str) -> Tally {
    for fault in faults {
        log.line(&format!("fault: {fault}"));
    }
    if faults.is_empty() {
        log.line(good);
        Tally::ONE
    } else {
        Tally {
            passed: 0,
            failed: 1,
        }
    }
}

/// Minutes as a time limit.
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// Runs cargo in the repository.
pub fn cargo(root: &Path, arguments: &[&str], limit: Duration) -> Step {
    Step::new(root, "cargo", arguments, limit)
}

fn fmt(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    cargo(
        &workshop.root,
        &["fmt", "--all", "--check", "--", "--color", "never"],
        minutes(2),
    )
    .run(log)?;
    Ok(Tally::ONE)
}

fn clippy(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    cargo(&workshop.root, &arguments, minutes(30)).run(log)?;
    Ok(Tally::ONE)
}

fn static_pilot(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let script = workshop.root.join("scripts/build-static");
    Step::new(&workshop.root, script, &[] as &[&str], minutes(30)).run(log)?;
    Ok(Tally::ONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<&str> = PARTS.iter().map(|part| part.name).collect();
        assert_eq!(names.len(), PARTS.len());
        assert!(names.iter().all(|name| find(name).is_ok()));
    }

    #[test]
    fn an_unknown_part_is_told_the_known_ones() {
        let error = find("nonsense")
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            error.contains("no part nonsense") && error.contains("unit"),
            "{error}"
        );
    }
}
