//! The command line of `pilot`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

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
    Reclaim(ReclaimArgs),
    /// (internal) outlives a killed pilot just long enough to undo what it left
    #[command(hide = true)]
    Warden(WardenArgs),
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
