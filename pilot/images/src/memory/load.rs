//! The way back: from a state's file into a memory, with every byte hashed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chunk_set::ChunkSet;
use super::{
    CHUNK, ChunkDigest, NOTHING, Sum, digest, is_whole, length, open_past_cache, retry_cached, sum,
};
use crate::walk::{BlockWork, Buffer, Effort, walk};

/// Where an image is loaded to, as long as it is wanted there. All of the memory is zero before.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub memory: &'a File,
    /// Asked before each block.
    pub wanted: &'a (dyn Fn() -> bool + Sync),
}

/// Hashes the memory file at `path`, which is `bytes` long, and loads it on the way, if `into` is
/// given.
pub(crate) fn load(path: &Path, bytes: u64, into: Option<Target<'_>>) -> io::Result<Sum> {
    let file = open_past_cache(OpenOptions::new().read(true), path)?;
    is_whole(bytes)?;
    let blocks = ChunkSet::with_data(&file, bytes)?.blocks();
    let load = Load {
        file: &file,
        bytes,
        into,
    };
    let made = walk(&blocks, Effort::Full, false, &load)?;
    let mut all = vec![NOTHING; usize::try_from(bytes).map_err(io::Error::other)? / CHUNK];
    for (at, digests) in blocks.iter().zip(made) {
        let first = usize::try_from(*at).map_err(io::Error::other)? / CHUNK;
        all[first..first + digests.len()].copy_from_slice(&digests);
    }
    Ok(sum(&all))
}

struct Load<'a> {
    file: &'a File,
    bytes: u64,
    into: Option<Target<'a>>,
}

impl BlockWork for Load<'_> {
    type Made = Vec<ChunkDigest>;

    fn take(&self, block: &mut Buffer, at: u64) -> io::Result<Self::Made> {
        if self.into.is_some_and(|into| !(into.wanted)()) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let room = block.room(length(self.bytes, at));
        retry_cached(self.file, || self.file.read_exact_at(room, at))?;
        Ok(room.chunks(CHUNK).map(digest).collect())
    }

    fn place(&self, block: &Buffer, at: u64, digests: &Self::Made) -> io::Result<()> {
        let Some(Target { memory, .. }) = self.into else {
            return Ok(());
        };
        let mut n = 0;
        for same in digests.chunk_by(|a, b| (*a == NOTHING) == (*b == NOTHING)) {
            let range = n * CHUNK..(n + same.len()) * CHUNK;
            n += same.len();
            if same.first() != Some(&NOTHING) {
                memory.write_all_at(&block.bytes()[range.clone()], at + range.start as u64)?;
            }
        }
        Ok(())
    }
}
