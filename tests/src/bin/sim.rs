//! `sim`: the whole-system simulation from the command line.

use clap::Parser;
use e2e::simulation::{Break, Options, tell};

/// Runs broker, pilots and batch systems on a virtual clock, with everything that goes wrong drawn
/// from a seed, and checks the promises against what is really there.
///
/// Prints what happened, in numbers, for each seed. When a promise breaks it prints which, what
/// happened before as sentences, and the command that does it again, and ends with status 1.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// At least so many slots. The world is made as large as slots and requests need.
    #[arg(long, default_value_t = 200)]
    slots: u32,
    /// At least so many requests.
    #[arg(long, default_value_t = 500)]
    requests: u32,
    /// The first seed. It decides everything: the sites with their batch systems and limits, the
    /// users, all delays, all faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How often things go wrong, in percent of the usual; 0: never.
    #[arg(long, default_value_t = 100)]
    faults: u64,
    /// Print the last so many lines of the story as well.
    #[arg(long, default_value_t = 0)]
    story: usize,
    /// Only lines of the story that name one of these: `ws-1-1`, `pilot 7`, `wp-sim-000003`.
    #[arg(long)]
    about: Vec<String>,
    /// Print summaries, or the violation, as JSON lines.
    #[arg(long)]
    json: bool,
    /// Break a rule in the world around the cores, to see that the checks find it.
    #[arg(long = "break", value_enum)]
    breaks: Option<Break>,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let options = Options {
            slots: args.slots,
            requests: args.requests,
            seed,
            faults: args.faults,
            breaks: args.breaks,
        };
        match tell(options, &args.about, args.story) {
            Ok((summary, _)) if args.json => {
                println!("{}", serde_json::json!({"seed": seed, "summary": summary}));
            }
            Ok((summary, story)) => println!("{story}seed {seed}: {summary}"),
            Err(violation) => {
                if args.json {
                    println!("{}", serde_json::json!({"seed": seed, "violation": *violation}));
                } else {
                    println!("{violation}");
                }
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    std::process::ExitCode::SUCCESS
}
