//! A guest's memory as a file of a state: as long as the memory, with a hole where it is zero.
//!
//! Several threads each take the next block, read it, hash it and hand it to the disk past the page
//! cache, so that the disk is busy while a processor hashes. They write one after the other, which
//! lets the file grow in order (measured: a quarter faster than into holes or reserved room, at all
//! numbers of threads). On the way back they read through the page cache, as they come (measured:
//! up to twice as fast as past it).
//!
//! The digest is made of the digests of equal chunks, so that the chunks can be hashed in any order
//! and at once, and zeros cost nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Whence, lseek};

use crate::durable::create_new;
use crate::walk::{BLOCK, BlockWork, Buffer, walk};

/// Bytes of a chunk: what has a digest of its own, and what is left out when it is all zero.
pub(crate) const CHUNK: usize = 64 << 10;

/// The BLAKE3 of a chunk; all zero for one that is all zero.
type ChunkDigest = [u8; blake3::OUT_LEN];
static ZERO: [u8; CHUNK] = [0; CHUNK];

/// What is in a memory file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sum {
    /// BLAKE3 of all chunks' digests, in hex.
    pub hex: String,
    /// Bytes of the chunks that are not all zero.
    pub data: u64,
}

/// Writes the `bytes` of `memory` into a new file at `path`, which is not synced. Gives up between
/// two blocks, as interrupted, when `stop` says so.
pub(crate) fn save(
    memory: &File,
    bytes: u64,
    path: &Path,
    stop: &(dyn Fn() -> bool + Sync),
) -> io::Result<Sum> {
    let places = blocks_with_data(memory, bytes)?;
    drop(create_new(path)?);
    let file = open_past_cache(OpenOptions::new().write(true), path)?;
    let save = Save {
        memory,
        bytes,
        file: &file,
        stop,
    };
    let digests = walk(&places, true, &save)?;
    // One that was given back meanwhile reads as a hole.
    if memory.metadata()?.len() < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // It may end with a hole.
    file.set_len(bytes)?;
    Ok(sum(bytes, &places, &digests))
}

/// Reads the memory file at `path`, which is `bytes` long, into `memory`, where there is one; all
/// of that is zero before.
pub(crate) fn load(path: &Path, bytes: u64, memory: Option<&File>) -> io::Result<Sum> {
    // Through the page cache, which reads ahead: past it a disk has one block at a time to read.
    let file = File::open(path)?;
    let places = blocks_with_data(&file, bytes)?;
    let load = Load {
        file: &file,
        bytes,
        memory,
    };
    let digests = walk(&places, false, &load)?;
    Ok(sum(bytes, &places, &digests))
}

struct Save<'a> {
    memory: &'a File,
    bytes: u64,
    file: &'a File,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl BlockWork for Save<'_> {
    type Made = Vec<ChunkDigest>;

    fn take(&self, block: &mut Buffer, at: u64) -> io::Result<Self::Made> {
        if (self.stop)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let room = block.room(length(self.bytes, at));
        self.memory.read_exact_at(room, at)?;
        Ok(digests(room))
    }

    fn place(&self, block: &Buffer, at: u64, digests: &Self::Made) -> io::Result<()> {
        for run in runs(digests) {
            let at = at + run.start as u64;
            let bytes = &block.bytes()[run];
            retry_cached(self.file, || self.file.write_all_at(bytes, at))?;
        }
        Ok(())
    }
}

struct Load<'a> {
    file: &'a File,
    bytes: u64,
    memory: Option<&'a File>,
}

impl BlockWork for Load<'_> {
    type Made = Vec<ChunkDigest>;

    fn take(&self, block: &mut Buffer, at: u64) -> io::Result<Self::Made> {
        let room = block.room(length(self.bytes, at));
        self.file.read_exact_at(room, at)?;
        Ok(digests(room))
    }

    fn place(&self, block: &Buffer, at: u64, digests: &Self::Made) -> io::Result<()> {
        let Some(memory) = self.memory else {
            return Ok(());
        };
        for run in runs(digests) {
            memory.write_all_at(&block.bytes()[run.clone()], at + run.start as u64)?;
        }
        Ok(())
    }
}

/// How long the block at `at` is.
fn length(bytes: u64, at: u64) -> usize {
    usize::try_from(bytes - at).map_or(BLOCK, |rest| rest.min(BLOCK))
}

/// The sum over all chunks: those of the blocks at `places`, and zeros for the others.
fn sum(bytes: u64, places: &[u64], blocks: &[Vec<ChunkDigest>]) -> Sum {
    let mut hasher = blake3::Hasher::new();
    let (mut data, mut hashed) = (0, 0);
    let zeros = |hasher: &mut blake3::Hasher, from: u64, to: u64| {
        for _ in (from..to).step_by(CHUNK) {
            hasher.update(&[0; blake3::OUT_LEN]);
        }
    };
    for (&at, digests) in places.iter().zip(blocks) {
        zeros(&mut hasher, hashed, at);
        for digest in digests {
            hasher.update(digest);
        }
        let full = digests.iter().filter(|d| is_data(d)).count();
        data += (full * CHUNK) as u64;
        hashed = at + (digests.len() * CHUNK) as u64;
    }
    zeros(&mut hasher, hashed, bytes);
    Sum {
        hex: hasher.finalize().to_hex().to_string(),
        data,
    }
}

fn is_data(digest: &ChunkDigest) -> bool {
    *digest != [0; blake3::OUT_LEN]
}

fn digests(block: &[u8]) -> Vec<ChunkDigest> {
    let digest = |chunk: &[u8]| match chunk == &ZERO[..chunk.len()] {
        true => [0; blake3::OUT_LEN],
        false => *blake3::hash(chunk).as_bytes(),
    };
    block.chunks(CHUNK).map(digest).collect()
}

/// The byte ranges of a block that are not zero, as few and as long as can be.
fn runs(digests: &[ChunkDigest]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (n, _) in digests.iter().enumerate().filter(|(_, d)| is_data(d)) {
        let chunk = n * CHUNK..(n + 1) * CHUNK;
        match runs.last_mut() {
            Some(last) if last.end == chunk.start => last.end = chunk.end,
            Some(_) | None => runs.push(chunk),
        }
    }
    runs
}

/// Where the blocks begin that are not holes from end to end.
fn blocks_with_data(file: &File, bytes: u64) -> io::Result<Vec<u64>> {
    if !bytes.is_multiple_of(CHUNK as u64) {
        let text = format!("a memory of {bytes} bytes is no multiple of {CHUNK}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < bytes {
        let from = i64::try_from(at).map_err(io::Error::other)?;
        let data = match lseek(file, from, Whence::SeekData) {
            Ok(data) => u64::try_from(data).map_err(io::Error::other)?,
            Err(Errno::ENXIO) => break,
            // A file system that knows of no holes: all is data.
            Err(Errno::EINVAL | Errno::ENOTSUP) => at,
            Err(e) => return Err(e.into()),
        };
        let block = data - data % BLOCK as u64;
        if block >= bytes {
            break;
        }
        blocks.push(block);
        at = block + BLOCK as u64;
    }
    Ok(blocks)
}

/// Upper bound of what a state of a memory of `bytes` takes: its chunks that are no hole.
///
/// # Errors
/// The memory can't be looked at.
pub fn memory_bytes(memory: &File, bytes: u64) -> io::Result<u64> {
    let seek = |from: u64, whence| {
        let from = i64::try_from(from).map_err(io::Error::other)?;
        match lseek(memory, from, whence) {
            Ok(at) => u64::try_from(at).map_err(io::Error::other),
            Err(Errno::ENXIO) => Ok(bytes),
            Err(e) => Err(e.into()),
        }
    };
    let chunk = CHUNK as u64;
    let (mut at, mut found) = (0, 0);
    while at < bytes {
        let data = seek(at, Whence::SeekData)?.min(bytes);
        if data == bytes {
            break;
        }
        let hole = seek(data, Whence::SeekHole)?.min(bytes);
        let first = data - data % chunk;
        at = hole.next_multiple_of(chunk);
        found += at - first;
    }
    Ok(found)
}

/// Opens past the page cache, or through it where the file system knows no other way.
fn open_past_cache(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    match options.custom_flags(OFlag::O_DIRECT.bits()).open(path) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => options.custom_flags(0).open(path),
        other => other,
    }
}

/// Goes through the page cache after all when the disk wants larger multiples than ours.
fn retry_cached(file: &File, mut io: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    match io() {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
            fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
            io()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::walk::is_interrupted;

    /// A memory of `blocks` blocks in which the bytes of `data` are not zero.
    fn memory(bytes: u64, data: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        for (at, part) in data {
            file.write_all_at(part, *at).unwrap();
        }
        file
    }

    fn content(file: &File, bytes: u64) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(bytes).unwrap()];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let word = |n: u64| (n + 1).wrapping_mul(seed).rotate_left(17).to_le_bytes();
        (0..length as u64 / 8).flat_map(word).collect()
    }

    #[test]
    fn what_was_saved_is_loaded_and_zeros_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let block = BLOCK as u64;
        let chunk = CHUNK as u64;
        let long = noise(2 * BLOCK + CHUNK, 0x9e37_79b9_7f4a_7c15);
        // Size, what is in it, chunks of a state of it.
        type Case<'a> = (u64, Vec<(u64, &'a [u8])>, u64);
        let cases: [Case; 6] = [
            (0, vec![], 0),
            (chunk, vec![(chunk - 1, &[7])], 1),
            (block, vec![], 0),
            (
                5 * block + 3 * chunk,
                vec![(5 * block + 3 * chunk - 1, &[7])],
                1,
            ),
            (
                9 * block,
                vec![
                    (block - 1, &[1, 2]),
                    (7 * block, &[0; 5]),
                    (8 * block, &[9]),
                ],
                3,
            ),
            (4 * block, vec![(block + 100, &long)], 2 * 16 + 2),
        ];
        for (n, (bytes, data, chunks)) in cases.iter().enumerate() {
            let path = dir.path().join(format!("memory-{n}"));
            let from = memory(*bytes, data);
            let saved = save(&from, *bytes, &path, &|| false).unwrap();
            assert_eq!(saved.data, chunks * chunk, "case {n}");
            let bound = memory_bytes(&from, *bytes).unwrap();
            assert!(
                (saved.data..=saved.data + chunk).contains(&bound),
                "case {n}: {bound}"
            );
            let file = File::open(&path).unwrap();
            assert_eq!(file.metadata().unwrap().size(), *bytes, "case {n}");
            assert!(
                file.metadata().unwrap().blocks() * 512 <= saved.data,
                "case {n}"
            );
            let into = memory(*bytes, &[]);
            assert_eq!(load(&path, *bytes, Some(&into)).unwrap(), saved, "case {n}");
            assert_eq!(load(&path, *bytes, None).unwrap(), saved, "case {n}");
            assert!(content(&into, *bytes) == content(&from, *bytes), "case {n}");
        }
    }

    #[test]
    fn every_altered_bit_and_every_moved_chunk_changes_the_sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let bytes = 3 * BLOCK as u64;
        let part = noise(CHUNK, 3);
        let saved = save(&memory(bytes, &[(0, &part)]), bytes, &path, &|| false).unwrap();
        let altered = OpenOptions::new().write(true).open(&path).unwrap();
        let sum = || load(&path, bytes, None).unwrap();
        for at in [0, CHUNK as u64, bytes - 1] {
            let was = content(&File::open(&path).unwrap(), bytes)[usize::try_from(at).unwrap()];
            altered.write_all_at(&[was ^ 16], at).unwrap();
            assert_ne!(sum(), saved, "at {at}");
            altered.write_all_at(&[was], at).unwrap();
            assert_eq!(sum(), saved, "at {at}");
        }
        altered.write_all_at(&ZERO, 0).unwrap();
        altered.write_all_at(&part, BLOCK as u64).unwrap();
        assert_eq!(sum().data, saved.data);
        assert_ne!(sum().hex, saved.hex);
    }

    #[test]
    fn a_memory_whose_saving_fails_or_is_called_off_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = 2 * BLOCK as u64;
        let from = memory(bytes, &[(0, &[1]), (BLOCK as u64, &[2])]);
        let path = dir.path().join("called-off");
        let e = save(&from, bytes, &path, &|| true).unwrap_err();
        assert!(is_interrupted(&e), "{e}");
        let e = save(&from, bytes, &path, &|| false).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists, "{e}");
        let e = save(&from, bytes + 1, &dir.path().join("odd"), &|| false).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput, "{e}");
        // Longer than what there is to read.
        let e = save(&from, 2 * bytes, &dir.path().join("long"), &|| false).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{e}");
        let e = load(&dir.path().join("none"), bytes, None).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound, "{e}");
    }
}
