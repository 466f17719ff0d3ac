//! `sim`: the whole-system simulation from the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::explore::{Begin, Bounds, explore};
use e2e::simulation::{Break, Options, tell};
use protocol::time::Span;

/// Runs broker, pilots and batch systems on a virtual clock, with everything that goes wrong drawn
/// from a seed, and checks the promises against what is really there.
///
/// Prints what happened, in numbers, for each seed. When a promise breaks it prints which, what
/// happened before as sentences, and the command that does it again, and ends with status 1.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    what: Option<What>,
}

/// What else there is.
#[derive(Subcommand)]
enum What {
    /// Explores small worlds completely instead of drawing large ones: every order of deliveries,
    /// losses, delays, crashes and restarts within the bounds, breadth first.
    ///
    /// Prints how many states there are, or a shortest story in which a promise breaks, and ends
    /// with status 1.
    Explore(Explore),
}

#[derive(clap::Args)]
struct Explore {
    /// Requests in the small world.
    #[arg(long, default_value_t = 1)]
    workspaces: u32,
    /// Begin with pilots that wait, and with requests that come at any time; not with their guests
    /// running.
    #[arg(long)]
    waiting: bool,
    /// Things that go wrong in one story.
    #[arg(long, default_value_t = 2)]
    faults: u32,
    /// Steps of a story.
    #[arg(long, default_value_t = 60)]
    depth: usize,
    /// Virtual seconds of a story; a lease lives for 20.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Most states. Each that waits for its turn takes some ten kilobytes.
    #[arg(long, default_value_t = 300_000)]
    states: usize,
    /// Of the stories that the bounds end, one in so many goes on in a calm world.
    #[arg(long, default_value_t = 16)]
    calm_one_in: u64,
    /// Print the outcome as a JSON line.
    #[arg(long)]
    json: bool,
    /// Break a rule in the world around the cores, to see that it is found.
    #[arg(long = "break", value_enum)]
    breaks: Option<Break>,
}

#[derive(clap::Args)]
struct Run {
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

fn main() -> ExitCode {
    let args = Args::parse();
    match args.what {
        Some(What::Explore(bounds)) => all(&bounds),
        None => draw(&args.run),
    }
}

/// Explores.
fn all(args: &Explore) -> ExitCode {
    let bounds = Bounds {
        begin: match args.waiting {
            true => Begin::Waiting,
            false => Begin::Running,
        },
        workspaces: args.workspaces,
        faults: args.faults,
        depth: args.depth,
        horizon: Span::from_secs(args.seconds),
        states: args.states,
        calm_one_in: args.calm_one_in.max(1),
        breaks: args.breaks,
    };
    match explore(bounds) {
        Ok(explored) if args.json => println!("{}", serde_json::json!({"explored": explored})),
        Ok(explored) => println!("{explored}"),
        Err(found) => {
            if args.json {
                println!("{}", serde_json::json!({"counterexample": *found}));
            } else {
                println!("{found}");
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Draws one world from each seed.
fn draw(args: &Run) -> ExitCode {
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
                    println!(
                        "{}",
                        serde_json::json!({"seed": seed, "violation": *violation})
                    );
                } else {
                    println!("{violation}");
                }
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
