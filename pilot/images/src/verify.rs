//! Opening a state: every byte is read and compared before a guest is started from it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use protocol::ids::StateId;

use crate::digest::{Algorithm, digest_file};
use crate::error::StateError;
use crate::manifest::{self, FileEntry, Manifest, is_plain_name};
use crate::memory::{self, CHUNK, Target};
use crate::store::Store;

/// A state whose bytes were found to be as its manifest says, a moment ago; all of them, or all but
/// those of a [`UnreadMemory`].
#[derive(Clone, Debug)]
pub struct VerifiedState {
    dir: PathBuf,
    manifest: Manifest,
}

impl VerifiedState {
    /// What it says about itself.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where one of its files is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A state whose manifest is the one that was expected, and whose files were not looked at yet.
#[derive(Debug)]
pub struct FoundState {
    dir: PathBuf,
    manifest: Manifest,
}

impl FoundState {
    /// What it says about itself.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads every byte and compares.
    ///
    /// # Errors
    /// It is cut short or altered anywhere.
    pub fn verify(self) -> Result<VerifiedState, StateError> {
        let Self { dir, manifest } = self;
        for file in &manifest.files {
            verify_file(&dir, &manifest.state, file, None)?;
        }
        Ok(VerifiedState { dir, manifest })
    }

    /// Reads every byte and compares, but for those of the memory image `memory`: they are read once,
    /// when it is loaded. That it is there, and as long as it should be, is looked at here.
    ///
    /// # Errors
    /// It has no such image, or is cut short or altered anywhere else.
    pub fn verify_but(self, memory: &str) -> Result<(VerifiedState, UnreadMemory), StateError> {
        let Self { dir, manifest } = self;
        let id = &manifest.state;
        let image = manifest.file(memory).filter(|f| f.chunks.is_some());
        let image = image.ok_or_else(|| corrupt(id, memory, "is not there as a memory image"))?;
        look_at(&dir, id, image)?;
        for file in manifest.files.iter().filter(|f| f.name != memory) {
            verify_file(&dir, id, file, None)?;
        }
        let image = UnreadMemory {
            dir: dir.clone(),
            state: id.clone(),
            file: image.clone(),
        };
        Ok((VerifiedState { dir, manifest }, image))
    }
}

/// The memory of a state, none of whose bytes was looked at yet. A guest that is given it runs
/// only after [`UnreadMemory::load`] has said that it is whole.
#[derive(Debug)]
pub struct UnreadMemory {
    dir: PathBuf,
    state: StateId,
    file: FileEntry,
}

impl UnreadMemory {
    /// Reads it into `memory`, which is all zero and at least as long, and compares every byte with
    /// its digest on the way. `wanted` is asked before each block.
    ///
    /// # Errors
    /// It is cut short or altered, can't be read, or is not wanted any more; what was read into the
    /// memory is of no use then.
    pub fn load(
        &self,
        memory: &File,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), StateError> {
        let into = Target { memory, wanted };
        verify_file(&self.dir, &self.state, &self.file, Some(into))
    }
}

impl Store {
    /// Finds a state and verifies its manifest. `expected` is the BLAKE3 of that in hex.
    ///
    /// # Errors
    /// It is not there, is not the one that is expected, or has a manifest that can't be read or is
    /// of a version that is not known here.
    pub fn find_state(&self, id: &StateId, expected: &str) -> Result<FoundState, StateError> {
        let dir = self.state_dir(id);
        let manifest = read_manifest(&dir, id, expected)?;
        Ok(FoundState { dir, manifest })
    }
}

fn corrupt(id: &StateId, file: &str, what: impl Into<String>) -> StateError {
    StateError::Corrupt {
        id: id.to_string(),
        file: file.to_owned(),
        what: what.into(),
    }
}

fn read_manifest(dir: &Path, id: &StateId, expected: &str) -> Result<Manifest, StateError> {
    let bad = |what: String| corrupt(id, manifest::FILE, what);
    let path = dir.join(manifest::FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !dir.exists() => {
            return Err(StateError::Missing { id: id.to_string() });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(bad("is missing".to_owned())),
        Err(e) => return Err(StateError::io("read", &path, e)),
    };
    let found = blake3::hash(&bytes).to_hex();
    if found.as_str() != expected {
        return Err(bad(format!("has the hash {found} instead of {expected}")));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("can't be read: {e}")))?;
    let version = value
        .get("version")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    if version != u64::from(manifest::VERSION) {
        let id = id.to_string();
        return Err(StateError::UnknownVersion {
            id,
            version,
            known: manifest::VERSION,
        });
    }
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|e| bad(format!("can't be read: {e}")))?;
    if manifest.state != *id {
        return Err(bad(format!("is that of the state {}", manifest.state)));
    }
    let layers = manifest.disks.iter().flat_map(|d| &d.layers);
    if let Some(name) = layers.clone().find(|l| manifest.file(l).is_none()) {
        return Err(bad(format!(
            "names the layer `{name}`, which is not among its files"
        )));
    }
    if let Some(f) = manifest.files.iter().find(|f| !is_plain_name(&f.name)) {
        return Err(bad(format!("names the file `{}`", f.name.escape_debug())));
    }
    Ok(manifest)
}

/// That a file is there and as long as it should be.
fn look_at(dir: &Path, id: &StateId, file: &FileEntry) -> Result<PathBuf, StateError> {
    let path = dir.join(&file.name);
    let meta = match fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(corrupt(id, &file.name, "is missing"));
        }
        Err(e) => return Err(StateError::io("read", &path, e)),
    };
    if !meta.is_file() {
        return Err(corrupt(id, &file.name, "is not a regular file"));
    }
    if meta.len() != file.bytes {
        let what = format!("is {} bytes long instead of {}", meta.len(), file.bytes);
        return Err(corrupt(id, &file.name, what));
    }
    Ok(path)
}

fn verify_file(
    dir: &Path,
    id: &StateId,
    file: &FileEntry,
    into: Option<Target<'_>>,
) -> Result<(), StateError> {
    let path = look_at(dir, id, file)?;
    let failed = |e| StateError::io("read", &path, e);
    let same = match &file.chunks {
        None => {
            let (digest, _) = File::open(&path)
                .and_then(|mut f| digest_file(&mut f, Algorithm::Blake3))
                .map_err(failed)?;
            digest.hex() == file.blake3
        }
        Some(chunks) if chunks.chunk_bytes == CHUNK as u64 => {
            let sum = memory::load(&path, file.bytes, into).map_err(failed)?;
            sum.hex == file.blake3 && sum.data == chunks.data_bytes
        }
        Some(chunks) => {
            let what = format!(
                "has chunks of {} bytes instead of {CHUNK}",
                chunks.chunk_bytes
            );
            return Err(corrupt(id, &file.name, what));
        }
    };
    if !same {
        return Err(corrupt(id, &file.name, "was altered since it was made"));
    }
    Ok(())
}
