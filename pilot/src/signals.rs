//! The signals that the pilot listens to, with who sent them.

use std::{fmt, io};

use futures_util::StreamExt;
use pilot_core::agent::Signal;
use signal_hook::consts::signal::{
    SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook_tokio::SignalsInfo;

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
        // SIGXFSZ says nothing to us, but must not kill: a state that is larger than the site's
        // limit on files is a suspend that fails, by its write's error.
        let all = [
            SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGXCPU, SIGCONT, SIGHUP, SIGXFSZ,
        ];
        let stream = SignalsInfo::<WithOrigin>::new(all)?;
        Ok(Self { stream })
    }

    /// The next signal, and its sender for people. Never ends.
    pub async fn next(&mut self) -> (Signal, String) {
        loop {
            let Some(origin) = self.stream.next().await else {
                return std::future::pending().await;
            };
            let from = origin.process.map_or_else(
                || "the kernel".to_owned(),
                |p| format!("process {} of user {}", p.pid, p.uid),
            );
            if let Some(which) = read(origin.signal) {
                return (which, from);
            }
        }
    }
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
