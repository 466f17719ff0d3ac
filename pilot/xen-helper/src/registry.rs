//! What this helper has made: a file of root's for each domain, there before the domain and gone
//! after it. The helper that lives with a guest holds a lock on its file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Gone after a boot, as the domains are.
const PLACE: &str = "/run/workspace-pilot/xen";
/// Held while memory is asked for and taken.
const ADMISSION: &str = ".admission";
/// Before the name of an entry that is being written.
const UNFINISHED: &str = ".new-";

/// A domain that was made, or was about to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub uuid: String,
    pub name: String,
    /// The account that it belongs to.
    pub uid: u32,
    /// The pilot's mark.
    pub marker: String,
    /// Files behind its loop devices.
    pub disks: Vec<PathBuf>,
    /// It was not booted here but goes on from a state.
    #[serde(default)]
    pub restored: bool,
}

/// The directory, root's alone.
pub fn place() -> Result<&'static Path, String> {
    let place = Path::new(PLACE);
    let at = |e: io::Error| format!("can't use {PLACE}: {e}");
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(place).map_err(at)?;
    for dir in [Some(place), place.parent()].into_iter().flatten() {
        let meta = fs::symlink_metadata(dir).map_err(at)?;
        if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            let dir = dir.display();
            return Err(format!(
                "{dir} is not a directory that only root can write to"
            ));
        }
    }
    Ok(place)
}

/// One guest at a time is given memory.
pub fn admission() -> Result<File, String> {
    let path = place()?.join(ADMISSION);
    let at = |e: io::Error| format!("can't lock {}: {e}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(at)?;
    file.lock().map_err(at)?;
    Ok(file)
}

impl Entry {
    fn path(&self) -> Result<PathBuf, String> {
        Ok(place()?.join(&self.uuid))
    }

    /// Writes it down; the lock is held as long as the file is open. It has its name only when it is
    /// whole and locked: a sweep takes what is not for a dead helper's.
    pub fn register(&self) -> Result<File, String> {
        let path = self.path()?;
        let unfinished = path.with_file_name(format!("{UNFINISHED}{}", self.uuid));
        let at = |e: io::Error| format!("can't write {}: {e}", path.display());
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(at)?;
        let written = (file.lock())
            .and_then(|()| file.write_all(&serde_json::to_vec(self)?))
            // Fails if a sweep was faster.
            .and_then(|()| fs::rename(&unfinished, &path));
        if let Err(e) = written {
            let _ = fs::remove_file(&unfinished);
            return Err(at(e));
        }
        Ok(file)
    }

    /// Nothing of it is there any more.
    pub fn forget(&self) {
        if let Ok(path) = self.path() {
            let _ = fs::remove_file(path.with_extension("cfg"));
            // One that stays is found by the next sweep, which finds no domain.
            let _ = fs::remove_file(path);
        }
    }

    /// Its file, locked; none while the helper of its guest lives.
    pub fn lock(&self) -> Option<File> {
        let file = File::open(self.path().ok()?).ok()?;
        file.try_lock().is_ok().then_some(file)
    }
}

/// The entry of this domain.
pub fn find(uuid: &str) -> Option<Entry> {
    // Names nothing outside of the directory.
    let uuid = uuid::Uuid::parse_str(uuid).ok()?.to_string();
    read(&place().ok()?.join(uuid))
}

fn read(path: &Path) -> Option<Entry> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// All entries, and the files that are none: only root can have made them.
pub fn all() -> Result<(Vec<Entry>, Vec<PathBuf>), String> {
    let place = place()?;
    let at = |e: io::Error| format!("can't list {PLACE}: {e}");
    let (mut entries, mut odd) = (Vec::new(), Vec::new());
    for item in fs::read_dir(place).map_err(at)? {
        let path = item.map_err(at)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with(UNFINISHED) {
            remove_unfinished(&path);
        }
        if uuid::Uuid::parse_str(&name).is_err() {
            continue;
        }
        match read(&path) {
            Some(entry) if entry.uuid == name => entries.push(entry),
            // It was removed just now.
            _ if !path.exists() => {}
            Some(_) | None => odd.push(path),
        }
    }
    Ok((entries, odd))
}

/// One whose helper was killed before it made anything.
fn remove_unfinished(path: &Path) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        let _ = fs::remove_file(path);
    }
}
