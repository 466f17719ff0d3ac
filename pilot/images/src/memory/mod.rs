//! A guest's memory as a file of a state: as long as the memory, with a hole where it is zero.
//!
//! Several threads each take the next block, read it, hash it and hand it to the disk past the page
//! cache, so that the disk is busy while a processor hashes. The first pass writes one block after
//! the other, which lets the file grow in order (measured: a quarter faster than into holes or
//! reserved room, at all numbers of threads). The way back goes past the page cache too: it costs
//! the node's processors and its cache nothing.
//!
//! The digest is made of the digests of equal chunks, so that the chunks can be hashed in any order
//! and at once, and zeros cost nothing.

mod chunk_set;
mod image;
mod load;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

pub use chunk_set::ChunkSet;
pub(crate) use image::Image;
pub(crate) use load::{Target, load};

use crate::walk::BLOCK;

/// Bytes of a chunk: what has a digest of its own, and what is left out when it is all zero.
pub(crate) const CHUNK: usize = 64 << 10;

/// The BLAKE3 of a chunk; [`NOTHING`] for one that is all zero.
type ChunkDigest = [u8; blake3::OUT_LEN];
const NOTHING: ChunkDigest = [0; blake3::OUT_LEN];
static ZERO: [u8; CHUNK] = [0; CHUNK];

/// What is in a memory file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sum {
    /// BLAKE3 of all chunks' digests, in hex.
    pub hex: String,
    /// Bytes of the chunks that are not all zero.
    pub data: u64,
}

/// The sum over all chunks.
fn sum(digests: &[ChunkDigest]) -> Sum {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(digest);
    }
    let full = digests.iter().filter(|d| **d != NOTHING).count();
    Sum {
        hex: hasher.finalize().to_hex().to_string(),
        data: (full * CHUNK) as u64,
    }
}

fn digest(chunk: &[u8]) -> ChunkDigest {
    match chunk == &ZERO[..chunk.len()] {
        true => NOTHING,
        false => *blake3::hash(chunk).as_bytes(),
    }
}

/// A memory has no part of a chunk.
fn is_whole(bytes: u64) -> io::Result<()> {
    if bytes.is_multiple_of(CHUNK as u64) {
        return Ok(());
    }
    let text = format!("a memory of {bytes} bytes is no multiple of {CHUNK}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// How long the block at `at` is.
fn length(bytes: u64, at: u64) -> usize {
    usize::try_from(bytes - at).map_or(BLOCK, |rest| rest.min(BLOCK))
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
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::walk::{Effort, is_interrupted};

    fn save(
        memory: &File,
        bytes: u64,
        path: &Path,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Sum> {
        let mut image = Image::create(path, bytes)?;
        image.bring(
            memory,
            &ChunkSet::with_data(memory, bytes)?,
            Effort::Full,
            stop,
        )?;
        image.finish()
    }

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
            (
                4 * block,
                vec![(block + 100, &long)],
                2 * (block / chunk) + 2,
            ),
        ];
        for (n, (bytes, data, chunks)) in cases.iter().enumerate() {
            let path = dir.path().join(format!("memory-{n}"));
            let from = memory(*bytes, data);
            let saved = save(&from, *bytes, &path, &|| false).unwrap();
            assert_eq!(saved.data, chunks * chunk, "case {n}");
            let bound = ChunkSet::with_data(&from, *bytes).unwrap().data_bytes();
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
            let target = Target {
                memory: &into,
                wanted: &|| true,
            };
            assert_eq!(
                load(&path, *bytes, Some(target)).unwrap(),
                saved,
                "case {n}"
            );
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

    #[test]
    fn a_memory_in_use_is_brought_in_passes_and_only_what_is_new_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (block, chunk) = (BLOCK as u64, CHUNK as u64);
        let bytes = 9 * block + 5 * chunk;
        let memory = memory(bytes, &[(block, &noise(3 * BLOCK, 5)), (bytes - 1, &[1])]);
        let path = dir.path().join("in-passes");
        let mut image = Image::create(&path, bytes).unwrap();
        let mut bring = |chunks: &ChunkSet| {
            image
                .bring(&memory, chunks, Effort::Full, &|| false)
                .unwrap()
        };
        let all = ChunkSet::all(bytes);
        assert_eq!(bring(&all), 3 * block + chunk);
        assert_eq!(bring(&all), 0, "nothing is new");
        let changes: [(u64, &[u8]); 4] = [
            (block + 7, b"changed"),
            (5 * block - 3, b"across two blocks"),
            (8 * block, b"where nothing was"),
            (2 * block, &ZERO),
        ];
        let mut changed = ChunkSet::none(bytes);
        for (at, part) in changes {
            memory.write_all_at(part, at).unwrap();
            changed.insert(at..at + part.len() as u64);
        }
        assert_eq!(changed.data_bytes(), 5 * chunk);
        // What has become zero is made a hole.
        assert_eq!(bring(&changed), 4 * chunk);
        assert_eq!(bring(&all), 0, "nothing was forgotten");
        let whole = save(&memory, bytes, &dir.path().join("at-once"), &|| false).unwrap();
        image.sync().unwrap();
        assert_eq!(image.finish().unwrap(), whole);
        assert_eq!(load(&path, bytes, None).unwrap(), whole);
        let room = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(room < whole.data + chunk, "{room} for {}", whole.data);
    }

    #[test]
    fn a_pass_that_was_given_up_is_done_again_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = 40 * BLOCK as u64;
        let all = ChunkSet::all(bytes);
        let memory = memory(bytes, &[(0, &noise(40 * BLOCK, 7))]);
        let path = dir.path().join("memory");
        let mut image = Image::create(&path, bytes).unwrap();
        for patience in [0, 1, 7, 20, 39] {
            let asked = AtomicUsize::new(0);
            let stop = || asked.fetch_add(1, Ordering::Relaxed) >= patience;
            let e = image.bring(&memory, &all, Effort::Full, &stop).unwrap_err();
            assert!(is_interrupted(&e), "{e}");
            // All of it changes meanwhile.
            let more = noise(40 * BLOCK, 2 * patience as u64 + 9);
            memory.write_all_at(&more, 0).unwrap();
        }
        image.bring(&memory, &all, Effort::Full, &|| false).unwrap();
        let whole = save(&memory, bytes, &dir.path().join("at-once"), &|| false).unwrap();
        assert_eq!(image.finish().unwrap(), whole);
        assert_eq!(load(&path, bytes, None).unwrap(), whole);
    }

    #[test]
    fn a_part_that_could_not_be_written_is_not_taken_for_written() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = 2 * BLOCK as u64;
        let all = ChunkSet::all(bytes);
        let memory = memory(bytes, &[(0, &noise(2 * BLOCK, 11))]);
        let path = dir.path().join("memory");
        let mut image = Image::create(&path, bytes).unwrap();
        image.bring(&memory, &all, Effort::Full, &|| false).unwrap();
        memory.write_all_at(b"new", BLOCK as u64).unwrap();
        let writable = image.replace_file(File::open(&path).unwrap());
        image
            .bring(&memory, &all, Effort::Full, &|| false)
            .unwrap_err();
        let e = image.finish().unwrap_err();
        assert!(e.to_string().contains("was not written"), "{e}");
        // Even when it is again what it was before.
        memory.write_all_at(&noise(2 * BLOCK, 11), 0).unwrap();
        image.replace_file(writable);
        assert_eq!(
            image.bring(&memory, &all, Effort::Full, &|| false).unwrap(),
            CHUNK as u64
        );
        let sum = image.finish().unwrap();
        assert_eq!(load(&path, bytes, None).unwrap(), sum);
    }
}
