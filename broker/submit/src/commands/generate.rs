//! `completions` and `man`, made from the one definition of the command line.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use protocol::codes::exit;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// `completions`
pub fn completions(shell: Shell, output: &Output) -> Result<i32, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pilot-submit", &mut text);
    output.bytes(&text)?;
    Ok(exit::OK)
}

/// `man`
pub fn man(dir: &Path) -> Result<i32, Failure> {
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|source| Failure::File {
            what: "write man pages to",
            path: dir.to_owned(),
            source,
        })?;
    Ok(exit::OK)
}
