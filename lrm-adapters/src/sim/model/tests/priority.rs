//! Which job runs where, and which has to make room.

use protocol::lrm::{JobEnd, JobState};
use protocol::time::Span;

use super::{need, pilot, world};
use crate::sim::model::{Answer, Event, Job, JobRequest};
use crate::sim::profiles::ProfileName;

#[test]
fn higher_priority_goes_first_and_nothing_overtakes() {
    let mut w = world(ProfileName::Slurm, 1);
    let first = w.submit(pilot(1, 3));
    let big = w.submit(pilot(2, 4));
    let small = w.submit(pilot(3, 1));
    assert_eq!(w.state(first), JobState::Running);
    assert_eq!(
        [w.state(big), w.state(small)],
        [JobState::Queued, JobState::Queued]
    );
    let urgent = w.submit(JobRequest {
        priority: 5,
        ..pilot(4, 1)
    });
    assert_eq!(w.state(urgent), JobState::Running);
}

#[test]
fn a_preemption_takes_the_fewest_pilots_and_the_site_job_gets_the_node() {
    let mut w = world(ProfileName::Slurm, 2);
    let pilots = [
        w.submit(pilot(1, 2)),
        w.submit(pilot(2, 2)),
        w.submit(pilot(3, 4)),
    ];
    let site = w.submit(JobRequest::site(need(4), Span::from_mins(5)));
    assert_eq!(w.state(site), JobState::Queued);
    w.pass(Span::from_mins(2));
    assert_eq!(w.state(site), JobState::Running);
    let preempted = JobState::Ended(JobEnd::Preempted);
    assert_eq!(
        pilots.map(|p| w.state(p)),
        [JobState::Running, JobState::Running, preempted]
    );
}

#[test]
fn two_site_jobs_preempt_two_nodes_at_once() {
    let mut w = world(ProfileName::Pbs, 2);
    let pilots = [w.submit(pilot(1, 4)), w.submit(pilot(2, 4))];
    for _ in 0..2 {
        w.submit(JobRequest::site(need(4), Span::from_mins(5)));
    }
    w.pass(Span::from_secs(1));
    let told = |job| {
        w.model
            .job(job)
            .and_then(Job::run)
            .map(|r| w.signals_to(r).len())
    };
    assert!(pilots.iter().all(|p| told(*p) != Some(0)));
}

#[test]
fn a_minimum_walltime_lets_a_job_run_before_its_node_closes() {
    let mut w = world(ProfileName::Slurm, 1);
    let node = w.node(0);
    let closes = w.now + Span::from_mins(6);
    w.tell(Event::CloseNode {
        node,
        at: Some(closes),
    });
    let stiff = w.submit(pilot(1, 1));
    assert_eq!(w.state(stiff), JobState::Queued);
    w.tell(Event::Cancel(stiff));
    let min_walltime = Some(Span::from_mins(5));
    let supple = w.submit(JobRequest {
        min_walltime,
        ..pilot(2, 1)
    });
    assert_eq!(
        w.model.observe_one(w.now, supple).unwrap().end,
        Some(closes)
    );
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let mut w = world(ProfileName::Slurm, 1);
    for (request, want) in [
        (pilot(1, 5), "no node has"),
        (
            JobRequest {
                queue: "x".into(),
                ..pilot(1, 1)
            },
            "no queue is named `x`",
        ),
        (
            JobRequest {
                walltime: Span::ZERO,
                ..pilot(1, 1)
            },
            "more than 0s",
        ),
        (
            JobRequest {
                min_walltime: Some(Span::MAX),
                ..pilot(1, 1)
            },
            "longer",
        ),
    ] {
        let Answer::Refused(why) = w.tell(Event::Submit(request)) else {
            panic!("not refused: {want}");
        };
        assert!(why.contains(want), "{why}");
    }
}
