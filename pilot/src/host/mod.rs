//! The node that the pilot runs on: its facts, whether it can do the job, and its processes.
//!
//! [`inspect`] runs once, at the pilot's start. What it finds missing is an error with a way out
//! before any lease is taken, not a guest that fails later.

pub mod cgroup;
mod filesystem;
pub mod processes;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protocol::slot::HostFacts;
use protocol::slot_file::{Accelerator, HypervisorKind, HypervisorSection, SlotFile};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::exec_guest::Trampoline;
use crate::hypervisor::Helper;
use crate::journal::Journal;

/// QEMU's program where the slot file names none.
pub const DEFAULT_QEMU: &str = "qemu-system-x86_64";
/// How long the hypervisor may take to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

/// Why this node cannot run guests for this slot.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A directory can't be written.
    #[error("write to the {role} {}; this account needs an existing directory with write permission and free space there", path.display())]
    NotWritable {
        /// Which directory it is.
        role: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The free space of a directory can't be found out.
    #[error("find out the free space of {}", path.display())]
    Space {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The hypervisor's program is not there.
    #[error("find the hypervisor `{}` on this node; install it, or set `hypervisor.binary` in the slot file to its full path", program.display())]
    NoHypervisor {
        /// The program.
        program: PathBuf,
    },
    /// The hypervisor's program is there and does not say its version.
    #[error("ask `{} --version`: {answer}", program.display())]
    NoVersion {
        /// The program.
        program: PathBuf,
        /// What it did instead.
        answer: String,
    },
    /// The slot file wants Xen, and it can't be asked.
    #[error("ask Xen for its version")]
    NoXen {
        /// Why.
        source: crate::hypervisor::HelperError,
    },
    /// The slot file wants KVM and the node does not let this account use it.
    #[error(
        "open /dev/kvm; add the pilot's account to the group that owns it, or set `hypervisor.accelerator = \"tcg\"`"
    )]
    NoKvm {
        /// The system's answer.
        source: io::Error,
    },
}

/// Checks that the node can do what the slot file says, and says what it is.
///
/// # Errors
/// The first thing that is missing.
pub async fn inspect(
    slot: &SlotFile,
    journal: &Journal,
    trampoline: &Trampoline,
) -> Result<HostFacts, HostError> {
    let scratch = journal.scratch();
    check_writable("scratch directory", scratch)?;
    check_writable("store", &slot.paths.store)?;
    let mut facts = HostFacts {
        cpu_model: cpu_model(),
        scratch_free_mib: free_mib(scratch)?,
        store_filesystem: filesystem::of(&slot.paths.store),
        ..HostFacts::default()
    };
    // What Xen has for guests is no memory of dom0's; it is asked at each start.
    if slot.hypervisor.kind != HypervisorKind::Xen
        && let Some(total_mib) = memory_mib()
        && slot.resources.memory.0 > total_mib
    {
        tracing::warn!(
            slot.memory_mib = slot.resources.memory.0,
            node.memory_mib = total_mib,
            "the slot file promises more memory than the node has"
        );
    }
    match slot.hypervisor.kind {
        HypervisorKind::Null => facts.hypervisor = "null".to_owned(),
        HypervisorKind::Xen => {
            facts.hypervisor = "xen".to_owned();
            let info = Helper::of(&slot.hypervisor).info().await;
            facts.hypervisor_version = info.map_err(|source| HostError::NoXen { source })?.version;
        }
        HypervisorKind::Qemu => {
            facts.hypervisor = "qemu".to_owned();
            facts.hypervisor_version = qemu_version(&slot.hypervisor, journal, trampoline).await?;
            let accelerator = slot.hypervisor.accelerator;
            facts.accelerator = accelerator.map_or("", Accelerator::as_str).to_owned();
            if accelerator == Some(Accelerator::Kvm) {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/kvm")
                    .map_err(|source| HostError::NoKvm { source })?;
            }
        }
    }
    Ok(facts)
}

/// Free space that this account may use there, in MiB.
///
/// # Errors
/// The system does not say.
pub fn free_mib(path: &Path) -> Result<u64, HostError> {
    let found = nix::sys::statvfs::statvfs(path).map_err(|e| HostError::Space {
        path: path.to_owned(),
        source: e.into(),
    })?;
    Ok(found
        .blocks_available()
        .saturating_mul(found.fragment_size())
        / MIB)
}

/// Writes a byte to a file without a name: nothing stays, whenever the pilot is killed.
fn check_writable(role: &'static str, path: &Path) -> Result<(), HostError> {
    tempfile::tempfile_in(path)
        .and_then(|mut file| io::Write::write_all(&mut file, b"x"))
        .map_err(|source| HostError::NotWritable {
            role,
            path: path.to_owned(),
            source,
        })
}

fn system(what: RefreshKind) -> Option<System> {
    System::new_with_specifics(what).ok()
}

fn cpu_model() -> String {
    system(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()))
        .and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()))
        .unwrap_or_default()
}

fn memory_mib() -> Option<u64> {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    system(what).map(|system| system.total_memory() / MIB)
}

async fn qemu_version(
    hypervisor: &HypervisorSection,
    journal: &Journal,
    trampoline: &Trampoline,
) -> Result<String, HostError> {
    let program = hypervisor
        .binary
        .clone()
        .unwrap_or_else(|| DEFAULT_QEMU.into());
    if !is_executable(&program) {
        return Err(HostError::NoHypervisor { program });
    }
    let mut command: tokio::process::Command =
        trampoline.command(&journal.tool_marker(), &program).into();
    command
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let answered = tokio::time::timeout(VERSION_LIMIT, command.output()).await;
    let no_version = |answer: String| HostError::NoVersion {
        program: program.clone(),
        answer,
    };
    match answered {
        Err(_) => Err(no_version(format!("no answer within {VERSION_LIMIT:?}"))),
        Ok(Err(e)) => Err(no_version(e.to_string())),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            parse_version(&text).ok_or_else(|| {
                no_version(format!(
                    "{}, saying `{}`",
                    output.status,
                    String::from_utf8_lossy(&output.stderr).trim()
                ))
            })
        }
    }
}

/// A name without a slash is looked for as the system would; what is found may still not run.
pub(crate) fn is_executable(program: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.components().count() > 1 {
        return runs(program);
    }
    search_path().is_none_or(|path| {
        std::env::split_paths(&path).any(|directory| runs(&directory.join(program)))
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the system looks for programs is not a setting of ours"
)]
fn search_path() -> Option<impl AsRef<OsStr>> {
    std::env::var_os("PATH")
}

/// The number in `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)`.
pub(crate) fn parse_version(text: &str) -> Option<String> {
    let after = text.split("version ").nth(1)?;
    let number: String = after
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    number.contains('.').then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_by_pattern() {
        let read = |text| parse_version(text);
        assert_eq!(
            read("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright"),
            Some("7.2.22".to_owned())
        );
        assert_eq!(
            read("warning: x\nQEMU emulator version 10.0.2"),
            Some("10.0.2".to_owned())
        );
        assert_eq!(read("qemu: command not found"), None);
        assert_eq!(read("version unknown"), None);
    }

    #[test]
    fn the_node_says_what_it_is() {
        assert!(!cpu_model().is_empty());
        assert!(memory_mib().unwrap() > 0);
        let dir = tempfile::tempdir().unwrap();
        check_writable("scratch directory", dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let e = check_writable("store", &dir.path().join("missing")).unwrap_err();
        assert!(e.to_string().contains("store"), "{e}");
        assert!(is_executable(Path::new("cat")));
        assert!(!is_executable(Path::new("no-such-hypervisor")));
        assert!(!is_executable(dir.path()));
    }
}
