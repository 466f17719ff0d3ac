//! `lrm-conformance` against a PBS whose commands are played on the simulated LRM.

use anyhow::Result;
use e2e::harness::{Guests, Installation, Setup};

#[tokio::test]
async fn what_can_be_checked_of_a_pbs_without_history_passes() -> Result<()> {
    let it = Installation::start(&Setup {
        played_pbs: true,
        profile: "pbs",
        walltime: "10m",
        notice: "3s",
        ..Setup::new(Guests::Null)
    })
    .await?;
    // It has a node of two cores; a real server refuses by a limit of its queue.
    let limit = ["--refused-cores".to_owned(), "64".to_owned()];
    let done = it.qualify(&limit).await?;
    done.all_pass_but(&[
        // Without a history the server does not tell how a job has ended.
        "exit-code",
        "walltime",
        // The site's pilot jobs are not rerunnable.
        "requeue",
        // Nobody has given the commands.
        "preemption",
        "moved-end",
        "node-lost",
        "unreachable",
        "restart",
        "reused-id",
        // It has no words for it.
        "avoid",
    ])?;
    assert_eq!(done.report()?.lrm, "PBS");
    // No job was submitted twice.
    let commands = it.played_commands()?;
    let submits = commands.iter().filter(|c| c.starts_with("qsub ")).count();
    let told = done.report()?.calls["submits"];
    assert!(submits <= usize::try_from(told)?, "{told}: {commands:#?}");
    it.nothing_of_conformance_is_left().await
}
