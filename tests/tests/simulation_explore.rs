//! Small worlds, explored completely, on the real cores.

use e2e::explore::{Begin, Bounds, explore};
use e2e::simulation::Break;
use protocol::time::Span;

const BOUNDS: Bounds = Bounds {
    begin: Begin::Running,
    workspaces: 1,
    faults: 1,
    depth: 100,
    horizon: Span::from_secs(45),
    states: 200_000,
    calm_one_in: 1,
    breaks: None,
};

#[test]
fn every_story_with_one_fault_keeps_the_promises() {
    let explored = explore(BOUNDS).unwrap_or_else(|found| panic!("{found}"));
    println!("{explored}");
    assert!(explored.complete, "{explored}");
    assert!(
        explored.states > 10_000 && explored.calm > 100,
        "{explored}"
    );
}

#[test]
fn every_story_of_a_request_that_comes_with_one_fault_keeps_the_promises() {
    let bounds = Bounds {
        begin: Begin::Waiting,
        horizon: Span::from_secs(30),
        ..BOUNDS
    };
    let explored = explore(bounds).unwrap_or_else(|found| panic!("{found}"));
    println!("{explored}");
    assert!(explored.complete, "{explored}");
    assert!(
        explored.states > 10_000 && explored.calm > 100,
        "{explored}"
    );
}

#[test]
fn short_stories_with_two_faults_and_two_requests_keep_the_promises() {
    let bounds = Bounds {
        workspaces: 2,
        faults: 2,
        depth: 9,
        horizon: Span::from_secs(45),
        calm_one_in: 64,
        ..BOUNDS
    };
    let explored = explore(bounds).unwrap_or_else(|found| panic!("{found}"));
    println!("{explored}");
    assert!(explored.complete && explored.calm > 10, "{explored}");
}

#[test]
fn a_broken_fence_is_found_and_told_as_a_story() {
    let bounds = Bounds {
        breaks: Some(Break::Fencing),
        ..BOUNDS
    };
    let found = explore(bounds).expect_err("the fence is broken");
    println!("{found}");
    assert!(found.what.contains("two guests of ws-0 at once"), "{found}");
    let starts = found.story.matches("starts the guest of ws-0").count();
    assert!(starts > 0 && found.story.contains("is late"), "{found}");
    assert!(found.steps < 20, "the shortest story is short: {found}");
}

#[test]
fn a_lease_that_is_given_before_it_is_recorded_is_found() {
    let bounds = Bounds {
        begin: Begin::Waiting,
        breaks: Some(Break::Commit),
        ..BOUNDS
    };
    let found = explore(bounds).expect_err("answers go out before their commit");
    println!("{found}");
    assert!(found.what.contains("two guests of ws-0 at once"), "{found}");
    assert!(found.story.contains("crashes over it"), "{found}");
    assert!(found.steps < 20, "the shortest story is short: {found}");
}
