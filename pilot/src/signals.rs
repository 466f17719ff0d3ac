//! The signals that the pilot listens to, with who sent them.

use std::{fmt, io};

use pilot_core::now::Now;
use signal_hook::low_level::siginfo::Origin;

use futures_util::StreamExt;
use pilot_core::agent::Signal;
use signal_hook::consts::signal::{
    SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook_tokio::SignalsInfo;

/// SIGXFSZ says nothing to us, but must not kill: a state that is larger than the site's limit on
/// files is a suspend that fails, by its write's error.
const ALL: [i32; 8] = [
    SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGXCPU, SIGCONT, SIGHUP, SIGXFSZ,
];

/// The stream of signals. From its making on, none of them ends the process.
pub struct Signals {
    stream: SignalsInfo<WithOrigin>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// Takes over the signals; call it inside the runtime, before anything else.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> io::Result<Self> {
        let stream = SignalsInfo::<WithOrigin>::new(ALL)?;
        Ok(Self { stream })
    }

    /// The next signal, and its sender for people. Never ends.
    pub async fn next(&mut self) -> (Signal, String) {
        loop {
            let Some(origin) = self.stream.next().await else {
                return std::future::pending().await;
            };
            if let Some(which) = read(origin.signal) {
                return (which, sender(&origin));
            }
        }
    }
}

/// A signal that came.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which.
    pub which: Signal,
    /// Who sent it, for people.
    pub from: String,
    /// When.
    pub at: Now,
}

/// Hands every signal to `tell`, from a thread of its own that waits for them, until `tell` says
/// no. From now on none of them ends the process.
///
/// # Errors
/// The system's.
pub fn listen_in_thread(tell: impl Fn(Heard) -> bool + Send + 'static) -> io::Result<()> {
    let mut signals = signal_hook::iterator::SignalsInfo::<WithOrigin>::new(ALL)?;
    let work = move || {
        for origin in signals.forever() {
            let at = crate::clock::now();
            let from = sender(&origin);
            if let Some(which) = read(origin.signal)
                && !tell(Heard { which, from, at })
            {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(work)
        .map(drop)
}

/// True for signals by which batch systems end jobs.
pub const fn ends_jobs(which: Signal) -> bool {
    match which {
        Signal::Term | Signal::Int | Signal::Usr1 | Signal::Usr2 | Signal::Xcpu => true,
        Signal::Cont | Signal::Hup => false,
    }
}

fn sender(origin: &Origin) -> String {
    origin.process.as_ref().map_or_else(
        || "the kernel".to_owned(),
        |p| format!("process {} of user {}", p.pid, p.uid),
    )
}

fn read(number: i32) -> Option<Signal> {
    match number {
        SIGTERM => Some(Signal::Term),
        SIGINT => Some(Signal::Int),
        SIGUSR1 => Some(Signal::Usr1),
        SIGUSR2 => Some(Signal::Usr2),
        SIGXCPU => Some(Signal::Xcpu),
        SIGCONT => Some(Signal::Cont),
        SIGHUP => Some(Signal::Hup),
        _ => None,
    }
}
