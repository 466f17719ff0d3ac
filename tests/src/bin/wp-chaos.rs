//! The program of the campaign of faults; `scripts/chaos` builds everything and starts it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::chaos::{Options, campaign, volume};
use tokio::signal::unix::{SignalKind, signal};

/// Real processes under faults: kills and stops of pilots, wardens, guests, broker and batch
/// systems, preemption, drain, requeue, lost and repeated calls, cut networks, a full disk. Then
/// everything is given time to end, and the promises are checked.
///
/// The same seed makes the same plan of faults (times and kinds), the same sites and the same
/// requests. Whom a fault meets, and what real processes do meanwhile, differs from run to run.
///
/// Exit codes: 0 all promises were kept; 1 one was broken, or the campaign could not be run. Then
/// the story is printed (what was done when, to whom), and the directory with all logs is kept.
#[derive(Parser)]
#[command(name = "scripts/chaos")]
struct Args {
    /// Directory of the built programs
    #[arg(long, hide = true)]
    programs: PathBuf,
    /// Directory of the test guest
    #[arg(long, hide = true)]
    guest: PathBuf,
    /// What the faults, the sites and the requests are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long faults are made; it takes a minute or two more until everything has ended
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Write the summary to this file as one JSON object; to target/chaos-summary.json if left out
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Print the story also when all promises were kept
    #[arg(long)]
    story: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("chaos: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let length = Duration::try_from_secs_f64(args.minutes * 60.0)
        .context("`--minutes` must be a number of minutes that is not negative")?;
    // Before there are threads.
    let own_mounts = match volume::own_mounts() {
        Ok(()) => true,
        Err(e) => {
            eprintln!("chaos: no disk gets full here: {e:#}");
            false
        }
    };
    let absolute =
        |p: &PathBuf| std::path::absolute(p).context("failed to find the working directory");
    let options = Options {
        seed: args.seed,
        length,
        programs: absolute(&args.programs)?,
        guest: absolute(&args.guest)?,
        own_mounts,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    let outcome = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("failed to listen")?;
        tokio::select! {
            outcome = campaign(&options) => outcome,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("terminated"),
        }
    })?;
    let summary = outcome.summary;
    if args.story || !summary.violations.is_empty() {
        println!("Story\n{}", outcome.story);
    }
    println!("Summary\n{summary}");
    let file = match &args.summary {
        Some(file) => file.clone(),
        None => args.programs.with_file_name("chaos-summary.json"),
    };
    let json = serde_json::to_string_pretty(&summary).context("failed to write JSON")?;
    std::fs::write(&file, json + "\n")
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("  as JSON: {}", file.display());
    for violation in &summary.violations {
        eprintln!("chaos: broken promise: {violation}");
    }
    if let Some(kept) = outcome.kept {
        let kept = kept.display();
        eprintln!("chaos: logs: {kept}/*.log, {kept}/broker/pilot-jobs/KEY/pilot.log");
        eprintln!(
            "chaos: again: scripts/chaos --seed {} --minutes {}",
            summary.seed, summary.minutes
        );
    }
    Ok(summary.violations.is_empty())
}
