//! Runs parts one after the other, goes on after a failure, and ends with a table and a closing line.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::clock::{Stopwatch, spoken};
use crate::command::Log;
use crate::parts::{PARTS, Part, Tally, find};
use crate::workshop::Workshop;

/// How a part went.
struct Outcome {
    name: &'static str,
    tally: Tally,
    time: Duration,
}

/// Names of the parts and what each does.
pub fn list() -> String {
    let mut text = String::new();
    for part in PARTS {
        let _ = writeln!(text, "{:<12} {}", part.name, part.what);
    }
    text
}

/// Runs the named parts, or all that need no naming; `false` if anything failed.
pub fn run(workshop: &Workshop, names: &[String]) -> Result<bool> {
    let parts: Vec<&Part> = if names.is_empty() {
        PARTS.iter().filter(|part| !part.on_request).collect()
    } else {
        names.iter().map(|name| find(name)).collect::<Result<_>>()?
    };
    let mut outcomes = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        eprintln!(
            "\n=== {} ({} of {}): {}",
            part.name,
            number + 1,
            parts.len(),
            part.what
        );
        let outcome = run_one(workshop, part)?;
        eprintln!(
            "=== {}: {} in {}",
            part.name,
            word(outcome.tally),
            spoken(outcome.time)
        );
        outcomes.push(outcome);
    }
    let total = total(&outcomes);
    eprintln!("\n{}", table(&outcomes));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn run_one(workshop: &Workshop, part: &Part) -> Result<Outcome> {
    let watch = Stopwatch::start();
    let mut log = Log::to_file(
        &workshop
            .target
            .join("test-logs")
            .join(format!("{}.log", part.name)),
    )?;
    let tally = part.run(workshop, &mut log).unwrap_or_else(|error| {
        log.line(&format!("error: {error:#}"));
        Tally {
            passed: 0,
            failed: 1,
        }
    });
    Ok(Outcome {
        name: part.name,
        tally,
        time: watch.elapsed(),
    })
}

fn total(outcomes: &[Outcome]) -> Tally {
    outcomes
        .iter()
        .fold(Tally::default(), |sum, outcome| sum.and(outcome.tally))
}

/// A part in which nothing was checked has not passed.
fn word(tally: Tally) -> &'static str {
    if tally.failed == 0 && tally.passed > 0 {
        "ok"
    } else {
        "FAILED"
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<12} {:<7} {:>7} {:>7} {:>14}\n",
        "part", "result", "passed", "failed", "time"
    );
    for outcome in outcomes {
        let _ = writeln!(
            text,
            "{:<12} {:<7} {:>7} {:>7} {:>14}",
            outcome.name,
            word(outcome.tally),
            outcome.tally.passed,
            outcome.tally.failed,
            spoken(outcome.time)
        );
    }
    let whole: Duration = outcomes.iter().map(|outcome| outcome.time).sum();
    let _ = write!(text, "{:<12} {:>46}", "together", spoken(whole));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up() {
        let outcomes = [
            Outcome {
                name: "unit",
                tally: Tally {
                    passed: 40,
                    failed: 2,
                },
                time: Duration::from_secs(70),
            },
            Outcome {
                name: "fmt",
                tally: Tally::ONE,
                time: Duration::from_secs(2),
            },
        ];
        assert_eq!(
            total(&outcomes),
            Tally {
                passed: 41,
                failed: 2
            }
        );
        let text = table(&outcomes);
        assert!(
            text.contains("unit         FAILED       40       2"),
            "{text}"
        );
        assert!(text.ends_with("1 min 12 s"), "{text}");
    }

    #[test]
    fn nothing_checked_is_not_ok() {
        assert_eq!(word(Tally::default()), "FAILED");
    }
}
