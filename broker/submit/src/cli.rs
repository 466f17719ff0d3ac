//! The one definition of the command line: help, man pages, completions and `docs/commands` come
//! from it.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use protocol::ids::{IdempotencyKey, SiteName};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

/// What stands below the help of the whole command, in the man page and in the documents.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    all went well; `run`, `follow`: the workspace is done
  1    refused by the broker; `run`, `follow`: the workspace has failed
  2    the command line, a file or a setting is wrong; nothing was done
  3    no answer from the broker in time; it may or may not have acted
  4    the token was refused, or does not allow this
  5    there is no such workspace or site
  6    `run`, `follow`: the workspace was cancelled
  130  `run`, `follow`: detached by Ctrl-C; the workspace goes on";

const AFTER_HELP: &str = "\
Results go to the standard output, notes and errors to the standard error output. With `--json` \
each result is one JSON object on one line, with the fields of the broker's API, and an error is \
one line `{\"error\":{\"code\":..,\"detail\":..,\"help\":..,\"exit\":..}}`. Times of day are UTC.

Settings come from the options, else from the environment (PILOT_BROKER, PILOT_TOKEN_FILE, \
PILOT_CA_FILE), else from the file ~/.config/workspace-pilot/submit.toml with the keys `broker`, \
`token_file` and `ca_file`. NO_COLOR is honoured.";

/// Queue virtual machines at sites' batch systems and follow them.
#[derive(Parser, Debug)]
#[command(name = "pilot-submit", version, max_term_width = 100)]
#[command(after_long_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug, Default)]
pub struct Global {
    /// Address of the broker, as `https://broker.example.org:8443`
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub broker: Option<String>,
    /// File with your token; nobody else should be able to read it
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub token_file: Option<PathBuf>,
    /// PEM file with the authorities to trust instead of this machine's own
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub ca_file: Option<PathBuf>,
    /// Settings file instead of ~/.config/workspace-pilot/submit.toml
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// How long to keep trying when the broker does not answer, as in "30s" (the default)
    #[arg(long, global = true, value_name = "SPAN", value_parser = span, help_heading = "Global options")]
    pub timeout: Option<Span>,
    /// Print results as JSON, one object on a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print ids and errors only
    #[arg(
        long,
        short,
        global = true,
        conflicts_with = "json",
        help_heading = "Global options"
    )]
    pub quiet: bool,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub color: Option<ColorChoice>,
}

/// When to use colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Queue a request and follow it to its end
    ///
    /// Prints a line for each thing that happens and, on a terminal, a status line. Ctrl-C
    /// detaches: the workspace goes on, and `pilot-submit follow ID` follows it again.
    Run(Run),
    /// Queue requests and print the workspaces' ids
    Queue(Queue),
    /// Follow a workspace to its end
    Follow(One),
    /// Check request files without a broker
    Check(Check),
    /// Print the digests of files, for request files
    Digest(Files),
    /// List workspaces
    List(List),
    /// Show a workspace
    Show(One),
    /// Say why a workspace is where it is
    Explain(One),
    /// Print the guest's console, over all slots that it was in
    Console(Console),
    /// Print the events of a workspace
    Events(Events),
    /// Cancel workspaces
    Cancel(Several),
    /// Suspend workspaces: write them to the store and keep them out of the queue
    Suspend(Several),
    /// Let suspended or paused workspaces go on
    Resume(Several),
    /// Pause running workspaces: stop them, but keep them in memory
    Pause(Several),
    /// List sites, or show one and why it is as it is
    Sites(Sites),
    /// List pilot jobs
    Pilots(Infrastructure),
    /// List slots: pilot jobs that have started
    Slots(Infrastructure),
    /// For administrators of the broker
    #[command(subcommand)]
    Admin(Admin),
    /// Print a shell's completions
    Completions(Completions),
    /// Write the man pages
    #[command(hide = true)]
    Man(Man),
}

/// `run`
#[derive(Args, Debug)]
pub struct Run {
    /// Request file (TOML); see docs/configuration/request.md
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Do not follow: print the id and leave
    #[arg(long)]
    pub detach: bool,
    /// How to queue it.
    #[command(flatten)]
    pub how: QueueOptions,
}

/// `queue`
#[derive(Args, Debug)]
pub struct Queue {
    /// Request files (TOML); nothing is queued unless all are right
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// How to queue them.
    #[command(flatten)]
    pub how: QueueOptions,
}

/// Options of `run` and `queue`.
#[derive(Args, Debug)]
pub struct QueueOptions {
    /// Compute the digests of local image files that have none in the request
    #[arg(long)]
    pub pin: bool,
    /// Key that makes a repeated call find the same workspaces again; made up if left out
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<IdempotencyKey>,
}

/// `check`
#[derive(Args, Debug)]
pub struct Check {
    /// Request files (TOML)
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Compute the digests of local image files that have none in the request
    #[arg(long)]
    pub pin: bool,
}

/// Files.
#[derive(Args, Debug)]
pub struct Files {
    /// Files to read
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// `list`
#[derive(Args, Debug)]
pub struct List {
    /// Only those in this state
    #[arg(long, value_parser = state_parser())]
    pub state: Option<WorkspaceState>,
    /// Only those with this name
    #[arg(long)]
    pub name: Option<String>,
    /// How many.
    #[command(flatten)]
    pub rows: Rows,
}

/// How much of a list.
#[derive(Args, Debug)]
pub struct Rows {
    /// At most so many rows
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// All rows, however many
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// One workspace.
#[derive(Args, Debug)]
pub struct One {
    /// Workspace id, or its beginning when no other has the same
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Several workspaces.
#[derive(Args, Debug)]
pub struct Several {
    /// Workspace ids, or their beginnings when no others have the same
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

/// `console`
#[derive(Args, Debug)]
pub struct Console {
    /// Which.
    #[command(flatten)]
    pub one: One,
    /// Go on until the workspace has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Begin at this byte
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
}

/// `events`
#[derive(Args, Debug)]
pub struct Events {
    /// Which.
    #[command(flatten)]
    pub one: One,
    /// Go on until the workspace has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Only those with a higher number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,
}

/// `sites`
#[derive(Args, Debug)]
pub struct Sites {
    /// Show this one, and why it is as it is
    #[arg(value_name = "NAME")]
    pub name: Option<SiteName>,
}

/// `pilots`, `slots`
#[derive(Args, Debug)]
pub struct Infrastructure {
    /// Only those of this site
    #[arg(long, value_name = "NAME")]
    pub site: Option<SiteName>,
    /// How many.
    #[command(flatten)]
    pub rows: Rows,
}

/// `admin`
#[derive(Subcommand, Debug)]
pub enum Admin {
    /// Stop submitting pilots to a site and let those there leave
    Drain(Site),
    /// Submit pilots to a site again
    Undrain(Site),
    /// Get the key and token of a pilot that you start by hand
    NewPilot(NewPilot),
}

/// A site.
#[derive(Args, Debug)]
pub struct Site {
    /// Name of the site
    #[arg(value_name = "SITE")]
    pub site: SiteName,
}

/// `admin new-pilot`
#[derive(Args, Debug)]
pub struct NewPilot {
    /// Name of the site that the pilot is to belong to
    #[arg(value_name = "SITE")]
    pub site: SiteName,
    /// Write the pilot's token to this new file, for you only, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub token_to: Option<PathBuf>,
}

/// `completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `man`
#[derive(Args, Debug)]
pub struct Man {
    /// Directory to write them to
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

fn span(text: &str) -> Result<Span, String> {
    protocol::text::parse_span(text)
}

fn state_parser() -> impl TypedValueParser<Value = WorkspaceState> {
    PossibleValuesParser::new(WorkspaceState::ALL.map(WorkspaceState::as_str))
        .try_map(|text| text.parse::<WorkspaceState>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
