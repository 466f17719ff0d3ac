//! `pilot`: see `pilot --help`.

use std::process::ExitCode;

use clap::Parser;
use pilot::broker_client::chain;
use pilot::cli::{Cli, Command};
use protocol::codes::exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    let code = match cli.command {
        Command::Run(args) => pilot::drive::run(&args).unwrap_or_else(|e| {
            eprintln!("error: failed to {}", chain(&e));
            e.exit_code()
        }),
        Command::Reclaim(args) => pilot::reclaim::command::run(&args),
        Command::Doctor(args) => pilot::doctor::run(&args),
        Command::CanaryChild(args) => pilot::canary::run_child(&args),
        Command::Warden(args) => pilot::warden::run(&args),
        Command::ExecGuest(args) => {
            let e = pilot::exec_guest::run(&args);
            eprintln!("error: failed to {}", chain(&e));
            exit::INTERNAL
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
