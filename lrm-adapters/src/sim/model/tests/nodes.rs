//! Nodes that are lost, and a controller that crashes.

use protocol::lrm::{JobEnd, JobState};
use protocol::time::Span;

use super::world::World;
use super::{NODE, key, pilot, world};
use crate::sim::model::{Event, ModelConfig};
use crate::sim::profiles::ProfileName;

#[test]
fn a_lost_node_runs_on_and_its_strays_are_ended_when_it_is_back() {
    let mut config = ModelConfig::uniform(ProfileName::Pbs, 2, NODE, 1);
    config.node_timeout = Some(Span::from_secs(60));
    let mut w = World::new(config);
    let job = w.submit(pilot(2, 4));
    let first = w.run_of(job);
    let node = w.node(0);
    w.tell(Event::NodeLost(node.clone()));
    w.pass(Span::from_secs(50));
    assert_eq!(w.state(job), JobState::Running);
    w.pass(Span::from_secs(20));
    // The same job twice: the measured behaviour that fencing is for.
    assert_eq!(w.model.observe_one(w.now, job).unwrap().restarts, 1);
    assert_eq!(w.processes.len(), 2);
    assert!(w.signals_to(first).is_empty());
    w.tell(Event::NodeRestore(node));
    w.pass(Span::from_secs(1));
    assert_eq!(w.processes.len(), 1);
    assert_eq!(w.state(job), JobState::Running);
}

#[test]
fn a_node_without_power_is_noticed_late() {
    let mut w = world(ProfileName::Slurm, 1);
    let job = w.submit(pilot(1, 1));
    let node = w.node(0);
    w.tell(Event::NodePowerLoss(node.clone()));
    w.pass(Span::from_secs(10));
    assert!(w.processes.is_empty());
    assert_eq!(w.state(job), JobState::Running, "nobody has told the LRM");
    w.pass(Span::from_mins(2));
    assert_eq!(w.state(job), JobState::Ended(JobEnd::NodeLost));
    w.tell(Event::NodeRestore(node));
    let next = w.submit(pilot(3, 4));
    assert_eq!(w.state(next), JobState::Running);
}

#[test]
fn a_crash_loses_the_newest_job_and_gives_its_id_again() {
    let mut w = world(ProfileName::Slurm, 1);
    let lost = w.submit(pilot(1, 1));
    let run = w.run_of(lost);
    w.tell(Event::CrashLosingNewest);
    assert_eq!(w.model.job(lost), None);
    let next = w.submit(pilot(2, 1));
    assert_eq!(next, lost);
    assert_ne!(w.run_of(next), run);
    assert_eq!(w.model.find_by_key(w.now, &key(1)), []);
}
