//! The canary's child: a daemon that left the job's session, to see whether such processes
//! survive the job's end. It ends by itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::SigSet;
use protocol::canary::{CHILD_FILE, CanaryLine, STOP_FILE};
use protocol::codes::exit;
use protocol::time::Span;

use super::report::append;
use crate::clock;
use crate::host::processes::ProcessId;

/// How often it says that it lives.
const TICK: Duration = Duration::from_millis(200);
/// It ends so long after its canary, whatever else happens.
const LINGER: Span = Span::from_secs(90);
/// It ends after so long even if its canary lives.
const LONGEST: Span = Span::from_mins(60);

/// Arguments of `pilot canary-child` (hidden).
#[derive(Debug, Clone, clap::Args)]
pub struct CanaryChildArgs {
    /// The job's directory
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// The canary's process
    #[arg(long, value_name = "PID")]
    canary: i32,
    /// It is the second of the two processes: the daemon
    #[arg(long)]
    orphan: bool,
}

/// Starts it, if there is a directory where it can be told to stop. That it does not run is seen
/// by its silence.
pub(super) fn start(directory: Option<&Path>) {
    let Some(directory) = directory.filter(|directory| directory.is_dir()) else {
        return;
    };
    let started = command(directory, std::process::id(), false).spawn();
    match started.and_then(|mut first| first.wait()) {
        Ok(_) => {}
        Err(e) => eprintln!("the canary's child could not be started: {e}"),
    }
}

fn command(directory: &Path, canary: u32, orphan: bool) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("canary-child")
        .arg("--directory")
        .arg(directory)
        .arg("--canary")
        .arg(canary.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if orphan {
        command.arg("--orphan");
    }
    command
}

/// Runs the command. The first process starts the second and ends, so that the second is an
/// orphan; that one leaves the session and hears no signal.
pub fn run(args: &CanaryChildArgs) -> i32 {
    if !args.orphan {
        let canary = args.canary.unsigned_abs();
        return match command(&args.directory, canary, true).spawn() {
            Ok(_) => exit::OK,
            Err(_) => exit::FAILED,
        };
    }
    // It leads no group, so this works; and if not, its silence is the answer.
    let _ = nix::unistd::setsid();
    let _ = SigSet::all().thread_block();
    let file = args.directory.join(CHILD_FILE);
    let say = |line: &CanaryLine| {
        if let Ok(text) = serde_json::to_string(line) {
            append(&file, &text);
        }
    };
    let why = live(args, &say);
    let at = clock::now().wall;
    if args.directory.is_dir() {
        let why = why.to_owned();
        say(&CanaryLine::Ended { at, why });
    }
    exit::OK
}

fn live(args: &CanaryChildArgs, say: &impl Fn(&CanaryLine)) -> &'static str {
    // Nobody sends: it is a pause that can't be overslept.
    let (_keep, pause) = mpsc::channel::<()>();
    let canary = ProcessId::of(args.canary);
    let began = clock::now().mono;
    let mut alone_since = None;
    loop {
        let now = clock::now();
        if !args.directory.is_dir() {
            return "its directory is gone";
        }
        if args.directory.join(STOP_FILE).exists() {
            return "it was told to stop";
        }
        if now.mono.since(began) > LONGEST {
            return "it has lived for an hour";
        }
        if canary.is_none_or(|canary| !canary.is_alive()) {
            let since = *alone_since.get_or_insert(now.mono);
            if now.mono.since(since) > LINGER {
                return "its canary has long been gone";
            }
        }
        say(&CanaryLine::Alive {
            at: now.wall,
            mono_ms: now.mono.as_millis(),
        });
        let _ = pause.recv_timeout(TICK);
    }
}
