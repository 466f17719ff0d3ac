//! `sim`: the whole-system simulation from the command line.
//!
//! Prints one line per seed; when a promise breaks, the story and the command that replays it.

use clap::Parser;
use e2e::simulation::{Options, tell};

/// Runs broker, pilots and batch systems on a virtual clock and checks the promises at each step.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// At least so many slots.
    #[arg(long, default_value_t = 200)]
    slots: u32,
    /// At least so many requests.
    #[arg(long, default_value_t = 500)]
    requests: u32,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How often things go wrong, in percent of the usual.
    #[arg(long, default_value_t = 100)]
    faults: u64,
    /// Print the last so many lines of the story as well.
    #[arg(long, default_value_t = 0)]
    story: usize,
    /// Only lines of the story that name one of these.
    #[arg(long)]
    about: Vec<String>,
    /// Print summaries as JSON lines.
    #[arg(long)]
    json: bool,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let options = Options {
            slots: args.slots,
            requests: args.requests,
            seed,
            faults: args.faults,
        };
        match tell(options, &args.about, args.story) {
            Ok((summary, _)) if args.json => match serde_json::to_string(&summary) {
                Ok(line) => println!("{line}"),
                Err(e) => eprintln!("failed to write the summary: {e}"),
            },
            Ok((summary, story)) => println!("{story}seed {seed}: {summary}"),
            Err(violation) => {
                eprintln!("{violation}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    std::process::ExitCode::SUCCESS
}
