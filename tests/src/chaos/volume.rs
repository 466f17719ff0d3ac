//! A file system that can be full: a tmpfs of a few MiB in a mount namespace of our own, which ends
//! with this process and which nobody else sees.
//!
//! Root may make one; others may where the kernel lets them have a user namespace. Elsewhere there
//! is none, and the acts that need it are left out with a word.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// Its size: some hundred states of null guests.
const SIZE: &str = "size=16m,mode=0700";

/// Takes this process into a mount namespace of its own. To be called before there are threads.
///
/// # Errors
/// The kernel does not let this account have one.
pub fn own_mounts() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNS).context("failed to make a mount namespace")?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
            .context("failed to make a user namespace")?;
        fs::write("/proc/self/setgroups", "deny").context("failed to give groups up")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
            .context("failed to map the account")?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
            .context("failed to map the group")?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("failed to keep mounts from others")
}

/// A small file system, mounted until it is dropped.
#[derive(Debug)]
pub struct Volume(PathBuf);

impl Volume {
    /// Mounts one on this directory; needs [`own_mounts`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(at: &Path) -> Result<Self> {
        let none = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(Some("chaos"), at, Some("tmpfs"), none, Some(SIZE))
            .with_context(|| format!("failed to mount a small file system on {}", at.display()))?;
        Ok(Self(at.to_owned()))
    }

    /// Takes all of its space.
    ///
    /// # Errors
    /// It has far more space than it should, or can't be written at all.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast()).context("failed to fill the disk")?;
        let block = [0_u8; 4096];
        for _ in 0..100_000 {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(e) => return Err(e).context("failed to fill the disk"),
            }
        }
        bail!("{} does not get full", self.0.display())
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// It can't be.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.ballast()) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context("failed to free the disk"),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Busy or not, it ends with the namespace.
        let _ = umount(&self.0);
    }
}
