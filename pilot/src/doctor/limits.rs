//! What the system lets this account do: resource limits, account, control group.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{User, geteuid};
use protocol::finding::Finding;

use super::Subject;
use crate::host::cgroup::may_be_divided;

const MIB: u64 = 1024 * 1024;
/// Address space of QEMU beside its guest's memory, MiB: libraries, threads' stacks, video memory.
const ADDRESS_ROOM_MIB: u64 = 1024;
/// Open files that the pilot and some guests need.
const FILES: u64 = 256;

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let memory = subject.slot.as_ref().map_or(0, |s| s.resources.memory.0);
    vec![
        account(),
        file_size(soft(Resource::RLIMIT_FSIZE), memory),
        address_space(soft(Resource::RLIMIT_AS), memory),
        open_files(soft(Resource::RLIMIT_NOFILE)),
        control_group(
            &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
            Path::new("/sys/fs/cgroup"),
        ),
    ]
}

/// The number and name of this account; its number where it has no name.
pub(crate) fn account_name() -> (u32, String) {
    let uid = geteuid();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    (uid.as_raw(), name.unwrap_or_else(|| uid.to_string()))
}

fn account() -> Finding {
    let (uid, name) = account_name();
    Finding::ok("account", format!("runs as {name} (user number {uid})"))
}

/// The limit that holds; none where there is none, or where the system does not say.
fn soft(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

fn file_size(limit: Option<u64>, memory_mib: u64) -> Finding {
    let check = "limit.file-size";
    match limit.map(|bytes| bytes / MIB) {
        None => Finding::ok(check, "files may have any size"),
        Some(mib) if mib >= memory_mib.max(1) => {
            Finding::ok(check, format!("files may have {mib} MiB"))
        }
        Some(mib) => Finding::warning(
            check,
            format!("files may have {mib} MiB only (RLIMIT_FSIZE)"),
            format!(
                "raise `ulimit -f` for jobs above the slot's memory ({memory_mib} MiB): the \
                 suspend of a larger guest fails"
            ),
        ),
    }
}

fn address_space(limit: Option<u64>, memory_mib: u64) -> Finding {
    let check = "limit.address-space";
    let need = memory_mib + ADDRESS_ROOM_MIB;
    match limit.map(|bytes| bytes / MIB) {
        None => Finding::ok(check, "processes may have any address space"),
        Some(mib) if mib >= need => Finding::ok(
            check,
            format!("processes may have {mib} MiB of address space"),
        ),
        Some(mib) => Finding::warning(
            check,
            format!("processes may have {mib} MiB of address space only (RLIMIT_AS)"),
            format!(
                "set `ulimit -v unlimited` for jobs, or at least {need} MiB: QEMU needs its \
                 guest's memory and about 1 GiB more; the batch system's own memory limit does \
                 not need this one"
            ),
        ),
    }
}

fn open_files(limit: Option<u64>) -> Finding {
    let check = "limit.open-files";
    match limit {
        None => Finding::ok(check, "any number of files may be open"),
        Some(n) if n >= FILES => Finding::ok(check, format!("{n} files may be open")),
        Some(n) => Finding::warning(
            check,
            format!("{n} files may be open only (RLIMIT_NOFILE)"),
            format!("raise `ulimit -n` for jobs to {FILES} or more"),
        ),
    }
}

/// Whether the slot's processes can have a control group of their own.
fn control_group(own: &str, root: &Path) -> Finding {
    let check = "cgroup";
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Finding::ok(
            check,
            "no unified control group (version 2); guests are bound to the pilot by the kernel's \
             parent-death signal and the journal",
        );
    };
    let delegated = !path.is_empty() && may_be_divided(&root.join(path));
    let words = if delegated {
        "may be divided by this account (delegated): guests get one of their own"
    } else {
        "belongs to the batch system or the node (not delegated)"
    };
    Finding::ok(check, format!("control group /{path} {words}"))
}

#[cfg(test)]
mod tests {
    use protocol::finding::Level;

    use super::*;

    #[test]
    fn limits_are_judged_against_the_slots_memory() {
        let gib = 1024 * MIB;
        assert_eq!(file_size(None, 4096).level, Level::Ok);
        assert_eq!(file_size(Some(8 * gib), 4096).level, Level::Ok);
        assert_eq!(file_size(Some(gib), 4096).level, Level::Warning);
        assert_eq!(address_space(None, 4096).level, Level::Ok);
        assert_eq!(address_space(Some(5 * gib), 4096).level, Level::Ok);
        assert_eq!(address_space(Some(4 * gib), 4096).level, Level::Warning);
        assert_eq!(open_files(Some(1024)).level, Level::Ok);
        assert_eq!(open_files(Some(64)).level, Level::Warning);
    }

    #[test]
    fn a_control_group_is_only_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let old = control_group("9:memory:/x\n", root.path());
        assert!(old.text.contains("no unified"), "{old}");
        let missing = control_group("0::/job_12\n", root.path());
        assert!(missing.text.contains("not delegated"), "{missing}");
        fs::create_dir(root.path().join("job_12")).unwrap();
        for (file, text) in [
            ("cgroup.procs", ""),
            ("cgroup.kill", ""),
            ("cgroup.type", "domain\n"),
        ] {
            fs::write(root.path().join("job_12").join(file), text).unwrap();
        }
        let ours = control_group("0::/job_12\n", root.path());
        assert!(ours.text.contains("(delegated)"), "{ours}");
    }
}
