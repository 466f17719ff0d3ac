//! Which chunks of a memory: those that hold data, those that have changed.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::CHUNK;
use crate::walk::BLOCK;

const CHUNK_BYTES: u64 = CHUNK as u64;
const PER_WORD: u64 = 64;
const PER_BLOCK: u64 = (BLOCK / CHUNK) as u64;

/// Some of the chunks (64 KiB each) of a memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkSet {
    /// Length of the memory, bytes.
    bytes: u64,
    /// A bit a chunk.
    words: Vec<u64>,
}

impl ChunkSet {
    /// None of a memory of `bytes`.
    pub fn none(bytes: u64) -> Self {
        let words = bytes.div_ceil(CHUNK_BYTES).div_ceil(PER_WORD);
        let words = vec![0; usize::try_from(words).unwrap_or(usize::MAX)];
        Self { bytes, words }
    }

    /// All of a memory of `bytes`.
    pub fn all(bytes: u64) -> Self {
        let mut all = Self::none(bytes);
        all.insert(0..bytes);
        all
    }

    /// Those of `memory` that are no hole from end to end.
    ///
    /// # Errors
    /// The memory can't be looked at.
    pub fn with_data(memory: &File, bytes: u64) -> io::Result<Self> {
        let mut found = Self::none(bytes);
        let mut at = 0;
        while at < bytes {
            let data = match seek(memory, at, Whence::SeekData) {
                Ok(data) => data,
                Err(Errno::ENXIO) => break,
                // A file system that knows of no holes: all is data.
                Err(Errno::EINVAL | Errno::ENOTSUP) => return Ok(Self::all(bytes)),
                Err(e) => return Err(e.into()),
            };
            if data >= bytes {
                break;
            }
            let hole = seek(memory, data, Whence::SeekHole)?.min(bytes);
            found.insert(data..hole);
            at = hole;
        }
        Ok(found)
    }

    /// Adds all chunks that have one of these bytes. What is beyond the memory is left out.
    pub fn insert(&mut self, bytes: Range<u64>) {
        let end = bytes.end.min(self.bytes);
        if bytes.start >= end {
            return;
        }
        for chunk in bytes.start / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES) {
            if let Some(word) = self.word(chunk) {
                self.words[word] |= 1 << (chunk % PER_WORD);
            }
        }
    }

    /// Adds those of another set of the same memory.
    pub fn merge(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Length of all of them together.
    pub fn data_bytes(&self) -> u64 {
        let count: u64 = self.words.iter().map(|w| u64::from(w.count_ones())).sum();
        count * CHUNK_BYTES
    }

    /// The bytes that they cover, in as few and as long ranges as can be.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for chunk in (0..self.bytes.div_ceil(CHUNK_BYTES)).filter(|c| self.contains(*c)) {
            let at = chunk * CHUNK_BYTES;
            let end = (at + CHUNK_BYTES).min(self.bytes);
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end = end,
                Some(_) | None => ranges.push(at..end),
            }
        }
        ranges
    }

    /// Where the blocks begin in which some of them are.
    pub(crate) fn blocks(&self) -> Vec<u64> {
        let blocks = (0..self.bytes).step_by(BLOCK);
        blocks.filter(|at| self.in_block(*at) != 0).collect()
    }

    /// Which chunks of the block at `at`: a bit each, the first one lowest.
    pub(crate) fn in_block(&self, at: u64) -> u64 {
        let first = at / CHUNK_BYTES;
        let word = self.word(first).map_or(0, |word| self.words[word]);
        (word >> (first % PER_WORD)) & ((1 << PER_BLOCK) - 1)
    }

    fn contains(&self, chunk: u64) -> bool {
        self.word(chunk)
            .is_some_and(|word| self.words[word] >> (chunk % PER_WORD) & 1 == 1)
    }

    fn word(&self, chunk: u64) -> Option<usize> {
        let word = usize::try_from(chunk / PER_WORD).ok()?;
        (word < self.words.len()).then_some(word)
    }
}

fn seek(file: &File, from: u64, whence: Whence) -> Result<u64, Errno> {
    let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
    let at = lseek(file, from, whence)?;
    u64::try_from(at).map_err(|_| Errno::EOVERFLOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn it_holds_the_chunks_of_the_bytes_that_were_put_in() {
        let bytes = 5 * BLOCK as u64 + 3 * CHUNK_BYTES;
        let mut set = ChunkSet::none(bytes);
        assert!(set.is_empty() && set.blocks().is_empty() && set.ranges().is_empty());
        set.insert(10..10);
        assert!(set.is_empty());
        set.insert(CHUNK_BYTES - 1..CHUNK_BYTES + 1);
        set.insert(bytes - 1..bytes + 5 * CHUNK_BYTES);
        assert_eq!(set.data_bytes(), 3 * CHUNK_BYTES);
        assert_eq!(
            set.ranges(),
            [0..2 * CHUNK_BYTES, bytes - CHUNK_BYTES..bytes]
        );
        assert_eq!(set.blocks(), [0, 5 * BLOCK as u64]);
        assert_eq!((set.in_block(0), set.in_block(5 * BLOCK as u64)), (3, 4));
        let mut other = ChunkSet::none(bytes);
        other.insert(2 * CHUNK_BYTES..4 * BLOCK as u64);
        set.merge(&other);
        assert_eq!(
            set.ranges(),
            [0..4 * BLOCK as u64, bytes - CHUNK_BYTES..bytes]
        );
        assert_eq!(ChunkSet::all(bytes).data_bytes(), bytes);
        assert_eq!(ChunkSet::all(bytes).blocks().len(), 6);
    }

    #[test]
    fn what_a_file_holds_is_found() {
        let file = tempfile::tempfile().unwrap();
        let bytes = 64 * BLOCK as u64;
        file.set_len(bytes).unwrap();
        assert!(ChunkSet::with_data(&file, bytes).unwrap().is_empty());
        file.write_all_at(&[1], 7 * CHUNK_BYTES + 5).unwrap();
        file.write_all_at(&[1], bytes - 1).unwrap();
        let found = ChunkSet::with_data(&file, bytes).unwrap();
        let last = bytes - CHUNK_BYTES..bytes;
        assert_eq!(found.ranges(), [7 * CHUNK_BYTES..8 * CHUNK_BYTES, last]);
    }
}
