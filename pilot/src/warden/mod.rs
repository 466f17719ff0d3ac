//! The warden: a small process that outlives a killed pilot just long enough to undo what it left.
//!
//! ```text
//! pilot                                   warden (own session, all signals blocked)
//!   start ── socket pair, `ready` ◄──────── waits
//!   deadline ─────────────────────────────► must be over by then
//!   fence, no fence ──────────────────────► no guest may live after that
//!   goodbye ──────────────────────────────► exits
//!   (dies) ── the socket closes ──────────► reclaims, exits
//!   (hangs) ─ the fence passes ───────────► kills the guests, goes on waiting
//!           ─ the deadline passes ────────► kills the pilot, reclaims, exits
//! ```
//!
//! The fence is the end of the leases: the broker gives their workspaces to other slots a margin
//! after it, and a pilot that is stopped or hangs cannot give its guests up itself.
//!
//! It is started before anything else is created. LRMs kill by process tree, group, session or
//! control group: where the warden is killed as well, the guests have gone by their
//! parent-death signal, and what remains are files, for the next pilot's sweep or the site's
//! epilogue. It keeps nothing alive and holds no lock until the pilot is dead.

mod guard;

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub use guard::{WardenArgs, run};

use crate::host::processes::{ProcessId, wait_readable};
use crate::journal::{Journal, JournalError};

const READY: &str = "ready";
const GOODBYE: &str = "goodbye";
const NO_FENCE: &str = "no-fence";

/// Why the warden is not there.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// It could not be started.
    #[error("start the warden {}", program.display())]
    Start {
        /// The pilot's own program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It was started and did not say that it is ready.
    #[error("start the warden: it was not ready within {limit:?}")]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
    },
    /// It could not be told something: it is gone, or does not listen.
    #[error("speak to the warden; it must have been killed or stopped")]
    Gone {
        /// The system's answer.
        source: io::Error,
    },
    /// It could not be written down.
    #[error("write the warden down")]
    Journal {
        /// The journal's answer.
        source: JournalError,
    },
}

/// The pilot's end. Dropping it without [`Warden::goodbye`] is what the pilot's death looks like.
#[derive(Debug)]
pub struct Warden {
    child: Child,
    socket: UnixStream,
}

impl Warden {
    /// Starts the warden and waits, at most for `limit`, until signals cannot reach it any more.
    /// `pilot` is the pilot's program (see [`crate::exec_guest::Trampoline::pilot`]); `remaining`
    /// is the time until the pilot must have said goodbye.
    ///
    /// # Errors
    /// It does not run; nothing of it is left then.
    pub fn start(
        pilot: &Path,
        journal: &Journal,
        remaining: Duration,
        limit: Duration,
    ) -> Result<Self, WardenError> {
        let failed = |source| WardenError::Start {
            program: pilot.to_owned(),
            source,
        };
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(pilot)
            .arg("warden")
            .arg("--slot")
            .arg(journal.scratch())
            .arg("--remaining-ms")
            .arg(remaining.as_millis().to_string())
            .env_clear()
            // A process with no environment at all takes reclaim longer to judge.
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut warden = Self { child, socket };
        match warden.settle(journal, limit) {
            Ok(()) => Ok(warden),
            Err(e) => {
                warden.end();
                Err(e)
            }
        }
    }

    fn settle(&self, journal: &Journal, limit: Duration) -> Result<(), WardenError> {
        let mut word = String::new();
        let ready = wait_readable(&self.socket, limit)
            && BufReader::new(&self.socket).read_line(&mut word).is_ok()
            && word.trim() == READY;
        let process = ProcessId::of(self.child.id().cast_signed());
        // A warden that is stopped and hears nothing must not hang the pilot.
        let ready = ready && self.socket.set_nonblocking(true).is_ok();
        match process {
            Some(process) if ready => journal
                .record_warden(process)
                .map_err(|source| WardenError::Journal { source }),
            Some(_) | None => Err(WardenError::NotReady { limit }),
        }
    }

    /// The time until the pilot must have said goodbye has changed.
    ///
    /// # Errors
    /// The warden is gone: then the guests have only their parent-death signal.
    pub fn deadline(&self, remaining: Duration) -> Result<(), WardenError> {
        self.tell(&format!("remaining-ms {}", remaining.as_millis()))
    }

    /// When guests may not live any more, from now on; none when there is no guest. Say it before
    /// a guest is started.
    ///
    /// # Errors
    /// The warden is gone: should this process be stopped, nobody ends its guests in time.
    pub fn fence(&self, remaining: Option<Duration>) -> Result<(), WardenError> {
        match remaining {
            Some(remaining) => self.tell(&format!("fence-ms {}", remaining.as_millis())),
            None => self.tell(NO_FENCE),
        }
    }

    fn tell(&self, word: &str) -> Result<(), WardenError> {
        // In one piece: half a word would spoil the next.
        (&self.socket)
            .write_all(format!("{word}\n").as_bytes())
            .map_err(|source| WardenError::Gone { source })
    }

    /// All is undone: sends the warden away and waits until it has gone. One that does not go
    /// within `limit` is killed.
    pub fn goodbye(mut self, limit: Duration) {
        let told = self.tell(GOODBYE).is_ok();
        let process = ProcessId::of(self.child.id().cast_signed());
        if told && process.is_none_or(|process| process.wait_gone(limit)) {
            // It has ended: this only takes notice of it.
            let _ = self.child.wait();
        } else {
            self.end();
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
