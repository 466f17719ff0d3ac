//! Raw disks: one file that has all of a disk, for a hypervisor that reads nothing else. A copy
//! shares its blocks with the original where the file system can, and keeps its holes elsewhere.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use protocol::workspace::DiskFormat;

const BLOCK: usize = 1 << 20;

/// Makes a disk of `size` bytes, with what is in `from` at its beginning.
///
/// # Errors
/// It can't be read or written, or is longer, or is qcow2 and there is no `qemu-img` to unpack it.
pub(super) fn lay_out(from: Option<(PathBuf, DiskFormat)>, to: &Path, size: u64) -> io::Result<()> {
    match from {
        None => create(to)?.set_len(size),
        Some((from, DiskFormat::Raw)) => copy(&from, to, size),
        Some((from, DiskFormat::Qcow2)) => {
            drop(create(to)?);
            unpack(&from, to)?;
            OpenOptions::new().write(true).open(to)?.set_len(size)
        }
    }
}

/// A copy of a raw disk, as it is now, of `size` bytes.
///
/// # Errors
/// It can't be read or written, or is longer.
pub(super) fn copy(from: &Path, to: &Path, size: u64) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, create(to)?);
    let length = source.metadata()?.len();
    if length > size {
        let text = format!("{} is longer than the disk", from.display());
        return Err(io::Error::other(text));
    }
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        copy_data(&mut source, &mut target, length)?;
    }
    target.set_len(size)
}

/// What is not a hole.
fn copy_data(source: &mut File, target: &mut File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(&*source, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that does not tell: all is data.
            Err(_) => at,
        };
        let hole = rustix::fs::seek(&*source, rustix::fs::SeekFrom::Hole(data)).unwrap_or(length);
        source.seek(SeekFrom::Start(data))?;
        target.seek(SeekFrom::Start(data))?;
        at = data;
        while at < hole {
            let want = usize::try_from(hole - at).map_or(BLOCK, |n| n.min(BLOCK));
            let n = source.read(&mut buffer[..want])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if buffer[..n].iter().any(|b| *b != 0) {
                target.write_all(&buffer[..n])?;
            } else {
                target.seek(SeekFrom::Current(n as i64))?;
            }
            at += n as u64;
        }
    }
    Ok(())
}

/// With this account's rights alone, whatever the image names.
fn unpack(from: &Path, to: &Path) -> io::Result<()> {
    let ended = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(from)
        .arg(to)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            let text = format!("a qcow2 image needs `qemu-img` on the node, or make it raw: {e}");
            io::Error::new(e.kind(), text)
        })?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(io::Error::other(format!(
        "`qemu-img convert` failed: {said}"
    )))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let file = create(&from).unwrap();
        file.set_len(32 << 20).unwrap();
        for at in [0, (5 << 20) + 17, (31 << 20) - 3] {
            file.write_all_at(b"word", at).unwrap();
        }
        lay_out(Some((from.clone(), DiskFormat::Raw)), &to, 40 << 20).unwrap();
        let (mut whole, copied) = (std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        whole.resize(40 << 20, 0);
        assert!(whole == copied, "other bytes");
        let taken = std::fs::metadata(&to).unwrap().blocks() * 512;
        assert!(taken < 8 << 20, "{taken} bytes");
        assert!(lay_out(None, &to, 1).is_err(), "it overwrote a disk");
        let short = dir.path().join("c");
        assert!(lay_out(Some((from, DiskFormat::Raw)), &short, 1 << 20).is_err());
    }
}
