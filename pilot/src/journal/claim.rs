//! Claiming a slot: the node entry, the scratch directory, the journal, in this order.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use protocol::ids::{Incarnation, StateId, SubmitKey};

use super::JournalError;
use super::line::{Holder, NodeIdentity, VERSION, What};
use crate::host::processes::ProcessId;

/// Name of the journal in the scratch directory.
pub const JOURNAL_FILE: &str = "journal";
/// Name of the slot file that the rendered job leaves in the scratch directory.
pub const SLOT_FILE: &str = "slot.toml";
/// And its name while the job writes it.
pub const SLOT_FILE_NEW: &str = "slot.toml.new";
/// The directory of this account's node entries. One per account, because several may share a
/// node-state directory as they share `/tmp`.
pub fn node_entries(node_state: &Path) -> PathBuf {
    let uid = nix::unistd::geteuid();
    node_state.join(format!("{NODE_ENTRIES_PREFIX}{uid}"))
}

/// What the name of every account's [`node_entries`] begins with; its user number follows.
pub const NODE_ENTRIES_PREFIX: &str = "workspace-pilot-";

/// What a pilot claims at its start.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The pilot job.
    pub submit_key: &'a SubmitKey,
    /// Which start of it.
    pub incarnation: &'a Incarnation,
    /// The slot's own directory: missing, or empty but for its slot file. Its parent exists.
    pub scratch: &'a Path,
    /// The site's store; exists.
    pub store: &'a Path,
    /// The node-state directory; exists.
    pub node_state: &'a Path,
}

/// The node-state directory of a slot whose file names none: the parent of its scratch directory.
pub fn default_node_state(scratch: &Path) -> &Path {
    scratch.parent().unwrap_or(Path::new("/"))
}

pub(super) struct Claimed {
    pub holder: Holder,
    pub node_entry: File,
    pub journal: File,
}

pub(super) fn take(claim: &Claim) -> Result<Claimed, JournalError> {
    let holder = holder(claim)?;
    check_scratch(&holder.scratch)?;
    let node_entry = write_node_entry(&holder)?;
    match make_journal(&holder.scratch) {
        Ok(journal) => Ok(Claimed {
            holder,
            node_entry,
            journal,
        }),
        Err(e) => {
            give_back(&holder);
            Err(e)
        }
    }
}

/// Removes what a claim that did not succeed has made beside the journal: the scratch directory
/// only if it is empty, because it may have been there before.
fn give_back(holder: &Holder) {
    let _ = fs::remove_dir(&holder.scratch);
    let _ = fs::remove_file(&holder.node_entry);
    if let Some(entries) = holder.node_entry.parent() {
        let _ = fs::remove_dir(entries);
    }
}

/// The same with the journal, whose first line could not be written: nothing else was created.
pub(super) fn give_up(holder: &Holder) {
    let _ = fs::remove_file(holder.scratch.join(JOURNAL_FILE));
    give_back(holder);
}

fn holder(claim: &Claim) -> Result<Holder, JournalError> {
    let real = |role, path: &Path| {
        fs::canonicalize(path).map_err(|source| JournalError::Directory {
            role,
            path: path.to_owned(),
            source,
        })
    };
    let identity = |source| JournalError::Identity { source };
    let scratch = match (claim.scratch.parent(), claim.scratch.file_name()) {
        _ if fs::symlink_metadata(claim.scratch).is_ok() => {
            real("scratch directory", claim.scratch)?
        }
        (Some(parent), Some(name)) => real("parent of the scratch directory", parent)?.join(name),
        _ => real("scratch directory", claim.scratch)?,
    };
    let name = format!("{}.json", entry_name(claim.submit_key, claim.incarnation));
    Ok(Holder {
        version: VERSION,
        slot: format!("wp-{}", uuid::Uuid::new_v4().simple()),
        submit_key: claim.submit_key.to_string(),
        incarnation: claim.incarnation.to_string(),
        pilot: ProcessId::own().ok_or_else(|| identity(io::ErrorKind::NotFound.into()))?,
        uid: nix::unistd::geteuid().as_raw(),
        node: NodeIdentity::here().map_err(identity)?,
        store: real("store", claim.store)?,
        node_entry: node_entries(&real("node-state directory", claim.node_state)?).join(name),
        scratch,
    })
}

/// An incarnation is any text: what could not stand in a file name is replaced, and a digest
/// keeps two such texts apart.
fn entry_name(key: &SubmitKey, incarnation: &Incarnation) -> String {
    let text = incarnation.as_str();
    let safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.len() <= 64 && text.chars().all(safe) {
        return format!("{key}.{text}");
    }
    let readable: String = text
        .chars()
        .take(48)
        .map(|c| if safe(c) { c } else { '_' })
        .collect();
    let digest = blake3::hash(text.as_bytes()).to_hex();
    format!("{key}.{readable}-{}", &digest[..12])
}

fn check_scratch(scratch: &Path) -> Result<(), JournalError> {
    let entries = match fs::read_dir(scratch) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(JournalError::Directory {
                role: "scratch directory",
                path: scratch.to_owned(),
                source,
            });
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == JOURNAL_FILE {
            return Err(JournalError::Held { path: entry.path() });
        }
        if name != SLOT_FILE {
            return Err(JournalError::ScratchNotEmpty {
                scratch: scratch.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

fn write_node_entry(holder: &Holder) -> Result<File, JournalError> {
    let path = &holder.node_entry;
    let failed = |source| JournalError::Write {
        path: path.clone(),
        source,
    };
    let entries = path.parent().unwrap_or(Path::new("/"));
    let mut text = serde_json::to_string(holder).map_err(|e| failed(e.into()))?;
    text.push('\n');
    // A leaving pilot may remove the empty directory, and a sweeping one an entry that is still
    // empty, in the moment between two steps here: then the steps are taken again.
    for _ in 0..100 {
        match private_directory(entries) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        let mut file = match create_private(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(JournalError::Held { path: path.clone() });
            }
            Err(e) => return Err(failed(e)),
        };
        if file.try_lock().is_err() || file.metadata().map_err(failed)?.nlink() == 0 {
            continue;
        }
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all());
        if let Err(e) = written {
            let _ = fs::remove_file(path);
            return Err(failed(e));
        }
        sync_directory(entries)?;
        return Ok(file);
    }
    Err(failed(io::ErrorKind::ResourceBusy.into()))
}

fn make_journal(scratch: &Path) -> Result<File, JournalError> {
    let path = scratch.join(JOURNAL_FILE);
    let failed = |source| JournalError::Write {
        path: path.clone(),
        source,
    };
    match private_directory(scratch) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    // Looked at again: now that the directory exists, nobody else can have taken it unseen.
    check_scratch(scratch)?;
    let file = create_private(&path).map_err(failed)?;
    file.try_lock().map_err(|e| failed(e.into()))?;
    Ok(file)
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

pub(super) fn sync_directory(path: &Path) -> Result<(), JournalError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| JournalError::Write {
            path: path.to_owned(),
            source,
        })
}

/// The bounds outside which reclaim touches nothing.
///
/// # Errors
/// The bound that is broken.
pub(crate) fn check_bounds(holder: &Holder, what: &What) -> Result<(), &'static str> {
    match what {
        What::Process { .. } => Ok(()),
        What::Domains { helper } if is_plain(helper) => Ok(()),
        What::Domains { .. } => Err("its helper must be an absolute path without `..`"),
        What::Directory { path }
        | What::File { path }
        | What::Socket { path }
        | What::Mount { path } => {
            if is_plain(path) && path.starts_with(&holder.scratch) && *path != holder.scratch {
                Ok(())
            } else {
                Err(
                    "it must lie inside the slot's scratch directory, given as an absolute path without `..`",
                )
            }
        }
        What::Group { path } => {
            let name = path.file_name().and_then(|name| name.to_str());
            if is_plain(path) && name == Some(&holder.slot) {
                Ok(())
            } else {
                Err("it must have the slot's own name")
            }
        }
        What::StoreTmp { path } => {
            let places = ["states", "blobs"].map(|place| holder.store.join(place));
            let fits = is_plain(path)
                && path.parent().is_some_and(|p| places.iter().any(|q| q == p))
                && path
                    .file_name()
                    .and_then(|name| name.to_str()?.strip_prefix(".tmp-"))
                    .is_some_and(|rest| {
                        StateId::new(rest).is_ok() || rest.len() > 64 && is_name(rest)
                    });
            if fits {
                Ok(())
            } else {
                Err("it must be `states/.tmp-NAME` or `blobs/.tmp-NAME` in the slot's store")
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path
            .components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_incarnation_makes_a_file_name_of_its_own() {
        let key = SubmitKey::new("k1").unwrap();
        let long = "x".repeat(200);
        let texts = ["7.r0", "../../etc/passwd", "a/b", "a_b", "ü ü", &long];
        let names: Vec<String> = texts
            .map(|t| entry_name(&key, &Incarnation::new(t).unwrap()))
            .into();
        for name in &names {
            assert!(
                name.starts_with("k1.") && !name.contains('/') && name.len() < 200,
                "{name}"
            );
        }
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
}
