//! The name of the file system that a directory is on: what suspends cost is kept for each.

use std::fs;
use std::path::Path;

/// Mount point, type and source, as `/shared nfs4 server:/export`; empty when the system does not
/// say. Names are as the kernel writes them, blanks as `\\040`.
pub(super) fn of(directory: &Path) -> String {
    let directory = directory.canonicalize();
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    match (directory, mounts) {
        (Ok(directory), Ok(mounts)) => find(&directory, &mounts).unwrap_or_default(),
        (_, _) => String::new(),
    }
}

/// `36 35 98:0 /root /mount/point options optional... - type source super-options`: the deepest
/// mount point that holds the directory, and of several there the last, which hides the others.
fn find(directory: &Path, mounts: &str) -> Option<String> {
    let mut found: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(point), mut after) = (before.split(' ').nth(4), after.split(' ')) else {
            continue;
        };
        let (Some(kind), Some(source)) = (after.next(), after.next()) else {
            continue;
        };
        let depth = Path::new(point).components().count();
        let deeper = found.as_ref().is_none_or(|(d, _)| depth >= *d);
        if deeper && directory.starts_with(point) {
            found = Some((depth, format!("{point} {kind} {source}")));
        }
    }
    found.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_names_the_file_system() {
        let mounts = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /shared rw,relatime shared:2 - nfs4 server:/export rw
24 23 0:41 /a /shared/deep rw - lustre mgs@tcp:/fs rw
25 22 0:42 / /shared rw - tmpfs none rw
damaged";
        let find = |path| find(Path::new(path), mounts);
        assert_eq!(find("/home/x").as_deref(), Some("/ ext4 /dev/sda1"));
        assert_eq!(find("/shared/store").as_deref(), Some("/shared tmpfs none"));
        assert_eq!(find("/sharedish").as_deref(), Some("/ ext4 /dev/sda1"));
        let deep = find("/shared/deep/store");
        assert_eq!(deep.as_deref(), Some("/shared/deep lustre mgs@tcp:/fs"));
    }

    #[test]
    fn this_node_has_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!of(dir.path()).is_empty());
        assert_eq!(of(&dir.path().join("missing")), "");
    }
}
