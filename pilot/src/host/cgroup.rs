//! A control group (version 2) of the slot's own, where the node lets this account divide the one
//! that the job is in.
//!
//! Every process that the pilot starts for its guests is put into it by the trampoline, and can't
//! leave it: so one write ends all of them at once, whatever they have become. Without such a
//! group nothing changes: processes are known by their mark, and die with the pilot.
//!
//! No controller is enabled and no limit set: the site's own limits hold as before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use super::processes::holds_within;

/// Ends all processes of a group when `1` is written to it; since Linux 5.14.
const KILL: &str = "cgroup.kill";
/// Who is in a group.
const PROCESSES: &str = "cgroup.procs";

/// The group that this process is in, if this account may make groups in it. The root of all
/// groups is the node's, whoever we are.
pub fn delegated() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let directory = directory_of(&own, &mounts)?;
    may_be_divided(&directory).then_some(directory)
}

/// Whether this account may make groups in `directory` and move its own processes there.
pub(crate) fn may_be_divided(directory: &Path) -> bool {
    let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    let kind = fs::read_to_string(directory.join("cgroup.type"));
    writable(directory)
        && writable(&directory.join(PROCESSES))
        && directory.join(KILL).exists()
        && kind.is_ok_and(|kind| kind.trim() == "domain")
}

/// Where the group of `/proc/self/cgroup` is, by `/proc/self/mountinfo`.
fn directory_of(own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    if path == "/" || path.contains("/..") {
        return None; // the node's, or outside of what is to be seen here
    }
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ")
            .then(|| Path::new(point).join(below))
    })
}

/// Makes the group.
///
/// # Errors
/// The system does not let us.
pub fn make(group: &Path) -> io::Result<()> {
    fs::create_dir(group)
}

/// Puts this process into the group.
///
/// # Errors
/// It is gone, or the system does not let us.
pub fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join(PROCESSES), "0")
}

/// Tells the kernel to end all that is in the group, and does not wait. One that is not there, or
/// is no control group, has nothing in it.
pub fn kill(group: &Path) {
    if is_group(group) {
        // What could not be ended is found when the group is removed.
        let _ = fs::write(group.join(KILL), "1");
    }
}

/// Ends all that is in the group and removes it; waits for the end at most for `limit`.
/// `Ok(false)`: it was not there.
///
/// # Errors
/// Something in it does not end, or it is no control group.
pub fn remove(group: &Path, limit: Duration) -> io::Result<bool> {
    if let Err(e) = fs::symlink_metadata(group) {
        return if e.kind() == io::ErrorKind::NotFound {
            Ok(false)
        } else {
            Err(e)
        };
    }
    if !is_group(group) {
        return Err(io::Error::other("it is no control group"));
    }
    kill(group);
    // The last processes leave the group a moment after they are dead to others.
    let mut last = Ok(());
    holds_within(limit, || {
        last = fs::remove_dir(group);
        !matches!(&last, Err(e) if e.kind() == io::ErrorKind::ResourceBusy)
    });
    last.map(|()| true)
}

fn is_group(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_below_its_mount() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = |own, mounts| directory_of(own, mounts);
        let wanted = PathBuf::from("/sys/fs/cgroup/unified/job_7/step_0");
        assert_eq!(found("9:cpu:/x\n0::/job_7/step_0\n", mounts), Some(wanted));
        assert_eq!(found("0::/\n", mounts), None, "the node's own");
        assert_eq!(found("0::/../other\n", mounts), None);
        assert_eq!(found("9:cpu:/x\n", mounts), None, "version 1 only");
        let inside = "50 1 0:38 /job_7 /sys/fs/cgroup rw shared:1 - cgroup2 cgroup2 rw\n";
        let wanted = PathBuf::from("/sys/fs/cgroup/step_0");
        assert_eq!(found("0::/job_7/step_0\n", inside), Some(wanted));
        assert_eq!(found("0::/job_8\n", inside), None);
    }

    #[test]
    fn what_is_no_group_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        kill(dir.path());
        assert!(!dir.path().join(KILL).exists());
        remove(dir.path(), Duration::ZERO).unwrap_err();
        assert!(dir.path().exists());
        let missing = dir.path().join("missing");
        assert!(!remove(&missing, Duration::ZERO).unwrap());
        assert!(!may_be_divided(dir.path()));
    }
}
