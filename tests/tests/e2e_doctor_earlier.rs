//! A canary that an earlier, killed doctor has left: one that no listing has is not taken for over.

use std::fs::{self, FileTimes, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use e2e::harness::wait::PATIENCE;
use e2e::harness::{Guests, Installation, Setup};
use protocol::finding::{Finding, Level};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Report {
    lrm_version: Option<String>,
    findings: Vec<Finding>,
}

impl Report {
    /// What is said of one canary.
    fn on(&self, key: &str) -> Result<&Finding> {
        let found = (self.findings.iter()).find(|f| f.check == "earlier" && f.text.contains(key));
        found.with_context(|| format!("nothing on {key} in {:#?}", self.findings))
    }
}

async fn doctor(it: &Installation) -> Result<Report> {
    let config = it.place().join("broker.toml");
    let output = tokio::process::Command::new(&it.binaries.broker)
        .args(["doctor", "--site", "lab", "--json", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output: Output = tokio::time::timeout(PATIENCE * 2, output)
        .await
        .context("the doctor does not end")??;
    serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("{}: {said}", output.status)
    })
}

/// The directory of a canary that was made so long ago.
fn left(canaries: &Path, key: &str, age: Duration) -> Result<PathBuf> {
    let directory = canaries.join(key);
    fs::create_dir_all(&directory)?;
    let token = directory.join("token");
    fs::write(&token, "")?;
    #[expect(clippy::disallowed_methods, reason = "a file of some days ago is made")]
    let made = SystemTime::now() - age;
    let file = OpenOptions::new().write(true).open(&token)?;
    file.set_times(FileTimes::new().set_modified(made))?;
    Ok(directory)
}

#[tokio::test]
async fn a_canary_that_no_listing_has_is_kept_until_no_lrm_can_have_it() -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let setup = Setup {
        walltime: "5m",
        notice: "3s",
        ..Setup::new(Guests::Null)
    };
    let it = Installation::start(&setup).await?;
    let canaries = it.place().join("broker/doctor/pilot-jobs");
    let fresh = left(&canaries, "wp-canary-of-today", DAY / 24)?;
    let old = left(&canaries, "wp-canary-of-old", DAY * 8)?;
    let report = doctor(&it).await?;
    let finding = report.on("wp-canary-of-today")?;
    assert_eq!(finding.level, Level::Warning, "{finding}");
    assert!(
        finding.text.contains("does not prove that it is over"),
        "{finding}"
    );
    assert!(fresh.join("token").exists(), "{:#?}", report.findings);
    // Whatever still runs of it is told to leave.
    assert!(
        fresh.join("stop").exists(),
        "{:?}",
        fs::read_dir(&fresh)?.collect::<Vec<_>>()
    );
    report.on("wp-canary-of-old")?;
    assert!(!old.exists(), "{:#?}", report.findings);
    let version = report.lrm_version.context("no version")?;
    assert!(version.starts_with("sim-lrm "), "{version}");
    it.is_clean().await
}
