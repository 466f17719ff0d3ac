//! The benchmarks' program; `scripts/bench` builds everything and starts it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::bench::{Benchmark, Dirty, Options, run};

/// Measures one thing and prints a line of JSON for each figure.
#[derive(Parser)]
struct Args {
    /// What to measure.
    #[arg(value_enum)]
    benchmark: Benchmark,
    /// Directory of the programs; a directory for what is measured is made below it.
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,
    /// Directory of the test guest.
    #[arg(long, value_name = "DIR", default_value = "target/guest")]
    guest: PathBuf,
    /// The pilot that `scripts/build-static` made.
    #[arg(long, value_name = "FILE", default_value = "target/static/pilot")]
    static_pilot: PathBuf,
    /// `suspend`: only a guest with so much memory, MiB.
    #[arg(long, value_name = "N")]
    guest_mb: Option<u64>,
    /// `suspend`: only a guest that does this with its memory.
    #[arg(long, value_enum)]
    dirty: Option<Dirty>,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wp-bench: failed to measure: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    let absolute =
        |p: &PathBuf| std::path::absolute(p).context("failed to find the working directory");
    let options = Options {
        programs: absolute(&args.programs)?,
        guest: absolute(&args.guest)?,
        static_pilot: absolute(&args.static_pilot)?,
        guest_mib: args.guest_mb,
        dirty: args.dirty,
    };
    let figures = runtime.block_on(async {
        tokio::select! {
            figures = run(args.benchmark, &options) => figures,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })?;
    for figure in &figures {
        println!(
            "{}",
            serde_json::to_string(figure).context("failed to write JSON")?
        );
    }
    Ok(())
}
