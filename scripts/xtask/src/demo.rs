//! `scripts/demo`: builds the programs and the guest, then runs the demo (program `wp-demo` of the
//! crate e2e), which has the terminal for itself.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::clock::{Stopwatch, spoken};
use crate::command::Log;
use crate::guest;
use crate::parts::{cargo, minutes};
use crate::workshop::{Profile, Workshop};
use crate::xen;

/// Builds and runs; `arguments` go to the demo as they are.
pub fn run(workshop: &Workshop, arguments: &[String]) -> Result<bool> {
    let watch = Stopwatch::start();
    let mut log = Log::to_file(&workshop.target.join("test-logs/demo-build.log"))?;
    eprintln!("demo: building (a few minutes the first time)");
    guest::build(workshop, &mut log)?;
    if arguments.iter().any(|word| word == "xen") {
        xen::build(workshop, &mut log)?;
    }
    cargo(
        &workshop.root,
        &["build", "--workspace", "--bins", "--locked"],
        minutes(40),
    )
    .run(&mut log)?;
    eprintln!("demo: built in {}", spoken(watch.elapsed()));

    let programs = workshop.programs(Profile::Dev);
    let status = Command::new(programs.join("wp-demo"))
        .arg("--programs")
        .arg(&programs)
        .arg("--guest")
        .arg(workshop.guest())
        .args(arguments)
        .status()
        .context("failed to start wp-demo")?;
    Ok(status.success())
}
