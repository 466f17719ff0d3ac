//! `pilot-broker`: see `pilot-broker --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    broker::cli::main()
}
