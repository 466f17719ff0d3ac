//! `pilot-broker doctor` and `submit-preview` against the simulated LRM with the signals of the
//! real ones, and `pilot doctor` on this node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use e2e::harness::process::Program;
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Binaries, Guests, Installation, Setup};
use e2e::requests;
use protocol::codes::exit;
use protocol::finding::{Finding, Level};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Report {
    level: Level,
    findings: Vec<Finding>,
}

impl Report {
    fn of(output: &Output) -> Result<Self> {
        serde_json::from_slice(&output.stdout).with_context(|| words(output))
    }

    fn levels(&self) -> BTreeMap<&str, Level> {
        let all = self.findings.iter();
        all.map(|f| (f.check.as_str(), f.level)).collect()
    }

    fn one(&self, check: &str) -> Result<&Finding> {
        let found = self.findings.iter().find(|f| f.check == check);
        found.with_context(|| format!("no `{check}` in {:#?}", self.findings))
    }
}

fn words(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

async fn run(program: &Path, args: &[&str]) -> Result<Output> {
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE * 2, output).await;
    output
        .with_context(|| format!("{} {args:?} does not end", program.display()))?
        .with_context(|| format!("failed to run {}", program.display()))
}

/// A site whose LRM waits three seconds between its signals, with slots long enough for a canary
/// on a slow machine, and a promise of a second.
async fn site(profile: &'static str) -> Result<Installation> {
    let setup = Setup {
        profile,
        notice: "3s",
        walltime: "5m",
        ..Setup::new(Guests::Null)
    };
    Installation::start(&setup).await
}

/// Writes the site's configuration with some words replaced; the promise is a second.
fn config(it: &Installation, changes: &[(&str, &str)]) -> Result<PathBuf> {
    let mut text = fs::read_to_string(it.place().join("broker.toml"))?;
    for (from, to) in [("notice = \"3s\"", "notice = \"1s\"")]
        .iter()
        .chain(changes)
    {
        if !text.contains(from) {
            bail!("`{from}` is not in the configuration:\n{text}");
        }
        text = text.replace(from, to);
    }
    let path = it.place().join("doctor.toml");
    fs::write(&path, text)?;
    Ok(path)
}

async fn doctor(it: &Installation, changes: &[(&str, &str)]) -> Result<(Option<i32>, Report)> {
    let config = config(it, changes)?.display().to_string();
    let args = ["doctor", "--config", &config, "--site", "lab", "--json"];
    let output = run(&it.binaries.broker, &args).await?;
    let report = Report::of(&output)?;
    Ok((output.status.code(), report))
}

/// How many jobs of a doctor the LRM has ever had.
async fn canaries(it: &Installation) -> Result<usize> {
    let listing = it.lrm_command(&["queue", "--all"]).await?;
    Ok(listing.matches("wp-canary-").count())
}

/// Nothing on the node, in the store, or in the broker's directory.
async fn nothing_is_left(it: &Installation) -> Result<()> {
    it.is_clean().await?;
    let names = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(it.place().join(path)).into_iter().flatten();
        let names = entries.flatten().map(|e| e.file_name());
        names.map(|n| n.to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names("broker/doctor/pilot-jobs"), [""; 0]);
    assert_eq!(names("store/blobs"), [""; 0]);
    Ok(())
}

/// A healthy site, and whether a process that left its session is a `survivor` there.
async fn healthy(profile: &'static str, survivor: Level) -> Result<()> {
    let it = site(profile).await?;
    let (code, report) = doctor(&it, &[]).await?;
    assert_eq!(code, Some(exit::OK), "{report:#?}");
    assert_ne!(report.level, Level::Problem, "{report:#?}");
    for (check, level) in [
        ("lrm", Level::Ok),
        ("lrm.version", Level::Ok),
        ("submit", Level::Ok),
        ("start", Level::Ok),
        ("job.account", Level::Ok),
        ("slot-file", Level::Ok),
        ("limits", Level::Ok),
        ("probe", Level::Ok),
        ("warden", Level::Ok),
        ("claim", Level::Ok),
        ("broker", Level::Ok),
        ("store.shared", Level::Ok),
        ("cancel", Level::Ok),
        ("notice", Level::Ok),
        ("children", survivor),
    ] {
        assert_eq!(report.one(check)?.level, level, "{}", report.one(check)?);
    }
    let notice = report.one("notice")?;
    // Three seconds, in order of size: this machine may be slow.
    let measured = notice.values["measured_ms"];
    assert!((1000.0..30_000.0).contains(&measured), "{notice}");
    assert!(notice.text.contains("SIGTERM"), "{notice}");
    assert!(report.one("store.shared")?.text.contains("the same store"));
    for disk in ["disk.scratch", "disk.store"] {
        assert!(report.one(disk)?.values["write_mib_per_s"] > 0.0);
    }
    assert_eq!(canaries(&it).await?, 1);
    nothing_is_left(&it).await
}

#[tokio::test]
async fn a_healthy_site_with_the_signals_of_slurm() -> Result<()> {
    healthy("slurm", Level::Warning).await
}

#[tokio::test]
async fn a_healthy_site_with_the_signals_of_pbs() -> Result<()> {
    healthy("pbs", Level::Warning).await
}

#[tokio::test]
async fn a_healthy_site_with_the_signals_of_htcondor() -> Result<()> {
    healthy("htcondor", Level::Ok).await
}

#[tokio::test]
async fn a_notice_that_is_not_kept_is_a_problem_with_the_right_line_to_write() -> Result<()> {
    let it = site("slurm-cgroup").await?;
    let change = ("notice = \"1s\"", "notice = \"45s\"");
    let (code, report) = doctor(&it, &[change]).await?;
    assert_eq!(code, Some(exit::FAILED), "{report:#?}");
    let notice = report.one("notice")?;
    assert_eq!(notice.level, Level::Problem, "{notice}");
    assert!(notice.text.contains("\"45s\" is configured"), "{notice}");
    let advice = notice.advice.as_deref().unwrap_or_default();
    assert!(advice.starts_with("write notice = \""), "{notice}");
    let others = report
        .levels()
        .into_iter()
        .filter(|(check, _)| *check != "notice");
    for (check, level) in others {
        assert_ne!(level, Level::Problem, "{check} in {report:#?}");
    }
    nothing_is_left(&it).await
}

#[tokio::test]
async fn a_scratch_that_cannot_be_written_is_told_by_the_jobs_own_words() -> Result<()> {
    let it = site("slurm").await?;
    fs::write(it.place().join("file"), "not a directory")?;
    let at = it.place().display();
    let scratch = format!("scratch = \"{at}/scratch\"");
    let file = format!("scratch = \"{at}/file/scratch\"");
    let (code, report) = doctor(&it, &[(&scratch, &file)]).await?;
    assert_eq!(code, Some(exit::FAILED), "{report:#?}");
    let start = report.one("start")?;
    assert_eq!(start.level, Level::Problem, "{start}");
    assert!(start.text.contains("mkdir"), "{start}");
    assert!(start.text.contains("exit code"), "{start}");
    nothing_is_left(&it).await
}

#[tokio::test]
async fn a_hypervisor_and_a_store_that_are_missing_are_problems() -> Result<()> {
    let it = site("htcondor").await?;
    fs::write(it.place().join("file"), "not a directory")?;
    let at = it.place().display();
    let (store, file) = (
        format!("store = \"{at}/store\""),
        format!("store = \"{at}/file\""),
    );
    let qemu = "kind = \"qemu\"\naccelerator = \"tcg\"\nbinary = \"/no/such/qemu\"";
    let changes = [("kind = \"null\"", qemu), (store.as_str(), file.as_str())];
    let (code, report) = doctor(&it, &changes).await?;
    assert_eq!(code, Some(exit::FAILED), "{report:#?}");
    for check in ["hypervisor.qemu", "disk.store"] {
        let found = report.one(check)?;
        assert_eq!(found.level, Level::Problem, "{found}");
        assert!(found.advice.is_some(), "{found}");
    }
    nothing_is_left(&it).await
}

#[tokio::test]
async fn an_lrm_that_does_not_answer_gets_no_job() -> Result<()> {
    let mut it = site("slurm").await?;
    it.kill_lrm().await?;
    let (code, report) = doctor(&it, &[]).await?;
    assert_eq!(code, Some(exit::FAILED), "{report:#?}");
    assert_eq!(report.levels(), BTreeMap::from([("lrm", Level::Problem)]));
    it.start_lrm().await?;
    assert_eq!(canaries(&it).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_submit_whose_answer_is_lost_is_looked_up_and_not_repeated() -> Result<()> {
    let it = site("htcondor").await?;
    it.lrm_command(&[
        "fault",
        "add",
        "lost-answer",
        "--on",
        "submit",
        "--times",
        "1",
    ])
    .await?;
    let (code, report) = doctor(&it, &[]).await?;
    assert_eq!(code, Some(exit::OK), "{report:#?}");
    let submit = report.one("submit")?;
    assert_eq!(submit.level, Level::Warning, "{submit}");
    assert!(submit.text.contains("found by its key"), "{submit}");
    assert_eq!(canaries(&it).await?, 1);
    nothing_is_left(&it).await
}

/// A doctor that waits for its canary on a node that is full.
async fn waiting(it: &Installation) -> Result<Program> {
    let full = [
        "site-job",
        "--cores",
        "2",
        "--walltime",
        "10m",
        "--run-for",
        "10m",
    ];
    it.lrm_command(&full).await?;
    let config = config(it, &[])?.display().to_string();
    let log = it.place().join("doctor.log");
    let args = ["doctor", "--config", &config, "--site", "lab"];
    let doctor = Program::start("doctor", &it.binaries.broker, &args, &log)?;
    let queued = until("the canary to be queued", PATIENCE, async || {
        let all = it.lrm_command(&["queue"]).await?;
        let mut lines = all.lines().filter(|line| line.contains("wp-canary-"));
        Ok(lines.any(|line| line.contains("PENDING")).then_some(()))
    });
    queued.await?;
    Ok(doctor)
}

#[tokio::test]
async fn a_doctor_that_is_told_to_stop_withdraws_its_canary() -> Result<()> {
    let it = site("slurm").await?;
    let mut doctor = waiting(&it).await?;
    let status = doctor.stop().await?;
    let said = fs::read_to_string(it.place().join("doctor.log"))?;
    assert_eq!(status.code(), Some(exit::OK), "{said}");
    assert!(said.contains("told to stop"), "{said}");
    let listing = it.lrm_command(&["queue"]).await?;
    assert!(!listing.contains("wp-canary-"), "{listing}\n{said}");
    nothing_is_left(&it).await
}

#[tokio::test]
async fn the_canary_of_a_doctor_that_was_killed_is_withdrawn_by_the_next() -> Result<()> {
    let it = site("slurm").await?;
    waiting(&it).await?.kill().await?;
    let config = config(&it, &[])?.display().to_string();
    // The node is still full: its own canary is withdrawn as well.
    let args = [
        "doctor", "--config", &config, "--site", "lab", "--json", "--wait", "1s",
    ];
    let output = run(&it.binaries.broker, &args).await?;
    assert_eq!(output.status.code(), Some(exit::OK), "{}", words(&output));
    let report = Report::of(&output)?;
    for check in ["earlier", "start"] {
        assert_eq!(report.one(check)?.level, Level::Warning, "{report:#?}");
    }
    assert_eq!(canaries(&it).await?, 2);
    let listing = it.lrm_command(&["queue"]).await?;
    assert!(!listing.contains("wp-canary-"), "{listing}");
    nothing_is_left(&it).await
}

#[tokio::test]
async fn the_preview_is_the_job_that_is_submitted() -> Result<()> {
    let it = Installation::start(&Setup::new(Guests::Null)).await?;
    let config = it.place().join("broker.toml").display().to_string();
    let args = [
        "submit-preview",
        "--config",
        &config,
        "--site",
        "lab",
        "--json",
    ];
    let output = run(&it.binaries.broker, &args).await?;
    let shown: serde_json::Value =
        serde_json::from_slice(&output.stdout).with_context(|| words(&output))?;
    let (text, key) = (shown["text"].as_str(), shown["key"].as_str());
    let (text, key) = text.zip(key).with_context(|| words(&output))?;
    let script = &text[text.find("#!/bin/sh").context("no script in the preview")?..];
    let id = it
        .queue(&requests::null("short", Span::from_secs(1)), "k1")
        .await?;
    it.reaches(&id, WorkspaceState::Done).await?;
    let jobs = it.place().join("broker/pilot-jobs");
    let first = fs::read_dir(&jobs)?.next().context("no pilot job")??;
    let real = first.file_name().to_string_lossy().into_owned();
    let sent = fs::read_to_string(first.path().join("job.sh"))?;
    assert_eq!(sent, script.replace(key, &real));
    it.is_clean().await
}

#[tokio::test]
async fn a_preview_needs_no_broker_and_leaves_nothing() -> Result<()> {
    let binaries = Binaries::find()?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("broker.toml");
    fs::write(
        &file,
        r#"
[site.lab]
lrm = "sim"
enabled = false
store = "store"
scratch = "scratch"
program = "pilot"
walltime_max = "3h"
slot = { cores = 3, memory = "1 GiB", disk = "4 GiB" }
hypervisor = { kind = "null" }
sim = { dir = "lrm", program = "sim-lrm" }
[site.desk]
lrm = "none"
slot = { cores = 1, memory = "1 GiB", disk = "4 GiB" }
"#,
    )?;
    let file = file.display().to_string();
    let show = async |site: &str| {
        let args = ["submit-preview", "--config", &file, "--site", site];
        run(&binaries.broker, &args).await
    };
    let output = show("lab").await?;
    let text = words(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("--cores 3") && text.contains("#!/bin/sh"),
        "{text}"
    );
    for (site, say) in [("desk", "started by hand"), ("nowhere", "desk, lab")] {
        let output = show(site).await?;
        let text = words(&output);
        assert_eq!(output.status.code(), Some(exit::USAGE), "{text}");
        assert!(text.contains(say), "{text}");
    }
    assert_eq!(fs::read_dir(place.path())?.count(), 1, "{text}");
    Ok(())
}

#[tokio::test]
async fn a_node_by_hand_with_a_slot_file_and_without() -> Result<()> {
    let binaries = Binaries::find()?;
    let place = tempfile::tempdir()?;
    let at = |name: &str| place.path().join(name).display().to_string();
    fs::create_dir(at("scratch"))?;
    let (scratch, store) = (at("scratch"), at("store"));
    let args = ["doctor", "--json", "--scratch", &scratch, "--store", &store];
    let output = run(&binaries.pilot, &args).await?;
    assert_eq!(output.status.code(), Some(exit::OK), "{}", words(&output));
    let report = Report::of(&output)?;
    for check in ["disk.scratch", "disk.store", "warden", "claim"] {
        assert_eq!(report.one(check)?.level, Level::Ok, "{report:#?}");
    }
    assert_eq!(fs::read_dir(at("scratch"))?.count(), 0);

    // A slot that is over, with a hypervisor that is not there, and its directory in place.
    fs::create_dir(at("scratch/slot"))?;
    fs::write(at("token"), "secret\n")?;
    let slot = at("scratch/slot/slot.toml");
    let text = format!(
        r#"version = 1
site = "desk"
submit_key = "wp-1"
incarnation = "first"
node = "here"
[broker]
url = "http://127.0.0.1:9"
token_file = "{token}"
[resources]
cores = 1
memory = "64 MiB"
disk = "1 MiB"
[clock]
start = 1763712000
end = 1763712060
notice = "10s"
[paths]
scratch = "{scratch}/slot"
store = "{store}"
[hypervisor]
kind = "qemu"
accelerator = "tcg"
binary = "/no/such/qemu"
"#,
        token = at("token")
    );
    fs::write(&slot, &text)?;
    let output = run(&binaries.pilot, &["doctor", "--json", "--slot", &slot]).await?;
    assert_eq!(
        output.status.code(),
        Some(exit::FAILED),
        "{}",
        words(&output)
    );
    let report = Report::of(&output)?;
    for check in ["hypervisor.qemu", "slot.clock", "broker"] {
        assert_eq!(report.one(check)?.level, Level::Problem, "{report:#?}");
    }
    assert_eq!(report.one("claim")?.level, Level::Ok, "{report:#?}");
    assert_eq!(
        fs::read_to_string(&slot)?,
        text,
        "the slot itself is not touched"
    );
    assert_eq!(fs::read_dir(at("scratch"))?.count(), 1);
    let output = run(&binaries.pilot, &["doctor", "--slot", &at("missing")]).await?;
    assert_eq!(
        output.status.code(),
        Some(exit::USAGE),
        "{}",
        words(&output)
    );
    Ok(())
}
