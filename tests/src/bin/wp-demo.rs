//! The demo's program; `scripts/demo` builds everything and starts it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::demo::{Options, Where, play};

/// A real Linux guest outlives its batch job: boots in one slot, is suspended before the slot's
/// end, and counts on in the next; then it is preempted by a job of the site itself.
#[derive(Parser)]
#[command(name = "scripts/demo")]
struct Args {
    /// Where the guests run: under QEMU here, or on a real Xen host (itself under QEMU)
    #[arg(value_name = "WHERE", default_value = "qemu", value_parser = ["qemu", "xen"])]
    stage: String,
    /// Directory of the built programs
    #[arg(long, hide = true)]
    programs: PathBuf,
    /// Directory of the test guest
    #[arg(long, hide = true)]
    guest: PathBuf,
    /// Write the summary to this file as one JSON object; to target/demo-summary.json if left out
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    let absolute =
        |p: &PathBuf| std::path::absolute(p).context("failed to find the working directory");
    let options = Options {
        programs: absolute(&args.programs)?,
        guest: absolute(&args.guest)?,
        stage: match args.stage.as_str() {
            "xen" => Where::Xen,
            _ => Where::Here,
        },
    };
    let summary = runtime.block_on(async {
        tokio::select! {
            summary = play(&options) => summary,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })?;
    println!("\nSummary\n{summary}");
    let file = match &args.summary {
        Some(file) => file.clone(),
        None => args.programs.with_file_name("demo-summary.json"),
    };
    let json = serde_json::to_string_pretty(&summary).context("failed to write JSON")?;
    std::fs::write(&file, json + "\n")
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("  as JSON: {}", file.display());
    let faults = summary.faults();
    for fault in &faults {
        eprintln!("demo: {fault}");
    }
    Ok(faults.is_empty())
}
