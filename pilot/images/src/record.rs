//! Takes a stream into a file as fast as the disk writes: hashed on the way, in large blocks, past
//! the page cache where the file system can.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::digest::{Algorithm, Digest, Hasher};

/// What goes to the disk at once. Large enough that a disk is busy with one.
const BLOCK: usize = 4 << 20;
/// What a disk wants addresses and lengths to be multiples of when the page cache is left out.
const ALIGN: usize = 4096;
/// Blocks that are read ahead of the disk.
const AHEAD: usize = 3;

/// A stream on its way into a file. Dropped, it is given up: its threads end when the stream does.
#[derive(Debug)]
pub struct Recorder {
    reader: JoinHandle<io::Result<(Digest, u64)>>,
}

impl Recorder {
    /// Starts to take all that comes out of `source` into the file at `path`, which exists and is
    /// empty. When the file can't be written, `source` is dropped, so that its writer notices.
    ///
    /// # Errors
    /// The file can't be opened, or there are no threads to be had.
    pub fn start(path: &Path, source: impl Read + Send + 'static) -> io::Result<Self> {
        let file = open(path)?;
        let (full, blocks) = sync_channel(AHEAD);
        let (empty, spare) = sync_channel(AHEAD);
        let writer = thread::Builder::new()
            .name("state-write".into())
            .spawn(move || write(&file, &blocks, &empty))?;
        let reader = thread::Builder::new()
            .name("state-hash".into())
            .spawn(move || read(source, full, &spare, writer))?;
        Ok(Self { reader })
    }

    /// Waits for the end of the stream: the digest and the length of what is in the file. It is
    /// not synced yet.
    ///
    /// # Errors
    /// The stream can't be read, or the file can't be written.
    pub fn finish(self) -> io::Result<(Digest, u64)> {
        let died = |_| Err(io::Error::other("the recording thread died"));
        self.reader.join().unwrap_or_else(died)
    }
}

/// Opens past the page cache, or through it where the file system knows no other way.
fn open(path: &Path) -> io::Result<File> {
    let open = |flags: OFlag| {
        OpenOptions::new()
            .write(true)
            .custom_flags(flags.bits())
            .open(path)
    };
    match open(OFlag::O_DIRECT) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => open(OFlag::empty()),
        other => other,
    }
}

/// A buffer whose address suits the disk.
struct Block {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BLOCK + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self {
            memory,
            start,
            filled: 0,
        }
    }

    fn bytes(&self, length: usize) -> &[u8] {
        &self.memory[self.start..self.start + length]
    }

    /// Fills it from the stream; less than full only at its end.
    fn fill(&mut self, source: &mut impl Read, hasher: &mut Hasher) -> io::Result<()> {
        self.filled = 0;
        while self.filled < BLOCK {
            let from = self.start + self.filled;
            match source.read(&mut self.memory[from..self.start + BLOCK]) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&self.memory[from..from + n]);
                    self.filled += n;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn read(
    mut source: impl Read,
    full: SyncSender<Block>,
    spare: &Receiver<Block>,
    writer: JoinHandle<io::Result<()>>,
) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new(Algorithm::Blake3);
    let mut bytes = 0;
    let result = loop {
        let mut block = spare.try_recv().unwrap_or_else(|_| Block::new());
        if let Err(e) = block.fill(&mut source, &mut hasher) {
            break Err(e);
        }
        bytes += block.filled as u64;
        let last = block.filled < BLOCK;
        // The writer is gone only when it failed: its error is taken below.
        if full.send(block).is_err() || last {
            break Ok(());
        }
    };
    drop(source);
    drop(full);
    writer
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the writing thread died")))?;
    result.map(|()| (hasher.finish(), bytes))
}

fn write(file: &File, full: &Receiver<Block>, spare: &SyncSender<Block>) -> io::Result<()> {
    let mut at = 0;
    for block in full {
        let length = block.filled;
        if length.is_multiple_of(ALIGN) {
            write_at(file, block.bytes(length), at)?;
        } else {
            // The last block, padded for the disk, then cut to its length.
            write_at(file, block.bytes(length.next_multiple_of(ALIGN)), at)?;
            file.set_len(at + length as u64)?;
        }
        at += length as u64;
        // The reader may have all that it needs.
        drop(spare.try_send(block));
    }
    Ok(())
}

/// Writes through the page cache after all when the disk wants larger multiples than ours.
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    match file.write_all_at(bytes, at) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
            fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
            file.write_all_at(bytes, at)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn record(pieces: &[&[u8]]) -> (Vec<u8>, Digest, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        File::create(&path).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let recorder = Recorder::start(&path, reader).unwrap();
        for piece in pieces {
            writer.write_all(piece).unwrap();
        }
        drop(writer);
        let (digest, bytes) = recorder.finish().unwrap();
        (std::fs::read(&path).unwrap(), digest, bytes)
    }

    #[test]
    fn the_file_is_the_stream_whatever_its_length() {
        for length in [
            0,
            1,
            ALIGN - 1,
            ALIGN,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            2 * BLOCK,
            5 * BLOCK + 7,
        ] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let (file, digest, recorded) = record(&bytes.chunks(100_000).collect::<Vec<_>>());
            assert!(file == bytes, "a stream of {length} bytes was altered");
            assert_eq!(recorded, length as u64);
            assert_eq!(digest.hex(), blake3::hash(&bytes).to_hex().as_str());
        }
    }

    #[test]
    fn a_file_that_can_t_be_written_ends_the_stream_and_is_told() {
        let (reader, mut writer) = io::pipe().unwrap();
        let recorder = Recorder::start(Path::new("/dev/full"), reader).unwrap();
        let block = vec![1; BLOCK];
        let broken = (0..100).find_map(|_| writer.write_all(&block).err());
        assert_eq!(broken.unwrap().kind(), io::ErrorKind::BrokenPipe);
        let e = recorder.finish().unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull, "{e}");
    }
}
