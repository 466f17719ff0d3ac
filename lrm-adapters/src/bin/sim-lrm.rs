//! `sim-lrm`: the simulated LRM's daemon and command; see `sim-lrm --help`.

use std::process::ExitCode;

use clap::Parser as _;
use lrm_adapters::sim::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
