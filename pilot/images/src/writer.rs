//! A state under construction. It becomes a state in one step, or leaves nothing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, ScopedJoinHandle};

use protocol::ids::StateId;

use crate::digest::{Algorithm, digest_file};
use crate::durable::{Placed, create_new, link_or_copy, remove_dir, sync_dir};
use crate::error::StateError;
use crate::manifest::{self, Chunks, FileEntry, Manifest, is_plain_name};
use crate::memory::{self, ChunkSet};
use crate::store::Store;
use crate::walk::{Effort, is_interrupted};

const OPEN: u8 = 0;
const COMMITTING: u8 = 1;
const CALLED_OFF: u8 = 2;

/// Decides once between a commit and its being called off, whoever comes first. A thread that
/// hangs in a sync can so be given up: it will never commit afterwards.
#[derive(Clone, Debug, Default)]
pub struct Decision(Arc<AtomicU8>);

impl Decision {
    /// Calls the state off. False: too late, the commit is under way or done.
    pub fn call_off(&self) -> bool {
        self.decide(CALLED_OFF)
    }

    /// True when it was called off.
    pub fn is_called_off(&self) -> bool {
        self.0.load(Ordering::Acquire) == CALLED_OFF
    }

    fn decide(&self, to: u8) -> bool {
        match self
            .0
            .compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(now) => now == to,
        }
    }
}

/// Builds a state in its temporary directory. Dropped before the commit, it removes it.
#[derive(Debug)]
pub struct StateWriter {
    store: Store,
    id: StateId,
    dir: PathBuf,
    files: Vec<FileEntry>,
    /// Files that the commit has to make durable.
    unsynced: Vec<(PathBuf, File)>,
    written: u64,
    decision: Decision,
    committed: bool,
}

/// A guest's memory on its way into a state, beside the [`StateWriter`]: in one pass, or in many
/// while the guest runs.
#[derive(Debug)]
pub struct MemoryImage {
    name: String,
    path: PathBuf,
    id: StateId,
    decision: Decision,
    image: memory::Image,
    bytes: u64,
    written: u64,
}

/// A memory that was written, and that its [`StateWriter`] has still to take in.
#[derive(Debug)]
pub struct SavedMemory {
    entry: FileEntry,
    written: u64,
}

impl MemoryImage {
    /// Brings those chunks of `memory` as they are now, as fast as the disk takes them; what is in
    /// the state already as it is now is not written again. Returns the bytes that were written;
    /// none when `stop` said so before the end: then it is not known which chunks are missing.
    /// It ends soon after the state was called off.
    ///
    /// # Errors
    /// The memory can't be read or the file not be written, or the state was called off. It may be
    /// tried again with the same chunks.
    pub fn bring(
        &mut self,
        memory: &File,
        chunks: &ChunkSet,
        effort: Effort,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<u64>, StateError> {
        self.written = 0;
        let decision = &self.decision;
        let ends = || decision.is_called_off() || stop();
        match self.image.bring(memory, chunks, effort, &ends) {
            Ok(written) => {
                self.written = written;
                Ok(Some(written))
            }
            Err(_) if self.decision.is_called_off() => {
                let id = self.id.to_string();
                Err(StateError::CalledOff { id })
            }
            Err(e) if is_interrupted(&e) => Ok(None),
            Err(e) => Err(StateError::io("write the memory to", &self.path, e)),
        }
    }

    /// Makes durable what was brought so far, so that there is less to be done at the end.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn sync(&self) -> Result<(), StateError> {
        let synced = self.image.sync();
        synced.map_err(|e| StateError::io("make durable", &self.path, e))
    }

    /// All of the memory was brought, as it is now.
    ///
    /// # Errors
    /// A part of it could not be written, or its end not be made.
    pub fn finish(self) -> Result<SavedMemory, StateError> {
        let sum = self.image.finish();
        let sum = sum.map_err(|e| StateError::io("write the memory to", &self.path, e))?;
        let entry = FileEntry {
            name: self.name,
            bytes: self.bytes,
            blake3: sum.hex,
            chunks: Some(Chunks {
                chunk_bytes: memory::CHUNK as u64,
                data_bytes: sum.data,
            }),
        };
        let written = self.written;
        Ok(SavedMemory { entry, written })
    }
}

/// A state that is now complete, durable and visible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// BLAKE3 of its manifest, in hex.
    pub manifest: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes that were written for it, of a memory only those of the last pass; linked files do not
    /// count.
    pub written: u64,
}

impl StateWriter {
    /// Makes the temporary directory; one that an earlier attempt left is removed first.
    ///
    /// # Errors
    /// The state exists already, or the store can't be written.
    pub fn begin(store: &Store, id: &StateId) -> Result<Self, StateError> {
        if store.state_dir(id).exists() {
            return Err(StateError::Exists { id: id.to_string() });
        }
        let dir = store.state_tmp(id);
        remove_dir(&dir).map_err(|e| StateError::io("remove", &dir, e))?;
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|e| StateError::io("make the directory", &dir, e))?;
        Ok(Self {
            store: store.clone(),
            id: id.clone(),
            dir,
            files: Vec::new(),
            unsynced: Vec::new(),
            written: 0,
            decision: Decision::default(),
            committed: false,
        })
    }

    /// The state's name.
    pub const fn id(&self) -> &StateId {
        &self.id
    }

    /// The handle to call it off with, from any thread.
    pub fn decision(&self) -> Decision {
        self.decision.clone()
    }

    /// Where a file of the state is while it is under construction.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes a new, empty file that somebody else will write to.
    ///
    /// # Errors
    /// It can't be made.
    pub fn create(&self, name: &str) -> Result<File, StateError> {
        let path = self.path(name);
        create_new(&path).map_err(|e| StateError::io("make", &path, e))
    }

    /// Makes a new file of the state for a guest's memory of `bytes`, to be filled from a thread of
    /// its own. It is all zero.
    ///
    /// # Errors
    /// It can't be made.
    pub fn memory_image(&self, name: &str, bytes: u64) -> Result<MemoryImage, StateError> {
        let path = self.path(name);
        let image = memory::Image::create(&path, bytes);
        let image = image.map_err(|e| StateError::io("make", &path, e))?;
        Ok(MemoryImage {
            name: name.to_owned(),
            path,
            id: self.id.clone(),
            decision: self.decision(),
            image,
            bytes,
            written: 0,
        })
    }

    /// Takes in a memory that was written.
    ///
    /// # Errors
    /// The state was called off, or the file can't be opened again.
    pub fn add_memory(&mut self, saved: SavedMemory) -> Result<(), StateError> {
        self.check_open()?;
        let path = self.path(&saved.entry.name);
        let file = File::open(&path).map_err(|e| StateError::io("open", &path, e))?;
        self.written += saved.written;
        self.enter(saved.entry)?;
        self.unsynced.push((path, file));
        Ok(())
    }

    /// Writes a new file of the state.
    ///
    /// # Errors
    /// It can't be written, or the state was called off.
    pub fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        self.check_open()?;
        let path = self.path(name);
        let mut file = self.create(name)?;
        file.write_all(bytes)
            .map_err(|e| StateError::io("write", &path, e))?;
        self.enter(FileEntry {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
            chunks: None,
        })?;
        self.unsynced.push((path, file));
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Takes in a file that the caller has written to the end, and hashed on the way: `digest` is its
    /// BLAKE3.
    ///
    /// # Errors
    /// The state was called off, or the file has a name that can't be used.
    pub fn add_hashed(
        &mut self,
        name: &str,
        file: File,
        bytes: u64,
        digest: blake3::Hash,
    ) -> Result<(), StateError> {
        self.check_open()?;
        self.enter(FileEntry {
            name: name.to_owned(),
            bytes,
            blake3: digest.to_hex().to_string(),
            chunks: None,
        })?;
        self.unsynced.push((self.path(name), file));
        self.written += bytes;
        Ok(())
    }

    /// Takes in a file that is already in the directory: hashes it.
    ///
    /// # Errors
    /// It can't be read.
    pub fn add(&mut self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        let mut file = File::open(&path).map_err(|e| StateError::io("open", &path, e))?;
        self.check_open()?;
        let (digest, bytes) = digest_file(&mut file, Algorithm::Blake3)
            .map_err(|e| StateError::io("hash", &path, e))?;
        self.enter(FileEntry {
            name: name.to_owned(),
            bytes,
            blake3: digest.hex().to_owned(),
            chunks: None,
        })?;
        self.unsynced.push((path, file));
        self.written += bytes;
        Ok(())
    }

    /// Brings a file in by a link, or by a copy from another file system. `known` is its entry in
    /// the state that it comes from, verified when that was opened; a linked file is not read
    /// again then, a copy is compared with it.
    ///
    /// # Errors
    /// It can't be brought, or is not what `known` says.
    pub fn bring(
        &mut self,
        name: &str,
        from: &Path,
        known: Option<&FileEntry>,
    ) -> Result<(), StateError> {
        self.check_open()?;
        let to = self.path(name);
        let placed = link_or_copy(from, &to).map_err(|e| StateError::io("bring", from, e))?;
        let before = self.written;
        match (known, placed) {
            (Some(known), Placed::Linked) => {
                let bytes = fs::metadata(&to)
                    .map_err(|e| StateError::io("read", &to, e))?
                    .len();
                if bytes != known.bytes {
                    return Err(self.corrupt(
                        name,
                        format!("is {bytes} bytes long instead of {}", known.bytes),
                    ));
                }
                self.files.push(FileEntry {
                    name: name.to_owned(),
                    ..known.clone()
                });
            }
            (Some(_) | None, Placed::Linked | Placed::Copied(_)) => self.add(name)?,
        }
        let entry = self.files.last().map(|e| e.blake3.clone());
        if let Some(known) = known
            && entry.as_ref() != Some(&known.blake3)
        {
            return Err(self.corrupt(name, "was altered since it was made".to_owned()));
        }
        // A linked top layer was written by the guest, over time; the suspend only syncs it.
        if placed == Placed::Linked {
            self.written = before;
        }
        Ok(())
    }

    fn corrupt(&self, file: &str, what: String) -> StateError {
        StateError::Corrupt {
            id: self.id.to_string(),
            file: file.to_owned(),
            what,
        }
    }

    fn check_open(&self) -> Result<(), StateError> {
        if self.decision.is_called_off() {
            return Err(StateError::CalledOff {
                id: self.id.to_string(),
            });
        }
        Ok(())
    }

    fn enter(&mut self, file: FileEntry) -> Result<(), StateError> {
        if !is_plain_name(&file.name) || self.files.iter().any(|f| f.name == file.name) {
            return Err(self.corrupt(&file.name, "has a name that can't be used".to_owned()));
        }
        self.files.push(file);
        Ok(())
    }

    /// Completes the state: checks that the directory holds exactly what was added, in the
    /// lengths that were hashed, writes the manifest (whose `version`, `state` and `files` are
    /// filled in here), makes all durable, gives it its name.
    ///
    /// # Errors
    /// It was called off, or something is not as it was added, or the store can't be written.
    /// Nothing is left then.
    pub fn commit(mut self, mut manifest: Manifest) -> Result<Committed, StateError> {
        self.verify_lengths()?;
        manifest.version = manifest::VERSION;
        manifest.state = self.id.clone();
        manifest.files = std::mem::take(&mut self.files);
        let path = self.path(manifest::FILE);
        let failed = |e| StateError::io("write", &path, e);
        let mut text =
            serde_json::to_vec_pretty(&manifest).map_err(|e| failed(io::Error::other(e)))?;
        text.push(b'\n');
        let mut file = create_new(&path).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        self.unsynced.push((path, file));
        let dir = File::open(&self.dir).map_err(|e| StateError::io("open", &self.dir, e))?;
        self.unsynced.push((self.dir.clone(), dir));
        sync_all(&self.unsynced)?;

        if !self.decision.decide(COMMITTING) {
            return Err(StateError::CalledOff {
                id: self.id.to_string(),
            });
        }
        let place = self.store.state_dir(&self.id);
        fs::rename(&self.dir, &place)
            .map_err(|e| StateError::io("rename into place", &place, e))?;
        self.committed = true;
        let states = self.store.states_dir();
        if let Err(e) = sync_dir(states) {
            // Its name may not survive a crash: it must not be taken for a state.
            let _ = self.store.discard(&self.id);
            return Err(StateError::io("make durable", states, e));
        }
        Ok(Committed {
            manifest: blake3::hash(&text).to_hex().to_string(),
            bytes: manifest.bytes(),
            written: self.written,
        })
    }

    fn verify_lengths(&self) -> Result<(), StateError> {
        let list = fs::read_dir(&self.dir)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|e| StateError::io("list", &self.dir, e))?;
        for entry in &list {
            let name = entry.file_name().to_string_lossy().into_owned();
            let bytes = entry
                .metadata()
                .map_err(|e| StateError::io("read", &self.dir, e))?
                .len();
            match self.files.iter().find(|f| f.name == name) {
                Some(f) if f.bytes == bytes => {}
                Some(f) => {
                    let what = format!("is {bytes} bytes long instead of {}", f.bytes);
                    return Err(self.corrupt(&name, what));
                }
                None => return Err(self.corrupt(&name, "was not added to the manifest".to_owned())),
            }
        }
        match self
            .files
            .iter()
            .find(|f| list.iter().all(|e| e.file_name() != f.name.as_str()))
        {
            Some(f) => Err(self.corrupt(&f.name, "is gone".to_owned())),
            None => Ok(()),
        }
    }
}

/// Makes files durable, all at once: a journal takes them into few writes, a disk works on all.
fn sync_all(files: &[(PathBuf, File)]) -> Result<(), StateError> {
    let sync = |path: &Path, file: &File| {
        file.sync_all()
            .map_err(|e| StateError::io("make durable", path, e))
    };
    thread::scope(|scope| {
        let mut ends = Vec::new();
        let mut threads = Vec::new();
        for (path, file) in files {
            let thread = thread::Builder::new().name("state-sync".into());
            match thread.spawn_scoped(scope, move || sync(path, file)) {
                Ok(thread) => threads.push(thread),
                // No thread is to be had: one after the other, then.
                Err(_) => ends.push(sync(path, file)),
            }
        }
        // All are waited for, whatever the first one says.
        let joined = threads.into_iter().map(ScopedJoinHandle::join);
        ends.extend(joined.map(|end| end.unwrap_or_else(|panic| resume_unwind(panic))));
        ends.into_iter().collect()
    })
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        if !self.committed {
            // What can't be removed now is swept later; the error that led here is told.
            let _ = remove_dir(&self.dir);
        }
    }
}
