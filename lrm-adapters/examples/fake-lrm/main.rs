//! `fake-lrm`: the commands of real batch systems for tests, played on the simulated LRM.
//!
//! Called by a link named as one of them (`qsub`, `squeue`, `condor_q`, ...), it asks the `sim-lrm` daemon that
//! `fake-lrm.json` beside the link names, and prints the answer in the words, formats and exit
//! codes that were measured on the real system. The daemon starts real processes with that
//! system's signals, and its faults (`sim-lrm fault`) make these commands slow, failing or lying.
//! Every call is a line of `commands.log` beside the link.
//!
//! An example and no program of this package: it is built with the tests and never shipped.

mod ask;
mod condor;
mod pbs;
mod slurm;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// What is played: `fake-lrm.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Play {
    /// Directory of the `sim-lrm` daemon.
    sim: PathBuf,
    /// PBS: which one.
    #[serde(default)]
    pbs: Dialect,
    /// OpenPBS: the server keeps ended jobs.
    #[serde(default)]
    history: bool,
    /// PBS: the account that owns our jobs.
    #[serde(default)]
    user: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dialect {
    #[default]
    Openpbs,
    Torque,
}

/// What a command prints, and its exit code.
#[derive(Default)]
struct Said {
    stdout: String,
    stderr: String,
    code: u8,
}

impl Said {
    fn out(stdout: impl Into<String>) -> Self {
        Self {
            stdout: stdout.into(),
            ..Self::default()
        }
    }

    fn err(code: u8, stderr: impl Into<String>) -> Self {
        Self {
            stderr: stderr.into(),
            code,
            ..Self::default()
        }
    }
}

fn main() -> ExitCode {
    match play() {
        Ok(said) => {
            // Nobody may be there to read it.
            let _ = std::io::stdout().write_all(said.stdout.as_bytes());
            let _ = std::io::stderr().write_all(said.stderr.as_bytes());
            ExitCode::from(said.code)
        }
        Err(e) => {
            eprintln!("fake-lrm: failed to {e:#}");
            ExitCode::from(125)
        }
    }
}

fn play() -> anyhow::Result<Said> {
    let mut args = std::env::args();
    let me = PathBuf::from(args.next().context("know its own name")?);
    let args: Vec<String> = args.collect();
    let Some(name) = me.file_name().and_then(|n| n.to_str()) else {
        bail!("know its own name");
    };
    let dir = &directory(&me)?;
    let file = dir.join("fake-lrm.json");
    let text =
        std::fs::read(&file).with_context(|| format!("read what to play in {}", file.display()))?;
    let play: Play = serde_json::from_slice(&text).context("understand what to play")?;
    note(dir, name, &args)?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match name {
        "qsub" => pbs::qsub(&play, &words),
        "qstat" => pbs::qstat(&play, &words),
        "qdel" => pbs::qdel(&play, &words),
        "sbatch" => slurm::sbatch(&play, &words),
        "squeue" => slurm::squeue(&play, &words),
        "scancel" => slurm::scancel(&play, &words),
        "srun" => slurm::srun(&words),
        "condor_submit" => condor::submit(&play, &words),
        "condor_q" => condor::query(&play, &words),
        "condor_rm" => condor::remove(&play, &words),
        "condor_version" => Ok(condor::version()),
        other => bail!("play `{other}`: it knows commands of PBS, Slurm and HTCondor"),
    }
}

/// Where the link lies: in the name that we were called by, or on the path, as the shell found it.
#[expect(clippy::disallowed_methods, reason = "as a shell looks for it")]
fn directory(me: &Path) -> anyhow::Result<PathBuf> {
    match me.parent() {
        Some(dir) if dir != Path::new("") => Ok(dir.to_owned()),
        _ => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .find(|dir| dir.join("fake-lrm.json").is_file())
            .context("find fake-lrm.json on the path"),
    }
}

/// One line by one write, so that calls at the same time do not mix.
fn note(dir: &Path, name: &str, args: &[String]) -> anyhow::Result<()> {
    let line = format!("{name} {}\n", shell_words::join(args));
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("commands.log"))
        .and_then(|mut log| log.write_all(line.as_bytes()))
        .context("write commands.log")
}
