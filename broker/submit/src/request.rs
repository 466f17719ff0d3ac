//! Request files: read, checked, and where asked for, pinned by digests.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use protocol::text::FileError;
use protocol::workspace::{Artefact, WorkspaceSpec};
use protocol::workspace_file::parse_request;

use crate::failure::Failure;
use crate::output::Output;

/// Reads a request file.
///
/// # Errors
/// It can't be read, or it is wrong.
pub fn read(file: &Path, pin: bool, output: &Output) -> Result<WorkspaceSpec, Failure> {
    let fail = |source| Failure::File {
        what: "read the request file",
        path: file.to_owned(),
        source,
    };
    let text = fs::read_to_string(file).map_err(fail)?;
    let dir = std::path::absolute(file).map_err(fail)?;
    let dir = dir.parent().unwrap_or(Path::new("/"));
    let base = dir.to_str().ok_or_else(|| {
        Failure::Request(FileError {
            file: file.display().to_string(),
            message: "the directory's name is not UTF-8, and paths in the file may be taken from it; move the file".into(),
        })
    })?;
    let mut spec = parse_request(&file.display().to_string(), base, &text)?;
    for artefact in artefacts_mut(&mut spec) {
        settle(artefact, pin, output)?;
    }
    Ok(spec)
}

fn artefacts_mut(spec: &mut WorkspaceSpec) -> impl Iterator<Item = &mut Artefact> {
    let image = &mut spec.image;
    let disks = image.disks.iter_mut().filter_map(|d| d.base.as_mut());
    image
        .kernel
        .iter_mut()
        .chain(&mut image.initrd)
        .chain(disks)
}

/// Pins a local file, or says that it is not here: the sites' nodes must have it, and this
/// machine may well share their file system.
fn settle(artefact: &mut Artefact, pin: bool, output: &Output) -> Result<(), Failure> {
    let path = Path::new(&artefact.url);
    if !path.is_absolute() {
        return Ok(());
    }
    if pin && artefact.digest.is_none() {
        artefact.digest = Some(digest(path)?);
    } else if !path.exists() {
        output.note(&format!(
            "`{}` is not on this machine; the sites' nodes must have it",
            path.display()
        ));
    }
    Ok(())
}

/// The digest of a file as request files have it: `blake3:` and 64 hex digits.
///
/// # Errors
/// The file can't be read.
pub fn digest(path: &Path) -> Result<String, Failure> {
    let hash = || -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(hasher.finalize())
    };
    hash()
        .map(|h| format!("blake3:{}", h.to_hex()))
        .map_err(|source| Failure::File {
            what: "read",
            path: path.to_owned(),
            source,
        })
}
