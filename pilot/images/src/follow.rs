//! Hashes a file while another process writes it, so that the suspend stays as fast as the disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::digest::{Algorithm, CHUNK, Digest, Hasher};

/// How often the end of the file is looked at when the writer is slower than we are.
const POLL: Duration = Duration::from_millis(2);

/// The flusher starts a write-back whenever so much is new.
const FLUSH: u64 = 8 << 20;

#[derive(Default)]
struct Shared {
    /// The whole length plus one; zero until it is known.
    length: AtomicU64,
    /// Bytes hashed so far.
    seen: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn length(&self) -> Option<u64> {
        self.length.load(Ordering::Acquire).checked_sub(1)
    }
}

/// Two threads behind a growing file: one hashes what has been written, one pushes it to the
/// disk. The file must be written from start to end and never changed. Dropped, they stop.
pub struct Follower {
    shared: Arc<Shared>,
    hash: Option<JoinHandle<io::Result<Digest>>>,
    flush: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts to follow the file at `path`, which exists.
    ///
    /// # Errors
    /// It can't be opened, or there are no threads to be had.
    pub fn start(path: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (file, flushed) = (File::open(path)?, File::open(path)?);
        let (a, b) = (Arc::clone(&shared), Arc::clone(&shared));
        let flush = thread::Builder::new()
            .name("state-flush".into())
            .spawn(move || flush(&flushed, &b))?;
        let mut this = Self {
            shared,
            hash: None,
            flush: Some(flush),
        };
        this.hash = Some(
            thread::Builder::new()
                .name("state-hash".into())
                .spawn(move || hash(file, &a))?,
        );
        Ok(this)
    }

    /// The writer is done and the file has `length` bytes: waits for its digest.
    ///
    /// # Errors
    /// It can't be read, or is not `length` long.
    pub fn finish(mut self, length: u64) -> io::Result<Digest> {
        self.shared.length.store(length + 1, Ordering::Release);
        let hash = self.hash.take().map(JoinHandle::join);
        match hash {
            Some(Ok(digest)) => digest,
            Some(Err(_)) | None => Err(io::Error::other("the hashing thread died")),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for t in [
            self.hash.take().map(drop_result),
            self.flush.take().map(|t| t.join()),
        ] {
            // A thread that panicked has nothing that is still wanted.
            drop(t);
        }
    }
}

fn drop_result(t: JoinHandle<io::Result<Digest>>) -> thread::Result<()> {
    t.join().map(drop)
}

fn hash(mut file: File, shared: &Shared) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Blake3);
    let mut buffer = vec![0; CHUNK];
    let mut seen = 0;
    while !shared.stop.load(Ordering::Acquire) {
        // Asked before the read: all that was there when the length was told is read then.
        let length = shared.length();
        let n = match file.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if n > 0 {
            hasher.update(&buffer[..n]);
            seen += n as u64;
            shared.seen.store(seen, Ordering::Release);
        } else if length == Some(seen) {
            return Ok(hasher.finish());
        } else if let Some(length) = length {
            let text = format!("it is {seen} bytes long instead of {length}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        } else {
            thread::park_timeout(POLL);
        }
    }
    Err(io::Error::new(io::ErrorKind::Interrupted, "called off"))
}

fn flush(file: &File, shared: &Shared) {
    let mut flushed = 0;
    while !shared.stop.load(Ordering::Acquire) && shared.length().is_none() {
        let seen = shared.seen.load(Ordering::Acquire);
        if seen >= flushed + FLUSH {
            // Only a head start: the sync that counts is the one before the commit.
            let _ = file.sync_data();
            flushed = seen;
        } else {
            thread::park_timeout(POLL);
        }
    }
}
