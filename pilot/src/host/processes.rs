//! Processes of this node: who they are beyond their number, and their certain end.
//!
//! A process number is reused; number and start time together are not, within one boot.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::exec_guest::MARKER_VARIABLE;
use crate::journal::NodeIdentity;

/// How often something is looked at that cannot be waited for.
const STEP: Duration = Duration::from_millis(5);

/// How long a process may be between two programs before it is taken to be neither.
const BECOMING: Duration = Duration::from_secs(1);
/// Room for an environment. The kernel allows larger ones, nobody has them.
const ENVIRONMENT_ROOM: usize = 2 * 1024 * 1024;
/// How often an environment must be seen empty before it is believed.
const LOOKS_AT_NOTHING: u32 = 4;

/// A process that cannot be taken for a later one with the same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub start: u64,
}

/// How the attempt to end a process went.
#[derive(Debug)]
pub enum KillOutcome {
    /// It had ended before.
    WasGone,
    /// It was killed, and has ended.
    Killed,
    /// It was killed, and has not ended within the limit (the kernel is busy for it).
    Stuck,
    /// The kernel did not let us.
    Refused(io::Error),
}

struct Stat {
    start: u64,
    ended: bool,
    stopped: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything, parentheses included.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let threads: i64 = fields.get(17)?.parse().ok()?;
    Some(Stat {
        start: fields.get(19)?.parse().ok()?,
        // A dead first thread shows the process as dead while other threads live on.
        ended: matches!(fields.first(), Some(&("Z" | "X"))) && threads <= 1,
        stopped: fields.first() == Some(&"T"),
    })
}

impl ProcessId {
    /// The living process with this number.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (!stat.ended).then_some(Self {
            pid,
            start: stat.start,
        })
    }

    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// True while it lives. One that has ended and waits for its parent's notice does not live.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// True while it is stopped, as by SIGSTOP.
    pub fn is_stopped(self) -> bool {
        self.is_alive() && stat(self.pid).is_some_and(|stat| stat.stopped)
    }

    /// Kills the process and waits until it has ended, at most for `limit`.
    pub fn kill(self, limit: Duration) -> KillOutcome {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return KillOutcome::WasGone;
        };
        // The descriptor is opened first and the start time read after: from then on the
        // descriptor is known to mean this process, whatever happens to the number.
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Some(handle),
            Err(rustix::io::Errno::SRCH) => return KillOutcome::WasGone,
            // Kernels before 5.3, or a sandbox: the number has to do.
            Err(_) => None,
        };
        if !self.is_alive() {
            return KillOutcome::WasGone;
        }
        let sent = match &handle {
            Some(handle) => rustix::process::pidfd_send_signal(handle, Signal::KILL),
            None => rustix::process::kill_process(pid, Signal::KILL),
        };
        match sent {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return KillOutcome::WasGone,
            Err(e) => return KillOutcome::Refused(e.into()),
        }
        if self.ends_within(handle.as_ref(), limit) {
            KillOutcome::Killed
        } else {
            KillOutcome::Stuck
        }
    }

    /// Waits until the process has ended, at most for `limit`; true when it has.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let handle = Pid::from_raw(self.pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        self.ends_within(handle.as_ref(), limit)
    }

    fn ends_within(self, handle: Option<&OwnedFd>, limit: Duration) -> bool {
        if let Some(handle) = handle
            && self.is_alive()
        {
            wait_readable(handle, limit);
        } else {
            holds_within(limit, || !self.is_alive());
        }
        !self.is_alive()
    }
}

/// Waits until `handle` is readable, at most for `limit`; true when it is.
pub(crate) fn wait_readable(handle: impl AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// Looks at a condition every few milliseconds until it holds, at most for `limit`; true when it
/// holds.
pub(crate) fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let rounds = limit.as_millis() / STEP.as_millis();
    let step = PollTimeout::try_from(STEP).unwrap_or(PollTimeout::ZERO);
    (0..rounds).any(|_| {
        condition() || {
            // No descriptor: poll is a timer here. An early return only makes the wait shorter.
            let _ = poll(&mut [], step);
            false
        }
    }) || condition()
}

/// All living processes of this account whose marker begins with `prefix`, except this one.
pub fn marked(prefix: &str) -> Vec<ProcessId> {
    let own = ProcessId::own();
    let uid = nix::unistd::geteuid().as_raw();
    let mut buffer = vec![0; ENVIRONMENT_ROOM];
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            (entry.metadata().ok()?.uid() == uid).then_some(pid)
        })
        .filter_map(|pid| {
            // Identity first, marker after: a number that changes hands in between fails the
            // next look at its start time.
            let id = ProcessId::of(pid)?;
            (Some(id) != own && carries(pid, prefix, &mut buffer)).then_some(id)
        })
        .collect()
}

/// Whether the process was started with a marker that begins like this. `buffer` is for the
/// environment.
fn carries(pid: i32, prefix: &str, buffer: &mut [u8]) -> bool {
    let assignment = format!("{MARKER_VARIABLE}={prefix}");
    let mut found = false;
    // While a process becomes another program both its environment and its arguments are empty.
    // Arguments without an environment, seen several times, are a process that has none.
    let mut bare = 0;
    holds_within(BECOMING, || {
        for _ in 0..LOOKS_AT_NOTHING {
            let environment = environment(pid, buffer);
            found = environment
                .split(|b| *b == 0)
                .any(|var| var.starts_with(assignment.as_bytes()));
            if !environment.is_empty() || !has_memory(pid) {
                return true;
            }
            bare += u32::from(has_arguments(pid));
        }
        bare >= LOOKS_AT_NOTHING
    });
    found
}

/// False for the kernel's own threads, and for the dying.
fn has_memory(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn has_arguments(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| !arguments.is_empty())
}

/// The environment, read in one piece: between two the process may have become another program,
/// and then the second is empty.
fn environment(pid: i32, buffer: &mut [u8]) -> &[u8] {
    let length = fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|mut file| file.read(buffer))
        .unwrap_or(0);
    &buffer[..length]
}

impl NodeIdentity {
    /// Where this process runs.
    ///
    /// # Errors
    /// `/proc` is not mounted or not readable.
    pub fn here() -> io::Result<Self> {
        let host = nix::sys::utsname::uname()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            host: host.nodename().to_string_lossy().into_owned(),
            boot: boot.trim().to_owned(),
            pid_namespace: fs::read_link("/proc/self/ns/pid")?
                .to_string_lossy()
                .into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper(marker: &str) -> std::process::Child {
        Command::new("cat")
            .env(MARKER_VARIABLE, marker)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_process_with_another_start_time_is_somebody_else() {
        let mut child = sleeper("");
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        let reused = ProcessId {
            start: id.start - 1,
            ..id
        };
        assert!(matches!(
            reused.kill(Duration::from_secs(5)),
            KillOutcome::WasGone
        ));
        assert!(id.is_alive(), "a process that only shares the number died");
        assert!(matches!(
            id.kill(Duration::from_secs(5)),
            KillOutcome::Killed
        ));
        assert!(!id.is_alive());
        child.wait().unwrap();
        assert!(matches!(
            id.kill(Duration::from_secs(5)),
            KillOutcome::WasGone
        ));
    }

    #[test]
    fn processes_are_found_by_their_marker_alone() {
        let slot = format!("wp-test-{}", uuid::Uuid::new_v4().simple());
        let mut ours = sleeper(&format!("{slot}.1"));
        let mut other = sleeper(&format!("{slot}x.1"));
        let id = ProcessId::of(ours.id().cast_signed()).unwrap();
        let prefix = format!("{slot}.");
        // Between fork and exec the child still shows this process's environment.
        assert!(
            holds_within(Duration::from_secs(10), || marked(&prefix) == [id]),
            "found {:?}, wanted {id:?}",
            marked(&prefix)
        );
        ours.kill().unwrap();
        ours.wait().unwrap();
        assert_eq!(marked(&prefix), []);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_becoming_another_program_is_not_missed() {
        let slot = format!("wp-test-{}", uuid::Uuid::new_v4().simple());
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("again");
        std::fs::write(&script, "exec sh \"$0\"\n").unwrap();
        let mut child = Command::new("sh")
            .arg(&script)
            .env(MARKER_VARIABLE, format!("{slot}.1"))
            .spawn()
            .unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        let prefix = format!("{slot}.");
        let missed = (0..300).filter(|_| marked(&prefix) != [id]).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(missed, 0, "of 300 looks");
    }
}
