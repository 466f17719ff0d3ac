//! The checks of the simulation can fail: a rule that is broken on purpose, around the cores, is
//! found, and what is printed tells the story and how to see it again.

use std::process::Command;

use e2e::simulation::{Break, Options, Promise, Violation, run};

/// The first violation in a few small worlds.
fn broken(rule: Break) -> Violation {
    let found = (1..9).find_map(|seed| {
        let options = Options {
            slots: 100,
            requests: 200,
            seed,
            faults: 100,
            breaks: Some(rule),
        };
        run(options).err()
    });
    let violation = found.unwrap_or_else(|| panic!("{rule:?} was not found in eight worlds"));
    println!("{}\n{}", violation.promise, violation.what);
    assert!(violation.replay.contains("--break "), "{violation}");
    assert!(violation.replay.contains("--seed "), "{violation}");
    *violation
}

#[test]
fn a_workspace_that_is_given_away_too_early_runs_twice() {
    let violation = broken(Break::Fencing);
    assert_eq!(violation.promise, Promise::Alone);
    // The story names the workspace in each step of its way to two places.
    assert!(
        violation.story.contains("claimed: given to slot"),
        "{violation}"
    );
}

#[test]
fn what_is_promised_before_it_is_recorded_is_forgotten() {
    let promise = broken(Break::Commit).promise;
    assert!(
        matches!(
            promise,
            Promise::Kept | Promise::Alone | Promise::Polite | Promise::Complete
        ),
        "{promise}"
    );
}

#[test]
fn a_pilot_that_hears_no_signal_overruns() {
    assert_eq!(broken(Break::Signals).promise, Promise::InTime);
}

#[test]
fn guests_that_outlive_their_pilot_are_found() {
    let promise = broken(Break::Guests).promise;
    assert!(
        matches!(promise, Promise::Clean | Promise::Alone),
        "{promise}"
    );
}

#[test]
fn suspends_that_take_ten_times_as_long_are_found() {
    let promise = broken(Break::Suspends).promise;
    assert!(
        matches!(promise, Promise::Budget | Promise::Saved),
        "{promise}"
    );
}

#[test]
fn leases_that_never_run_out_are_found() {
    let promise = broken(Break::Expiry).promise;
    assert!(
        matches!(promise, Promise::Owned | Promise::Ends),
        "{promise}"
    );
}

#[test]
fn the_program_prints_the_story_and_the_command_and_ends_with_status_1() {
    let sim = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(["--slots", "100", "--requests", "200", "--seeds", "8"])
            .args(["--break", "fencing"])
            .args(more)
            .output()
            .expect("sim was built")
    };
    let out = sim(&[]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{text}");
    for part in [
        "promise broken: a guest never runs twice at once",
        "the story, latest last:",
        "replay: scripts/sim --slots 100 --requests 200 --seed ",
        "--break fencing",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let out = sim(&["--json"]);
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(last).expect("a JSON line");
    assert_eq!(json["violation"]["promise"], "alone", "{text}");
}
