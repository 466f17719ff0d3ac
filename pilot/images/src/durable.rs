//! File operations that survive a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::digest::CHUNK;

/// How a file came to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// A second name of the same bytes.
    Linked,
    /// A copy; so many bytes were written.
    Copied(u64),
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a new file that only we can read. Refuses one that exists.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Gives `from` a second name, or copies it where that can't be (another file system). A copy
/// is synced.
///
/// # Errors
/// Neither can be done; nothing is left at `to`.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<Placed> {
    match fs::hard_link(from, to) {
        Ok(()) => return Ok(Placed::Linked),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
            ) =>
        {
            return Err(e);
        }
        Err(_) => {}
    }
    let copied = copy(from, to);
    if copied.is_err() {
        // The copy's own error is what matters.
        let _ = fs::remove_file(to);
    }
    copied.map(Placed::Copied)
}

fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let mut source = File::open(from)?;
    let mut target = create_new(to)?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            target.set_len(bytes)?;
            target.sync_all()?;
            return Ok(bytes);
        }
        bytes += n as u64;
        // A raw disk is mostly holes, and stays so.
        if buffer[..n].iter().all(|b| *b == 0) {
            target.seek(SeekFrom::Start(bytes))?;
        } else {
            target.write_all(&buffer[..n])?;
        }
    }
}

/// Bytes that an unprivileged user can still write to the file system of `path`.
///
/// # Errors
/// The file system does not say.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let v = nix::sys::statvfs::statvfs(path)?;
    Ok(v.blocks_available().saturating_mul(v.fragment_size()))
}

/// Removes a directory and all in it; one that is not there is fine.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}
