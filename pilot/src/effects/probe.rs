//! Asks the LRM for the slot's end, with the command that the slot file names.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use protocol::slot_file::ProbeSection;
use protocol::time::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::exec_guest::Trampoline;
use crate::journal::Marker;

/// How long to wait when the slot file does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than an instant is not read.
const MOST: u64 = 4096;
/// Variables that the LRMs' commands need to find their servers; all others are taken away.
const KEPT: [&str; 7] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TZ",
    "KRB5CCNAME",
    "LD_LIBRARY_PATH",
];
/// The same, by their beginnings.
const KEPT_PREFIXES: [&str; 5] = ["SLURM_", "PBS_", "_CONDOR_", "CONDOR_", "SIMLRM_"];

/// The slot's end by the probe's word; none when it has no answer.
pub async fn ask(
    section: &ProbeSection,
    trampoline: &Trampoline,
    marker: &Marker,
) -> Option<Timestamp> {
    match run(section, trampoline, marker).await {
        Ok(text) if text.trim().is_empty() => None,
        Ok(text) => match Timestamp::parse(&text) {
            Ok(end) => Some(end),
            Err(e) => {
                tracing::warn!(error = e, "the probe's answer can't be read");
                None
            }
        },
        Err(e) => {
            tracing::warn!(error = e, "the probe has no answer");
            None
        }
    }
}

async fn run(
    section: &ProbeSection,
    trampoline: &Trampoline,
    marker: &Marker,
) -> Result<String, String> {
    let Some((program, arguments)) = section.command.split_first() else {
        return Err("no command is given".to_owned());
    };
    let mut command = Command::from(trampoline.command(marker, program));
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            name.to_str().is_some_and(|n| {
                KEPT.contains(&n) || KEPT_PREFIXES.iter().any(|p| n.starts_with(p))
            })
        }))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    let answer = async {
        let mut text = String::new();
        if let Some(out) = child.stdout.take() {
            out.take(MOST)
                .read_to_string(&mut text)
                .await
                .map_err(|e| e.to_string())?;
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if status.success() {
            Ok(text)
        } else {
            Err(format!("`{program}` ended with {status}"))
        }
    };
    let limit = section.timeout.map_or(TIMEOUT, |t| t.0.as_duration());
    let result = tokio::time::timeout(limit, answer).await;
    if let (Err(_), Some(group)) = (&result, group) {
        // The trampoline made it the leader of a group of its own.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait().await;
    }
    result.unwrap_or_else(|_| Err(format!("`{program}` did not end within {limit:?}")))
}
