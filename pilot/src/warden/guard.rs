//! The warden's own side: `pilot warden`.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::time::{ClockId, clock_gettime};
use protocol::codes::exit;

use super::{GOODBYE, NO_FENCE, READY};
use crate::host::processes::{KillOutcome, ProcessId, marked, wait_readable};
use crate::journal::{Holder, JOURNAL_FILE, read};
use crate::reclaim::{Effort, ReclaimError, Report, reclaim};

/// A warden that wakes up this long after the deadline was stopped itself, like the whole job;
/// the slot's end may have moved with it.
const OVERSLEPT: Duration = Duration::from_secs(2);
/// How long a pilot that was stopped has to find out its new end and tell it.
const GRACE: Duration = Duration::from_secs(10);
/// Guests that are fenced are looked for again so often, until the pilot says something else: it
/// may have been stopped in the moment in which it started one.
const FENCED_LOOK: Duration = Duration::from_millis(250);
/// How long each process may take to die, and the pilot to be gone after its end of the socket.
const LIMIT: Duration = Duration::from_secs(10);

/// Arguments of `pilot warden`.
#[derive(Debug, clap::Args)]
pub struct WardenArgs {
    /// Scratch directory of the slot.
    #[arg(long)]
    slot: PathBuf,
    /// Milliseconds until the pilot must have said goodbye.
    #[arg(long)]
    remaining_ms: u64,
}

/// Why the wait was over.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Goodbye,
    PilotGone,
    FencePassed,
    DeadlinePassed,
}

/// Is the warden: standard input is the socket to the pilot. Returns the exit code.
pub fn run(args: &WardenArgs) -> i32 {
    match guard(args) {
        Ok(None) => exit::OK,
        Ok(Some(report)) if report.is_clean() => {
            tracing::warn!(
                slot.scratch = %args.slot.display(),
                removed = report.removed.len(),
                "the pilot died; its slot is clean now"
            );
            exit::OK
        }
        Ok(Some(report)) => {
            tracing::error!(%report, "the pilot died, and not all of its slot could be removed");
            exit::LEFTOVERS
        }
        Err(e) => {
            tracing::error!(
                error = &*e,
                slot.scratch = %args.slot.display(),
                "the warden could not do its work"
            );
            exit::INTERNAL
        }
    }
}

fn guard(args: &WardenArgs) -> Result<Option<Report>, Box<dyn std::error::Error>> {
    // Signals of the LRM are for the pilot; the warden ends by goodbye, deadline or SIGKILL.
    SigSet::all().thread_block()?;
    nix::unistd::setsid()?;
    prctl::set_name(c"pilot-warden")?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let holder = read(&args.slot.join(JOURNAL_FILE))?.map(|recorded| recorded.holder);
    let pilot = holder.as_ref().map(|holder| holder.pilot);
    // A pilot that has died already is noticed below.
    let _ = writeln!(socket, "{READY}");
    let mut watch = Watch {
        socket,
        heard: String::new(),
        deadline: now().saturating_add(Duration::from_millis(args.remaining_ms)),
        fence: None,
    };
    let mut logged = BTreeSet::new();
    let force = loop {
        match watch.wait(pilot) {
            Woken::Goodbye => return Ok(None),
            Woken::PilotGone => {
                // Its files are closed a moment before it is dead to others.
                if let Some(pilot) = pilot {
                    pilot.wait_gone(LIMIT);
                }
                break false;
            }
            Woken::FencePassed => {
                if let Some(holder) = &holder {
                    end_guests(holder, &mut logged);
                }
            }
            Woken::DeadlinePassed => break true,
        }
    };
    let effort = Effort {
        limit: LIMIT,
        force,
    };
    match reclaim(&args.slot, effort) {
        Ok(report) => Ok(Some(report)),
        // It let go of its end without a word and lives: there is nothing to be done.
        Err(ReclaimError::PilotAlive { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Kills the slot's guests, and no other thing: their files are the pilot's, which may wake up.
/// They are known by their markers alone, because the journal may lie on what the pilot hangs on.
/// Does not wait for their end: the next look shows it, and the pilot is heard in between.
fn end_guests(holder: &Holder, logged: &mut BTreeSet<ProcessId>) {
    for guest in marked(&holder.marker_prefix()) {
        let how = guest.kill(Duration::ZERO);
        if !logged.insert(guest) {
            continue;
        }
        match how {
            KillOutcome::WasGone => {}
            KillOutcome::Killed | KillOutcome::Stuck => tracing::warn!(
                process.pid = guest.pid,
                "the pilot did not renew its leases in time; a guest's process was killed"
            ),
            KillOutcome::Refused(e) => tracing::error!(
                process.pid = guest.pid,
                error = %e,
                "a guest whose lease has run out could not be killed"
            ),
        }
    }
}

struct Watch {
    socket: UnixStream,
    heard: String,
    deadline: Duration,
    /// No guest may live after this, unless the pilot says something else before.
    fence: Option<Duration>,
}

impl Watch {
    fn wait(&mut self, pilot: Option<ProcessId>) -> Woken {
        loop {
            let next = self
                .fence
                .map_or(self.deadline, |fence| fence.min(self.deadline));
            let left = next.saturating_sub(now());
            if wait_readable(&self.socket, left.min(Duration::from_secs(3600))) {
                if let Some(woken) = self.listen() {
                    return woken;
                }
            } else if now() >= self.deadline {
                let stopped = pilot.is_some_and(ProcessId::is_stopped);
                if is_hung(now().saturating_sub(self.deadline), stopped) {
                    return Woken::DeadlinePassed;
                }
                self.deadline = now().saturating_add(GRACE);
            } else if self.fence.is_some_and(|fence| now() >= fence) {
                // Whether the pilot is stopped or this process was is all the same: the broker
                // has not waited either.
                self.fence = Some(now().saturating_add(FENCED_LOOK));
                return Woken::FencePassed;
            }
        }
    }

    fn listen(&mut self) -> Option<Woken> {
        let mut bytes = [0; 512];
        let text = match self.socket.read(&mut bytes) {
            Ok(0) => return Some(Woken::PilotGone),
            Ok(n) => String::from_utf8_lossy(&bytes[..n]).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return None,
            Err(_) => return Some(Woken::PilotGone),
        };
        self.heard.push_str(&text);
        while let Some((line, rest)) = self.heard.split_once('\n') {
            if line == GOODBYE {
                return Some(Woken::Goodbye);
            }
            if let Some(Ok(ms)) = line.strip_prefix("remaining-ms ").map(str::parse) {
                self.deadline = now().saturating_add(Duration::from_millis(ms));
            }
            if let Some(Ok(ms)) = line.strip_prefix("fence-ms ").map(str::parse) {
                self.fence = Some(now().saturating_add(Duration::from_millis(ms)));
            }
            if line == NO_FENCE {
                self.fence = None;
            }
            self.heard = rest.to_owned();
        }
        None
    }
}

/// Whether a pilot that has let its deadline pass is to be ended. One that is stopped, or was
/// until a moment ago together with this process, could not say that the end has moved.
fn is_hung(late: Duration, stopped: bool) -> bool {
    !stopped && late < OVERSLEPT
}

/// Time since boot, sleep of the machine included. The warden is a process of its own, so this
/// clock has nothing to do with the pilot's.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pilot_that_was_stopped_by_its_site_is_given_time_to_look_at_its_clock() {
        assert!(is_hung(Duration::ZERO, false));
        assert!(!is_hung(Duration::ZERO, true));
        assert!(!is_hung(Duration::from_secs(300), false));
    }

    #[test]
    fn what_the_pilot_says_is_heard_in_any_pieces() {
        let (mut pilot, socket) = UnixStream::pair().unwrap();
        let mut watch = Watch {
            socket,
            heard: String::new(),
            deadline: now().saturating_add(Duration::from_secs(3600)),
            fence: None,
        };
        for piece in ["remaining", "-ms 7200000\nnonsense\nremai", "ning-ms 100"] {
            pilot.write_all(piece.as_bytes()).unwrap();
            assert_eq!(watch.listen(), None);
        }
        let left = watch.deadline.saturating_sub(now());
        assert!(left > Duration::from_secs(3600), "{left:?}");
        pilot.write_all(b"\ngoodbye\n").unwrap();
        assert_eq!(watch.wait(None), Woken::Goodbye);
        drop(pilot);
        assert_eq!(watch.wait(None), Woken::PilotGone);
    }

    #[test]
    fn a_fence_is_told_again_and_again_until_it_is_lifted_or_the_deadline_comes() {
        let (mut pilot, socket) = UnixStream::pair().unwrap();
        let mut watch = Watch {
            socket,
            heard: String::new(),
            deadline: now().saturating_add(Duration::from_secs(3600)),
            fence: None,
        };
        pilot.write_all(b"fence-ms 0\n").unwrap();
        assert_eq!(watch.wait(None), Woken::FencePassed);
        assert_eq!(watch.wait(None), Woken::FencePassed);
        pilot.write_all(b"fence-ms 0\nno-fence\n").unwrap();
        assert_eq!(watch.listen(), None);
        assert_eq!(watch.fence, None, "what was said last counts");
        pilot.write_all(b"fence-ms 3000\nremaining-ms 0\n").unwrap();
        assert_eq!(watch.wait(None), Woken::DeadlinePassed);
    }
}
