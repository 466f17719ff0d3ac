//! The command line of `pilot-broker`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use protocol::codes::exit;
use protocol::finding::{Level, summary};
use protocol::ids::{SiteName, SubmitKey, UserName};
use protocol::text::parse_span;
use protocol::time::Span;

use crate::clock::Clock;
use crate::config::{self, ConfigError, Settings};
use crate::doctor::{self, DoctorError};
use crate::preview::{self, PreviewError};
use crate::serve::{self, ServeError};
use crate::store;
use crate::tokens::{Identity, Issuer};

/// Queues workspaces (virtual machines) and runs them in slots of batch systems.
///
/// Exit codes: 0 done; 1 tried and failed; 2 the command line or the configuration is wrong,
/// nothing was done; 70 a fault of the program.
#[derive(Debug, Parser)]
#[command(name = "pilot-broker", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until SIGTERM or SIGINT.
    Serve(ConfigArg),
    /// Check a configuration file and what it names on this machine.
    CheckConfig(ConfigArg),
    /// Print a configuration with all defaults filled in.
    ShowConfig {
        /// The configuration.
        #[arg(long, value_name = "FILE", required_unless_present = "defaults")]
        config: Option<PathBuf>,
        /// Print the defaults with their explanations instead.
        #[arg(long, conflicts_with = "config")]
        defaults: bool,
    },
    /// Make or revoke tokens; on the broker's own machine, whether it runs or not.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the exact job and command line that the first submit to a site would send.
    ///
    /// Nothing is submitted, written or asked: it works before the broker ever ran. The submit key
    /// will be another one.
    SubmitPreview(PreviewArgs),
    /// Try a site with one canary job, and say what was found and what to do.
    ///
    /// The canary goes through the same adapter and is rendered by the same code as a pilot job.
    /// On the node it looks at hypervisors, disks, limits, clock, slot file and the way to the
    /// broker. Then it is cancelled, and the notice is measured. Everything is removed again.
    /// It works whether the broker runs or not; run it under the broker's account.
    ///
    /// Exit codes: 0 no problem was found, there may be warnings; 1 there is a problem, or it
    /// could not begin; 2 the command line or the configuration is wrong.
    Doctor(DoctorArgs),
    /// Print the OpenAPI description of the HTTP API.
    Openapi,
}

#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
struct PreviewArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The site.
    #[arg(long, value_name = "NAME")]
    site: SiteName,
    /// For a first request that needs so long; it decides the walltime. More than any slot has if
    /// left out.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    run_time: Option<Span>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The site.
    #[arg(long, value_name = "NAME")]
    site: SiteName,
    /// How long the canary may wait in the queue before it is withdrawn.
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span)]
    wait: Span,
    /// Print one JSON object instead of sentences.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it.
    Create(CreateArgs),
    /// Refuse a token from now on.
    Revoke {
        #[command(flatten)]
        config: ConfigArg,
        /// The token, or a file with it.
        #[arg(value_name = "TOKEN|FILE")]
        token: String,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Whom it speaks for.
    #[arg(long)]
    kind: Kind,
    /// Name of the user or administrator.
    #[arg(long, required_if_eq_any = [("kind", "user"), ("kind", "admin")])]
    name: Option<UserName>,
    /// Submit key of the pilot job.
    #[arg(long, required_if_eq("kind", "pilot"), conflicts_with = "name")]
    key: Option<SubmitKey>,
    /// Site of the pilot job.
    #[arg(long, required_if_eq("kind", "pilot"), conflicts_with = "name")]
    site: Option<SiteName>,
    /// How long it is good, as "30d" or "2h"; from the configuration if left out.
    #[arg(long, value_parser = parse_span)]
    expires: Option<Span>,
    /// Write it to this file (mode 0600) instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Own workspaces.
    User,
    /// Everything.
    Admin,
    /// One slot.
    Pilot,
}

/// Why a command ended without having done what it should.
enum Failure {
    /// Command line or configuration.
    Usage(anyhow::Error),
    /// Tried and failed.
    Failed(anyhow::Error),
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self::Usage(e.into())
    }
}

impl From<ServeError> for Failure {
    fn from(e: ServeError) -> Self {
        Self::Failed(e.into())
    }
}

impl From<PreviewError> for Failure {
    fn from(e: PreviewError) -> Self {
        match e {
            PreviewError::NoSuchSite { .. } | PreviewError::NoLrm { .. } => Self::Usage(e.into()),
            PreviewError::NoOrder { .. } | PreviewError::Name { .. } => Self::Failed(e.into()),
        }
    }
}

impl From<DoctorError> for Failure {
    fn from(e: DoctorError) -> Self {
        match e {
            DoctorError::Site(e) => e.into(),
            DoctorError::StateDir(_) | DoctorError::Directory { .. } | DoctorError::Busy => {
                Self::Failed(e.into())
            }
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::Failed(e)
    }
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
    // What we write is nobody else's business: requests, consoles, secrets.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let (code_of, e) = match run(cli.command) {
        Ok(()) => return code(exit::OK),
        Err(Failure::Usage(e)) => (exit::USAGE, e),
        Err(Failure::Failed(e)) => (exit::FAILED, e),
    };
    // The one printer of error chains.
    let _ = writeln!(std::io::stderr(), "pilot-broker: {e:#}");
    code(code_of)
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arg) => serve_until_signal(&arg.config),
        Command::CheckConfig(arg) => check_config(&arg.config),
        Command::ShowConfig {
            config: Some(path), ..
        } => print(&config::show(&path)?),
        Command::ShowConfig { config: None, .. } => print(config::DEFAULT_CONFIG),
        Command::Token(TokenCommand::Create(args)) => create_token(args),
        Command::Token(TokenCommand::Revoke { config, token }) => {
            revoke_token(&config.config, &token)
        }
        Command::SubmitPreview(args) => show_preview(&args),
        Command::Doctor(args) => doctor(&args),
        Command::Openapi => {
            let json = crate::http::description().to_pretty_json();
            print(&format!(
                "{}\n",
                json.context("failed to print the description")?
            ))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    Ok(out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("failed to print")?)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start threads")?)
}

fn serve_until_signal(path: &Path) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let settings = Settings::load(path)?;
    tracing_subscriber::fmt()
        .with_max_level(settings.log)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    serve::raise_descriptor_limit();
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
        let mut running = serve::serve(settings).await?;
        let ended = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            ended = running.failed() => ended.context("the server ended"),
        };
        running.stop().await;
        Ok(ended?)
    })
}

fn check_config(path: &Path) -> Result<(), Failure> {
    let settings = Settings::load(path)?;
    if let Some(tls) = &settings.tls {
        serve::tls_config(tls).map_err(|e| Failure::Usage(e.into()))?;
    }
    serve::prepare_state_dir(&settings.state_dir).map_err(|e| Failure::Usage(e.into()))?;
    print(&format!("{} is fine\n", path.display()))
}

fn show_preview(args: &PreviewArgs) -> Result<(), Failure> {
    let settings = Settings::load(&args.config.config)?;
    let preview = preview::preview(&settings, &args.site, args.run_time)?;
    if args.json {
        let json = serde_json::to_string(&preview).context("failed to print the preview")?;
        return print(&format!("{json}\n"));
    }
    let cut = preview
        .min_walltime
        .map(|least| format!(", {least} at least"));
    print(&format!(
        "# site {}, {}: {} for {}{}\n# submit key {}: another one in earnest\n\n{}",
        preview.site,
        preview.lrm,
        preview.resources,
        preview.walltime,
        cut.unwrap_or_default(),
        preview.key,
        preview.text
    ))
}

fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let settings = Settings::load(&args.config.config)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let say = |what: &str| {
        // Nobody reads it: no reason to stop.
        let _ = writeln!(std::io::stderr(), "{what}");
    };
    let report = runtime()?.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
        let told = Arc::clone(&interrupted);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.store(true, Ordering::Relaxed);
        });
        let options = doctor::Options { wait: args.wait };
        let report = doctor::examine(&settings, &args.site, options, &interrupted, &say).await;
        report.map_err(Failure::from)
    })?;
    if args.json {
        let json = serde_json::to_string(&report).context("failed to print the report")?;
        print(&format!("{json}\n"))?;
    } else {
        let lines = report.findings.iter().map(|f| format!("{f}\n"));
        let summary = summary(&report.findings);
        print(&format!("{}{summary}\n", lines.collect::<String>()))?;
    }
    match report.level {
        Level::Ok | Level::Warning => Ok(()),
        Level::Problem => Err(Failure::Failed(anyhow::anyhow!(
            "site `{}` has a problem",
            report.site
        ))),
    }
}

fn create_token(args: CreateArgs) -> Result<(), Failure> {
    let settings = Settings::load(&args.config.config)?;
    let who = match (args.kind, args.name, args.key, args.site) {
        (Kind::User, Some(sub), _, _) => Identity::User { sub },
        (Kind::Admin, Some(sub), _, _) => Identity::Admin { sub },
        (Kind::Pilot, _, Some(sub), Some(site)) => Identity::Pilot { sub, site },
        (Kind::User | Kind::Admin | Kind::Pilot, ..) => {
            let what = "users and administrators need --name, pilots --key and --site";
            return Err(Failure::Usage(anyhow::anyhow!(what)));
        }
    };
    serve::prepare_state_dir(&settings.state_dir)?;
    let issuer = Issuer::open(&settings.state_dir).map_err(anyhow::Error::from)?;
    let life = args.expires.unwrap_or(match args.kind {
        Kind::User | Kind::Admin => settings.tokens.user,
        Kind::Pilot => settings.tokens.pilot,
    });
    let (token, _) = issuer.issue(who, Clock::new().now() + life);
    match args.out {
        None => print(&format!("{token}\n")),
        Some(path) => Ok(write_private(&path, &token)
            .with_context(|| format!("failed to write `{}`", path.display()))?),
    }
}

/// Writes a secret so that nobody else can read it at any moment.
fn write_private(path: &Path, secret: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}

fn revoke_token(path: &Path, token: &str) -> Result<(), Failure> {
    let settings = Settings::load(path)?;
    let token = match std::fs::read_to_string(token) {
        Ok(text) => text.trim().to_owned(),
        // Not a file: the token itself.
        Err(_) => token.to_owned(),
    };
    let issuer = Issuer::open(&settings.state_dir).map_err(anyhow::Error::from)?;
    let claims = issuer.read(&token).map_err(|e| Failure::Usage(e.into()))?;
    let now = Clock::new().now();
    runtime()?
        .block_on(store::revoke(
            &settings.state_dir,
            &claims.id,
            claims.exp,
            now,
        ))
        .context("failed to revoke the token")?;
    print(&format!("revoked {}\n", claims.id))
}
