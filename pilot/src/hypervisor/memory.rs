//! The memory of a guest, as a file that its process and the pilot share.
//!
//! It has no name: it is gone when both are, however they end. The pilot saves it without the
//! hypervisor's help, and fills it with a state before the hypervisor starts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use image_store::ChunkSet;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// `MFD_NOEXEC_SEAL` of Linux 6.3: without it that kernel complains in its log.
const NOT_A_PROGRAM: MFdFlags = MFdFlags::from_bits_retain(8);

/// The memory of one guest.
#[derive(Debug)]
pub(super) struct GuestMemory {
    file: File,
    bytes: u64,
}

impl GuestMemory {
    /// Memory that is all zero and takes no room yet.
    pub(super) fn new(mib: u64) -> io::Result<Self> {
        let create = |flags| memfd_create(c"guest-memory", flags | MFdFlags::MFD_CLOEXEC);
        let file = match create(NOT_A_PROGRAM) {
            Err(Errno::EINVAL) => create(MFdFlags::empty()),
            other => other,
        };
        let (file, bytes) = (File::from(file?), mib << 20);
        file.set_len(bytes)?;
        Ok(Self { file, bytes })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Its size.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Upper bound of the bytes that a state of it has. Takes some milliseconds.
    pub(super) fn in_use(&self) -> u64 {
        ChunkSet::with_data(&self.file, self.bytes).map_or(self.bytes, |set| set.data_bytes())
    }

    /// What a process gets it by: as its standard output, on which it can write nothing, but which
    /// it can open anew for writing at [`Self::PATH_AS_OUTPUT`].
    pub(super) fn as_output(&self) -> io::Result<Stdio> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        OpenOptions::new().read(true).open(path).map(Stdio::from)
    }

    /// Where a process that has it as its standard output finds it.
    pub(super) const PATH_AS_OUTPUT: &str = "/proc/self/fd/1";

    /// Gives its room back. Only once the guest's process is gone.
    pub(super) fn release(&self) {
        if let Err(e) = self.file.set_len(0) {
            tracing::warn!(error = %e, "a guest's memory can't be given back before its lease is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_shares_it_but_can_t_write_to_it_by_mistake() {
        let memory = GuestMemory::new(1).unwrap();
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stderr(Stdio::null());
            command.stdout(memory.as_output().unwrap());
            command.status().unwrap().success()
        };
        assert!(!shell("echo oops"));
        assert_eq!(memory.in_use(), 0);
        let path = GuestMemory::PATH_AS_OUTPUT;
        assert!(shell(&format!("printf hello 1<>{path}")));
        let mut word = [0; 5];
        memory.file().read_exact_at(&mut word, 0).unwrap();
        assert_eq!(&word, b"hello");
        // A huge page, where the node has those for shared memory.
        assert!((65_536..=memory.bytes()).contains(&memory.in_use()));
        assert_eq!(memory.file().metadata().unwrap().len(), 1 << 20);
        memory.release();
        assert_eq!((memory.in_use(), memory.bytes()), (0, 1 << 20));
    }
}
