//! Parts that are tests of the workspace. Each test belongs to exactly one part: a part takes what it
//! claims and no earlier one has claimed; `unit` and `e2e` take the rest of their crates.

use anyhow::{Result, bail};

use crate::command::Log;
use crate::guest;
use crate::parts::{Tally, cargo, minutes};
use crate::workshop::Workshop;

/// Which tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Whatever no other part takes.
    Unit,
    /// Test programs `api*` of the broker.
    Api,
    /// Test programs `conformance*` of the adapters.
    Conformance,
    /// Test programs `simulation*`.
    Simulation,
    /// Test programs with `qemu` or `guest` in their name: they boot real guests.
    Guest,
    /// Documents that are made from code.
    Docs,
    /// The rest of the crate e2e.
    EndToEnd,
}

impl Filter {
    const CLAIMS: [Self; 5] = [
        Self::Guest,
        Self::Simulation,
        Self::Conformance,
        Self::Api,
        Self::Docs,
    ];

    /// What the part claims, as a filter expression of nextest.
    fn claim(self) -> &'static str {
        match self {
            Self::Guest => "(kind(test) & binary(/guest|qemu/))",
            Self::Simulation => "(kind(test) & binary(/^simulation/))",
            Self::Conformance => "(kind(test) & binary(/^conformance/))",
            Self::Api => "(package(broker) & kind(test) & binary(/^api/))",
            Self::Docs => "(kind(test) & binary(/^docs/))",
            Self::EndToEnd => "package(e2e)",
            Self::Unit => "all()",
        }
    }

    /// The part's tests: its claim less the earlier ones.
    fn expression(self) -> String {
        let mut earlier: Vec<Self> = Self::CLAIMS
            .into_iter()
            .take_while(|other| *other != self)
            .collect();
        if self == Self::Unit {
            earlier.push(Self::EndToEnd);
        }
        let mut text = self.claim().to_owned();
        for other in earlier {
            text.push_str(" - ");
            text.push_str(other.claim());
        }
        text
    }
}

/// Builds the programs, the guest and the tests, and runs what the filter takes.
pub fn run(workshop: &Workshop, log: &mut Log, filter: Filter) -> Result<Tally> {
    guest::build(workshop, log)?;
    // The end-to-end tests start the programs themselves.
    cargo(
        &workshop.root,
        &["build", "--workspace", "--bins", "--locked"],
        minutes(30),
    )
    .run(log)?;
    let expression = filter.expression();
    let arguments = [
        "nextest",
        "run",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "-E",
        &expression,
    ];
    let (status, lines) = cargo(&workshop.root, &arguments, minutes(40))
        .env("WP_GUEST_DIR", workshop.guest())
        .env("WP_REQUIRE_GUEST", "1")
        .outcome(log)?;
    match lines.iter().rev().find_map(|line| summary(line)) {
        Some(tally) if tally.passed + tally.failed == 0 => bail!("no test matches `{expression}`"),
        Some(tally) if status.success() == (tally.failed == 0) => Ok(tally),
        Some(tally) => bail!("nextest ended with {status}, but says {tally:?}"),
        None => bail!("nextest ended with {status} before it ran a test"),
    }
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
    fn a_part_leaves_out_what_an_earlier_one_claims() {
        assert_eq!(Filter::Guest.expression(), Filter::Guest.claim());
        let unit = Filter::Unit.expression();
        assert!(
            Filter::CLAIMS
                .iter()
                .all(|claim| unit.contains(claim.claim())),
            "{unit}"
        );
        assert!(unit.contains(Filter::EndToEnd.claim()), "{unit}");
        let end_to_end = Filter::EndToEnd.expression();
        assert!(
            Filter::CLAIMS
                .iter()
                .all(|claim| end_to_end.contains(claim.claim())),
            "{end_to_end}"
        );
    }
}
