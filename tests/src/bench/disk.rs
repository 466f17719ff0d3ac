//! The baselines: the same bytes, plainly written to and read from the same disk.
//!
//! Which way of writing is the faster one depends on the disk and on what else the machine does;
//! what is compared with is the faster of the two.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;

use super::clock;
use super::figure::percentile;

const BLOCK: usize = 4 << 20;
const PAGE: usize = 4096;

/// How a plain write goes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the page cache, as `dd conv=fsync` does.
    Cached,
    /// Past it, as `dd oflag=direct conv=fsync` does.
    Direct,
}

/// A file of a size that is written and read plainly; removed when it is dropped.
#[derive(Debug)]
pub(super) struct PlainFile {
    path: PathBuf,
}

impl Drop for PlainFile {
    fn drop(&mut self) {
        // The directory goes as well.
        let _ = fs::remove_file(&self.path);
    }
}

impl PlainFile {
    /// Writes `bytes` (rounded up to whole pages) that do not compress into a new file in `dir`,
    /// and syncs it. None when the file system does not know that way of writing.
    pub(super) fn write(dir: &Path, bytes: u64, way: Way) -> Result<Option<(Self, Duration)>> {
        let it = Self {
            path: dir.join("plain"),
        };
        let block = Noise::new();
        settle(dir)?;
        let begin = clock::now();
        let mut file = match it.create(way) {
            Err(e) if e.kind() == ErrorKind::InvalidInput => return Ok(None),
            other => other.with_context(|| format!("failed to create {}", it.path.display()))?,
        };
        let mut left = usize::try_from(bytes)?.next_multiple_of(PAGE);
        while left > 0 {
            let part = block.bytes(left.min(BLOCK));
            file.write_all(part)
                .context("failed to write the plain file")?;
            left -= part.len();
        }
        file.sync_all().context("failed to sync the plain file")?;
        Ok(Some((it, begin.elapsed())))
    }

    fn create(&self, way: Way) -> io::Result<File> {
        let flags = match way {
            Way::Cached => OFlag::empty(),
            Way::Direct => OFlag::O_DIRECT,
        };
        File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flags.bits())
            .open(&self.path)
    }

    /// Reads it from the disk.
    pub(super) fn read(&self) -> Result<Duration> {
        forget(&self.path)?;
        let mut block = vec![0; BLOCK];
        let begin = clock::now();
        let mut file = File::open(&self.path).context("failed to open the plain file")?;
        while file
            .read(&mut block)
            .context("failed to read the plain file")?
            > 0
        {}
        Ok(begin.elapsed())
    }
}

/// Writes `bytes` in both ways, one after the other; the times, as far as there are any. The file
/// of the second is kept, to be read.
pub(super) fn write_both(dir: &Path, bytes: u64) -> Result<(PlainFile, Written)> {
    let direct = PlainFile::write(dir, bytes, Way::Direct)?.map(|(_, took)| took);
    let cached = PlainFile::write(dir, bytes, Way::Cached)?;
    let (file, cached) = cached.context("the file system does not take a plain file")?;
    Ok((file, Written { cached, direct }))
}

/// How long as many bytes took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub cached: Duration,
    pub direct: Option<Duration>,
}

/// Which way was the faster one, in words, and its times: by the median of all rounds.
pub(super) fn faster(rounds: &[Written]) -> (&'static str, Vec<Duration>) {
    let cached: Vec<Duration> = rounds.iter().map(|w| w.cached).collect();
    let direct: Vec<Duration> = rounds.iter().filter_map(|w| w.direct).collect();
    let median = |of: &[Duration]| {
        let seconds: Vec<f64> = of.iter().map(Duration::as_secs_f64).collect();
        percentile(&seconds, 50.0)
    };
    if !direct.is_empty() && median(&direct) < median(&cached) {
        ("plain direct write, fsync", direct)
    } else {
        ("plain write, fsync", cached)
    }
}

/// Waits until the disk has nothing to do: what was removed before, by whom ever, is not to be part
/// of what is measured next (a file system that discards pays for it at the next sync).
pub(super) fn settle(dir: &Path) -> Result<()> {
    let dir = File::open(dir).with_context(|| format!("failed to open {}", dir.display()))?;
    syncfs(&dir).context("failed to sync the file system")
}

/// Lets the page cache forget a file, or all files below a directory: the next who reads them
/// reads the disk.
pub(super) fn forget(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in
            fs::read_dir(path).with_context(|| format!("failed to list {}", path.display()))?
        {
            forget(&entry?.path())?;
        }
        return Ok(());
    }
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    // Only what is on the disk can be forgotten.
    file.sync_all().context("failed to sync")?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .context("failed to drop a file from the page cache")
}

/// A block that does not compress, at an address that suits direct writes.
struct Noise {
    memory: Vec<u8>,
    start: usize,
}

impl Noise {
    fn new() -> Self {
        let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut memory = Vec::with_capacity(BLOCK + PAGE);
        while memory.len() < BLOCK + PAGE {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            memory.extend_from_slice(&x.to_le_bytes());
        }
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start }
    }

    fn bytes(&self, length: usize) -> &[u8] {
        &self.memory[self.start..self.start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_file_has_the_bytes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = BLOCK as u64 * 2 + 7;
        for way in [Way::Cached, Way::Direct] {
            let Some((file, _)) = PlainFile::write(dir.path(), bytes, way).unwrap() else {
                assert_eq!(way, Way::Direct);
                continue;
            };
            let length = fs::metadata(dir.path().join("plain")).unwrap().len();
            assert_eq!(length, bytes.next_multiple_of(4096), "{way:?}");
            file.read().unwrap();
            drop(file);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
