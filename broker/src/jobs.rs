//! Pilot jobs' directories: `<state>/pilot-jobs/<submit key>/`.
//!
//! Each holds the job's one-slot token (mode 0600) before the job is submitted, then the rendered
//! job and its output. The token goes when the job is over and can't come any more, the rest some
//! days later. A job on several nodes has a token for the slot on each, `token.0` and so on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::ids::SubmitKey;
use protocol::time::{Span, Timestamp};

/// The file with the token, within a job's directory; the beginning of the names where there are
/// several.
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

    /// Makes a job's directory with its tokens; all are on the disk when this returns.
    ///
    /// # Errors
    /// They can't be made; what was made of them is taken away again.
    pub fn make(&self, key: &SubmitKey, tokens: &Tokens) -> io::Result<PathBuf> {
        let dir = self.path(key);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let fill = || {
            match tokens {
                Tokens::One(token) => write_token(&dir.join(TOKEN_FILE), token)?,
                Tokens::ByRank(tokens) => {
                    for (rank, token) in tokens.iter().enumerate() {
                        write_token(&dir.join(format!("{TOKEN_FILE}.{rank}")), token)?;
                    }
                }
            }
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

    /// Removes the tokens of a job that is over, and its directory when nothing in it has changed
    /// for `keep`. True when it is gone.
    ///
    /// # Errors
    /// Something can't be read or removed; the rest is left for the next time.
    pub fn clear(&self, over: &SubmitKey, now: Timestamp, keep: Span) -> io::Result<bool> {
        let dir = self.path(over);
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(is_token) {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
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

/// The tokens of a pilot job.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// That of its one pilot.
    One(String),
    /// Those of the pilots of a job on several nodes, by their rank.
    ByRank(Vec<String>),
}

/// True for the name of a file that [`JobDirs::make`] writes.
fn is_token(name: &str) -> bool {
    let rank = |rest: &str| {
        rest.strip_prefix('.')
            .is_some_and(|r| r.parse::<u32>().is_ok())
    };
    name.strip_prefix(TOKEN_FILE)
        .is_some_and(|rest| rest.is_empty() || rank(rest))
}

fn write_token(path: &Path, token: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()
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

    fn one() -> Tokens {
        Tokens::One("secret".to_owned())
    }

    #[test]
    fn each_pilot_of_a_job_has_a_token_of_its_own_and_all_go_when_it_is_over() {
        let state = tempfile::tempdir().unwrap();
        let dirs = JobDirs::open(state.path()).unwrap();
        let key = SubmitKey::new("wp-1").unwrap();
        let tokens = ["a", "b"].map(str::to_owned).to_vec();
        let dir = dirs.make(&key, &Tokens::ByRank(tokens)).unwrap();
        for (name, want) in [("token.0", "a\n"), ("token.1", "b\n")] {
            let token = dir.join(name);
            assert_eq!(fs::metadata(&token).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::read_to_string(&token).unwrap(), want);
        }
        assert!(!dir.join(TOKEN_FILE).exists());
        fs::write(dir.join("token.old"), "x").unwrap();
        let made = modified(&dir).unwrap();
        dirs.clear(&key, made, Span::from_mins(1)).unwrap();
        let left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["token.old"]);
    }

    #[test]
    fn a_directory_is_made_once_private_and_goes_when_its_job_is_over_and_old() {
        let state = tempfile::tempdir().unwrap();
        let dirs = JobDirs::open(state.path()).unwrap();
        let (live, over) = (
            SubmitKey::new("wp-1").unwrap(),
            SubmitKey::new("wp-2").unwrap(),
        );
        for key in [&live, &over] {
            let dir = dirs.make(key, &one()).unwrap();
            let token = dir.join(TOKEN_FILE);
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
            assert_eq!(fs::metadata(&token).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::read_to_string(&token).unwrap(), "secret\n");
            fs::write(dir.join("pilot.log"), "x").unwrap();
        }
        assert!(dirs.make(&live, &one()).is_err(), "a key is used once");
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
