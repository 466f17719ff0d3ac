//! Verb `guest`: one process for each guest, from before the domain is made until it is gone. It
//! obeys the pilot, reaps the domain, and destroys it when the pilot is gone: when its input ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use xen_helper::{How, Order, Told, command};

use crate::caller::Caller;
use crate::start::{self, Started};
use crate::tool;
use crate::xen::{self, Stopped};

/// The longest order, and the longest command.
const LONGEST_LINE: u64 = 64 << 10;
/// The guest is looked at so often even when xenstored says nothing.
const LOOK: Duration = Duration::from_secs(20);
/// A guest may take its time to hear that it is to switch itself off.
const SHUTDOWN: Duration = Duration::from_secs(70);
/// Where the guest's agent writes what it has to say, below its own node.
const AGENT: &str = "data/workspace-agent";
/// Where it finds what it is told.
const LEASE: &str = "data/workspace-lease";
/// The longest that is passed on of what the agent says.
const LONGEST_WORD: usize = 200;

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
        .take(LONGEST_LINE)
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
    let listening = listen(input, &send).and_then(|()| watch(started.domain, &send));
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
    let how = live(&started, &events);
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
fn watch(domain: u32, send: &Sender<Event>) -> io::Result<Child> {
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
    let send = send.clone();
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let event = if line.starts_with('@') {
                    Event::Changed
                } else {
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
fn live(started: &Started, events: &Receiver<Event>) -> How {
    let (uuid, name) = (started.entry.uuid.as_str(), started.entry.name.as_str());
    loop {
        match events.recv_timeout(LOOK) {
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return How::Destroyed,
            Ok(Event::Line(line)) => {
                let (number, words) = line.split_once(' ').unwrap_or((&line, ""));
                let Ok(number) = number.parse() else { continue };
                if words == command::KILL {
                    return How::Destroyed;
                }
                let error = obey(started, words).err();
                tell(&Told::Answer { number, error });
            }
            Ok(Event::Spoke) => {
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

fn obey(started: &Started, words: &str) -> Result<(), String> {
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
            let plain = |c: char| c == ' ' || c.is_ascii_graphic();
            if text.len() > 200 || !text.chars().all(plain) {
                return Err("what the guest is told is not plain text".to_owned());
            }
            xen::write(started.domain, LEASE, text)
        }
        _ => Err(format!("the command `{words}` is not known")),
    }
}
