//! Removing files without ever leaving the directory that is ours.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::journal::{JOURNAL_FILE, SLOT_FILE, SLOT_FILE_NEW};

/// What a rendered job makes in its slot before its pilot, and what its pilot makes first.
pub(super) const OF_THE_BEGINNING: [&str; 3] = [SLOT_FILE, SLOT_FILE_NEW, JOURNAL_FILE];

/// Removes a file, socket, symbolic link (not what it points to) or whole directory.
/// `Ok(false)`: there was none.
///
/// # Errors
/// A file system is mounted in it, or the system does not let us.
pub(super) fn remove_tree(path: &Path) -> io::Result<bool> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            if let Some(mount) = mounts_within(path)?.first() {
                return Err(io::Error::other(format!(
                    "a file system is mounted at {}",
                    mount.display()
                )));
            }
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    absent_is_fine(removed)
}

/// The same for a path inside `root`, which has no symbolic links itself; the path must not lead
/// through any either.
///
/// # Errors
/// As above, or the path leads elsewhere.
pub(super) fn remove_inside(root: &Path, path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match fs::canonicalize(parent) {
        Ok(real) if real == parent && real.starts_with(root) => remove_tree(path),
        Ok(real) => Err(io::Error::other(format!(
            "the path leads through a symbolic link to {}",
            real.display()
        ))),
        Err(e) => absent_is_fine(Err(e)),
    }
}

/// Unmounts the file system at `path`. `Ok(false)`: there was none.
///
/// # Errors
/// The system does not let us.
pub(super) fn unmount(path: &Path) -> io::Result<bool> {
    if !mounts_within(path)?.iter().any(|mount| mount == path) {
        return Ok(false);
    }
    nix::mount::umount2(path, nix::mount::MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(true)
}

/// True when a directory is only what the rendered job, and perhaps a first, torn write, leave.
pub(super) fn is_unclaimed_slot(path: &Path) -> bool {
    holds_nothing_of_others(path) && OF_THE_BEGINNING.iter().any(|name| path.join(name).exists())
}

/// True when there is nothing in a directory but [`OF_THE_BEGINNING`], if that.
pub(super) fn holds_nothing_of_others(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| {
        entries.flatten().all(|entry| {
            let name = entry.file_name();
            OF_THE_BEGINNING.iter().any(|ours| name == *ours)
        })
    })
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The mount points at or below `path`.
fn mounts_within(path: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .filter(|mount| mount.starts_with(path))
        .collect())
}

/// The kernel writes blanks and backslashes in a path as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |d: &u8| d.is_ascii_digit().then(|| u32::from(*d - b'0'));
        if *first == b'\\'
            && let [a, b, c, after @ ..] = tail
            && let (Some(a), Some(b), Some(c)) = (octal(a), octal(b), octal(c))
            && let Ok(byte) = u8::try_from(a * 64 + b * 8 + c)
        {
            out.push(byte);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescape(br"/x\9"), br"/x\9");
        let root = mounts_within(Path::new("/")).unwrap();
        assert!(root.contains(&PathBuf::from("/proc")), "{root:?}");
        assert!(mounts_within(Path::new("/pro")).unwrap().is_empty());
    }

    #[test]
    fn a_symbolic_link_is_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let (ours, theirs) = (base.join("ours"), base.join("theirs"));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("file"), "precious").unwrap();
        std::os::unix::fs::symlink(&theirs, ours.join("link")).unwrap();
        let e = remove_inside(&ours, &ours.join("link/file")).unwrap_err();
        assert!(e.to_string().contains("symbolic link"), "{e}");
        assert!(remove_inside(&ours, &ours.join("link")).unwrap());
        assert!(!remove_inside(&ours, &ours.join("link")).unwrap());
        assert!(!remove_inside(&ours, &ours.join("no/such/file")).unwrap());
        assert_eq!(fs::read_to_string(theirs.join("file")).unwrap(), "precious");
    }
}
