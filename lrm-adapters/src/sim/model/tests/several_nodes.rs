//! Jobs on several nodes: one process on each, ended on each, over when all are.

use protocol::lrm::{JobEnd, JobState};
use protocol::time::{Span, Timestamp};

use super::world::World;
use super::{at, need, pilot, world};
use crate::sim::model::{Answer, Effect, Event, JobNumber, JobRequest, RunNumber};
use crate::sim::profiles::{ProfileName, Signal};

fn wide(n: u32, nodes: u32) -> JobRequest {
    JobRequest {
        nodes,
        ..pilot(n, 4)
    }
}

/// The runs of a job that were ever started, with where.
fn starts(w: &World, job: JobNumber) -> Vec<(RunNumber, u32, u32, String)> {
    let start = |(_, e): &(Timestamp, Effect)| match e {
        Effect::Start(s) if s.job == job => {
            Some((s.run, s.restarts, s.rank, s.node.as_str().to_owned()))
        }
        Effect::Start(_)
        | Effect::Signal { .. }
        | Effect::CleanUp { .. }
        | Effect::Forget { .. } => None,
    };
    w.story.iter().filter_map(start).collect()
}

fn places(w: &World, job: JobNumber) -> Vec<(u32, u32, String)> {
    let all = starts(w, job);
    all.into_iter()
        .map(|(_, n, r, name)| (n, r, name))
        .collect()
}

fn exit(w: &mut World, run: RunNumber, code: i32) {
    w.processes.remove(&run);
    w.tell(Event::Exited { run, code });
}

#[test]
fn a_process_is_started_on_each_of_different_nodes_and_the_job_is_over_with_the_last() {
    let mut w = world(ProfileName::Slurm, 3);
    let job = w.submit(wide(1, 2));
    let next = w.submit(wide(2, 2));
    assert_eq!(
        places(&w, job),
        [(0, 0, "n1".to_owned()), (0, 1, "n2".to_owned())]
    );
    assert_eq!(w.state(next), JobState::Queued, "one node is not two");
    let runs: Vec<_> = starts(&w, job).into_iter().map(|s| s.0).collect();
    exit(&mut w, runs[0], 3);
    assert_eq!(w.state(job), JobState::Running);
    assert_eq!(
        w.state(next),
        JobState::Queued,
        "its node is still the job's"
    );
    // Said twice, as a daemon that was started again does.
    exit(&mut w, runs[0], 3);
    assert_eq!(w.state(job), JobState::Running);
    exit(&mut w, runs[1], 0);
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Exited(3)));
    assert_eq!(w.state(next), JobState::Running);
}

#[test]
fn what_cannot_be_had_is_refused() {
    let mut w = world(ProfileName::Slurm, 2);
    for (nodes, want) in [(0, "at least one"), (3, "more than there are: 2")] {
        let answer = w.tell(Event::Submit(wide(1, nodes)));
        assert!(
            matches!(&answer, Answer::Refused(why) if why.contains(want)),
            "{answer:?}"
        );
    }
    let site = JobRequest {
        nodes: 2,
        ..JobRequest::site(need(1), Span::from_mins(1))
    };
    assert!(matches!(w.tell(Event::Submit(site)), Answer::Refused(_)));
}

#[test]
fn it_is_cancelled_preempted_and_timed_out_on_all_of_its_nodes() {
    for (how, end) in [
        (0, JobEnd::Cancelled),
        (1, JobEnd::Preempted),
        (2, JobEnd::Walltime),
    ] {
        let mut w = world(ProfileName::Slurm, 3);
        let job = w.submit(wide(1, 2));
        match how {
            0 => drop(w.tell(Event::Cancel(job))),
            1 => {
                // All that it asks for is a part of the third node and one of the job's.
                w.submit(JobRequest::site(need(4), Span::from_mins(1)));
                w.submit(JobRequest::site(need(4), Span::from_mins(1)));
            }
            _ => w.pass(Span::from_mins(10)),
        }
        w.pass(Span::from_mins(2));
        for (run, _, _, node) in starts(&w, job) {
            let heard = w.signals_to(run);
            assert!(
                heard.iter().any(|(_, _, s)| *s == Signal::Term),
                "{end:?} on {node}: {heard:?}"
            );
            assert!(!w.processes.contains_key(&run), "{end:?} on {node}");
        }
        assert_eq!(w.state(job), JobState::Ended(end));
    }
}

#[test]
fn one_that_left_before_the_cancel_does_not_hide_it() {
    let mut w = world(ProfileName::Slurm, 2);
    let job = w.submit(wide(1, 2));
    let runs: Vec<_> = starts(&w, job).into_iter().map(|s| s.0).collect();
    w.tell(Event::Cancel(job));
    exit(&mut w, runs[1], 0);
    assert!(!matches!(w.state(job), JobState::Ended(_)));
    w.pass(Span::from_secs(1));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Cancelled));
    assert_eq!(
        w.signals_to(runs[1]),
        [],
        "nothing to a process that is gone"
    );
}

#[test]
fn a_requeue_starts_it_again_on_all_nodes_under_the_same_id() {
    let mut w = world(ProfileName::Slurm, 2);
    let job = w.submit(wide(1, 2));
    w.tell(Event::Requeue(job));
    w.pass(Span::from_mins(4));
    let again = places(&w, job).split_off(2);
    assert_eq!(again, [(1, 0, "n1".to_owned()), (1, 1, "n2".to_owned())]);
    assert_eq!(w.state(job), JobState::Running);
}

#[test]
fn a_lost_node_ends_the_job_on_the_others_when_the_lrm_has_noticed() {
    let mut w = world(ProfileName::Slurm, 2);
    let job = w.submit(wide(1, 2));
    let runs: Vec<_> = starts(&w, job).into_iter().map(|s| s.0).collect();
    let lost = w.node(1);
    w.tell(Event::NodeLost(lost.clone()));
    w.pass(Span::from_secs(20));
    assert_eq!(w.signals_to(runs[0]), [], "not noticed yet");
    assert_ne!(w.state(job), JobState::Ended(JobEnd::NodeLost));
    w.pass(Span::from_secs(60));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::NodeLost));
    assert!(!w.processes.contains_key(&runs[0]), "told and gone");
    assert!(w.processes.contains_key(&runs[1]), "nobody reaches it");
    w.tell(Event::NodeRestore(lost));
    w.pass(Span::from_mins(1));
    assert!(w.processes.is_empty());
}

#[test]
fn its_end_is_moved_on_all_of_its_nodes() {
    let mut w = world(ProfileName::SlurmCgroup, 2);
    let job = w.submit(wide(1, 2));
    let end = at(0) + Span::from_mins(20);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_mins(19));
    assert_eq!(w.state(job), JobState::Running);
    w.pass(Span::from_mins(3));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Walltime));
    assert!(w.processes.is_empty());
}
