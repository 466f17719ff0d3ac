//! `pilot-xen-helper`: all that the workspace pilot does as root, on Xen's domain 0. Called as
//! `sudo -n pilot-xen-helper VERB`. It touches only domains that it has made for the same account.
//!
//! ```text
//! guest           makes a domain and lives as long as it        (guest.rs)
//! save UUID       streams it to standard output                 (save.rs)
//! reclaim MARKER  destroys what has it; `SLOT.`: all of a slot  (reclaim.rs)
//! sweep           destroys what has no living helper            (reclaim.rs)
//! info            says what Xen has                             (xen.rs)
//! ```

mod caller;
mod config;
mod console;
mod context;
mod guest;
mod loops;
mod reclaim;
mod registry;
mod save;
mod start;
mod tool;
mod words;
mod xen;

use std::process::ExitCode;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use caller::Caller;

/// A batch system signals all processes of a job: that the slot ends is the pilot's business.
const FOR_THE_PILOT_ALONE: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXCPU,
    Signal::SIGTSTP,
];

fn main() -> ExitCode {
    match verb() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: failed to {e}");
            ExitCode::FAILURE
        }
    }
}

fn verb() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let caller = Caller::find().map_err(|e| format!("start: {e}"))?;
    shed_limits().map_err(|e| format!("lift the caller's limits: {e}"))?;
    FOR_THE_PILOT_ALONE
        .into_iter()
        .collect::<SigSet>()
        .thread_set_mask()
        .map_err(|e| format!("block signals: {e}"))?;
    match arguments[..] {
        ["guest"] => guest::run(caller),
        ["save", uuid] => save::run(caller, uuid),
        ["reclaim", marker] => reclaim::run(caller, Some(marker)),
        ["sweep"] => reclaim::run(caller, None),
        ["info"] => info(),
        _ => Err("understand: say guest, save UUID, reclaim MARKER, sweep or info".to_owned()),
    }
}

/// The limits of a job are for its own programs: one on processor time would kill `xl` in a save, one
/// on files would tear the registry.
fn shed_limits() -> nix::Result<()> {
    for of in [
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_NPROC,
    ] {
        setrlimit(of, RLIM_INFINITY, RLIM_INFINITY)?;
    }
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 4096)
}

fn info() -> Result<(), String> {
    let mut info = xen::info(tool::SHORT).map_err(|e| format!("ask Xen: {e}"))?;
    info.bridge = config::Rules::read()
        .map_err(|e| format!("read the rules: {e}"))?
        .bridge;
    println!(
        "{}",
        serde_json::to_string(&info).map_err(|e| e.to_string())?
    );
    Ok(())
}
