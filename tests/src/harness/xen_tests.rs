//! Tests of other packages that run inside of the dom0 of a real Xen host: each is ignored, because
//! it needs one, and named by who boots it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use super::binaries::Binaries;
use super::checks::guest_dir;
use super::xen::XenSite;

/// Runs the ignored tests of a test program on a host for each of these filters, one after the
/// other; what they print is ours.
///
/// # Errors
/// One fails, something is left on a host, or it can't be run.
pub fn on_hosts(program: &str, user: &[&str], filters: &[&[&str]]) -> Result<()> {
    let Some(site) = run(program, user, filters)? else {
        return Ok(());
    };
    let left = site.leftovers()?;
    ensure!(left.is_empty(), "left in dom0: {left:#?}");
    Ok(())
}

/// The same on one host that is of no use afterwards: nobody looks what is left there.
///
/// # Errors
/// One fails, or it can't be run.
pub fn on_a_host_to_throw_away(program: &str, user: &[&str], filter: &[&str]) -> Result<()> {
    run(program, user, &[filter]).map(drop)
}

/// The hosts, on which nothing has failed; none without a guest.
fn run(program: &str, user: &[&str], filters: &[&[&str]]) -> Result<Option<XenSite>> {
    let Some(guest) = guest_dir()? else {
        return Ok(None);
    };
    let mut binaries = Binaries::find()?;
    // The place of the LRM, which is not needed here.
    binaries.lrm = test_program(program)?;
    let site = XenSite::start(&binaries, Some(&guest), filters.len())?;
    let guest = site.guest.clone().context("no guest")?;
    for (host, filter) in site.hosts.iter().zip(filters) {
        let status = Command::new(&host.prefix()[0])
            .args(user)
            .args(["env", "TMPDIR=/var/tmp", "RUST_BACKTRACE=0"])
            .arg(format!("WP_GUEST_DIR={}", guest.display()))
            .arg(format!("WP_XEN_MEETING={}", site.share().display()))
            .arg(&site.binaries.lrm)
            .args(*filter)
            .args(["--ignored", "--test-threads=1"])
            .status()
            .context("failed to run in dom0")?;
        ensure!(status.success(), "{program} {filter:?} in dom0: {status}");
    }
    Ok(Some(site))
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
