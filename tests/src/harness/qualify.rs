//! The real `lrm-conformance` against the LRM of an installation.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lrm_adapters::conformance::Rule;
use serde::Deserialize;

use super::installation::Installation;

/// All rules of a real LRM take so long at most.
const LIMIT: Duration = Duration::from_secs(840);

/// Rules in which the program itself has a part, on its own side or by an administrator's command,
/// and that need no long walltime: all rules on the same batch systems are the adapters' own tests.
pub const PLAYED: [&str; 8] = [
    "found-by-key",
    "lost-answer",
    "cancel-running",
    "preemption",
    "hung-command",
    "missing",
    "withdraw",
    "avoid",
];

/// The arguments for these rules alone.
pub fn only(rules: &[&str]) -> Vec<String> {
    (rules.iter())
        .flat_map(|rule| ["--rule".to_owned(), (*rule).to_owned()])
        .collect()
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RuleLine {
    /// Its number.
    pub rule: u32,
    /// Its name.
    pub name: String,
    /// `pass`, `fail`, `not_applicable` or `not_checked`.
    pub outcome: String,
    /// Why, or what was seen.
    pub why: Option<String>,
    /// How it was checked.
    pub means: Option<String>,
}

/// What `--json` printed.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// The LRM's name.
    pub lrm: String,
    /// What it says of its version.
    pub version: Option<String>,
    /// The rules that were to be checked.
    pub rules: Vec<RuleLine>,
    /// Jobs that may live on.
    pub left: Vec<String>,
    /// How often which command was sent.
    pub calls: BTreeMap<String, u32>,
}

/// How it ended, and what it said.
#[derive(Debug, Clone)]
pub struct Qualified {
    /// Rules that it was to check.
    asked: usize,
    /// Its exit code.
    pub code: Option<i32>,
    /// The report, if there is one.
    pub report: Option<Report>,
    /// What it said to people.
    pub said: String,
}

impl Qualified {
    /// The report.
    ///
    /// # Errors
    /// There is none.
    pub fn report(&self) -> Result<&Report> {
        self.report
            .as_ref()
            .with_context(|| format!("no report, exit code {:?}: {}", self.code, self.said))
    }

    /// Checks the outcome of all rules that were asked for: those that are named here are not applicable, all others
    /// pass, and nothing is left.
    ///
    /// # Errors
    /// Something is not so.
    pub fn all_pass_but(&self, not_applicable: &[&str]) -> Result<()> {
        let report = self.report()?;
        for line in &report.rules {
            let expected = if not_applicable.contains(&line.name.as_str()) {
                "not_applicable"
            } else {
                "pass"
            };
            ensure!(line.outcome == expected, "{line:?}\n{report:#?}");
        }
        ensure!(report.rules.len() == self.asked, "{report:#?}");
        ensure!(report.left.is_empty() && self.code == Some(0), "{self:#?}");
        Ok(())
    }
}

impl Installation {
    /// Writes the configuration again for short listings and long jobs, and gives the arguments
    /// of `lrm-conformance` for it.
    ///
    /// # Errors
    /// The configuration is not as expected.
    pub fn qualify_args(&self) -> Result<Vec<String>> {
        let mut text = fs::read_to_string(self.place().join("broker.toml"))?;
        let mut changes = vec![("poll = \"1s\"", "poll = \"500ms\"")];
        if text.contains("lrm = \"slurm\"") || text.contains("lrm = \"htcondor\"") {
            changes.push(("command_timeout = \"5s\"", "command_timeout = \"10s\""));
        }
        for (from, to) in changes {
            if !text.contains(from) {
                bail!("`{from}` is not in the configuration:\n{text}");
            }
            text = text.replace(from, to);
        }
        let path = self.place().join("conformance.toml");
        fs::write(&path, text)?;
        let path = path.display().to_string();
        let args = ["--config", &path, "--site", "lab"];
        Ok(args.map(str::to_owned).to_vec())
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub async fn qualify(&self, more: &[String]) -> Result<Qualified> {
        let program = &self.binaries.conformance;
        let output = tokio::process::Command::new(program)
            .args(self.qualify_args()?)
            .arg("--json")
            .args(more)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(LIMIT, output)
            .await
            .context("lrm-conformance does not end")?
            .with_context(|| format!("failed to run {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{}{said}", String::from_utf8_lossy(&output.stdout));
        let asked = match more.iter().filter(|arg| *arg == "--rule").count() {
            0 => Rule::ALL.len(),
            some => some,
        };
        Ok(Qualified {
            asked,
            code: output.status.code(),
            report: serde_json::from_slice(&output.stdout).ok(),
            said,
        })
    }

    /// Nothing of it is on the node or in the broker's directory.
    ///
    /// # Errors
    /// Something is.
    pub async fn nothing_of_conformance_is_left(&self) -> Result<()> {
        self.is_clean().await?;
        let jobs = self.place().join("broker/conformance/pilot-jobs");
        let left: Vec<_> = fs::read_dir(&jobs)
            .with_context(|| format!("failed to read {}", jobs.display()))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }
}
