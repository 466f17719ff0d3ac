//! The one definition of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use protocol::ids::{NodeName, SubmitKey};
use protocol::text::parse_mib;
use protocol::time::Timestamp;

use super::{SpanArg, instant, span};
use crate::sim::daemon::faults::{CommandName, FaultKind};

/// A simulated batch system: real processes, the signals of real LRMs.
#[derive(Parser, Debug)]
#[command(name = "sim-lrm", version, max_term_width = 100)]
pub struct Cli {
    /// Directory that the daemon serves
    #[arg(long, global = true, env = "SIMLRM_DIR", value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// How long to wait for the daemon's answer (`wait` waits without end)
    #[arg(long, global = true, default_value = "60s", value_parser = span, value_name = "SPAN")]
    pub(super) timeout: SpanArg,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Run the daemon until SIGTERM; jobs go on without it and are found again
    Serve {
        /// Nodes, queues, profile, faults (TOML)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Submit a job script
    Submit(SubmitArgs),
    /// Submit a job of the site itself: it sleeps, has priority and preempts pilots
    SiteJob(SiteJobArgs),
    /// List jobs
    Queue {
        /// Ended jobs too
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Only jobs with this key
        #[arg(long)]
        key: Option<SubmitKey>,
    },
    /// List nodes
    Nodes {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a job
    Cancel {
        /// Its id
        job: u64,
        /// Only while it waits
        #[arg(long)]
        if_queued: bool,
        /// Only if the job carries this key
        #[arg(long)]
        key: Option<SubmitKey>,
    },
    /// Take a job's node away, as for a job of higher priority
    Preempt {
        /// Its id
        job: u64,
    },
    /// Start a running job again under the same id
    Requeue {
        /// Its id
        job: u64,
    },
    /// Keep a queued job from starting
    Hold {
        /// Its id
        job: u64,
    },
    /// Let a held job start
    Release {
        /// Its id
        job: u64,
    },
    /// Give a running job more walltime
    Extend {
        /// Its id
        job: u64,
        /// How much, as 30s
        #[arg(value_parser = span, allow_hyphen_values = true)]
        by: SpanArg,
    },
    /// Take walltime from a running job
    Shorten {
        /// Its id
        job: u64,
        /// How much, as 30s
        #[arg(value_parser = span, allow_hyphen_values = true)]
        by: SpanArg,
    },
    /// Start no new jobs on a node
    Drain {
        /// Its name
        node: NodeName,
    },
    /// Start jobs on a drained node again
    Undrain {
        /// Its name
        node: NodeName,
    },
    /// Let no job run on a node past an instant (maintenance)
    Close {
        /// Its name
        node: NodeName,
        /// RFC 3339 or epoch seconds
        #[arg(value_parser = instant)]
        at: Timestamp,
    },
    /// Lift a `close`
    Reopen {
        /// Its name
        node: NodeName,
    },
    /// Lose a node
    Fail {
        /// Its name
        node: NodeName,
        /// How
        #[arg(long, value_enum, default_value_t = FailHow::Lost)]
        how: FailHow,
    },
    /// Bring a node back
    Restore {
        /// Its name
        node: NodeName,
    },
    /// Print a job's end in epoch seconds, or nothing while it has none
    End {
        /// Its id
        job: u64,
    },
    /// Wait until a job is over and print how it ended
    Wait {
        /// Its id
        job: u64,
    },
    /// Lose the newest job and reuse its id, as a controller does that crashes
    Crash,
    /// Misbehave
    #[command(subcommand)]
    Fault(FaultCommand),
    /// (internal) Supervise one run
    #[command(hide = true)]
    Supervise {
        /// The run's directory
        run: PathBuf,
    },
    /// (internal) Become a job's script in a session of its own
    #[command(hide = true)]
    Launch {
        /// The script
        script: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(super) struct SubmitArgs {
    /// Key by which the job is found again
    #[arg(long)]
    pub key: Option<SubmitKey>,
    /// Name, for people; the script's name if left out
    #[arg(long)]
    pub name: Option<String>,
    /// Queue
    #[arg(long, default_value = "pilots")]
    pub queue: String,
    /// Higher goes first within the queue
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Cores
    #[arg(long, default_value_t = 1)]
    pub cores: u32,
    /// Nodes; the script is started once on each, with SIMLRM_RANK from 0
    #[arg(long, default_value_t = 1)]
    pub nodes: u32,
    /// Memory, as 512MiB
    #[arg(long, default_value = "256MiB", value_parser = parse_mib)]
    pub memory: u64,
    /// Scratch disk, as 4GiB
    #[arg(long, default_value = "0MiB", value_parser = parse_mib)]
    pub disk: u64,
    /// Walltime, as 10m
    #[arg(long, default_value = "10m", value_parser = span)]
    pub walltime: SpanArg,
    /// The walltime may be cut down to this so that the job starts before its node closes
    #[arg(long, value_parser = span)]
    pub min_walltime: Option<SpanArg>,
    /// Nodes that it is not started on
    #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
    pub exclude: Vec<NodeName>,
    /// Not before this (RFC 3339 or epoch seconds)
    #[arg(long, value_parser = instant)]
    pub begin: Option<Timestamp>,
    /// Start it as the batch process or as a step, where the profile makes a difference
    #[arg(long, value_enum, default_value_t = LaunchArg::Step)]
    pub launch: LaunchArg,
    /// Never start it a second time
    #[arg(long)]
    pub no_requeue: bool,
    /// File for stdout and stderr; thrown away if left out
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,
    /// The script, or - for stdin
    pub script: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct SiteJobArgs {
    /// Cores
    #[arg(long, default_value_t = 1)]
    pub cores: u32,
    /// Memory, as 512MiB
    #[arg(long, default_value = "256MiB", value_parser = parse_mib)]
    pub memory: u64,
    /// Walltime, as 10m
    #[arg(long, default_value = "1m", value_parser = span)]
    pub walltime: SpanArg,
    /// How long it really runs; its walltime if left out
    #[arg(long, value_parser = span)]
    pub run_for: Option<SpanArg>,
    /// Not before this (RFC 3339 or epoch seconds)
    #[arg(long, value_parser = instant)]
    pub at: Option<Timestamp>,
    /// Queue
    #[arg(long, default_value = "site")]
    pub queue: String,
}

#[derive(Subcommand, Debug)]
pub(super) enum FaultCommand {
    /// Misbehave from now on
    Add(FaultArgs),
    /// Behave again
    Clear,
    /// Show how it is misbehaving
    List,
}

#[derive(Args, Debug)]
pub(super) struct FaultArgs {
    /// How
    #[arg(value_enum)]
    pub kind: FaultKind,
    /// To these commands only
    #[arg(long, value_enum, value_delimiter = ',')]
    pub on: Vec<CommandName>,
    /// So many times
    #[arg(long, default_value_t = 1)]
    pub times: u32,
    /// Until `fault clear`
    #[arg(long, conflicts_with = "times")]
    pub always: bool,
    /// How late, for `late`
    #[arg(long, value_parser = span)]
    pub by: Option<SpanArg>,
    /// Which job, for `missing` and `odd-state`; all if left out
    #[arg(long)]
    pub job: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum FailHow {
    /// The LRM's daemon is lost; processes run on
    Lost,
    /// An administrator declares it down
    Down,
    /// Its power is lost; processes are gone
    Power,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum LaunchArg {
    /// As the batch process
    Batch,
    /// As a step
    Step,
}
