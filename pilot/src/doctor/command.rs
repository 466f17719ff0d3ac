//! `pilot doctor`: for people at a node, and for a site's health checks.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::codes::exit;
use protocol::finding::{Finding, Level, summary, worst};
use protocol::ids::{Incarnation, SubmitKey};
use protocol::slot_file::SlotFile;
use serde::Serialize;

use super::{Subject, examine};

/// Arguments of `pilot doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Look at what this slot file says: its directories, hypervisor, clock, probe and broker. The
    /// slot itself is not touched
    #[arg(long, value_name = "FILE")]
    slot: Option<PathBuf>,
    /// Look at this directory as the site's `scratch`; the system's directory for temporary files
    /// if left out
    #[arg(long, value_name = "DIR", conflicts_with = "slot")]
    scratch: Option<PathBuf>,
    /// Look at this directory as the site's `store`
    #[arg(long, value_name = "DIR", conflicts_with = "slot")]
    store: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the command prints with `--json`. Stable.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    level: Level,
    findings: &'a [Finding],
}

/// Runs the command: findings to standard output, the return value is the exit code:
/// [`exit::OK`] when a pilot would start here, [`exit::FAILED`] when there is a problem,
/// [`exit::USAGE`] when the slot file cannot be used.
pub fn run(args: &DoctorArgs) -> i32 {
    let subject = match subject(args) {
        Ok(subject) => subject,
        Err(why) => {
            eprintln!("error: failed to {why}");
            return exit::USAGE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let found = match runtime {
        Ok(runtime) => runtime.block_on(examine(&subject)),
        Err(e) => {
            eprintln!("error: failed to set up the process: {e}");
            return exit::INTERNAL;
        }
    };
    let level = worst(&found);
    if args.json {
        let findings = &found;
        match serde_json::to_string(&Outcome { level, findings }) {
            Ok(text) => println!("{text}"),
            Err(e) => {
                eprintln!("error: failed to write the findings: {e}");
                return exit::INTERNAL;
            }
        }
    } else {
        for finding in &found {
            println!("{finding}");
        }
        println!("{}", summary(&found));
    }
    match level {
        Level::Ok | Level::Warning => exit::OK,
        Level::Problem => exit::FAILED,
    }
}

fn subject(args: &DoctorArgs) -> Result<Subject, String> {
    let unique = format!(
        "wp-doctor-{}",
        &uuid::Uuid::new_v4().simple().to_string()[..8]
    );
    let named = |e: protocol::ids::IdError| format!("name the claim: {e}");
    let key = SubmitKey::new(&unique).map_err(named)?;
    let incarnation = Incarnation::new("doctor").map_err(named)?;
    if let Some(path) = &args.slot {
        let text = fs::read_to_string(path)
            .map_err(|e| format!("read slot file {}: {e}", path.display()))?;
        let slot = SlotFile::parse(&path.to_string_lossy(), &text)
            .map_err(|e| format!("use the slot file: {e}"))?;
        return Ok(Subject {
            key,
            incarnation,
            ..Subject::whole_slot(&slot).beside(&unique)
        });
    }
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| format!("find {}: {e}", path.display()))
    };
    let scratch = match &args.scratch {
        Some(scratch) => absolute(scratch)?,
        None => std::env::temp_dir(),
    };
    Ok(Subject {
        store: args.store.as_deref().map(absolute).transpose()?,
        node_state: scratch.clone(),
        scratch: scratch.join(&unique),
        key,
        incarnation,
        slot: None,
    })
}
