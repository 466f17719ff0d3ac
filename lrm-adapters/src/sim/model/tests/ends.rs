//! How jobs end, and what is left of them.

use protocol::lrm::{JobEnd, JobState};
use protocol::time::Span;

use super::world::World;
use super::{NODE, at, pilot, world};
use crate::sim::model::{Answer, Effect, Event, JobRequest, ModelConfig};
use crate::sim::profiles::{Cause, Fate, Launch, Leftovers, ProfileName, Signal, Target};

/// Every cause under every profile: the signals that the profile says, within its windows.
#[test]
fn every_ending_is_played_as_the_profile_says() {
    for name in ProfileName::ALL {
        for cause in Cause::ALL {
            for launch in [Launch::Step, Launch::Batch] {
                let mut config = ModelConfig::uniform(name, 1, NODE, 3);
                if name == ProfileName::Slurm {
                    config.grace = Some(Span::from_secs(20));
                }
                let mut w = World::new(config);
                // Job 1 obeys, job 2 has to be killed.
                let gone = w.submit(pilot(1, 1));
                w.tell(Event::Cancel(gone));
                w.pass(Span::from_secs(700));
                let job = w.submit(JobRequest {
                    launch,
                    ..pilot(2, 1)
                });
                let run = w.run_of(job);
                let node = w.node(0);
                w.pass(Span::from_secs(1));
                let began = match cause {
                    Cause::Walltime => w.now.before(Span::from_secs(1)) + Span::from_mins(10),
                    _ => w.now,
                };
                let answer = match cause {
                    Cause::Walltime => Answer::Done,
                    Cause::Cancel => w.tell(Event::Cancel(job)),
                    Cause::Preempt => w.tell(Event::Preempt(job)),
                    Cause::Requeue => w.tell(Event::Requeue(job)),
                    Cause::NodeDown => w.tell(Event::NodeDown(node)),
                    Cause::NodeLost => w.tell(Event::NodeLost(node)),
                    Cause::Drain => w.tell(Event::Drain(node)),
                };
                assert_eq!(answer, Answer::Done);
                let ending = w.model.config().profile().ending(cause);
                w.pass(match ending.fate {
                    // Before its walltime is over.
                    Fate::RunsOn => Span::from_secs(500),
                    Fate::Over | Fate::Requeued(_) | Fate::Held => Span::from_mins(60),
                });
                let case = format!("{name:?} {cause:?} {launch:?}");
                let profile = w.model.config().profile();
                if ending.fate == Fate::RunsOn {
                    assert_eq!(w.state(job), JobState::Running, "{case}");
                    assert!(w.signals_to(run).is_empty(), "{case}");
                    continue;
                }
                let mut low = began;
                let mut high = began;
                let mut expected = Vec::new();
                for beat in &ending.beats {
                    let (min, max) = profile.window(beat.after);
                    low = low + min;
                    high = high + max;
                    if beat.who != Target::Steps || launch == Launch::Step {
                        expected.push((low, high, beat.who, beat.signal));
                    }
                }
                let sent = w.signals_to(run);
                // A kill that is not heard of is repeated (a lost node tells nothing).
                assert!(sent.len() >= expected.len(), "{case}: {sent:?}");
                for ((t, who, signal), want) in sent.iter().zip(&expected) {
                    assert_eq!((*who, *signal), (want.2, want.3), "{case}");
                    assert!(want.0 <= *t && *t <= want.1, "{case}: {t} not in {want:?}");
                }
            }
        }
    }
}

#[test]
fn an_end_that_moves_moves_the_kill() {
    let mut w = world(ProfileName::Htcondor, 1);
    let job = w.submit(pilot(2, 1));
    let run = w.run_of(job);
    let end = at(0) + Span::from_mins(20);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_mins(15));
    assert!(w.signals_to(run).is_empty());
    let end = w.now + Span::from_secs(10);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_secs(12));
    assert_eq!(w.signals_to(run).first().map(|s| s.2), Some(Signal::Term));
}

#[test]
fn extending_in_the_lateness_of_the_walltime_calls_the_end_off() {
    let mut config = ModelConfig::uniform(ProfileName::Slurm, 1, NODE, 12);
    config.kill_wait = Some(Span::from_secs(5));
    let mut w = World::new(config);
    let job = w.submit(pilot(2, 1));
    let run = w.run_of(job);
    w.pass(Span::from_mins(10));
    assert!(w.signals_to(run).is_empty(), "this seed is late by 0");
    assert_eq!(w.state(job), JobState::Running);
    let end = w.now + Span::from_mins(5);
    w.tell(Event::SetEnd { job, end });
    w.pass(Span::from_mins(4));
    assert!(w.signals_to(run).is_empty());
    w.pass(Span::from_mins(3));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Walltime));
}

#[test]
fn a_cancel_during_a_preemption_ends_the_job_for_good() {
    let mut w = world(ProfileName::Htcondor, 1);
    w.submit(pilot(1, 1));
    let job = w.submit(pilot(2, 1));
    w.tell(Event::Preempt(job));
    w.pass(Span::from_secs(5));
    w.tell(Event::Cancel(job));
    assert_eq!(w.state(job), JobState::Ending);
    w.pass(Span::from_secs(602));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Cancelled));
}

#[test]
fn ended_jobs_are_forgotten() {
    let mut w = world(ProfileName::Slurm, 1);
    let job = w.submit(pilot(1, 1));
    let run = w.run_of(job);
    w.processes.remove(&run);
    w.tell(Event::Exited { run, code: 3 });
    assert_eq!(w.state(job), JobState::Ended(JobEnd::Exited(3)));
    w.pass(Span::from_mins(6));
    assert_eq!(w.model.observe(w.now), []);
}

#[test]
fn leftovers_are_dealt_with_as_the_profile_says() {
    for (name, want) in [
        (ProfileName::Slurm, Leftovers::Survive),
        (ProfileName::SlurmCgroup, Leftovers::AllKilled),
        (ProfileName::Pbs, Leftovers::SessionKilled),
        (ProfileName::Htcondor, Leftovers::AllKilled),
    ] {
        let mut w = world(name, 1);
        let job = w.submit(pilot(1, 1));
        let run = w.run_of(job);
        w.processes.remove(&run);
        w.tell(Event::Exited { run, code: 0 });
        let effect = w.story.last().map(|(_, e)| e.clone());
        assert_eq!(
            effect,
            Some(Effect::CleanUp {
                run,
                leftovers: want
            })
        );
    }
}
