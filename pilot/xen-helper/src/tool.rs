//! Runs the toolstack's programs, each with a limit.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// For what takes less than a second where all is well.
pub const SHORT: Duration = Duration::from_secs(30);
/// For making and destroying domains.
pub const LONG: Duration = Duration::from_secs(120);

/// For one that was killed.
const GRACE: Duration = Duration::from_secs(5);

/// How a program ended.
pub struct Ended {
    /// None: it did not end in time and was killed.
    pub status: Option<ExitStatus>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn is_ok(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// What went wrong: the last lines that it said, without those of progress.
    pub fn trouble(&self) -> String {
        let how = self
            .status
            .map_or_else(|| "it did not answer in time".to_owned(), |s| s.to_string());
        let said: Vec<&str> = (self.err.lines().map(str::trim))
            .filter(|l| !l.is_empty() && !l.contains("progress:"))
            .collect();
        let said = said[said.len().saturating_sub(4)..].join("; ");
        if said.is_empty() {
            how
        } else {
            format!("{how}: {said}")
        }
    }
}

/// A file for what a program says: it can't be filled up as a pipe can.
pub fn scrap() -> io::Result<File> {
    Ok(File::from(memfd_create(c"said", MFdFlags::MFD_CLOEXEC)?))
}

pub fn text_of(mut file: &File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.take(1 << 20).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program, found where dom0 has it and nowhere else.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end; kills it when that does not come in time.
pub fn run(name: &str, arguments: &[&str], limit: Duration) -> Ended {
    let failed = |e: io::Error| Ended {
        status: None,
        out: String::new(),
        err: format!("can't run `{name}`: {e}"),
    };
    let spawned = || -> io::Result<(Child, File, File)> {
        let (out, err) = (scrap()?, scrap()?);
        let child = program(name)
            .args(arguments)
            .stdout(out.try_clone()?)
            .stderr(err.try_clone()?)
            .spawn()?;
        Ok((child, out, err))
    };
    match spawned() {
        Err(e) => failed(e),
        Ok((mut child, out, err)) => Ended {
            status: wait(&mut child, limit),
            out: text_of(&out),
            err: text_of(&err),
        },
    }
}

/// Waits for its end; kills it when that does not come in time.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    if ends_within(child, limit) {
        return child.wait().ok();
    }
    let _ = child.kill();
    // One that hangs in the kernel is not waited for.
    if ends_within(child, GRACE) {
        let _ = child.wait();
    }
    None
}

/// True when it has ended.
pub fn ends_within(child: &mut Child, limit: Duration) -> bool {
    if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
        return true;
    }
    let Ok(fd) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else {
        return false;
    };
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let ready = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout);
    ready.is_ok_and(|n| n > 0)
}

/// Waits that long for something to read, or for the end: true then.
pub fn readable_within(file: impl AsFd, wait: Duration) -> bool {
    ready_within(file, PollFlags::POLLIN, wait)
}

/// Waits that long for room to write, or until nobody reads any more: true then.
pub fn writable_within(file: impl AsFd, wait: Duration) -> bool {
    ready_within(file, PollFlags::POLLOUT, wait)
}

fn ready_within(file: impl AsFd, what: PollFlags, wait: Duration) -> bool {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(file.as_fd(), what)], timeout).is_ok_and(|n| n > 0)
}

/// Waits that long, or until nobody has the other end of `file` any more: true then.
pub fn closed_within(file: impl AsFd, wait: Duration) -> bool {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
        && fds[0].revents().is_some_and(|r| r.intersects(gone))
}

/// A name by which a program that root starts opens the very file that is open here, whatever its
/// path has become. Holds while `file` is open.
pub fn path_of_open(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
