//! A `userfaultfd` for the memory of another process of ours.
//!
//! Such a file belongs to the process that made it, and neither QEMU nor a later `exec` lets it be
//! handed in from outside. So the process makes it on our behalf: as its tracer we stop it for a
//! moment in the system call in which it waits, let it do one `userfaultfd`, put back its registers,
//! and let it go on waiting, as a debugger does that calls a function. Then we take the file over.
//!
//! Nothing of this needs a privilege: it is a process of our own user, started by us.

use std::io;
use std::os::fd::OwnedFd;

/// Asks process `pid` for a new `userfaultfd` of its memory. Blocks for a millisecond or two, in
/// which the process is stopped.
///
/// # Errors
/// The kernel does not let us, or the process is never found waiting.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(super) fn userfaultfd(pid: u32) -> io::Result<OwnedFd> {
    x86_64::userfaultfd(pid)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(super) fn userfaultfd(_: u32) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod x86_64 {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::thread;
    use std::time::Duration;

    use nix::libc;
    use nix::sys::ptrace::{self, AddressType, Options};
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    use nix::unistd::Pid;
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

    /// How often it is tried to find the process waiting.
    const TRIES: u32 = 50;
    /// Steps of a wait for the kernel, and how many there are.
    const STEP: Duration = Duration::from_micros(100);
    const STEPS: u32 = 20_000;
    /// `UFFD_USER_MODE_ONLY`: what everybody may have.
    const USER_MODE_ONLY: i32 = 1;
    /// The bytes of the instruction `syscall`.
    const SYSCALL: [u8; 2] = [0x0f, 0x05];

    pub(super) fn userfaultfd(pid: u32) -> io::Result<OwnedFd> {
        let raw = i32::try_from(pid).map_err(io::Error::other)?;
        let its = rustix::process::Pid::from_raw(raw).ok_or_else(gone)?;
        // First: where a process has no such handle, who waits for its end would take our stop for it.
        let process = pidfd_open(its, PidfdFlags::empty())?;
        let pid = Pid::from_raw(raw);
        for _ in 0..TRIES {
            let stopped = Stopped::stop(pid)?;
            if let Some(number) = stopped.make()? {
                drop(stopped);
                return Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?);
            }
            drop(stopped);
            pause();
        }
        Err(io::Error::other("the process was never found waiting"))
    }

    fn gone() -> io::Error {
        io::Error::other("the process is gone")
    }

    /// The process's first thread, stopped by us. Dropped, it goes on.
    struct Stopped(Pid);

    impl Drop for Stopped {
        fn drop(&mut self) {
            // One that is gone needs it no more.
            let _ = ptrace::detach(self.0, None);
        }
    }

    impl Stopped {
        fn stop(pid: Pid) -> io::Result<Self> {
            ptrace::seize(pid, Options::empty())?;
            let this = Self(pid);
            ptrace::interrupt(pid)?;
            this.wait()?;
            Ok(this)
        }

        /// Waits until it has stopped. An end of the process is left for its owner to see.
        fn wait(&self) -> io::Result<()> {
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            for _ in 0..STEPS {
                match waitid(Id::Pid(self.0), flags)? {
                    WaitStatus::StillAlive => pause(),
                    WaitStatus::Stopped(..)
                    | WaitStatus::PtraceEvent(..)
                    | WaitStatus::PtraceSyscall(_) => return Ok(()),
                    WaitStatus::Exited(..)
                    | WaitStatus::Signaled(..)
                    | WaitStatus::Continued(_) => return Err(gone()),
                }
            }
            Err(io::Error::other("the process does not stop"))
        }

        /// Lets it make the file; returns its number there, or none when it is not in a system call.
        fn make(&self) -> io::Result<Option<i32>> {
            let before = ptrace::getregs(self.0)?;
            let instruction = before.rip.wrapping_sub(SYSCALL.len() as u64);
            let waits = before.orig_rax.cast_signed() >= 0;
            if !waits || self.bytes_at(instruction)? != SYSCALL {
                return Ok(None);
            }
            let mut call = before;
            call.rip = instruction;
            call.rax = libc::SYS_userfaultfd.cast_unsigned();
            // It is in no system call any more that could be begun again now.
            call.orig_rax = u64::MAX;
            call.rdi =
                u64::from((libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY).cast_unsigned());
            ptrace::setregs(self.0, call)?;
            let made = self.step();
            // Whatever happened: it goes on where it was.
            ptrace::setregs(self.0, before)?;
            let result = made?;
            match i32::try_from(result) {
                Ok(number) if number >= 0 => Ok(Some(number)),
                Ok(error) => Err(io::Error::from_raw_os_error(-error)),
                Err(e) => Err(io::Error::other(e)),
            }
        }

        /// Does one instruction, and returns what a system call has answered.
        fn step(&self) -> io::Result<i64> {
            ptrace::step(self.0, None)?;
            self.wait()?;
            Ok(ptrace::getregs(self.0)?.rax.cast_signed())
        }

        fn bytes_at(&self, address: u64) -> io::Result<[u8; 2]> {
            let word = ptrace::read(self.0, address as AddressType)?;
            let [first, second, ..] = word.to_ne_bytes();
            Ok([first, second])
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel offers nothing to wait for, and it is microseconds"
    )]
    fn pause() {
        thread::sleep(STEP);
    }
}
