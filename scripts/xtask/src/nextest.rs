//! Parts that are tests of the workspace. Each test program belongs to exactly one part, by its crate
//! and name; so no test is left out and none runs twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::command::{Log, forget_cargo_run};
use crate::guest;
use crate::parts::{Tally, cargo, minutes};
use crate::workshop::Workshop;

/// Which test programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unit tests and all integration tests that no other part takes.
    Unit,
    /// `api*` of the broker.
    Api,
    /// The other `conformance*` of the adapters: on the simulated LRM.
    AdaptersSim,
    /// `*_pbs*` and `*_played_*`: on commands that are played on the simulated LRM.
    PbsFakes,
    /// `*slurm*`: on a real Slurm, with and without guests.
    Slurm,
    /// `*htcondor*`: on a real HTCondor, with and without guests.
    Htcondor,
    /// `xen*`: in the dom0 of a real Xen host.
    Xen,
    /// `xen_long`: what takes longer there.
    XenLong,
    /// `simulation*`.
    Simulation,
    /// With `guest`, `hypervisor` or `qemu` in their name: they boot real guests.
    Guest,
    /// `docs*`: documents that are made from code.
    Docs,
    /// The rest of the crate e2e.
    EndToEnd,
}

impl Kind {
    /// The profile of `.config/nextest.toml` that its tests run with.
    fn profile(self) -> &'static str {
        match self {
            Self::Guest | Self::Xen | Self::XenLong => "guest",
            Self::AdaptersSim | Self::PbsFakes | Self::Slurm | Self::Htcondor | Self::EndToEnd => {
                "waiting"
            }
            Self::Unit | Self::Api | Self::Simulation | Self::Docs => "default",
        }
    }

    /// The one kind that a test program is of.
    fn of(program: &Program) -> Self {
        let name = program.binary_name.as_str();
        if program.kind != "test" {
            Self::Unit
        } else if name.contains("_pbs") || name.contains("_played_") {
            Self::PbsFakes
        } else if name.contains("slurm") {
            Self::Slurm
        } else if name.contains("htcondor") {
            Self::Htcondor
        } else if name.starts_with("xen_long") && program.is_of("e2e") {
            Self::XenLong
        } else if name.starts_with("xen") && program.is_of("e2e") {
            Self::Xen
        } else if ["guest", "hypervisor", "qemu"]
            .iter()
            .any(|word| name.contains(word))
        {
            Self::Guest
        } else if name.starts_with("simulation") {
            Self::Simulation
        } else if name.starts_with("conformance") {
            Self::AdaptersSim
        } else if name.starts_with("docs") {
            Self::Docs
        } else if name.starts_with("api") && program.is_of("broker") {
            Self::Api
        } else if program.is_of("e2e") {
            Self::EndToEnd
        } else {
            Self::Unit
        }
    }
}

/// What nextest says about all test programs.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Programs {
    rust_binaries: BTreeMap<String, Program>,
}

/// A test program.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Program {
    binary_id: String,
    binary_name: String,
    kind: String,
}

impl Program {
    /// Whether it belongs to a crate: nextest's id is `CRATE` or `CRATE::PROGRAM`.
    fn is_of(&self, krate: &str) -> bool {
        self.binary_id.split("::").next() == Some(krate)
    }
}

/// Builds the programs, the guest and the tests, and runs the tests of a kind.
pub fn run(workshop: &Workshop, log: &mut Log, kind: Kind) -> Result<Tally> {
    guest::build(workshop, log)?;
    // The end-to-end tests start the programs themselves.
    cargo(
        &workshop.root,
        &["build", "--workspace", "--bins", "--locked"],
        minutes(40),
    )
    .run(log)?;
    cargo(
        &workshop.root,
        &["test", "--workspace", "--no-run", "--locked"],
        minutes(40),
    )
    .run(log)?;
    let programs = programs(&workshop.root)?;
    let chosen: Vec<String> = programs
        .rust_binaries
        .values()
        .filter(|program| Kind::of(program) == kind)
        .map(|program| format!("binary_id(={})", program.binary_id))
        .collect();
    if chosen.is_empty() {
        bail!("there is no test program of the kind {kind:?}");
    }
    let expression = chosen.join(" + ");
    let arguments = [
        "nextest",
        "run",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--profile",
        kind.profile(),
        "-E",
        &expression,
    ];
    let (status, lines) = cargo(&workshop.root, &arguments, minutes(40))
        .env("WP_GUEST_DIR", workshop.guest())
        .env("WP_REQUIRE_GUEST", "1")
        .env("WP_REQUIRE_SLURM", "1")
        .outcome(log)?;
    match lines.iter().rev().find_map(|line| summary(line)) {
        Some(tally) if tally.passed + tally.failed == 0 => bail!("no test in `{expression}`"),
        Some(tally) if status.success() == (tally.failed == 0) => Ok(tally),
        Some(tally) => bail!("nextest ended with {status}, but says {tally:?}"),
        None => bail!("nextest ended with {status} before it ran a test"),
    }
}

fn programs(root: &Path) -> Result<Programs> {
    let arguments = [
        "list",
        "--workspace",
        "--locked",
        "--list-type",
        "binaries-only",
    ];
    let mut list = Command::new("cargo");
    list.arg("nextest")
        .args(arguments)
        .args(["--message-format", "json", "--cargo-quiet"])
        .current_dir(root)
        .stderr(Stdio::inherit());
    forget_cargo_run(&mut list);
    let output = list.output().context("failed to run cargo nextest list")?;
    if !output.status.success() {
        bail!("cargo nextest list ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout)
        .context("failed to read cargo nextest's list of programs")
}

/// Reads `Summary [   1.2s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 3 skipped`.
fn summary(line: &str) -> Option<Tally> {
    let (_, text) = line
        .trim_start()
        .strip_prefix("Summary [")?
        .split_once(']')?;
    let (run, results) = text.split_once("run:")?;
    // "9/12 tests" when the run was cut short.
    let run: u64 = run
        .split_whitespace()
        .next()?
        .split('/')
        .next()?
        .parse()
        .ok()?;
    let passed = results
        .split(',')
        .find_map(|part| {
            part.trim()
                .split_once(" passed")
                .and_then(|(count, _)| count.parse().ok())
        })
        .unwrap_or(0);
    Some(Tally {
        passed,
        failed: run.checked_sub(passed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nextest_s_summary() {
        let cases = [
            (
                "     Summary [   0.012s] 12 tests run: 12 passed, 0 skipped",
                (12, 0),
            ),
            (
                "Summary [ 61.0s] 12 tests run: 9 passed (1 slow), 1 failed, 2 timed out, 3 skipped",
                (9, 3),
            ),
            (
                "Summary [ 1.0s] 1 test run: 0 passed, 1 failed, 0 skipped",
                (0, 1),
            ),
            (
                "Summary [ 1.0s] 5/12 tests run: 5 passed, 0 skipped",
                (5, 0),
            ),
            ("Summary [ 0.0s] 0 tests run: 0 passed, 7 skipped", (0, 0)),
        ];
        for (line, (passed, failed)) in cases {
            assert_eq!(summary(line), Some(Tally { passed, failed }), "{line}");
        }
        assert_eq!(summary("12 tests run: 12 passed"), None);
    }

    #[test]
    fn a_program_s_crate_and_name_decide() {
        let cases = [
            ("broker", "broker", "lib", Kind::Unit),
            ("pilot-core", "pilot_core", "lib", Kind::Unit),
            (
                "pilot::reclaim_journal",
                "reclaim_journal",
                "test",
                Kind::Unit,
            ),
            (
                "pilot::hypervisor_qemu",
                "hypervisor_qemu",
                "test",
                Kind::Guest,
            ),
            (
                "e2e::guest_outlives_slot",
                "guest_outlives_slot",
                "test",
                Kind::Guest,
            ),
            ("e2e::simulation", "simulation", "test", Kind::Simulation),
            ("e2e::xen_scenario", "xen_scenario", "test", Kind::Xen),
            ("e2e::xen_long", "xen_long", "test", Kind::XenLong),
            ("e2e::restart", "restart", "test", Kind::EndToEnd),
            ("e2e", "e2e", "lib", Kind::Unit),
            (
                "broker::api_workspaces",
                "api_workspaces",
                "test",
                Kind::Api,
            ),
            (
                "lrm-adapters::conformance_sim",
                "conformance_sim",
                "test",
                Kind::AdaptersSim,
            ),
            (
                "lrm-adapters::conformance_played_slurm",
                "conformance_played_slurm",
                "test",
                Kind::PbsFakes,
            ),
            ("e2e::e2e_pbs", "e2e_pbs", "test", Kind::PbsFakes),
            ("e2e::guest_slurm", "guest_slurm", "test", Kind::Slurm),
            (
                "lrm-adapters::conformance_htcondor",
                "conformance_htcondor",
                "test",
                Kind::Htcondor,
            ),
            ("pilot-submit::docs", "docs", "test", Kind::Docs),
            ("xtask::bin/xtask", "xtask", "bin", Kind::Unit),
        ];
        for (id, name, kind, expected) in cases {
            let program = Program {
                binary_id: id.to_owned(),
                binary_name: name.to_owned(),
                kind: kind.to_owned(),
            };
            assert_eq!(Kind::of(&program), expected, "{id}");
        }
    }
}
