//! Pilot jobs' directories: `<state>/pilot-jobs/<submit key>/`.
//!
//! Each holds the job's one-slot token (mode 0600) before the job is submitted, then the rendered
//! job and its output. The token goes when the job is over and can't come any more, the rest some
//! days later.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::ids::SubmitKey;
use protocol::time::{Span, Timestamp};

/// The file with the token, within a job's directory.
pub const TOKEN_FILE: &str = "token";

/// All pilot jobs' directories.
#[derive(Clone, Debug)]
pub struct JobDirs {
    root: PathBuf,
}

impl JobDirs {
    /// Uses `pilot-jobs` in the state directory; makes it if it is missing.
    ///
    /// # Errors
    /// It can't be made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join("pilot-jobs");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)?;
        Ok(Self { root })
    }

    /// The same without making anything: for a look at the paths.
    pub fn at(state_dir: &Path) -> Self {
        Self {
            root: state_dir.join("pilot-jobs"),
        }
    }

    /// The directory of them all.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a pilot job.
    pub fn path(&self, key: &SubmitKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Makes a job's directory with its token; both are on the disk when this returns.
    ///
    /// # Errors
    /// They can't be made; what was made of them is taken away again.
    pub fn make(&self, key: &SubmitKey, token: &str) -> io::Result<PathBuf> {
        let dir = self.path(key);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let fill = || {
            let path = dir.join(TOKEN_FILE);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            writeln!(file, "{token}")?;
            file.sync_all()?;
            File::open(&dir)?.sync_all()?;
            File::open(&self.root)?.sync_all()
        };
        match fill() {
            Ok(()) => Ok(dir),
            Err(e) => {
                // The first failure is what matters.
                let _ = fs::remove_dir_all(&dir);
                Err(e)
            }
        }
    }

    /// The pilot jobs that have a directory. A job is recorded before it gets one, so who asks
    /// the core about these afterwards can tell the live ones from those that are over.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn keys(&self) -> io::Result<Vec<SubmitKey>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            keys.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| SubmitKey::new(name).ok()),
            );
        }
        Ok(keys)
    }

    /// Removes the token of a job that is over, and its directory when nothing in it has changed
    /// for `keep`. True when it is gone.
    ///
    /// # Errors
    /// Something can't be read or removed; the rest is left for the next time.
    pub fn clear(&self, over: &SubmitKey, now: Timestamp, keep: Span) -> io::Result<bool> {
        let dir = self.path(over);
        match fs::remove_file(dir.join(TOKEN_FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        let mut last = modified(&dir)?;
        for entry in fs::read_dir(&dir)? {
            last = last.max(modified(&entry?.path())?);
        }
        if now.since(last) <= keep {
            return Ok(false);
        }
        fs::remove_dir_all(dir)?;
        Ok(true)
    }
}

fn modified(path: &Path) -> io::Result<Timestamp> {
    let since = fs::symlink_metadata(path)?
        .modified()?
        .duration_since(std::time::UNIX_EPOCH);
    Ok(since.map_or_else(
        |_| Timestamp::default(),
        |d| Timestamp::default() + Span::from_duration(d),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_directory_is_made_once_private_and_goes_when_its_job_is_over_and_old() {
        let state = tempfile::tempdir().unwrap();
        let dirs = JobDirs::open(state.path()).unwrap();
        let (live, over) = (
            SubmitKey::new("wp-1").unwrap(),
            SubmitKey::new("wp-2").unwrap(),
        );
        for key in [&live, &over] {
            let dir = dirs.make(key, "secret").unwrap();
            let token = dir.join(TOKEN_FILE);
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
            assert_eq!(fs::metadata(&token).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::read_to_string(&token).unwrap(), "secret\n");
            fs::write(dir.join("pilot.log"), "x").unwrap();
        }
        assert!(dirs.make(&live, "again").is_err(), "a key is used once");
        assert!(dirs.path(&live).join(TOKEN_FILE).exists());
        let mut keys = dirs.keys().unwrap();
        keys.sort();
        assert_eq!(keys, [live.clone(), over.clone()]);
        let made = modified(&dirs.path(&over)).unwrap();
        let week = Span::from_mins(7 * 24 * 60);
        assert!(!dirs.clear(&over, made + Span::from_secs(60), week).unwrap());
        assert!(
            !dirs.path(&over).join(TOKEN_FILE).exists(),
            "its token goes at once"
        );
        assert!(dirs.path(&over).join("pilot.log").exists());
        assert!(dirs.clear(&over, made + week.times(2), week).unwrap());
        assert_eq!(dirs.keys().unwrap(), std::slice::from_ref(&live));
        assert!(dirs.path(&live).join(TOKEN_FILE).exists());
    }
}
