//! A memory on its way into a file of a state, in one pass or in many.
//!
//! A pass brings some of the chunks: it reads and hashes them, and writes those that are not in the
//! file already. So a memory can be brought while it is in use; the last pass, when it stands
//! still, brings what has changed since. What is in the file is known by the chunks' digests, which
//! are noted when the bytes are handed to the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

use super::chunk_set::ChunkSet;
use super::{
    CHUNK, ChunkDigest, NOTHING, Sum, digest, is_whole, length, open_past_cache, retry_cached, sum,
};
use crate::durable::create_new;
use crate::walk::{BlockWork, Buffer, Effort, walk};

/// In a place whose writing failed: the digest of nothing that exists.
const UNKNOWN: ChunkDigest = [0xff; blake3::OUT_LEN];

/// The file, and what is in it.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    bytes: u64,
    digests: Vec<ChunkDigest>,
    is_new: bool,
}

impl Image {
    /// A new file for a memory of `bytes`, which holds zeros.
    pub(crate) fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        is_whole(bytes)?;
        drop(create_new(path)?);
        let file = open_past_cache(OpenOptions::new().write(true), path)?;
        let chunks = usize::try_from(bytes / CHUNK as u64).map_err(io::Error::other)?;
        Ok(Self {
            file,
            bytes,
            digests: vec![NOTHING; chunks],
            is_new: true,
        })
    }

    /// Brings those chunks of `memory` as they are now; returns the bytes that were written. Gives
    /// up between two blocks, as interrupted, when `stop` says so. Whatever the end, it can be
    /// called again.
    pub(crate) fn bring(
        &mut self,
        memory: &File,
        chunks: &ChunkSet,
        effort: Effort,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<u64> {
        // A file that grows in order is written fastest (measured: by a quarter).
        let in_order = self.is_new;
        self.is_new = false;
        let pass = Pass {
            memory,
            bytes: self.bytes,
            file: &self.file,
            chunks,
            digests: Mutex::new(std::mem::take(&mut self.digests)),
            stop,
        };
        let written = walk(&chunks.blocks(), effort, in_order, &pass);
        self.digests = pass
            .digests
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        // One that was given back meanwhile reads as a hole.
        if memory.metadata()?.len() < self.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(written?.iter().map(|made| made.written).sum())
    }

    /// Makes durable what was brought so far.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// All is brought: what the file is.
    pub(crate) fn finish(&self) -> io::Result<Sum> {
        if self.digests.contains(&UNKNOWN) {
            return Err(io::Error::other("a part of the memory was not written"));
        }
        // It may end with a hole.
        self.file.set_len(self.bytes)?;
        Ok(sum(&self.digests))
    }
}

struct Pass<'a> {
    memory: &'a File,
    bytes: u64,
    file: &'a File,
    chunks: &'a ChunkSet,
    digests: Mutex<Vec<ChunkDigest>>,
    stop: &'a (dyn Fn() -> bool + Sync),
}

/// What is new in a block.
struct Made {
    changes: Vec<Change>,
    written: u64,
}

/// A chunk that is not in the file as it is in the memory.
struct Change {
    /// Its number, from the beginning of the memory.
    chunk: usize,
    /// Where it is in the block.
    offset: usize,
    digest: ChunkDigest,
}

impl BlockWork for Pass<'_> {
    type Made = Made;

    fn take(&self, block: &mut Buffer, at: u64) -> io::Result<Made> {
        if (self.stop)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = length(self.bytes, at);
        let room = block.room(length);
        let wanted = self.chunks.in_block(at);
        let is_wanted = |n: usize| wanted >> n & 1 == 1;
        let count = length / CHUNK;
        if (0..count).all(is_wanted) {
            self.memory.read_exact_at(room, at)?;
        } else {
            for n in (0..count).filter(|n| is_wanted(*n)) {
                let offset = n * CHUNK;
                let room = &mut room[offset..offset + CHUNK];
                self.memory.read_exact_at(room, at + offset as u64)?;
            }
        }
        let first = usize::try_from(at).map_err(io::Error::other)? / CHUNK;
        let mut changes: Vec<Change> = (0..count)
            .filter(|n| is_wanted(*n))
            .map(|n| Change {
                chunk: first + n,
                offset: n * CHUNK,
                digest: digest(&room[n * CHUNK..(n + 1) * CHUNK]),
            })
            .collect();
        let known = self.digests();
        changes.retain(|c| known[c.chunk] != c.digest);
        let written = changes.iter().filter(|c| c.digest != NOTHING).count() * CHUNK;
        Ok(Made {
            changes,
            written: written as u64,
        })
    }

    fn place(&self, block: &Buffer, at: u64, made: &Made) -> io::Result<()> {
        self.note(&made.changes, |_| UNKNOWN);
        let mut rest = made.changes.as_slice();
        while let Some((first, others)) = rest.split_first() {
            // As many as are one write.
            let is_data = first.digest != NOTHING;
            let follows = |(n, c): &(usize, &Change)| {
                c.chunk == first.chunk + 1 + n && (c.digest != NOTHING) == is_data
            };
            let more = others.iter().enumerate().take_while(follows).count();
            let range = first.offset..first.offset + (1 + more) * CHUNK;
            let place = at + range.start as u64;
            if is_data {
                let bytes = &block.bytes()[range];
                retry_cached(self.file, || self.file.write_all_at(bytes, place))?;
            } else {
                self.clear(place, range.len() as u64)?;
            }
            rest = &others[more..];
        }
        self.note(&made.changes, |c| c.digest);
        Ok(())
    }
}

impl Pass<'_> {
    fn digests(&self) -> MutexGuard<'_, Vec<ChunkDigest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, changes: &[Change], as_what: impl Fn(&Change) -> ChunkDigest) {
        let mut digests = self.digests();
        for change in changes {
            digests[change.chunk] = as_what(change);
        }
    }

    /// Makes a hole where there was something.
    fn clear(&self, at: u64, bytes: u64) -> io::Result<()> {
        let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(self.file, flags, signed(at)?, signed(bytes)?).is_ok() {
            return Ok(());
        }
        // A file system that makes no holes.
        let zeros = Buffer::zeros()?;
        for chunk in (0..bytes).step_by(CHUNK) {
            let bytes = &zeros.bytes()[..CHUNK];
            retry_cached(self.file, || self.file.write_all_at(bytes, at + chunk))?;
        }
        Ok(())
    }
}
