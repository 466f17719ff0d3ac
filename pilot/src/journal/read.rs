//! Reading a journal back, whatever state a crash left it in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::line::{Holder, Line, VERSION, What};
use crate::host::processes::ProcessId;

/// Something that was written down and not said to be gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// What.
    pub what: What,
    /// The process, if it was written down after it was started.
    pub process: Option<ProcessId>,
}

/// A line that cannot be read and is not the torn last one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// What a journal says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Who wrote it.
    pub holder: Holder,
    /// True when there is a journal: the directory that it is in is the slot's then.
    pub began: bool,
    /// The warden, if one was started.
    pub warden: Option<ProcessId>,
    /// What may be there, latest first: the order in which it is to be undone.
    pub open: Vec<Open>,
    /// What can't be read.
    pub damage: Vec<Damage>,
}

impl Recorded {
    /// What is known of a slot without a journal.
    pub fn nothing(holder: Holder) -> Self {
        Self {
            holder,
            began: false,
            warden: None,
            open: Vec::new(),
            damage: Vec::new(),
        }
    }
}

/// Reads a journal. `None`: there is none, or its pilot died before the first line was whole, so
/// that nothing was created.
///
/// # Errors
/// The file can't be read, or a newer pilot wrote it.
pub fn read(path: &Path) -> io::Result<Option<Recorded>> {
    match fs::read(path) {
        Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)).map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads a node entry. `None`: there is none, or its pilot died while it wrote it, so that
/// nothing else was created.
///
/// # Errors
/// The file can't be read, or a newer pilot wrote it.
pub fn read_node_entry(path: &Path) -> io::Result<Option<Holder>> {
    match fs::read_to_string(path) {
        // A whole entry ends its line: one without is torn.
        Ok(text) if !text.ends_with('\n') => Ok(None),
        Ok(text) => {
            let holder: Holder = serde_json::from_str(&text)?;
            check_version(&holder).map_err(io::Error::other)?;
            Ok(Some(holder))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn check_version(holder: &Holder) -> Result<(), String> {
    if holder.version <= VERSION {
        return Ok(());
    }
    Err(format!(
        "written in version {} of its format, this pilot reads up to {VERSION}; use the newer pilot's `reclaim`",
        holder.version
    ))
}

fn parse(text: &str) -> Result<Option<Recorded>, String> {
    // The last line counts only when its end is there: it is written before anything is created.
    let Some((whole, _torn)) = text.rsplit_once('\n') else {
        return Ok(None);
    };
    let mut lines = whole.lines().enumerate();
    let holder = match lines.next().map(|(_, first)| serde_json::from_str(first)) {
        Some(Ok(Line::Open(holder))) => holder,
        Some(Ok(_)) => return Err("the first line does not say whose journal it is".into()),
        Some(Err(e)) => return Err(format!("the first line can't be read: {e}")),
        None => return Ok(None),
    };
    check_version(&holder)?;
    let mut warden = None;
    let mut open = BTreeMap::new();
    let mut damage = Vec::new();
    for (index, line) in lines {
        let why = match serde_json::from_str(line) {
            Ok(Line::Warden { process }) => {
                warden = Some(process);
                continue;
            }
            Ok(Line::Intend { entry, what }) => {
                open.insert(
                    entry,
                    Open {
                        what,
                        process: None,
                    },
                );
                continue;
            }
            Ok(Line::Made { entry, process }) => match open.get_mut(&entry) {
                Some(known) => {
                    known.process = Some(process);
                    continue;
                }
                None => format!("entry {entry} was made but never intended"),
            },
            Ok(Line::Gone { entry }) => {
                open.remove(&entry);
                continue;
            }
            Ok(Line::Open(_)) => "a second first line".to_owned(),
            Err(e) => e.to_string(),
        };
        damage.push(Damage {
            line: index + 1,
            why,
        });
    }
    Ok(Some(Recorded {
        holder,
        began: true,
        warden,
        open: open.into_values().rev().collect(),
        damage,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::NodeIdentity;

    fn holder() -> Holder {
        Holder {
            version: VERSION,
            slot: "wp-1".into(),
            submit_key: "k".into(),
            incarnation: "i".into(),
            pilot: ProcessId { pid: 1, start: 2 },
            uid: 0,
            node: NodeIdentity {
                host: "n".into(),
                boot: "b".into(),
                pid_namespace: "p".into(),
            },
            scratch: "/s".into(),
            store: "/t".into(),
            node_entry: "/n/e".into(),
        }
    }

    fn text(lines: &[Line]) -> String {
        lines
            .iter()
            .map(|l| serde_json::to_string(l).unwrap() + "\n")
            .collect()
    }

    fn file(name: &str) -> What {
        What::File {
            path: format!("/s/{name}").into(),
        }
    }

    fn story() -> String {
        let process = ProcessId { pid: 9, start: 10 };
        text(&[
            Line::Open(holder()),
            Line::Intend {
                entry: 1,
                what: file("a"),
            },
            Line::Intend {
                entry: 2,
                what: What::Process {
                    program: "q".into(),
                },
            },
            Line::Made { entry: 2, process },
            Line::Gone { entry: 1 },
            Line::Intend {
                entry: 3,
                what: file("c"),
            },
        ])
    }

    #[test]
    fn what_is_open_comes_back_latest_first() {
        let recorded = parse(&story()).unwrap().unwrap();
        let open: Vec<String> = recorded.open.iter().map(|o| o.what.to_string()).collect();
        assert_eq!(open, ["file /s/c", "process q"]);
        assert_eq!(
            recorded.open[1].process,
            Some(ProcessId { pid: 9, start: 10 })
        );
        assert_eq!(recorded.damage, []);
    }

    #[test]
    fn cut_at_any_byte_it_reads_as_the_whole_lines_before() {
        let story = story();
        for cut in 0..=story.len() {
            let whole = story[..cut].rfind('\n').map_or("", |end| &story[..=end]);
            assert_eq!(parse(&story[..cut]), parse(whole), "cut at {cut}");
            if let Some(recorded) = parse(&story[..cut]).unwrap() {
                assert_eq!(recorded.damage, [], "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_hides_no_other() {
        let broken = story().replacen("\"op\":\"made\"", "\"op\":\"future\"", 1);
        let recorded = parse(&broken).unwrap().unwrap();
        assert_eq!(recorded.open.len(), 2);
        assert_eq!(recorded.damage.len(), 1);
        assert_eq!(recorded.damage[0].line, 4);
    }

    #[test]
    fn a_newer_version_is_refused_with_a_way_out() {
        let newer = Holder {
            version: VERSION + 1,
            ..holder()
        };
        let e = parse(&text(&[Line::Open(newer)])).unwrap_err();
        assert!(e.contains("newer pilot's `reclaim`"), "{e}");
    }
}
