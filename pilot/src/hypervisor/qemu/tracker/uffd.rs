//! The calls of `userfaultfd(2)` that write-protect memory, see `ioctl_userfaultfd(2)`. They work on
//! the memory of the process in which the file was made, from whichever process they come.
#![expect(
    unsafe_code,
    reason = "no library has these calls for another process's memory"
)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

const API: u64 = 0xaa;
/// `UFFD_FEATURE_WP_ASYNC` of Linux 6.7: the kernel itself lets a write to a protected page pass.
const WRITE_PROTECT_ASYNC: u64 = 1 << 15;
/// `UFFDIO_REGISTER_MODE_WP`.
const REGISTER_WRITE_PROTECT: u64 = 1 << 1;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const PROTECT: u64 = 1;

#[repr(C)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Span {
    start: u64,
    length: u64,
}

#[repr(C)]
struct Register {
    span: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    span: Span,
    mode: u64,
}

mod calls {
    use super::{Handshake, Register, Span, WriteProtect};

    nix::ioctl_readwrite!(api, 0xaa, 0x3f, Handshake);
    nix::ioctl_readwrite!(register, 0xaa, 0x00, Register);
    nix::ioctl_read!(unregister, 0xaa, 0x01, Span);
    nix::ioctl_readwrite!(write_protect, 0xaa, 0x06, WriteProtect);
}

/// A `userfaultfd` after its handshake.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// Does the handshake.
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let mut handshake = Handshake {
            api: API,
            features: WRITE_PROTECT_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the kernel reads and writes a `struct uffdio_api`, which this is, and keeps
        // nothing of it.
        unsafe { calls::api(file.as_raw_fd(), &raw mut handshake) }?;
        Ok(Self(file))
    }

    /// Lets the kernel keep track of this range of addresses.
    pub(super) fn register(&self, range: &Range<u64>) -> io::Result<()> {
        let mut register = Register {
            span: span(range),
            mode: REGISTER_WRITE_PROTECT,
            ioctls: 0,
        };
        // SAFETY: the kernel reads and writes a `struct uffdio_register`, which this is, and keeps
        // nothing of it. Asynchronous write protection changes nothing that the process can see.
        unsafe { calls::register(self.0.as_raw_fd(), &raw mut register) }?;
        Ok(())
    }

    /// Ends that, and lifts all protection.
    pub(super) fn unregister(&self, range: &Range<u64>) -> io::Result<()> {
        let mut span = span(range);
        // SAFETY: the kernel reads a `struct uffdio_range`, which this is, and keeps nothing of it.
        unsafe { calls::unregister(self.0.as_raw_fd(), &raw mut span) }?;
        Ok(())
    }

    /// Protects a range until its pages are written.
    pub(super) fn protect(&self, range: &Range<u64>) -> io::Result<()> {
        let mut protect = WriteProtect {
            span: span(range),
            mode: PROTECT,
        };
        // SAFETY: the kernel reads a `struct uffdio_writeprotect`, which this is, and keeps nothing
        // of it.
        unsafe { calls::write_protect(self.0.as_raw_fd(), &raw mut protect) }?;
        Ok(())
    }
}

fn span(range: &Range<u64>) -> Span {
    Span {
        start: range.start,
        length: range.end - range.start,
    }
}
