//! Artefacts: verified in place, or taken into the store under their digest.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::digest::{Algorithm, Digest, Hasher, digest_file};
use crate::durable::{create_new, sync_dir};
use crate::error::ImageError;
use crate::store::{Store, TMP};

/// An artefact that is on a disk of this node or site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Staged {
    /// Where it is.
    pub path: PathBuf,
    /// Its digest, verified. None for a local file that nobody vouches for and that has not
    /// been read yet; [`Store::pin`] reads it.
    pub digest: Option<Digest>,
    /// Its length.
    pub bytes: u64,
}

/// What tells one content of a local file from the next without reading it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Stamp {
    dev: u64,
    inode: u64,
    mtime: (i64, i64),
    size: u64,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            inode: meta.ino(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        }
    }
}

impl Store {
    /// Verifies a local file against its digest, if it has one, and gives it to be used in
    /// place. A file that was read before is not read again while it has not changed.
    ///
    /// # Errors
    /// It can't be read, or is not what the digest says.
    pub fn stage_file(&self, path: &Path, digest: Option<&Digest>) -> Result<Staged, ImageError> {
        let (mut file, meta) = open_artefact(path)?;
        let bytes = meta.size();
        let Some(expected) = digest else {
            let digest = self.remembered(Stamp::of(&meta), Algorithm::Blake3);
            return Ok(Staged {
                path: path.to_owned(),
                digest,
                bytes,
            });
        };
        let found = self.digest_cached(path, &mut file, &meta, expected.algorithm())?;
        if found == *expected {
            Ok(Staged {
                path: path.to_owned(),
                digest: Some(found),
                bytes,
            })
        } else {
            Err(ImageError::Corrupt {
                what: path.display().to_string(),
                expected: expected.to_string(),
                found: found.to_string(),
            })
        }
    }

    /// The BLAKE3 of a local file, which is read if it was not read before.
    ///
    /// # Errors
    /// It can't be read, or changed while it was read.
    pub fn pin(&self, path: &Path) -> Result<Digest, ImageError> {
        let (mut file, meta) = open_artefact(path)?;
        self.digest_cached(path, &mut file, &meta, Algorithm::Blake3)
    }

    /// The blob of a digest, when the store has it.
    pub fn blob(&self, digest: &Digest) -> Option<Staged> {
        let path = self.blobs_dir().join(digest.blob_name());
        let meta = fs::symlink_metadata(&path).ok()?;
        meta.is_file().then(|| Staged {
            path,
            digest: Some(digest.clone()),
            bytes: meta.size(),
        })
    }

    /// Starts to take an artefact into the store. `what` names it in errors. Without a digest
    /// it is stored under its BLAKE3. Until it is whole its name begins with `.tmp-`, `owner` and
    /// a dot, so that a crashed owner's can be told from others'.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn ingest(
        &self,
        owner: &str,
        what: &str,
        expected: Option<Digest>,
    ) -> Result<Ingest, ImageError> {
        let temp = tempfile::Builder::new()
            .prefix(&format!("{TMP}{owner}."))
            .make_in(self.blobs_dir(), create_new)
            .map_err(|e| ImageError::io("make a file in", self.blobs_dir(), e))?;
        let algorithm = expected
            .as_ref()
            .map_or(Algorithm::Blake3, Digest::algorithm);
        Ok(Ingest {
            store: self.clone(),
            what: what.to_owned(),
            expected,
            hasher: Hasher::new(algorithm),
            temp,
            bytes: 0,
        })
    }

    fn digest_cached(
        &self,
        path: &Path,
        file: &mut File,
        meta: &fs::Metadata,
        algorithm: Algorithm,
    ) -> Result<Digest, ImageError> {
        let stamp = Stamp::of(meta);
        if let Some(known) = self.remembered(stamp, algorithm) {
            return Ok(known);
        }
        let missing = |source| ImageError::Missing {
            what: path.display().to_string(),
            source,
        };
        let (digest, read) = digest_file(file, algorithm).map_err(missing)?;
        let after = Stamp::of(&file.metadata().map_err(missing)?);
        if after != stamp || read != stamp.size {
            return Err(missing(io::Error::other("it changed while it was read")));
        }
        // A file that was changed a moment ago can change again within one tick of its clock.
        if settled(meta) {
            self.remember(stamp, digest.clone());
        }
        Ok(digest)
    }
}

fn settled(meta: &fs::Metadata) -> bool {
    let changed = meta.modified().unwrap_or(UNIX_EPOCH);
    changed.elapsed().is_ok_and(|age| age.as_millis() > 20)
}

fn open_artefact(path: &Path) -> Result<(File, fs::Metadata), ImageError> {
    let open = || {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.is_file() {
            Ok((file, meta))
        } else {
            Err(io::Error::other("it is not a regular file"))
        }
    };
    open().map_err(|source| ImageError::Missing {
        what: path.display().to_string(),
        source,
    })
}

/// An artefact on its way into the store. Dropped, it leaves nothing behind.
pub struct Ingest {
    store: Store,
    what: String,
    expected: Option<Digest>,
    hasher: Hasher,
    temp: tempfile::NamedTempFile<File>,
    bytes: u64,
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.temp.as_file_mut().write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.as_file_mut().flush()
    }
}

impl Ingest {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.write_all(bytes)
            .map_err(|e| ImageError::io("write", self.temp.path(), e))
    }

    /// Verifies the whole and gives it its name. Two that bring the same are both right.
    ///
    /// # Errors
    /// It is not what its digest says, or the store can't be written.
    pub fn finish(self) -> Result<Staged, ImageError> {
        let found = self.hasher.finish();
        if let Some(expected) = self.expected.as_ref().filter(|e| **e != found) {
            return Err(ImageError::Corrupt {
                what: self.what,
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
        let failed = |e| ImageError::io("make durable", self.temp.path(), e);
        self.temp.as_file().sync_all().map_err(failed)?;
        let path = self.store.blobs_dir().join(found.blob_name());
        self.temp
            .persist(&path)
            .map_err(|e| ImageError::io("rename into place", &path, e.error))?;
        sync_dir(self.store.blobs_dir())
            .map_err(|e| ImageError::io("make durable", self.store.blobs_dir(), e))?;
        Ok(Staged {
            path,
            digest: Some(found),
            bytes: self.bytes,
        })
    }
}
