//! The consoles: one file per workspace, in the order in which pieces arrive, with a mark at each
//! lease's begin.
//!
//! Beside `<workspace>.console` lies `<workspace>.index`: a line `generation begin data` for each
//! piece in a row of one lease: where its mark begins and where its bytes do. An index line is
//! written before its mark, so whatever moment a crash strikes, a line whose `data` is beyond the
//! end of the file is one that never got its mark: it is dropped. Pilots send again from where we
//! say, so nothing here is synced to the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::ids::{Generation, WorkspaceId};

/// Bytes that one read gives, at most.
pub const READ_LIMIT: u64 = 256 * 1024;

/// All consoles of a broker.
#[derive(Debug)]
pub struct Consoles {
    dir: PathBuf,
    limit: u64,
    /// One writer at a time per workspace.
    locks: Mutex<BTreeMap<WorkspaceId, Arc<Mutex<()>>>>,
}

/// Where pieces of leases lie in a console file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    generation: Generation,
    /// Where its mark begins: the end of the piece before.
    begin: u64,
    /// Where its bytes begin.
    data: u64,
}

impl Index {
    /// The lines that can be trusted, given the length of the console file.
    fn parse(text: &str, len: u64) -> Self {
        let mut pieces = Vec::new();
        for line in text.lines() {
            let mut numbers = line.split(' ').map(str::parse::<u64>);
            let (Some(Ok(generation)), Some(Ok(begin)), Some(Ok(data)), None) = (
                numbers.next(),
                numbers.next(),
                numbers.next(),
                numbers.next(),
            ) else {
                break;
            };
            if begin > data || data > len {
                break;
            }
            pieces.push(Piece {
                generation: Generation(generation),
                begin,
                data,
            });
        }
        Self { pieces }
    }

    fn text(&self) -> String {
        use std::fmt::Write;
        self.pieces.iter().fold(String::new(), |mut text, p| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {} {}", p.generation, p.begin, p.data);
            text
        })
    }

    /// Bytes of a lease that the file has.
    fn have(&self, generation: Generation, len: u64) -> u64 {
        let ends = self.pieces.iter().skip(1).map(|p| p.begin).chain([len]);
        self.pieces
            .iter()
            .zip(ends)
            .filter(|(p, _)| p.generation == generation)
            .map(|(p, end)| end.saturating_sub(p.data))
            .sum()
    }
}

impl Consoles {
    /// Keeps consoles in `dir`, which is made if missing, each up to `limit` bytes.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn open(dir: PathBuf, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            limit,
            locks: Mutex::default(),
        })
    }

    fn file(&self, workspace: &WorkspaceId, kind: &str) -> PathBuf {
        self.dir.join(format!("{workspace}.{kind}"))
    }

    /// Takes `bytes`, which begin `offset` bytes into the lease's console. Returns from where the
    /// pilot is to go on: a piece that would leave a gap is not taken, one that we have already
    /// is not taken twice. `mark` is shown where a lease's bytes begin.
    ///
    /// # Errors
    /// The files can't be written; what was there is still there.
    pub fn append(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
        mark: &str,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<u64> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|id, lock| id == workspace || Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(workspace.clone()).or_default())
        };
        let _one_writer = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.file(workspace, "console"))?;
        let len = file.metadata()?.len();
        let index_file = self.file(workspace, "index");
        let written = read_or_empty(&index_file)?;
        let mut index = Index::parse(&written, len);
        let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if len >= self.limit {
            return Ok(end);
        }
        let have = index.have(generation, len);
        if offset > have {
            return Ok(have);
        }
        let Some(new) = usize::try_from(have - offset)
            .ok()
            .and_then(|n| bytes.get(n..))
        else {
            return Ok(have);
        };
        if new.is_empty() {
            return Ok(have);
        }
        let mut out = Vec::with_capacity(new.len() + 128);
        let continues = index
            .pieces
            .last()
            .is_some_and(|p| p.generation == generation);
        if !continues {
            let newline = if len == 0 { "" } else { "\n" };
            out.extend(format!("{newline}--- {mark} ---\n").bytes());
            let data = len + u64::try_from(out.len()).unwrap_or(0);
            index.pieces.push(Piece {
                generation,
                begin: len,
                data,
            });
        }
        // Also when only a line of a crash is to be dropped.
        let text = index.text();
        if text != written {
            replace(&index_file, &text)?;
        }
        let room = usize::try_from(self.limit.saturating_sub(len)).unwrap_or(usize::MAX);
        let full = new.len() >= room;
        out.extend_from_slice(&new[..new.len().min(room)]);
        if full {
            let mark = format!(
                "\n--- only {} bytes of a console are kept ---\n",
                self.limit
            );
            out.extend(mark.bytes());
        }
        file.seek(SeekFrom::Start(len))?;
        if let Err(e) = file.write_all(&out) {
            // Half a mark would be read as the guest's bytes.
            file.set_len(len)?;
            return Err(e);
        }
        Ok(end)
    }

    /// The workspaces that have a console. One is recorded before it gets its console, so who asks
    /// the core about these afterwards can tell the forgotten ones.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn workspaces(&self) -> io::Result<BTreeSet<WorkspaceId>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.rsplit_once('.'));
            found.extend(id.and_then(|(id, _)| WorkspaceId::new(id).ok()));
        }
        Ok(found)
    }

    /// Removes a workspace's console, for good.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn remove(&self, workspace: &WorkspaceId) -> io::Result<()> {
        for kind in ["console", "index", "index.new"] {
            match fs::remove_file(self.file(workspace, kind)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Bytes of a workspace's console from `offset` on, at most [`READ_LIMIT`], and the offset to
    /// go on from. Nothing captured yet is an empty console.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(&self, workspace: &WorkspaceId, offset: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut file = match File::open(self.file(workspace, "console")) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(e) => return Err(e),
        };
        let offset = offset.min(file.metadata()?.len());
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(READ_LIMIT).read_to_end(&mut bytes)?;
        let next = offset + u64::try_from(bytes.len()).unwrap_or(0);
        Ok((bytes, next))
    }
}

fn read_or_empty(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e),
    }
}

/// Puts a whole new file in place of the old one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("index.new");
    fs::write(&draft, text)?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const G1: Generation = Generation(1);
    const G2: Generation = Generation(2);

    fn ws() -> WorkspaceId {
        WorkspaceId::new("w1").unwrap()
    }

    fn text(c: &Consoles) -> String {
        String::from_utf8(c.read(&ws(), 0).unwrap().0).unwrap()
    }

    #[test]
    fn pieces_are_taken_once_without_gaps_and_late_ones_too() {
        let dir = tempfile::tempdir().unwrap();
        let c = Consoles::open(dir.path().join("c"), 1 << 20).unwrap();
        let put = |g, offset, bytes: &str| {
            c.append(&ws(), g, &format!("lease {g}"), offset, bytes.as_bytes())
                .unwrap()
        };
        assert_eq!(c.read(&ws(), 7).unwrap(), (vec![], 0));
        assert_eq!(put(G1, 5, "x"), 0, "a gap");
        assert_eq!(put(G1, 0, ""), 0);
        assert_eq!(text(&c), "", "no mark without bytes");
        assert_eq!(put(G1, 0, "hello "), 6);
        assert_eq!(put(G1, 0, "hello "), 6, "repeated");
        assert_eq!(put(G1, 3, "lo world\n"), 12, "overlapping");
        assert_eq!(put(G2, 0, "again\n"), 6);
        assert_eq!(put(G1, 12, "late\n"), 17, "of a lease before");
        assert_eq!(put(G1, 12, "late\n"), 17);
        assert_eq!(put(G2, 6, "more\n"), 11);
        let want = "--- lease 1 ---\nhello world\n\n--- lease 2 ---\nagain\n\n--- lease 1 ---\nlate\n\
                    \n--- lease 2 ---\nmore\n";
        assert_eq!(text(&c), want);
        let (tail, next) = c.read(&ws(), 4).unwrap();
        assert_eq!((tail.len() + 4, next), (want.len(), want.len() as u64));
        assert_eq!(
            c.read(&ws(), 1 << 30).unwrap().1,
            want.len() as u64,
            "beyond the end"
        );
        assert!(c.locks.lock().unwrap().len() <= 1);
    }

    #[test]
    fn a_console_is_removed_with_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let c = Consoles::open(dir.path().into(), 1 << 20).unwrap();
        let other = WorkspaceId::new("w1.x").unwrap();
        for id in [&ws(), &other] {
            c.append(id, G1, "lease 1", 0, b"hello").unwrap();
        }
        fs::write(dir.path().join("w1.index.new"), "torn").unwrap();
        let of = |ids: &[&WorkspaceId]| ids.iter().copied().cloned().collect::<BTreeSet<_>>();
        assert!(c.workspaces().unwrap().is_superset(&of(&[&ws(), &other])));
        c.remove(&ws()).unwrap();
        c.remove(&ws()).unwrap();
        assert_eq!(c.workspaces().unwrap(), of(&[&other]));
        assert_eq!(c.read(&ws(), 0).unwrap().0, b"");
        assert_ne!(c.read(&other, 0).unwrap().0, b"");
    }

    #[test]
    fn a_full_console_says_so_once_and_lets_the_pilot_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let c = Consoles::open(dir.path().into(), 64).unwrap();
        let long = [b'x'; 100];
        assert_eq!(c.append(&ws(), G1, "lease 1", 0, &long).unwrap(), 100);
        assert_eq!(c.append(&ws(), G1, "lease 1", 100, &long).unwrap(), 200);
        assert_eq!(c.append(&ws(), G2, "lease 2", 0, &long).unwrap(), 100);
        assert_eq!(text(&c).matches("only 64 bytes").count(), 1);
        assert!(text(&c).len() < 64 + 100, "{}", text(&c));
    }

    #[test]
    fn a_crash_at_any_moment_loses_nothing_that_was_acknowledged() {
        // Every prefix of what one append writes, as a crash may leave it.
        let write = |c: &Consoles, offset: u64, bytes: &[u8]| {
            c.append(&ws(), G1, "lease 1", offset, bytes).unwrap()
        };
        for cut in 0..=22 {
            let dir = tempfile::tempdir().unwrap();
            let c = Consoles::open(dir.path().into(), 1 << 20).unwrap();
            assert_eq!(write(&c, 0, b"abcdef"), 6);
            let file = OpenOptions::new()
                .write(true)
                .open(c.file(&ws(), "console"))
                .unwrap();
            file.set_len(cut).unwrap();
            // The pilot goes by our answers and has everything still.
            let mut next = write(&c, 6, b"ghi");
            while next < 9 {
                next = write(&c, next, &b"abcdefghi"[usize::try_from(next).unwrap()..]);
            }
            let text = text(&c);
            let guest: String = text.lines().filter(|l| !l.starts_with("---")).collect();
            assert!(guest.ends_with("abcdefghi"), "cut at {cut}: {text}");
            assert_eq!(
                Index::parse(&read_or_empty(&c.file(&ws(), "index")).unwrap(), 99)
                    .have(G1, text.len() as u64),
                9,
                "cut at {cut}: {text}"
            );
        }
    }
}
