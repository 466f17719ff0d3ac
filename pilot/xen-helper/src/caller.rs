//! On whose behalf: the account that called `sudo`. Its files are opened with its rights alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, geteuid, getgroups, setegid, seteuid, setgroups};

/// The account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub uid: u32,
    gid: u32,
}

impl Caller {
    /// What sudo says; root where there was no sudo.
    pub fn find() -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("this is not root; call it by sudo".to_owned());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "sudo says so in the environment, which it makes itself"
        )]
        let told = |name: &str| std::env::var(name).ok();
        match (told("SUDO_UID"), told("SUDO_GID")) {
            (None, None) => Ok(Self { uid: 0, gid: 0 }),
            (Some(uid), Some(gid)) => match (uid.parse(), gid.parse()) {
                (Ok(uid), Ok(gid)) => Ok(Self { uid, gid }),
                _ => Err("sudo's SUDO_UID or SUDO_GID is no number".to_owned()),
            },
            _ => Err("one of sudo's SUDO_UID and SUDO_GID is missing".to_owned()),
        }
    }

    pub const fn is_root(self) -> bool {
        self.uid == 0
    }

    /// True when it may do something to what belongs to that account.
    pub const fn may_touch(self, owner: u32) -> bool {
        self.is_root() || self.uid == owner
    }

    /// Opens a regular file as the account itself could. Only while there is one thread.
    pub fn open(self, path: &Path, write: bool) -> Result<File, String> {
        let at = |e: io::Error| format!("can't open {}: {e}", path.display());
        if !path.is_absolute() {
            return Err(format!("{} is not an absolute path", path.display()));
        }
        let own_groups = getgroups().map_err(|e| at(e.into()))?;
        self.become_it().map_err(at)?;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags.bits())
            .open(path);
        // The saved user number is root's still.
        let back = seteuid(Uid::from_raw(0))
            .and_then(|()| setegid(Gid::from_raw(0)))
            .and_then(|()| setgroups(&own_groups));
        back.map_err(|e| at(e.into()))?;
        let file = opened.map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        if !meta.is_file() {
            return Err(format!("{} is not a regular file", path.display()));
        }
        if write && !self.may_touch(meta.uid()) {
            let path = path.display();
            return Err(format!("{path} does not belong to the caller"));
        }
        Ok(file)
    }

    fn become_it(self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // Its other groups are not asked for: names may be a network's, and this may be static.
        setgroups(&[gid])?;
        setegid(gid)?;
        seteuid(uid)?;
        Ok(())
    }
}
