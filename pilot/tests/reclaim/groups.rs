//! The slot's own control group, where there may be one: what is in it ends, and it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pilot::exec_guest::Trampoline;
use pilot::host::cgroup;
use pilot::host::processes::marked;
use pilot::journal::{JournalError, What};
use pilot::reclaim::finish;

use crate::node::{Node, claim, eventually, pilot_program};

/// A group as a batch system would delegate it to a job.
pub struct JobGroup(PathBuf);

impl JobGroup {
    /// None, and said so, where this account can't make one.
    pub fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let all = mounts.lines().filter(|l| l.contains(" - cgroup2 "));
        let points = all.filter_map(|l| l.split(' ').nth(4));
        for point in points {
            let name = format!("wp-test-{}", uuid::Uuid::new_v4().simple());
            let path = Path::new(point).join(name);
            if fs::create_dir(&path).is_ok() {
                let group = Self(path);
                if group.path().join("cgroup.kill").exists() {
                    return Some(group);
                }
            }
        }
        println!("NOT TESTED: this account can make no control group (version 2) with cgroup.kill");
        None
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Groups within it.
    pub fn inner(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(&self.0).unwrap().flatten();
        all.map(|e| e.path()).filter(|p| p.is_dir()).collect()
    }
}

impl Drop for JobGroup {
    fn drop(&mut self) {
        for group in self.inner().iter().chain([&self.0]) {
            let _ = cgroup::remove(group, Duration::from_secs(30));
        }
    }
}

#[test]
fn a_process_that_lost_its_mark_and_its_parent_ends_with_the_group() {
    let Some(job) = JobGroup::new() else { return };
    let node = Node::new();
    let before = node.snapshot();
    let journal = claim(node.root()).unwrap();
    let path = job.path().join(&journal.holder().slot);
    let _entry = journal.intend(What::Group { path: path.clone() }).unwrap();
    cgroup::make(&path).unwrap();
    let hide = "env -i setsid sleep 600 & exec sleep 600";
    let mut guest = Trampoline::of(pilot_program())
        .into_group(path.clone())
        .command(&journal.tool_marker(), "sh")
        .args(["-c", hide])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let inside = || fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    eventually("two processes sleep, one of them without a mark", || {
        let names = inside();
        let sleeps = |pid: &str| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sleep\n")
        };
        let prefix = journal.holder().marker_prefix();
        names.lines().count() == 2 && names.lines().all(sleeps) && marked(&prefix).len() == 1
    });
    let hidden: Vec<String> = inside().lines().map(str::to_owned).collect();
    let report = finish(&journal, Duration::from_secs(30));
    assert!(report.is_clean(), "{report}");
    guest.wait().unwrap();
    assert!(job.inner().is_empty(), "{:?}", job.inner());
    for pid in hidden {
        let comm = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(comm.is_empty() || comm.contains(") Z "), "{comm}");
    }
    drop(journal);
    assert_eq!(node.snapshot(), before);
}

#[test]
fn only_a_group_with_the_slots_own_name_is_a_slots_group() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    for path in ["/sys/fs/cgroup", "/sys/fs/cgroup/job_7", "/sys/../wp"] {
        let path = PathBuf::from(path);
        let e = journal.intend(What::Group { path }).unwrap_err();
        assert!(matches!(e, JournalError::OutOfBounds { .. }), "{e}");
    }
    // A directory of that name which is no control group is left, and named.
    let path = node.root().join("outside").join(&journal.holder().slot);
    let _entry = journal.intend(What::Group { path: path.clone() }).unwrap();
    fs::create_dir(&path).unwrap();
    let report = finish(&journal, Duration::from_secs(30));
    assert!(!report.is_clean(), "{report}");
    assert!(report.to_string().contains("no control group"), "{report}");
    assert!(path.exists());
    fs::remove_dir(&path).unwrap();
    let report = finish(&journal, Duration::from_secs(30));
    assert!(report.is_clean(), "{report}");
}
