//! The supervisor of one run (`sim-lrm supervise`), as slurmstepd is for Slurm: it outlives the
//! daemon, starts the job's first process in a session of its own, and writes down how it ended.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::setsid;

use super::processes::{Identity, exterminate};
use super::runs::{Ended, RunDir, Spec, environment_mark, marks};
use crate::sim::profiles::{Leftovers, Target};
use crate::sim::wire;

/// A supervisor that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A file of the run could not be read or written.
    #[error("could not use the run's directory `{}`", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused a call.
    #[error("could not {what}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: nix::Error,
    },
    /// A program could not be started.
    #[error("could not start `{}`", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Supervises the run in this directory until it has ended.
///
/// # Errors
/// The run's directory cannot be used, or the kernel refuses.
pub fn supervise(dir: &Path) -> Result<(), SuperviseError> {
    let run_dir = RunDir::at(dir.to_owned());
    let used = |source| SuperviseError::Directory {
        dir: dir.to_owned(),
        source,
    };
    let spec = run_dir.spec().map_err(used)?;
    if !run_dir.claim().map_err(used)? {
        return Ok(());
    }
    let system = |what| move |source| SuperviseError::System { what, source };
    // Away from the daemon's session and group: what ends the daemon does not end the job.
    setsid().map_err(system("start a session"))?;
    // Orphans of the job come to us, so that they can be found.
    nix::sys::prctl::set_child_subreaper(true).map_err(system("adopt orphans"))?;
    let ended = match start(&run_dir, &spec) {
        Ok(first) => {
            run_dir.set_first(first).map_err(used)?;
            let code = wait_for(first.pid).map_err(system("wait for the job"))?;
            clean_up(&run_dir, &spec, first);
            Ended::Exited(code)
        }
        Err(e) => {
            tracing::warn!(error = %e, "the job could not be started");
            Ended::LaunchFailed
        }
    };
    run_dir.set_ended(ended).map_err(used)?;
    // The daemon looks by itself too; this only makes it quicker.
    if let Ok(mut stream) = UnixStream::connect(wire::socket_path(&spec.dir)) {
        let _ = stream.write_all(b"\"poke\"\n");
    }
    Ok(())
}

fn start(run_dir: &RunDir, spec: &Spec) -> io::Result<Identity> {
    let output = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
    let (stdout, stderr) = match &spec.output {
        Some(path) => {
            let file = output(path)?;
            (Stdio::from(file.try_clone()?), Stdio::from(file))
        }
        None => (Stdio::null(), Stdio::null()),
    };
    // We are started again as the job's first process, which leads its session and then becomes
    // the script.
    let child = Command::new(std::env::current_exe()?)
        .arg("launch")
        .arg(run_dir.script())
        .env_clear()
        .envs(&spec.env)
        .current_dir(spec.directory.as_deref().unwrap_or(Path::new("/")))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // Not waited for yet, so it is still there, if only as a zombie.
    Identity::of(pid).ok_or_else(|| io::Error::other("no /proc entry of the job"))
}

/// Waits for the first process, and reaps adopted orphans meanwhile.
fn wait_for(first: i32) -> nix::Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == first => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == first => {
                return Ok(128 + signal as i32);
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn clean_up(run_dir: &RunDir, spec: &Spec, first: Identity) {
    let mark = environment_mark(spec.run);
    let marks = marks(&spec.dir, &mark, first, run_dir.supervisor());
    match spec.leftovers {
        Leftovers::Survive => {}
        Leftovers::SessionKilled => exterminate(&marks, Target::Session),
        Leftovers::AllKilled => exterminate(&marks, Target::Everything),
    }
}

/// Becomes the script, as the leader of a new session.
///
/// # Errors
/// The session or the script cannot be started; otherwise it does not return.
pub fn launch(script: &Path) -> Result<Infallible, SuperviseError> {
    setsid().map_err(|source| SuperviseError::System {
        what: "start a session",
        source,
    })?;
    let source = Command::new(script).exec();
    Err(SuperviseError::Start {
        program: script.to_owned(),
        source,
    })
}
