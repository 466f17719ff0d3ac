//! `lrm-conformance`: see `lrm-conformance --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    broker::qualify::cli::main()
}
