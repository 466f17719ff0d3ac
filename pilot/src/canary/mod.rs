//! The canary: what `pilot run` does in a job of `pilot-broker doctor`. It looks at the node,
//! then waits for signals and writes down when they come, until it is killed.
//!
//! What it says and hears is in [`protocol::canary`]. It leaves nothing: its slot is claimed and
//! undone before it says that it is ready, its file in the store is gone by then, and its child
//! ends by itself.

mod child;
mod report;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use pilot_core::now::Now;
use protocol::canary::{CanaryLine, PING_FILE, STOP_FILE, STORE_MARK};
use protocol::codes::exit;
use protocol::finding::Finding;
use protocol::slot_file::SlotFile;
use protocol::time::{Mono, Span};

pub use child::{CanaryChildArgs, run as run_child};
use report::Report;

use crate::clock;
use crate::doctor::{Subject, account_name, examine};
use crate::signals;

/// How often it looks around.
const TICK: Duration = Duration::from_millis(50);
/// How often it says that it lives, before any signal that ends jobs, and after.
const ALIVE_BEFORE: Span = Span::from_secs(1);
const ALIVE_AFTER: Span = Span::from_millis(100);
/// So long it waits for a ping before it takes its file out of the store.
const PING_PATIENCE: Span = Span::from_secs(30);
/// So long it waits to be cancelled.
const CANCEL_PATIENCE: Span = Span::from_mins(15);
/// It lives on for twice the notice that is configured and this, so that a longer one is seen.
const BEYOND_NOTICE: Span = Span::from_secs(30);

/// What the canary waits for.
enum News {
    Signal(signals::Heard),
    Found(Finding),
    Examined,
}

/// Runs in the canary's slot. Returns the exit code; normally it is killed before.
pub fn run(slot: &SlotFile) -> i32 {
    let (news, hears) = mpsc::channel();
    if let Err(e) = listen(&news) {
        eprintln!("error: failed to listen to signals: {e}");
        return exit::INTERNAL;
    }
    let directory = slot.broker.token_file.parent().map(Path::to_owned);
    let mut canary = Canary {
        report: Report::open(directory.as_deref()),
        directory,
        answered: None,
        store_mark: None,
        examined: false,
        ready: None,
        first_end: None,
        last_alive: None,
    };
    canary.begin(slot);
    child::start(canary.directory.as_deref());
    if let Err(e) = start_examination(slot, news) {
        eprintln!("error: failed to start a thread: {e}");
        return exit::INTERNAL;
    }
    let why = canary.wait(slot, &hears);
    canary.remove_store_mark();
    canary.report.say(&CanaryLine::Ended {
        at: clock::now().wall,
        why: why.to_owned(),
    });
    exit::OK
}

/// From here on no signal but SIGKILL ends this process.
fn listen(news: &Sender<News>) -> io::Result<()> {
    let news = news.clone();
    signals::listen_in_thread(move |heard| news.send(News::Signal(heard)).is_ok())
}

/// In a thread of its own, so that signals are written down meanwhile.
fn start_examination(slot: &SlotFile, news: Sender<News>) -> io::Result<()> {
    let subject = Subject::whole_slot(slot);
    let work = move || {
        let found = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map(|runtime| runtime.block_on(examine(&subject)));
        let found = found.unwrap_or_else(|e| {
            let advice = "is the number of files or processes limited there?";
            vec![Finding::problem(
                "node",
                format!("could not be looked at: {e}"),
                advice,
            )]
        });
        // Nobody hears it: then the canary has left.
        let _ = found
            .into_iter()
            .try_for_each(|f| news.send(News::Found(f)));
        let _ = news.send(News::Examined);
    };
    std::thread::Builder::new()
        .name("examine".into())
        .spawn(work)
        .map(drop)
}

struct Canary {
    directory: Option<PathBuf>,
    report: Report,
    answered: Option<String>,
    store_mark: Option<PathBuf>,
    examined: bool,
    ready: Option<Mono>,
    first_end: Option<Mono>,
    last_alive: Option<Mono>,
}

impl Canary {
    /// The mark is there before the line that says so.
    fn begin(&mut self, slot: &SlotFile) {
        let blobs = slot.paths.store.join("blobs");
        let mark = blobs.join(format!("{STORE_MARK}{}", slot.submit_key));
        // A store that can't be written is found by the examination.
        if fs::create_dir_all(&blobs).is_ok() && fs::write(&mark, b"canary\n").is_ok() {
            self.store_mark = Some(mark);
        }
        let (uid, user) = account_name();
        self.report.say(&CanaryLine::Started {
            at: clock::now().wall,
            uid,
            user,
            host: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            slot: slot.facts(),
        });
    }

    /// Returns why it ends by itself.
    fn wait(&mut self, slot: &SlotFile, hears: &Receiver<News>) -> &'static str {
        let began = clock::now().mono;
        let beyond = slot.clock.notice.0.times(2) + BEYOND_NOTICE;
        loop {
            match hears.recv_timeout(TICK) {
                Ok(News::Signal(heard)) => self.heard(heard),
                Ok(News::Found(finding)) => self.report.say(&CanaryLine::Found(finding)),
                Ok(News::Examined) => self.examined = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return "its threads have ended",
            }
            let now = clock::now();
            self.answer_ping(now);
            if now.mono.since(began) > PING_PATIENCE {
                self.remove_store_mark();
            }
            if self.examined && self.store_mark.is_none() && self.ready.is_none() {
                self.ready = Some(now.mono);
                self.report.say(&CanaryLine::Ready { at: now.wall });
            }
            self.say_alive(now);
            if self.is_told_to_stop() {
                return "it was told to stop";
            }
            if self.first_end.is_some_and(|at| now.mono.since(at) > beyond) {
                return "it was left alive for longer than twice the notice";
            }
            let waited = self.ready.map_or(Span::ZERO, |at| now.mono.since(at));
            if self.first_end.is_none() && waited > CANCEL_PATIENCE {
                return "nobody cancelled it";
            }
        }
    }

    fn heard(&mut self, heard: signals::Heard) {
        let signals::Heard { which, from, at } = heard;
        let ends = signals::ends_jobs(which);
        if ends {
            self.first_end.get_or_insert(at.mono);
        }
        self.report.say(&CanaryLine::Signal {
            at: at.wall,
            mono_ms: at.mono.as_millis(),
            name: which.as_str().to_owned(),
            ends,
            from,
        });
    }

    fn answer_ping(&mut self, now: Now) {
        let Some(directory) = &self.directory else {
            return;
        };
        let Ok(text) = fs::read_to_string(directory.join(PING_FILE)) else {
            return;
        };
        // A word that is not whole yet has no end of line.
        let Some(ping) = text.strip_suffix('\n') else {
            return;
        };
        if self.answered.as_deref() == Some(ping) {
            return;
        }
        self.answered = Some(ping.to_owned());
        self.remove_store_mark();
        self.report.say(&CanaryLine::Pong {
            ping: ping.to_owned(),
            at: now.wall,
        });
    }

    fn say_alive(&mut self, now: Now) {
        let every = match self.first_end {
            Some(_) => ALIVE_AFTER,
            None => ALIVE_BEFORE,
        };
        if self
            .last_alive
            .is_none_or(|last| now.mono.since(last) >= every)
        {
            self.last_alive = Some(now.mono);
            self.report.say(&CanaryLine::Alive {
                at: now.wall,
                mono_ms: now.mono.as_millis(),
            });
        }
    }

    fn is_told_to_stop(&self) -> bool {
        (self.directory.as_ref()).is_some_and(|directory| directory.join(STOP_FILE).exists())
    }

    fn remove_store_mark(&mut self) {
        if let Some(mark) = self.store_mark.take() {
            // What can't be removed is removed by a pilot when it is old.
            let _ = fs::remove_file(mark);
        }
    }
}
