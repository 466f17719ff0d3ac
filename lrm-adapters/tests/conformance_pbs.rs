//! The conformance suite on the PBS adapter over played commands: both dialects, with and without
//! a history, in the words that were measured on OpenPBS 23.06.06.

mod fake;
mod rig;

use std::path::Path;

use fake::{FakeRig, Play, whole_suite};
use lrm_adapters::LocalResourceManager as _;
use lrm_adapters::conformance::{Rig as _, Shape};
use lrm_adapters::pbs::{Pbs, PbsSettings};
use protocol::lrm::{CancelAnswer, Observation, SubmitAnswer};
use protocol::time::Span;

fn play(pbs: &'static str, history: bool) -> Play {
    Play {
        settings: serde_json::json!({
            "pbs": pbs,
            "history": history,
            "user": nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name,
        }),
        profile: "pbs",
        commands: &["qsub", "qstat", "qdel"],
        no_preemption: (pbs == "torque")
            .then_some("Torque has no preemption: its schedulers delete or requeue"),
    }
}

fn adapter(bin: &Path) -> Pbs {
    Pbs::new(PbsSettings {
        bin_dir: Some(bin.to_owned()),
        rerunnable: true,
        timeout: Span::from_secs(5),
        ..PbsSettings::new()
    })
}

#[tokio::test]
async fn openpbs_with_history() {
    whole_suite(&FakeRig::new(play("openpbs", true), adapter), &[22]).await;
}

#[tokio::test]
async fn openpbs_without_history() {
    // How a job has ended is not told.
    whole_suite(
        &FakeRig::new(play("openpbs", false), adapter),
        &[6, 10, 11, 22],
    )
    .await;
}

#[tokio::test]
async fn torque() {
    whole_suite(&FakeRig::new(play("torque", true), adapter), &[11, 22]).await;
}

#[tokio::test]
async fn a_whole_life_costs_the_server_few_commands() {
    let rig = FakeRig::new(play("openpbs", false), adapter);
    let job = rig.job(&Shape::obeying()).unwrap();
    let SubmitAnswer::Accepted(id) = rig.lrm().submit(&job).await else {
        panic!("refused: {}", rig.commands())
    };
    for _ in 0..3 {
        let seen = rig.lrm().observe().await;
        assert!(matches!(seen, Observation::Listing(_)), "{seen:?}");
    }
    assert_eq!(rig.lrm().cancel(&id, &job.key).await, CancelAnswer::Taken);
    let all = rig.commands();
    // The job asks for its own end when it starts.
    let ours: Vec<&str> = all
        .lines()
        .filter(|l| *l != format!("qstat -f {id}"))
        .collect();
    let count = |start: &str| ours.iter().filter(|l| l.starts_with(start)).count();
    assert_eq!(count("qsub"), 1, "{all}");
    assert_eq!(count("qdel"), 1, "{all}");
    assert_eq!(count("qstat --version"), 1, "{all}");
    // Once the server has said that it keeps no history, it is not asked for it again.
    assert_eq!(count("qstat -f -x"), 1, "{all}");
    assert_eq!(count("qstat -f"), 1 + 3, "{all}");
    rig.calm().await;
}
