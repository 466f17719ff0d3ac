//! The host's end of a guest's lease port: a socket that the guest's hypervisor holds the other
//! end of. One task owns it.
//!
//! Nothing here waits for the guest. What it does not read is kept in a short queue that loses its
//! oldest lines; what it writes is read a little at a time, so that a guest that floods the port
//! stops its own writer and costs us next to nothing.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use pilot_core::guest_words::Said;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Sleep, sleep};

use super::types::GuestEvent;

/// Lines that wait for the guest; the socket holds some more.
const QUEUE: usize = 16;
/// What the socket may hold, bytes; the kernel's least is a little more, some ten lines.
const SOCKET: usize = 4096;
/// Longest line of a guest; a longer one is skipped.
const LONGEST: usize = 256;
/// Bytes that are read at once.
const READ: usize = 1024;
/// Pause after each read: no more than [`READ`] bytes in that time.
const PAUSE: Duration = Duration::from_millis(100);

/// Where lines for the guest go. Dropped, the port is closed.
#[derive(Debug)]
pub(super) struct LeasePort(Arc<Outbox>);

#[derive(Debug, Default)]
struct Outbox {
    /// The lines, and whether no more will come.
    lines: Mutex<(VecDeque<String>, bool)>,
    changed: Notify,
}

impl LeasePort {
    /// Takes care of `socket`; what the guest says goes to `heard`.
    ///
    /// # Errors
    /// The kernel refuses to set the socket up.
    pub(super) fn open(
        socket: UnixStream,
        heard: mpsc::UnboundedSender<GuestEvent>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        setsockopt(&socket, SndBuf, &SOCKET)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        let outbox = Arc::new(Outbox::default());
        tokio::spawn(serve(socket, Arc::clone(&outbox), heard));
        Ok(Self(outbox))
    }

    /// Queues a line, without its end, for the guest. Returns at once.
    pub(super) fn tell(&self, line: String) {
        self.0.change(|lines, _| {
            if lines.len() == QUEUE {
                lines.pop_front();
            }
            lines.push_back(line);
        });
    }
}

impl Drop for LeasePort {
    fn drop(&mut self) {
        self.0.change(|_, closed| *closed = true);
    }
}

impl Outbox {
    fn change(&self, f: impl FnOnce(&mut VecDeque<String>, &mut bool)) {
        let mut all = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, closed) = &mut *all;
        f(lines, closed);
        drop(all);
        self.changed.notify_one();
    }

    /// The next line with its end; none when there is none, an error when there will be none.
    fn next(&self) -> Result<Option<String>, ()> {
        let mut all = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match all.0.pop_front() {
            Some(line) => Ok(Some(line + "\n")),
            None if all.1 => Err(()),
            None => Ok(None),
        }
    }
}

/// Runs until the hypervisor or the owner has closed its end.
async fn serve(
    socket: tokio::net::UnixStream,
    outbox: Arc<Outbox>,
    heard: mpsc::UnboundedSender<GuestEvent>,
) {
    let mut reader = Reader::default();
    // A guest that was suspended in the middle of a line has half of it: that line ends here.
    let mut going = b"\n".to_vec();
    let mut pause: Option<Pin<Box<Sleep>>> = None;
    loop {
        if going.is_empty() {
            match outbox.next() {
                Ok(line) => going.extend(line.unwrap_or_default().bytes()),
                Err(()) => return,
            }
        }
        tokio::select! {
            ready = socket.writable(), if !going.is_empty() => {
                match ready.and_then(|()| socket.try_write(&going)) {
                    Ok(n) => drop(going.drain(..n)),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            ready = socket.readable(), if pause.is_none() => {
                let mut bytes = [0; READ];
                match ready.and_then(|()| socket.try_read(&mut bytes)) {
                    Ok(0) => return,
                    Ok(n) => {
                        for said in reader.take(bytes.get(..n).unwrap_or_default()) {
                            // Nobody may be listening any more.
                            drop(heard.send(GuestEvent::Said(said)));
                        }
                        pause = Some(Box::pin(sleep(PAUSE)));
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            () = over(pause.as_mut()) => pause = None,
            () = outbox.changed.notified() => {}
        }
    }
}

async fn over(pause: Option<&mut Pin<Box<Sleep>>>) {
    match pause {
        Some(pause) => pause.await,
        None => std::future::pending().await,
    }
}

/// Makes lines of bytes.
#[derive(Debug, Default)]
struct Reader {
    line: Vec<u8>,
    /// The line is too long: its rest is skipped.
    skipping: bool,
}

impl Reader {
    /// What was said in whole lines; each thing once, however often it was said.
    fn take(&mut self, bytes: &[u8]) -> Vec<Said> {
        let mut all = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let said = Said::parse(&String::from_utf8_lossy(&line));
                let skipped = std::mem::take(&mut self.skipping);
                if let Some(said) = said.filter(|s| !skipped && !all.contains(s)) {
                    all.push(said);
                }
            } else if self.line.len() < LONGEST {
                self.line.push(*byte);
            } else {
                self.skipping = true;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn port() -> (LeasePort, UnixStream, mpsc::UnboundedReceiver<GuestEvent>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (heard, events) = mpsc::unbounded_channel();
        (LeasePort::open(ours, heard).unwrap(), theirs, events)
    }

    #[test]
    fn lines_are_put_together_and_long_ones_skipped() {
        let mut reader = Reader::default();
        assert_eq!(reader.take(b"rea"), []);
        assert_eq!(
            reader.take(b"dy\nnonsense\nhello 1\nready\n"),
            [Said::Ready, Said::Hello]
        );
        let mut long = b"ready ".repeat(100);
        long.extend(b"\nready\n");
        assert_eq!(reader.take(&long), [Said::Ready]);
        assert_eq!(reader.take(&[0xff; 10_000]), []);
        assert!(reader.line.len() <= LONGEST);
        assert_eq!(reader.take(b"\nready"), []);
    }

    #[tokio::test]
    async fn a_guest_that_never_reads_loses_the_oldest_lines_and_holds_nobody_up() {
        let (port, mut theirs, _events) = port();
        for n in 0..10_000 {
            port.tell(format!("time-left {n} slot_ending"));
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        // It is dropped, and the socket closed, when all of its lines have been taken.
        drop(port);
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            theirs.read_to_string(&mut text).map(|_| text)
        });
        let text = read.await.unwrap().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&""), "half a line may have been left");
        assert_eq!(lines.last(), Some(&"time-left 9999 slot_ending"));
        assert!((QUEUE..200).contains(&lines.len()), "{} lines", lines.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_floods_is_read_a_little_at_a_time() {
        let (_port, mut theirs, mut events) = port();
        theirs.set_nonblocking(true).unwrap();
        let mut written = 0;
        for _ in 0..50 {
            while let Ok(n) = theirs.write(&b"ready\n".repeat(100)) {
                written += n;
            }
            sleep(PAUSE).await;
        }
        let mut told = 0;
        while events.try_recv().is_ok() {
            told += 1;
        }
        assert!(written > 50 * READ / 2, "{written} bytes were taken");
        assert!((1..=60).contains(&told), "told {told} times");
    }
}
