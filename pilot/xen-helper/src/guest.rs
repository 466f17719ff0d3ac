//! Verb `guest`: one process for each guest, from before the domain is made until it is gone. It
//! obeys the pilot, reaps the domain, and destroys it when the pilot is gone: when its input ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use xen_helper::{How, Order, Told, command};

use crate::caller::Caller;
use crate::start::{self, LEASE, Started};
use crate::tool;
use crate::words::Words;
use crate::xen::{self, Stopped};

/// The longest order: most of it is the user's data.
const LONGEST_ORDER: u64 = 256 << 10;
/// The longest command.
const LONGEST_LINE: u64 = 4 << 10;
/// The guest is looked at so often even when xenstored says nothing.
const LOOK: Duration = Duration::from_secs(20);
/// A guest may take its time to hear that it is to switch itself off.
const SHUTDOWN: Duration = Duration::from_secs(70);
/// Where the guest's agent writes what it has to say, below its own node.
const AGENT: &str = "data/workspace-agent";
/// The longest that is passed on of what the agent says.
const LONGEST_WORD: usize = 200;
/// The agent is heard once in this time: each hearing costs dom0 a process.
const REST: Duration = Duration::from_millis(200);

enum Event {
    /// The pilot says something.
    Line(String),
    /// The pilot is gone.
    End,
    /// Something has changed with some domain.
    Changed,
    /// The agent has written something.
    Spoke,
}

/// What the agent has done. A guest may write without end: this takes no room, and its own helper
/// nothing but the time to look at it.
#[derive(Debug, Default)]
struct Ear {
    /// How often it has written.
    heard: AtomicU64,
    /// An [`Event::Spoke`] is under way, or the last one is recent.
    noted: AtomicBool,
}

/// To the pilot. When it is gone, so is whom this was for.
fn tell(told: &Told) {
    if let Ok(mut line) = serde_json::to_vec(told) {
        line.push(b'\n');
        let mut out = io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

pub fn run(caller: Caller) -> Result<(), String> {
    // Not the program's own standard input, which has a buffer of its own.
    let input = io::stdin();
    let input = std::os::fd::AsFd::as_fd(&input).try_clone_to_owned();
    let input = File::from(input.map_err(|e| format!("open the input: {e}"))?);
    let mut input = BufReader::with_capacity(1 << 20, input);
    let mut line = String::new();
    (&mut input)
        .take(LONGEST_ORDER)
        .read_line(&mut line)
        .map_err(|e| format!("read the order: {e}"))?;
    let order: Order = serde_json::from_str(&line).map_err(|e| format!("read the order: {e}"))?;
    let started = match start::start(caller, &order, &mut input) {
        Ok(started) => started,
        Err((why, text)) => {
            tell(&Told::Failed { why, text });
            return Ok(());
        }
    };
    let entry = started.entry.clone();
    let (send, events) = channel();
    let ear = Arc::new(Ear::default());
    let listening = listen(input, &send).and_then(|()| watch(started.domain, &send, &ear));
    let mut watcher = match listening {
        Ok(watcher) => watcher,
        Err(e) => {
            // Without ears it must not live.
            drop(start::remove(&entry));
            return Err(format!("listen: {e}"));
        }
    };
    let (uuid, name) = (entry.uuid.clone(), entry.name.clone());
    tell(&Told::Running { uuid, name });
    let how = live(&started, &events, &ear);
    let how = match start::remove(&entry) {
        Ok(()) => how,
        Err(_) => How::Left,
    };
    // What it said last is on its way.
    let Started { console, .. } = started;
    for _ in 0..20 {
        if console.is_finished() {
            break;
        }
        let _ = events.recv_timeout(Duration::from_millis(50));
    }
    let _ = watcher.kill();
    let _ = watcher.wait();
    tell(&Told::Exited { how });
    Ok(())
}

/// Passes on the lines of the pilot, and its end.
fn listen(input: BufReader<File>, send: &Sender<Event>) -> io::Result<()> {
    let send = send.clone();
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let mut input = input.take(0);
            loop {
                input.set_limit(LONGEST_LINE);
                let mut line = String::new();
                let event = match input.read_line(&mut line) {
                    Ok(n) if n > 0 && line.ends_with('\n') => {
                        Event::Line(line.trim_end().to_owned())
                    }
                    Ok(_) | Err(_) => Event::End,
                };
                let last = matches!(event, Event::End);
                if send.send(event).is_err() || last {
                    return;
                }
            }
        })?;
    Ok(())
}

/// Passes on that a domain has stopped, and that the agent has said something.
fn watch(domain: u32, send: &Sender<Event>, ear: &Arc<Ear>) -> io::Result<Child> {
    let agent = format!("/local/domain/{domain}/{AGENT}");
    let mut child = tool::program("xenstore-watch")
        .args(["@releaseDomain", &agent])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let Some(out) = child.stdout.take() else {
        return Err(io::Error::other("xenstore-watch says nothing"));
    };
    let (send, ear) = (send.clone(), Arc::clone(ear));
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let event = if line.starts_with('@') {
                    Event::Changed
                } else {
                    ear.heard.fetch_add(1, Ordering::AcqRel);
                    if ear.noted.swap(true, Ordering::AcqRel) {
                        continue;
                    }
                    Event::Spoke
                };
                if send.send(event).is_err() {
                    break;
                }
            }
        })?;
    // Where we are killed it ends with the domain: what it says then, nobody takes.
    Ok(child)
}

/// Until the guest has come to an end, or has to.
fn live(started: &Started, events: &Receiver<Event>, ear: &Ear) -> How {
    let (uuid, name) = (started.entry.uuid.as_str(), started.entry.name.as_str());
    let mut told = Words::new(uuid);
    // How much of what the agent wrote was heard, after which it rests.
    let mut rests_at = None;
    loop {
        let wait = rests_at.map_or(LOOK, |_| REST);
        let mut event = events.recv_timeout(wait);
        if let (Err(RecvTimeoutError::Timeout), Some(heard)) = (&event, rests_at) {
            rests_at = None;
            ear.noted.store(false, Ordering::Release);
            if ear.heard.load(Ordering::Acquire) == heard {
                continue;
            }
            ear.noted.store(true, Ordering::Release);
            event = Ok(Event::Spoke);
        }
        match event {
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return How::Destroyed,
            Ok(Event::Line(line)) => {
                let (number, words) = line.split_once(' ').unwrap_or((&line, ""));
                let Ok(number) = number.parse() else { continue };
                if words == command::KILL {
                    return How::Destroyed;
                }
                let error = obey(started, words, &mut told).err();
                tell(&Told::Answer { number, error });
            }
            Ok(Event::Spoke) => {
                rests_at = Some(ear.heard.load(Ordering::Acquire));
                if let Some(text) = xen::read(started.domain, AGENT).filter(|t| !t.is_empty()) {
                    let plain = |c: &char| *c == ' ' || c.is_ascii_graphic();
                    let text: String = text.chars().filter(plain).take(LONGEST_WORD).collect();
                    tell(&Told::Said { text });
                }
            }
            Ok(Event::Changed) | Err(RecvTimeoutError::Timeout) => {
                // No answer says nothing.
                let Ok(found) = xen::find(uuid, name) else {
                    continue;
                };
                let Some(domain) = found else {
                    return How::Lost;
                };
                match domain.stopped() {
                    // A save is under way; or was, and then the pilot knows.
                    None | Some(Stopped::Suspend) => {}
                    Some(Stopped::PowerOff) => return How::PoweredOff,
                    Some(Stopped::Reboot) => return How::Reset,
                    Some(Stopped::Crash) => return How::Crashed,
                }
            }
        }
    }
}

fn obey(started: &Started, words: &str, told: &mut Words) -> Result<(), String> {
    let (uuid, name) = (&started.entry.uuid, &started.entry.name);
    match words.split_once(' ').unwrap_or((words, "")) {
        (command::PAUSE, "") => xen::pause(uuid, name),
        (command::CONTINUE, "") => xen::unpause(uuid, name).map(drop),
        (command::SHUTDOWN, "") => {
            // A paused guest could not hear it.
            xen::unpause(uuid, name)?;
            let name = name.clone();
            let ask = move || drop(tool::run("xl", &["shutdown", &name], SHUTDOWN));
            thread::Builder::new()
                .name("shutdown".to_owned())
                .spawn(ask)
                .map(drop)
                .map_err(|e| e.to_string())
        }
        (command::TELL, text) => {
            told.add(text)?;
            xen::write(started.domain, &[(LEASE, &told.value())])
        }
        _ => Err(format!("the command `{words}` is not known")),
    }
}
