//! Slots whose job was killed before its pilot had begun: no entry names them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::ids::SubmitKey;

use super::files::is_unclaimed_slot;
use crate::journal::JOURNAL_FILE;

/// A job takes moments from the making of its directory to the pilot's journal. A pilot whose
/// directory is removed nevertheless finds no slot file, and leaves.
const OLD: Duration = Duration::from_secs(3600);

/// The directories in `scratch` with the name of a slot (`KEY.rN`) and nothing but what a rendered job
/// makes before it becomes the pilot, for an hour or longer; this account's, as root everybody's.
/// [`reclaim`](super::reclaim) removes each of them. One with a journal is not among them: its pilot may
/// live, and an entry names it.
pub fn unbegun(scratch: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(scratch) else {
        return Vec::new();
    };
    let own = nix::unistd::geteuid();
    let is_unbegun = |path: &PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|found| {
            let age = found.modified().ok().and_then(|at| at.elapsed().ok());
            found.is_dir()
                && (own.is_root() || found.uid() == own.as_raw())
                && age.is_some_and(|age| age >= OLD)
        }) && is_unclaimed_slot(path)
            && !path.join(JOURNAL_FILE).exists()
    };
    let mut slots: Vec<PathBuf> = (entries.flatten())
        .filter(|entry| entry.file_name().to_str().is_some_and(is_slots_name))
        .map(|entry| entry.path())
        .filter(is_unbegun)
        .collect();
    slots.sort();
    slots
}

fn is_slots_name(name: &str) -> bool {
    name.rsplit_once(".r").is_some_and(|(key, start)| {
        SubmitKey::new(key).is_ok()
            && !start.is_empty()
            && start.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_old_directories_with_a_slots_name_and_nothing_else_in_them_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let make = |name: &str, files: &[&str], age: Option<SystemTime>| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            for file in files {
                fs::write(path.join(file), "x").unwrap();
            }
            if let Some(age) = age {
                File::open(&path).unwrap().set_modified(age).unwrap();
            }
            path
        };
        let killed = make("wp-1-000001.r0", &["slot.toml"], Some(old));
        let member = make("wp-1-000002.3.r1", &["slot.toml.new"], Some(old));
        make("wp-1-000003.r0", &["slot.toml"], None);
        make("wp-1-000004.r0", &["slot.toml", "precious"], Some(old));
        make("wp-1-000005.r0", &[], Some(old));
        make("wp-1-000007.r0", &["slot.toml", "journal"], Some(old));
        make("notes.rx", &["slot.toml"], Some(old));
        make("notes", &["slot.toml"], Some(old));
        std::os::unix::fs::symlink(&killed, dir.path().join("wp-1-000006.r0")).unwrap();
        assert_eq!(unbegun(dir.path()), [killed.clone(), member.clone()]);

        for slot in [killed, member] {
            let report = super::super::reclaim(&slot, super::super::Effort::default()).unwrap();
            assert!(report.is_clean() && !slot.exists(), "{report}");
        }
        assert!(dir.path().join("wp-1-000004.r0/precious").exists());
    }
}
