//! The command line of `lrm-conformance`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use lrm_adapters::conformance::Rule;
use protocol::codes::exit;
use protocol::ids::SiteName;
use protocol::text::parse_span;
use protocol::time::Span;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Hook, Hooks, Listener, Options, Outcome, Report, RuleReport, qualify};
use crate::config::Settings;

/// Check a site's batch system (LRM) against the rules that pilots rely on, with small test jobs.
///
/// The jobs go through the broker's own adapter, with the account, queue and resources that the
/// configuration has for pilot jobs; their names begin with `wp-conformance-`. They do nothing,
/// are cancelled when a rule is done, also after SIGINT or SIGTERM, and nothing of them is left.
/// The rules are in docs/adapters/README.md. Those that only an administrator can bring about need
/// the commands below; without them they are not applicable. It works whether the broker runs or
/// not; run it under the broker's account. The listing is asked for at most once every `poll` of
/// the site.
///
/// Exit codes: 0 all rules passed or are not applicable; 1 a rule failed; 2 the command line or the
/// configuration is wrong, or a rule that was to be checked was not (interrupted, a command of
/// yours failed), or a job may be left.
#[derive(Debug, Parser)]
#[command(name = "lrm-conformance", version)]
pub struct Cli {
    /// The broker's configuration.
    #[arg(long, value_name = "FILE", required_unless_present = "list_rules")]
    config: Option<PathBuf>,
    /// The site.
    #[arg(long, value_name = "NAME", required_unless_present = "list_rules")]
    site: Option<SiteName>,
    /// Check this rule only, by name or number; may be repeated. All if left out.
    #[arg(long, value_name = "RULE", value_parser = rule)]
    rule: Vec<Rule>,
    /// Print numbers, names and titles of the rules, and check nothing.
    #[arg(long)]
    list_rules: bool,
    /// Print one JSON object at the end instead of lines.
    #[arg(long)]
    json: bool,
    /// Most jobs that one rule may submit, so most that exist at a time; each asks for the site's
    /// slot. The rule about a waiting job needs one more than fit.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(2..),
        help_heading = "Limits")]
    max_jobs: u32,
    /// Walltime of the test jobs; the site's `walltime_max` if that is less. Most end within
    /// minutes.
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span,
        help_heading = "Limits")]
    walltime: Span,
    /// A rule is given up as not applicable when a job still waits for its start after so long.
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span,
        help_heading = "Limits")]
    max_wait: Span,
    /// How long to wait for whatever else has to happen, beside twice the site's notice; then the
    /// rule has failed.
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = parse_span,
        help_heading = "Limits")]
    patience: Span,
    /// A number of cores for which the LRM refuses a job at its submit. 60000 on Slurm and the
    /// simulated LRM; PBS and HTCondor refuse only what a limit of the site forbids.
    #[arg(long, value_name = "N", help_heading = "For single rules")]
    refused_cores: Option<u32>,
    /// Preempts the job {id}, as "condor_vacate_job {id}". Commands are run on this host, with a
    /// minimal environment and without a shell.
    #[arg(long, value_name = "COMMAND", help_heading = "For single rules")]
    preempt_command: Option<Hook>,
    /// Has the job {id} started again, as "scontrol requeue {id}".
    #[arg(long, value_name = "COMMAND", help_heading = "For single rules")]
    requeue_command: Option<Hook>,
    /// Sets the walltime of the running job {id} to {minutes}, or the same in {seconds}, as
    /// "scontrol update jobid={id} timelimit={minutes}".
    #[arg(long, value_name = "COMMAND", help_heading = "For single rules")]
    shorten_command: Option<Hook>,
    /// Takes the LRM's daemon on {node} away, without ending its jobs. Not on a node that others
    /// use.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "restore_node_command",
        help_heading = "For single rules"
    )]
    lose_node_command: Option<Hook>,
    /// Brings the LRM's daemon on {node} back.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "lose_node_command",
        help_heading = "For single rules"
    )]
    restore_node_command: Option<Hook>,
    /// Stops the LRM's controller (slurmctld, the PBS server, the schedd). Not where others work.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "start_command",
        help_heading = "For single rules"
    )]
    stop_command: Option<Hook>,
    /// Starts the LRM's controller again.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "stop_command",
        help_heading = "For single rules"
    )]
    start_command: Option<Hook>,
}

fn rule(text: &str) -> Result<Rule, String> {
    let is_it = |rule: &&Rule| rule.name() == text || rule.number().to_string() == text;
    let found = Rule::ALL.iter().find(is_it).copied();
    found.ok_or_else(|| "there is no such rule; see --list-rules".to_owned())
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help that can't be printed has nobody who reads it.
            let _ = e.print();
            return code(if e.use_stderr() {
                exit::USAGE
            } else {
                exit::OK
            });
        }
    };
    // The jobs' directories are nobody else's business.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    match run(cli) {
        Ok(end) => code(end),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "lrm-conformance: {e:#}");
            code(exit::USAGE)
        }
    }
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(cli: Cli) -> anyhow::Result<i32> {
    let (Some(config), Some(site)) = (&cli.config, &cli.site) else {
        for rule in Rule::ALL {
            print(&format!(
                "{:>2} {}: {}",
                rule.number(),
                rule.name(),
                rule.title()
            ))?;
        }
        return Ok(exit::OK);
    };
    let settings = Settings::load(config)?;
    let (site, json) = (site.clone(), cli.json);
    let options = options(cli);
    let say = |what: &str| {
        // Nobody reads it: no reason to stop.
        let _ = writeln!(std::io::stderr(), "{what}");
    };
    let told = |report: &RuleReport| {
        if !json {
            let _ = print(&report.to_string());
        }
    };
    let listener = Listener {
        say: &say,
        told: &told,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start threads")?;
    let report = runtime.block_on(async {
        let interrupted = signals()?;
        let report = qualify(&settings, &site, &options, interrupted, &listener).await?;
        anyhow::Ok(report)
    })?;
    if json {
        print(&serde_json::to_string(&report).context("failed to print the report")?)?;
    } else {
        print(&report.summary())?;
    }
    Ok(exit_code(&report))
}

fn exit_code(report: &Report) -> i32 {
    if report.count(Outcome::Fail) > 0 {
        exit::FAILED
    } else if report.count(Outcome::NotChecked) > 0 || !report.left.is_empty() {
        exit::USAGE
    } else {
        exit::OK
    }
}

/// Becomes true with the first SIGTERM or SIGINT. Further ones change nothing: what was submitted is
/// cancelled first.
fn signals() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            sender.send_replace(true);
        }
    });
    Ok(receiver)
}

fn options(cli: Cli) -> Options {
    Options {
        rules: if cli.rule.is_empty() {
            Rule::ALL.to_vec()
        } else {
            cli.rule
        },
        max_jobs: cli.max_jobs,
        walltime: cli.walltime,
        max_wait: cli.max_wait,
        patience: cli.patience,
        refused_cores: cli.refused_cores,
        hooks: Hooks {
            preempt: cli.preempt_command,
            requeue: cli.requeue_command,
            shorten: cli.shorten_command,
            lose_node: cli.lose_node_command,
            restore_node: cli.restore_node_command,
            stop: cli.stop_command,
            start: cli.start_command,
        },
    }
}

fn print(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("failed to print")
}
