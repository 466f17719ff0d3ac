//! The workspace's tasks. `scripts/test`, `scripts/bench`, `scripts/demo` and `scripts/chaos` are
//! thin shells over this program, so that a laptop and CI do the same. Owner: scripts.
#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod clock;
mod command;
mod demo;
mod docs;
mod graph;
mod guest;
mod licences;
mod metadata;
mod nextest;
mod parts;
mod shell;
mod suite;
mod tree;
mod workshop;
mod xen;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workshop::Workshop;

#[derive(Parser)]
#[command(
    name = "xtask",
    about = "Tests, checks, benchmarks and demo of the workspace"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all parts of the test, or the named ones
    Test {
        /// Parts to run, in this order
        parts: Vec<String>,
        /// Name the parts and say what each does
        #[arg(long)]
        list: bool,
    },
    /// Run all benchmarks and write docs/benchmarks.md, or print the named ones
    Bench {
        /// Benchmarks to run
        names: Vec<String>,
        /// Print one JSON object per figure
        #[arg(long)]
        json: bool,
        /// `suspend`: only the flushed guest with so much memory, MiB
        #[arg(long, value_name = "N")]
        guest_mb: Option<u64>,
        /// `suspend`: only the flushed guest that does this with its memory: idle or busy
        #[arg(long, value_name = "HOW", value_parser = ["idle", "busy"])]
        dirty: Option<String>,
        /// Name the benchmarks and say what each measures
        #[arg(long)]
        list: bool,
    },
    /// Build everything and run the demo
    Demo {
        /// Arguments for the demo itself
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build everything and run a campaign of faults
    Chaos {
        /// Arguments for the campaign itself
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the test guest in target/guest
    Guest,
    /// Write the pages of docs/commands from the programs' command lines
    Docs,
}

fn main() -> ExitCode {
    let outcome = run(Arguments::parse());
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task; `false` means that it ran and found a failure.
fn run(arguments: Arguments) -> Result<bool> {
    let workshop = Workshop::find()?;
    match arguments.task {
        Task::Test { list: true, .. } => {
            print!("{}", suite::list());
            Ok(true)
        }
        Task::Test { parts, list: false } => suite::run(&workshop, &parts),
        Task::Bench { list: true, .. } => {
            print!("{}", bench::list());
            Ok(true)
        }
        Task::Bench {
            names,
            json,
            guest_mb,
            dirty,
            list: false,
        } => {
            let options = [
                guest_mb.map(|n| format!("--guest-mb={n}")),
                dirty.map(|how| format!("--dirty={how}")),
            ];
            let options: Vec<String> = options.into_iter().flatten().collect();
            bench::run(&workshop, &names, &options, json)
        }
        Task::Demo { arguments } => demo::run(&workshop, &arguments),
        Task::Chaos { arguments } => chaos::run(&workshop, &arguments),
        Task::Guest => guest::build(&workshop, &mut command::Log::terminal()).map(|()| true),
        Task::Docs => docs::write(&workshop, &mut command::Log::terminal()).map(|()| true),
    }
}
