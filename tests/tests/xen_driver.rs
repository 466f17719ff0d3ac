//! The driver's own tests (package `pilot`) inside of a real dom0.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use e2e::harness::xen::XenSite;
use e2e::harness::{Binaries, guest_dir};

/// The rules that hold for all hypervisors, as the user that pilots run as.
#[test]
fn the_driver_keeps_the_contract() -> Result<()> {
    in_dom0("hypervisor_conformance", &[], &["xen::"])
}

/// What kills the toolstack, the helper or the pilot at moments of a save leaves no domain.
#[test]
fn kills_leave_no_domain() -> Result<()> {
    // As root: it kills what root has started.
    in_dom0("hypervisor_xen", &["--root"], &[])
}

/// Runs the ignored tests of a test program in dom0; what it prints is ours.
fn in_dom0(program: &str, user: &[&str], filter: &[&str]) -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let mut binaries = Binaries::find()?;
    // The place of the LRM, which is not needed here.
    binaries.lrm = test_program(program)?;
    let site = XenSite::start(&binaries, Some(&guest), 1)?;
    let guest = site.guest.clone().context("no guest")?;
    let status = Command::new(&site.hosts[0].prefix()[0])
        .args(user)
        .args(["env", "TMPDIR=/var/tmp", "RUST_BACKTRACE=0"])
        .arg(format!("WP_GUEST_DIR={}", guest.display()))
        .arg(&site.binaries.lrm)
        .args(filter)
        .args(["--ignored", "--test-threads=1"])
        .status()
        .context("failed to run in dom0")?;
    let left = site.leftovers()?;
    ensure!(status.success(), "{program} in dom0: {status}");
    ensure!(left.is_empty(), "left in dom0: {left:#?}");
    Ok(())
}

/// The newest build of a test program: beside this one.
fn test_program(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("failed to find this program")?;
    let dir = me.parent().context("this program lies nowhere")?;
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).context("failed to list the programs")? {
        let path = entry?.path();
        let hash = path
            .file_name()
            .and_then(|n| n.to_str()?.strip_prefix(name)?.strip_prefix('-'));
        if hash.is_some_and(|h| !h.contains('.')) {
            found.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    found.sort();
    let (_, newest) = found.pop().with_context(|| {
        format!("no test program {name}; build it with `cargo test --workspace --no-run`")
    })?;
    Ok(newest)
}
