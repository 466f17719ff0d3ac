//! What the pilots and the batch systems have written down: lines of `tracing`, one an event.
//!
//! A pilot's log is on the node: it tells what happened whether or not the broker ever heard of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use protocol::time::Timestamp;

/// A line: when, what, and its dotted fields.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'a> {
    at: Timestamp,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (at, text) = line.split_once(' ')?;
        let at = Timestamp::parse(at).ok()?;
        Some(Self { at, text })
    }

    /// A field's value, up to the next blank and without quotes.
    fn field(&self, name: &str) -> Option<&'a str> {
        let at = self.text.rfind(&format!(" {name}="))?;
        let value = &self.text[at + name.len() + 2..];
        let end = value.find(' ').unwrap_or(value.len());
        Some(value[..end].trim_matches('"'))
    }
}

/// One stay of a workspace in a slot, as its pilot wrote it down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stay {
    /// The pilot job's key.
    pub key: String,
    /// The scratch directory of that start of the job, `KEY.rN`.
    pub slot: String,
    /// When its guest was about to start; none when it never was.
    pub started: Option<Timestamp>,
    /// When the latest suspend began.
    pub suspending: Option<Timestamp>,
    /// Suspends that failed while the guest lived on.
    pub failed_suspends: u32,
    /// How it ended by its pilot's word: when, the event's kind, and the sentence.
    pub end: Option<(Timestamp, String, String)>,
}

/// By workspace and generation.
pub type Stays = BTreeMap<(String, u64), Stay>;

const ENDS: [&str; 5] = [
    "guest_suspended",
    "guest_killed",
    "guest_finished",
    "guest_failed",
    "lease_declined",
];

/// Reads the logs of all pilots in the broker's directory of pilot jobs.
pub fn stays(pilot_jobs: &Path) -> Stays {
    let mut stays = Stays::new();
    for entry in fs::read_dir(pilot_jobs).into_iter().flatten().flatten() {
        let key = entry.file_name().to_string_lossy().into_owned();
        let log = fs::read(entry.path().join("pilot.log")).unwrap_or_default();
        read_pilot(&key, &String::from_utf8_lossy(&log), &mut stays);
    }
    stays
}

fn read_pilot(key: &str, log: &str, stays: &mut Stays) {
    let mut starts = 0_u32;
    for line in log.lines().filter_map(Line::read) {
        let Some(kind) = line.field("event.kind") else {
            continue;
        };
        if kind == "slot_started" {
            starts += 1;
        }
        let generation = line.field("lease.generation").and_then(|g| g.parse().ok());
        let (Some(workspace), Some(generation)) = (line.field("workspace.id"), generation) else {
            continue;
        };
        let stay = stays.entry((workspace.to_owned(), generation)).or_default();
        if stay.key.is_empty() {
            key.clone_into(&mut stay.key);
            stay.slot = format!("{key}.r{}", starts.saturating_sub(1));
        }
        match kind {
            "guest_booting" | "guest_resuming" => stay.started = Some(line.at),
            "guest_suspending" => stay.suspending = Some(line.at),
            "suspend_failed" => stay.failed_suspends += 1,
            end if ENDS.contains(&end) => {
                let text = line.text.split(" event.kind=").next().unwrap_or_default();
                stay.end = Some((line.at, end.to_owned(), text.trim().to_owned()));
            }
            _ => {}
        }
    }
}

/// How a batch system ended one start of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// The batch system's id of the job.
    pub job: String,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// The first SIGTERM that reached a process.
    pub told: Option<Timestamp>,
    /// The first SIGKILL that reached a process.
    pub killed: Option<Timestamp>,
    /// When its first process had ended.
    pub ended: Option<Timestamp>,
}

/// Reads a batch system's log; by number of the run.
pub fn runs(log: &str) -> BTreeMap<u64, Run> {
    let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
    for line in log.lines().filter_map(Line::read) {
        let Some(number) = line.field("run.number").and_then(|n| n.parse().ok()) else {
            continue;
        };
        let run = runs.entry(number).or_default();
        if let Some(job) = line.field("job.id") {
            job.clone_into(&mut run.job);
            run.started.get_or_insert(line.at);
        }
        let reached = line.field("processes.count").is_some_and(|n| n != "0");
        match line.field("signal").filter(|_| reached) {
            Some("Term") => {
                run.told.get_or_insert(line.at);
            }
            Some("Kill") => {
                run.killed.get_or_insert(line.at);
            }
            Some(_) | None => {}
        }
        if line.field("ended").is_some() {
            run.ended.get_or_insert(line.at);
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const PILOT: &str = "\
2026-11-21T18:29:35.564126Z  INFO pilot started on n1 event.kind=\"slot_started\"
2026-11-21T18:29:35.574687Z  INFO boots from its image event.kind=\"guest_booting\" workspace.id=ws-5 lease.generation=1
2026-11-21T18:29:40.000000Z  INFO suspending, budget 1s event.kind=\"guest_suspending\" workspace.id=ws-5 lease.generation=1
2026-11-21T18:29:42.280319Z  INFO the lease ran out event.kind=\"guest_killed\" workspace.id=ws-5 lease.generation=1
not a line
2026-11-21T18:30:35.564126Z  INFO pilot started on n1 event.kind=\"slot_started\"
2026-11-21T18:30:36.000000Z  INFO loads its state event.kind=\"guest_resuming\" workspace.id=ws-5 lease.generation=2
";

    #[test]
    fn a_pilots_log_tells_the_stays() {
        let mut stays = Stays::new();
        read_pilot("wp-1", PILOT, &mut stays);
        let first = &stays[&("ws-5".to_owned(), 1)];
        assert_eq!(
            (first.key.as_str(), first.slot.as_str()),
            ("wp-1", "wp-1.r0")
        );
        let (at, kind, text) = first.end.clone().unwrap();
        assert_eq!(at.to_string(), "2026-11-21T18:29:42.28Z");
        assert_eq!(
            (kind.as_str(), text.as_str()),
            ("guest_killed", "INFO the lease ran out")
        );
        assert!(first.suspending > first.started);
        let second = &stays[&("ws-5".to_owned(), 2)];
        assert_eq!((second.slot.as_str(), &second.end), ("wp-1.r1", &None));
    }

    #[test]
    fn a_batch_systems_log_tells_the_signals() {
        let log = "\
2026-11-21T18:29:35.5Z  INFO starts job job.id=3 run.number=7 node=n1 end=2026-11-21T18:31:05.506Z
2026-11-21T18:29:40.5Z  INFO sends signal run.number=7 target=Tree signal=Cont processes.count=2
2026-11-21T18:29:40.6Z  INFO sends signal run.number=7 target=Tree signal=Term processes.count=2
2026-11-21T18:29:46.6Z  INFO sends signal run.number=7 target=Tree signal=Kill processes.count=0
2026-11-21T18:29:46.7Z  INFO job's first process has ended run.number=7 ended=Exited(0)
";
        let runs = runs(log);
        let run = &runs[&7];
        assert_eq!(run.job, "3");
        assert_eq!(run.told.unwrap().to_string(), "2026-11-21T18:29:40.6Z");
        assert_eq!(run.killed, None, "nobody was left to be killed");
        assert!(run.ended > run.told);
    }
}
