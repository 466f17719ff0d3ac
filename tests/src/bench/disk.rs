//! The baselines: the same bytes, plainly written to and read from the same disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::clock;

const BLOCK: usize = 1 << 20;

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
    /// Writes `bytes` that do not compress into a new file in `dir`, and syncs it.
    pub(super) fn write(dir: &Path, bytes: u64) -> Result<(Self, Duration)> {
        let it = Self {
            path: dir.join("plain"),
        };
        let block = noise();
        let begin = clock::now();
        let file = File::create(&it.path);
        let mut file = file.with_context(|| format!("failed to create {}", it.path.display()))?;
        let mut left = bytes;
        while left > 0 {
            let n = block.len().min(usize::try_from(left)?);
            file.write_all(&block[..n])
                .context("failed to write the plain file")?;
            left -= n as u64;
        }
        file.sync_all().context("failed to sync the plain file")?;
        Ok((it, begin.elapsed()))
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

fn noise() -> Vec<u8> {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        block.extend_from_slice(&x.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_file_has_the_bytes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = BLOCK as u64 * 2 + 7;
        let (file, _) = PlainFile::write(dir.path(), bytes).unwrap();
        assert_eq!(fs::metadata(dir.path().join("plain")).unwrap().len(), bytes);
        file.read().unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
