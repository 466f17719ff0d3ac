//! `pilot reclaim`: for a site's prologue and epilogue, and for people.
//!
//! Prologues run as root, and a journal is a user's file: run as root, the command hands each
//! slot to a copy of itself that runs as the account that owns the slot's files. So a forged
//! journal reaches no further than its owner does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::codes::exit;
use protocol::slot_file::XEN_HELPER;
use protocol::text::parse_span;
use protocol::time::Span;
use serde::{Deserialize, Serialize};

use super::{Effort, ReclaimError, Report, Swept, reclaim, sweep, sweep_domains, unbegun};
use crate::broker_client::chain;
use crate::journal::NODE_ENTRIES_PREFIX;

/// Arguments of `pilot reclaim`.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new("where").required(true).args(["slot", "node_state"])))]
pub struct ReclaimArgs {
    /// Undo the slot with this scratch directory
    #[arg(long, value_name = "DIR")]
    slot: Option<PathBuf>,
    /// Undo every slot on this node whose pilot is dead and that is registered in this node-state directory; and slots in it whose job was killed an hour ago or longer, before its pilot began
    #[arg(long, value_name = "DIR")]
    node_state: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Kill the slot's pilot first if it lives
    #[arg(long, requires = "slot")]
    force: bool,
    /// How long to wait for each process to die, and for another reclaim to end
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = parse_span)]
    limit: Span,
}

/// What the command prints with `--json`. Stable.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The slots that were undone, or whose undoing was tried.
    pub slots: Vec<Report>,
    /// Slots whose pilot lives, or that are another node's: not touched.
    pub left_alone: Vec<String>,
    /// Slots that could not be looked at.
    pub failed: Vec<String>,
}

impl Outcome {
    /// [`exit::OK`] when nothing of a dead pilot is left, [`exit::LEFTOVERS`] when something is,
    /// [`exit::FAILED`] when that could not be found out, or the one slot that was asked for is
    /// not a dead pilot's.
    pub fn exit_code(&self, one_slot: bool) -> i32 {
        if self.slots.iter().any(|report| !report.is_clean()) {
            exit::LEFTOVERS
        } else if !self.failed.is_empty() || one_slot && !self.left_alone.is_empty() {
            exit::FAILED
        } else {
            exit::OK
        }
    }

    fn add(&mut self, swept: Swept) {
        match swept {
            Swept::Reclaimed(report) => self.slots.push(report),
            Swept::LeftAlone(e) => self.left_alone.push(chain(&e)),
            Swept::Failed(e) => self.failed.push(chain(&e)),
        }
    }

    fn merge(&mut self, other: Self) {
        self.slots.extend(other.slots);
        self.left_alone.extend(other.left_alone);
        self.failed.extend(other.failed);
    }
}

/// Runs the command: the result to standard output, the return value is the exit code.
pub fn run(args: &ReclaimArgs) -> i32 {
    let outcome = outcome(args);
    if args.json {
        match serde_json::to_string(&outcome) {
            Ok(text) => println!("{text}"),
            Err(e) => eprintln!("error: failed to write the outcome: {e}"),
        }
    } else {
        for report in &outcome.slots {
            println!("{report}");
        }
        for line in &outcome.left_alone {
            println!("left alone: {line}");
        }
        for line in &outcome.failed {
            eprintln!("error: failed to {line}");
        }
        if outcome.slots.is_empty() && outcome.left_alone.is_empty() && outcome.failed.is_empty() {
            println!("nothing to reclaim");
        }
    }
    outcome.exit_code(args.slot.is_some())
}

fn outcome(args: &ReclaimArgs) -> Outcome {
    let effort = Effort {
        limit: args.limit.as_duration(),
        force: args.force,
    };
    let mut outcome = Outcome::default();
    if let Some(slot) = &args.slot {
        match owner_to_become(slot) {
            Some(owner) => outcome.merge(run_as(owner, args, "--slot", slot)),
            None => outcome.add(reclaimed(slot, effort)),
        }
    }
    if let Some(node_state) = &args.node_state {
        for owner in other_accounts(node_state) {
            outcome.merge(run_as(owner, args, "--node-state", node_state));
        }
        match sweep(node_state, effort) {
            Ok(all) => all.into_iter().for_each(|swept| outcome.add(swept)),
            Err(e) => outcome.add(Swept::Failed(e)),
        }
        for slot in unbegun(node_state) {
            match owner_to_become(&slot) {
                Some(owner) => outcome.merge(run_as(owner, args, "--slot", &slot)),
                None => outcome.add(reclaimed(&slot, effort)),
            }
        }
        // Those that no journal names any more.
        let domains = sweep_domains(Path::new(XEN_HELPER));
        let domains = domains.filter(|d| !d.removed.is_empty() || !d.is_clean());
        outcome.slots.extend(domains);
    }
    outcome
}

fn reclaimed(slot: &Path, effort: Effort) -> Swept {
    match reclaim(slot, effort) {
        Ok(report) => Swept::Reclaimed(report),
        Err(e @ ReclaimError::PilotAlive { .. }) => Swept::LeftAlone(e),
        Err(e) => Swept::Failed(e),
    }
}

#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

/// The account to run as for this path: only root becomes somebody else.
fn owner_to_become(path: &Path) -> Option<Account> {
    let found = fs::symlink_metadata(path).ok()?;
    (nix::unistd::geteuid().is_root() && found.uid() != 0).then(|| Account {
        uid: found.uid(),
        gid: found.gid(),
    })
}

fn other_accounts(node_state: &Path) -> Vec<Account> {
    let Ok(entries) = fs::read_dir(node_state) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let uid: u32 = name
                .to_str()?
                .strip_prefix(NODE_ENTRIES_PREFIX)?
                .parse()
                .ok()?;
            // A directory that is not its named account's was put there by somebody else.
            owner_to_become(&entry.path()).filter(|account| account.uid == uid)
        })
        .collect()
}

fn run_as(account: Account, args: &ReclaimArgs, option: &str, path: &Path) -> Outcome {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("reclaim")
        .arg(option)
        .arg(path)
        .arg("--json")
        .arg("--limit")
        .arg(format!("{}ms", args.limit.as_millis()))
        .env_clear()
        .current_dir("/")
        .gid(account.gid)
        .uid(account.uid);
    if args.force {
        command.arg("--force");
    }
    let answer = command
        .output()
        .map_err(|e| e.to_string())
        .and_then(|output| {
            serde_json::from_slice(&output.stdout)
                .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
        });
    answer.unwrap_or_else(|why| Outcome {
        failed: vec![format!(
            "reclaim {} as user {}: {why}",
            path.display(),
            account.uid
        )],
        ..Outcome::default()
    })
}
