//! The command line of `pilot`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::canary::CanaryChildArgs;
use crate::doctor::DoctorArgs;
use crate::exec_guest::ExecGuestArgs;
use crate::reclaim::command::ReclaimArgs;
use crate::warden::WardenArgs;

/// Runs guests in a batch slot, and gives the slot back in time
#[derive(Debug, Parser)]
#[command(name = "pilot", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in a slot until it ends or there is nothing to do
    ///
    /// Exit codes: 0 all went well, 2 the slot file or something in it is wrong, 3 the broker was
    /// never reached, 4 the token was refused, 7 something of ours could not be removed, 8 the
    /// broker refused this slot.
    Run(RunArgs),
    /// Undo what a dead pilot has left on this node
    ///
    /// For a site's prologue, epilogue or timer, and for people. Touches nothing that is not
    /// written in a slot's journal, and no slot whose pilot lives. Run as root, it becomes for each
    /// slot the account that owns it. It can be repeated, and killed at any point.
    ///
    /// Exit codes: 0 nothing of a dead pilot is left; 1 that could not be found out, or the slot of
    /// --slot has a pilot that lives; 2 the command line is wrong; 7 something is left and could
    /// not be removed (it is named).
    Reclaim(ReclaimArgs),
    /// Look at this node as a pilot would: what would be refused here, and why
    ///
    /// Looks at hypervisors, disks (at most 64 MiB are written to each), limits, clock, control
    /// group, warden and what dead pilots have left, with this account and from here. Nothing
    /// stays. Each finding is ok, a warning, or a problem, with what to do about it.
    ///
    /// Exit codes: 0 a pilot would start here, there may be warnings; 1 there is a problem; 2 the
    /// slot file cannot be used.
    Doctor(DoctorArgs),
    /// (internal) outlives a killed pilot just long enough to undo what it left
    #[command(hide = true)]
    Warden(WardenArgs),
    /// (internal) leaves the session of a doctor's canary job, and ends by itself
    #[command(hide = true)]
    CanaryChild(CanaryChildArgs),
    /// (internal) becomes a program that dies with the pilot
    #[command(hide = true)]
    ExecGuest(ExecGuestArgs),
}

/// Arguments of `pilot run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Slot file: what the slot has, when it ends, where the broker is
    #[arg(long, value_name = "FILE")]
    pub slot: PathBuf,
}
