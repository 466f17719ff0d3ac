//! The trampoline between the pilot and a process it starts: it ties the child's life to the
//! pilot's, then becomes the wanted program.
//!
//! `pilot exec-guest --parent PID --marker M [--group DIR] -- PROGRAM ARGS...` (hidden; the pilot
//! calls itself)
//! 0. enters the slot's control group, where it has one;
//! 1. asks the kernel for SIGKILL at the parent's death, and leaves at once when the parent has
//!    died before that took effect;
//! 2. gives up every way of gaining privileges (which would also cancel 1);
//! 3. leads a process group of its own;
//! 4. puts all signals back to their defaults, and blocks those by which a batch system speaks:
//!    LRMs signal every process of a job, QEMU answers SIGTERM with a power cut, and only the
//!    pilot knows whether the guest is to be suspended first. SIGKILL cannot be blocked;
//! 5. sets the marker by which `pilot reclaim` knows the process, and `exec`s.
//!
//! The kernel ties the death signal to the parent's *thread*: start guests from a thread that
//! lives as long as the pilot, which means the main one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid, setpgid};

use crate::host::cgroup;
use crate::journal::Marker;

/// The environment variable that carries the [`Marker`] of a process of ours.
pub const MARKER_VARIABLE: &str = "WP_MARKER";

/// Signals that mean the slot, not the guest; blocked in what the trampoline becomes.
const FOR_THE_PILOT_ALONE: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Signals that whoever started the pilot may have set to be ignored, which `exec` would keep.
const MAY_BE_IGNORED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCHLD,
    Signal::SIGTSTP,
    Signal::SIGXFSZ,
];

/// Makes commands that go through `pilot exec-guest`.
#[derive(Clone, Debug)]
pub struct Trampoline {
    pilot: PathBuf,
    group: Option<PathBuf>,
}

impl Trampoline {
    /// The running program is the pilot: it starts itself again, even when its file was replaced.
    pub fn of_this_program() -> Self {
        Self::of(Path::new("/proc/self/exe"))
    }

    /// `pilot` is the pilot's program file. For tests, whose own program is not the pilot.
    pub fn of(pilot: &Path) -> Self {
        Self {
            pilot: pilot.to_owned(),
            group: None,
        }
    }

    /// The same, for processes that are put into this control group.
    #[must_use]
    pub fn into_group(mut self, group: PathBuf) -> Self {
        self.group = Some(group);
        self
    }

    /// The pilot's program file.
    pub fn pilot(&self) -> &Path {
        &self.pilot
    }

    /// A command that becomes `program` and dies with this process. Add the program's arguments
    /// with `.arg()`; turn it into tokio's with `.into()`; spawn it from the main thread.
    pub fn command(&self, marker: &Marker, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.pilot);
        command
            .arg("exec-guest")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--marker")
            .arg(marker.as_str());
        if let Some(group) = &self.group {
            command.arg("--group").arg(group);
        }
        command
            .arg("--")
            .arg(program)
            .env(MARKER_VARIABLE, marker.as_str());
        command
    }
}

/// Arguments of `pilot exec-guest`.
#[derive(Debug, clap::Args)]
pub struct ExecGuestArgs {
    /// Process whose death is to end the program.
    #[arg(long)]
    parent: i32,
    /// Name by which the process can be found again.
    #[arg(long)]
    marker: String,
    /// Control group to be in.
    #[arg(long)]
    group: Option<PathBuf>,
    /// Program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Why the trampoline did not become the program.
#[derive(Debug, thiserror::Error)]
pub enum ExecGuestError {
    /// The kernel refused one of the steps.
    #[error("prepare `{program}`: {step}")]
    Prepare {
        /// What was to be started.
        program: String,
        /// Which step.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The parent was gone before its death could be noticed.
    #[error("process {parent}, which started `{program}`, is gone")]
    ParentGone {
        /// What was to be started.
        program: String,
        /// The parent's number.
        parent: i32,
    },
    /// The program cannot be executed.
    #[error("execute `{program}`; check that it is there and executable on this node")]
    Exec {
        /// What was to be started.
        program: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Becomes the program. Returns only when that is not possible.
pub fn run(args: &ExecGuestArgs) -> ExecGuestError {
    let Some((program, arguments)) = args.program.split_first() else {
        return ExecGuestError::Exec {
            program: String::new(),
            source: io::ErrorKind::InvalidInput.into(),
        };
    };
    let name = program.to_string_lossy().into_owned();
    if let Err((step, source)) = prepare(args.group.as_deref()) {
        return ExecGuestError::Prepare {
            program: name,
            step,
            source,
        };
    }
    if getppid() != Pid::from_raw(args.parent) {
        return ExecGuestError::ParentGone {
            program: name,
            parent: args.parent,
        };
    }
    let source = Command::new(program)
        .args(arguments)
        .env(MARKER_VARIABLE, &args.marker)
        .exec();
    ExecGuestError::Exec {
        program: name,
        source,
    }
}

fn prepare(group: Option<&Path>) -> Result<(), (&'static str, io::Error)> {
    let at = |step| move |e: nix::Error| (step, io::Error::from(e));
    if let Some(group) = group {
        cgroup::enter(group).map_err(|e| ("enter the slot's control group", e))?;
    }
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("ask for a signal at the parent's death"))?;
    prctl::set_no_new_privs().map_err(at("give up new privileges"))?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(at("lead a process group"))?;
    // A handler replaces "ignored", and exec replaces a handler by the default.
    for signal in MAY_BE_IGNORED {
        signal_hook::flag::register(signal as i32, Arc::new(AtomicBool::new(false)))
            .map_err(|e| ("reset the signals", e))?;
    }
    FOR_THE_PILOT_ALONE
        .into_iter()
        .collect::<SigSet>()
        .thread_set_mask()
        .map_err(at("block the batch system's signals"))
}
