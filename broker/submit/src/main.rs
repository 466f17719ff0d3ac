//! `pilot-submit`: see `pilot-submit --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use pilot_submit::cli::Cli;
use pilot_submit::config::{self, Environment};
use pilot_submit::failure::Failure;

fn main() -> ExitCode {
    // Ends by itself with exit code 2 on a wrong command line, and 0 after help.
    let cli = Cli::parse();
    let environment = Environment::read();
    let output = config::output(&cli.global, &environment);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Runtime { source })
        .and_then(|runtime| {
            runtime.block_on(pilot_submit::commands::run(cli, &environment, &output))
        });
    let code = result.unwrap_or_else(|failure| {
        failure.print(&output);
        failure.exit_code()
    });
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
