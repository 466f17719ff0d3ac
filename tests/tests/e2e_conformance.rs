//! `lrm-conformance` against the simulated LRM: all rules, a lie, limits, and what it leaves when it
//! is told to stop or killed.

use std::fs;

use anyhow::Result;
use e2e::harness::process::Program;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Guests, Installation, Setup};
use protocol::codes::exit;

fn setup() -> Setup {
    Setup {
        walltime: "10m",
        notice: "3s",
        ..Setup::new(Guests::Null)
    }
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Test jobs that live, by the LRM's word.
async fn living(it: &Installation) -> Result<usize> {
    Ok(it
        .lrm_command(&["queue"])
        .await?
        .matches("wp-conformance-")
        .count())
}

#[tokio::test]
async fn every_rule_that_an_administrator_makes_possible_passes() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let dir = it.place().join("lrm").display().to_string();
    let sim = format!("{} --dir {dir}", it.binaries.lrm.display());
    let freeze = |signal: &str| {
        let pid = it.lrm.as_ref().map(|lrm| lrm.pid().to_string());
        format!("sh -c 'kill -{signal} {}'", pid.unwrap_or_default())
    };
    let args = [
        "--preempt-command",
        &format!("{sim} preempt {{id}}"),
        "--requeue-command",
        &format!("{sim} requeue {{id}}"),
        "--shorten-command",
        &format!("{sim} shorten {{id}} 2m"),
        "--lose-node-command",
        &format!("{sim} fail {{node}} --how lost"),
        "--restore-node-command",
        &format!("{sim} restore {{node}}"),
        // A controller that hangs answers as little as one that is stopped.
        "--stop-command",
        &freeze("STOP"),
        "--start-command",
        &freeze("CONT"),
        // It is believed sooner that a job waits.
        "--patience",
        "1m",
    ];
    let done = it.qualify(&owned(&args)).await?;
    done.all_pass_but(&["reused-id"])?;
    let report = done.report()?;
    assert_eq!(report.lrm, "simulated LRM");
    assert!(
        report
            .version
            .as_ref()
            .is_some_and(|v| v.starts_with("sim-lrm "))
    );
    let means = |name: &str| {
        let line = report.rules.iter().find(|line| line.name == name);
        line.and_then(|line| line.means.clone())
    };
    assert!(means("lost-answer").is_some() && means("walltime").is_none());
    assert_eq!(living(&it).await?, 0);
    it.nothing_of_conformance_is_left().await
}

#[tokio::test]
async fn a_listing_that_lies_fails_the_rule_and_its_job_is_gone_all_the_same() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    it.lrm_command(&["fault", "add", "missing", "--always"])
        .await?;
    let done = it
        .qualify(&owned(&["--rule", "found-by-key", "--rule", "5"]))
        .await?;
    assert_eq!(done.code, Some(exit::FAILED), "{done:#?}");
    let rules = &done.report()?.rules;
    assert_eq!(rules.len(), 2, "{rules:#?}");
    assert_eq!((rules[0].rule, rules[0].outcome.as_str()), (1, "fail"));
    let why = rules[0].why.as_deref().unwrap_or_default();
    assert!(why.contains("the key finds Listing([])"), "{why}");
    assert_eq!((rules[1].rule, rules[1].outcome.as_str()), (5, "pass"));
    it.lrm_command(&["fault", "clear"]).await?;
    assert_eq!(living(&it).await?, 0);
    it.nothing_of_conformance_is_left().await
}

#[tokio::test]
async fn limits_make_a_rule_not_applicable_and_a_failed_command_makes_it_not_checked() -> Result<()>
{
    let it = Installation::start(&setup()).await?;
    // The node is full: no test job starts.
    let full = [
        "site-job",
        "--cores",
        "2",
        "--run-for",
        "10m",
        "--walltime",
        "20m",
    ];
    it.lrm_command(&full).await?;
    let waits = owned(&["--rule", "slot-file", "--max-wait", "1s"]);
    let done = it.qualify(&waits).await?;
    assert_eq!(done.code, Some(exit::OK), "{done:#?}");
    let why = done.report()?.rules[0].why.clone().unwrap_or_default();
    assert!(why.contains("still waited after 1s"), "{why}");
    assert_eq!(living(&it).await?, 0);

    let it = Installation::start(&setup()).await?;
    let broken = "sh -c 'echo {id} is not yours >&2; exit 1'";
    let args = owned(&["--rule", "preemption", "--preempt-command", broken]);
    let done = it.qualify(&args).await?;
    assert_eq!(done.code, Some(exit::USAGE), "{done:#?}");
    let rule = &done.report()?.rules[0];
    assert_eq!(rule.outcome, "not_checked", "{rule:?}");
    let why = rule.why.as_deref().unwrap_or_default();
    assert!(why.contains("is not yours"), "{why}");
    it.nothing_of_conformance_is_left().await
}

/// One that has a job in the queue.
async fn at_work(it: &Installation) -> Result<Program> {
    let mut args = it.qualify_args()?;
    args.extend(owned(&["--rule", "cancel-queued"]));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let log = it.place().join("conformance.log");
    let program = &it.binaries.conformance;
    let program = Program::start("lrm-conformance", program, &args, &log)?;
    until("its jobs to be there", PATIENCE, async || {
        Ok((living(it).await? >= 2).then_some(()))
    })
    .await?;
    Ok(program)
}

#[tokio::test]
async fn one_that_is_told_to_stop_cancels_its_jobs_and_says_so() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut program = at_work(&it).await?;
    let status = program.stop().await?;
    let said = fs::read_to_string(it.place().join("conformance.log"))?;
    assert_eq!(status.code(), Some(exit::USAGE), "{said}");
    for words in ["interrupted: cancelling", "1 not checked"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(living(&it).await?, 0, "{said}");
    it.nothing_of_conformance_is_left().await
}

#[tokio::test]
async fn what_one_that_was_killed_has_left_is_dealt_with_by_the_next() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    at_work(&it).await?.kill().await?;
    assert!(living(&it).await? >= 2);
    let done = it.qualify(&owned(&["--rule", "no-secrets"])).await?;
    assert_eq!(done.code, Some(exit::OK), "{done:#?}");
    assert!(done.said.contains("of an earlier run"), "{done:#?}");
    assert_eq!(living(&it).await?, 0);
    it.nothing_of_conformance_is_left().await
}

#[tokio::test]
async fn what_cannot_be_run_is_told_with_exit_code_2() -> Result<()> {
    let mut it = Installation::start(&setup()).await?;
    for args in [
        vec!["--rule", "no-such-rule"],
        vec!["--stop-command", "true"],
        vec!["--max-jobs", "1"],
    ] {
        let done = it.qualify(&owned(&args)).await?;
        assert_eq!(done.code, Some(exit::USAGE), "{args:?}: {done:#?}");
        assert!(done.report.is_none());
    }
    it.kill_lrm().await?;
    let done = it.qualify(&[]).await?;
    assert_eq!(done.code, Some(exit::USAGE), "{done:#?}");
    assert!(done.said.contains("gives no listing"), "{done:#?}");
    it.start_lrm().await
}
