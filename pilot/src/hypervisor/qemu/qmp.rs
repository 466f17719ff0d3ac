//! A small QMP client: one connection, commands matched by id, events in order, every command
//! bounded in time.
//!
//! The connection is a socket pair whose other end is QEMU's standard input: no path in a file
//! system, nothing to clean up, nobody else can connect.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::hypervisor::errors::ControlError;

/// An event of QEMU.
#[derive(Debug)]
pub(super) struct Event {
    pub name: String,
    pub data: Value,
}

/// Major and minor version of the QEMU at the other end, and all of it as text.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub number: (u64, u64),
    pub text: String,
}

type Reply = Result<Value, String>;

/// Commands that wait for their replies; none once the connection is gone.
type Waiting = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Reply>>>>>;

#[derive(Debug)]
struct Message {
    id: u64,
    text: String,
    fd: Option<OwnedFd>,
    reply: oneshot::Sender<Reply>,
}

/// The client. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Qmp {
    send: mpsc::UnboundedSender<Message>,
    next: Arc<Mutex<u64>>,
}

impl Qmp {
    /// Takes over a connection: waits for the greeting and leaves the negotiation. Events come
    /// out of the receiver, which ends when QEMU is gone.
    pub(super) async fn connect(
        stream: StdUnixStream,
        limit: Duration,
    ) -> Result<(Self, Version, mpsc::UnboundedReceiver<Event>), ControlError> {
        let io = |e: io::Error| refused("connect", &e.to_string());
        stream.set_nonblocking(true).map_err(io)?;
        let (read, write) = UnixStream::from_std(stream).map_err(io)?.into_split();
        let mut read = BufReader::new(read);
        let mut line = String::new();
        timeout(limit, read.read_line(&mut line))
            .await
            .map_err(|_| no_answer("connect", limit))?
            .map_err(io)?;
        if line.is_empty() {
            return Err(ControlError::Gone);
        }
        let version = version(&line)
            .ok_or_else(|| refused("connect", &format!("it greets with `{}`", line.trim())))?;

        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (send, messages) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        tokio::spawn(read_all(read, Arc::clone(&waiting), events));
        tokio::spawn(write_all(write, waiting, messages));
        let this = Self {
            send,
            next: Arc::default(),
        };
        this.execute("qmp_capabilities", json!({}), limit).await?;
        Ok((this, version, receiver))
    }

    /// Runs a command.
    pub(super) async fn execute(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, ControlError> {
        self.send(command, arguments, None, limit).await
    }

    /// Hands QEMU a file under a name, for the commands that follow.
    pub(super) async fn give_file(
        &self,
        name: &str,
        fd: OwnedFd,
        limit: Duration,
    ) -> Result<(), ControlError> {
        let arguments = json!({ "fdname": name });
        self.send("getfd", arguments, Some(fd), limit)
            .await
            .map(drop)
    }

    async fn send(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<OwnedFd>,
        limit: Duration,
    ) -> Result<Value, ControlError> {
        let id = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let text = json!({ "execute": command, "arguments": arguments, "id": id });
        let (reply, answer) = oneshot::channel();
        let message = Message {
            id,
            text: format!("{text}\n"),
            fd,
            reply,
        };
        self.send.send(message).map_err(|_| ControlError::Gone)?;
        match timeout(limit, answer).await {
            Err(_) => Err(no_answer(command, limit)),
            Ok(Err(_)) => Err(ControlError::Gone),
            Ok(Ok(Err(text))) => Err(refused(command, &text)),
            Ok(Ok(Ok(value))) => Ok(value),
        }
    }
}

fn refused(command: &str, text: &str) -> ControlError {
    ControlError::Refused {
        command: command.to_owned(),
        text: text.to_owned(),
    }
}

fn no_answer(command: &str, limit: Duration) -> ControlError {
    let seconds = limit.as_secs();
    ControlError::NoAnswer {
        command: command.to_owned(),
        seconds,
    }
}

fn version(greeting: &str) -> Option<Version> {
    let value: Value = serde_json::from_str(greeting).ok()?;
    let v = value.get("QMP")?.get("version")?.get("qemu")?;
    let part = |name: &str| v.get(name).and_then(Value::as_u64);
    let (major, minor, micro) = (part("major")?, part("minor")?, part("micro")?);
    Some(Version {
        number: (major, minor),
        text: format!("{major}.{minor}.{micro}"),
    })
}

async fn read_all(
    mut read: BufReader<OwnedReadHalf>,
    waiting: Waiting,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut line = String::new();
    while matches!(read.read_line(&mut line).await, Ok(n) if n > 0) {
        match serde_json::from_str::<Value>(&line) {
            Ok(mut value) => dispatch(&mut value, &waiting, &events),
            Err(e) => tracing::warn!(qmp.error = %e, "qemu said something that is not json"),
        }
        line.clear();
    }
    // Whoever still waits is told that QEMU is gone.
    waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}

fn dispatch(value: &mut Value, waiting: &Waiting, events: &mpsc::UnboundedSender<Event>) {
    if let Some(name) = value.get("event").and_then(Value::as_str) {
        let name = name.to_owned();
        let data = value.get_mut("data").map(Value::take).unwrap_or_default();
        // Nobody listens any more once the guest's watcher has ended.
        drop(events.send(Event { name, data }));
        return;
    }
    let Some(id) = value.get("id").and_then(Value::as_u64) else {
        return;
    };
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(reply) = waiting.as_mut().and_then(|w| w.remove(&id)) else {
        return;
    };
    let answer = match value.get("error") {
        Some(e) => Err(e["desc"].as_str().unwrap_or("no description").to_owned()),
        None => Ok(value.get_mut("return").map(Value::take).unwrap_or_default()),
    };
    // The caller may have stopped waiting.
    drop(reply.send(answer));
}

async fn write_all(
    mut write: OwnedWriteHalf,
    waiting: Waiting,
    mut messages: mpsc::UnboundedReceiver<Message>,
) {
    while let Some(message) = messages.recv().await {
        let known = {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting
                .as_mut()
                .map(|w| w.insert(message.id, message.reply))
        };
        // Dropping the message tells its sender that QEMU is gone.
        if known.is_none()
            || write_one(&mut write, &message.text, message.fd)
                .await
                .is_err()
        {
            waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            return;
        }
    }
}

async fn write_one(write: &mut OwnedWriteHalf, text: &str, fd: Option<OwnedFd>) -> io::Result<()> {
    let mut bytes = text.as_bytes();
    if let Some(fd) = fd {
        let stream = write.as_ref();
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let fds = [fd.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&fds)];
                let slices = [IoSlice::new(bytes)];
                let flags = MsgFlags::MSG_NOSIGNAL;
                sendmsg::<()>(stream.as_raw_fd(), &slices, &rights, flags, None)
                    .map_err(io::Error::from)
            })
            .await?;
        bytes = &bytes[sent..];
    }
    write.write_all(bytes).await
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const GREETING: &[u8] =
        b"{\"QMP\":{\"version\":{\"qemu\":{\"micro\":22,\"minor\":2,\"major\":7}}}}\r\n";

    /// A QEMU of a few lines: answers each command with what `answer` makes of its id and name.
    fn fake(
        answer: impl Fn(u64, &str) -> String + Send + 'static,
    ) -> (StdUnixStream, thread::JoinHandle<()>) {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let thread = thread::spawn(move || {
            theirs.write_all(GREETING).unwrap();
            for line in BufReader::new(theirs.try_clone().unwrap()).lines() {
                let Ok(line) = line else { return };
                let v: Value = serde_json::from_str(&line).unwrap();
                let name = v["execute"].as_str().unwrap();
                let text = answer(v["id"].as_u64().unwrap(), name);
                if text == "bye" || theirs.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
        });
        (ours, thread)
    }

    #[tokio::test]
    async fn replies_find_their_commands_and_events_stay_in_order() {
        let (stream, _) = fake(|id, name| match name {
            "qmp_capabilities" => format!("{{\"return\":{{}},\"id\":{id}}}\r\n"),
            "bad" => format!(
                "{{\"event\":\"A\",\"data\":{{\"n\":1}}}}\r\n{{\"event\":\"B\"}}\r\n\
                 {{\"id\":{id},\"error\":{{\"class\":\"X\",\"desc\":\"no such thing\"}}}}\r\n"
            ),
            _ => format!("{{\"return\":{{\"id\":{id}}},\"id\":{id}}}\r\n"),
        });
        let (qmp, version, mut events) = Qmp::connect(stream, LIMIT).await.unwrap();
        assert_eq!((version.number, version.text.as_str()), ((7, 2), "7.2.22"));
        let (a, b) = tokio::join!(
            qmp.execute("a", json!({}), LIMIT),
            qmp.execute("b", json!({}), LIMIT)
        );
        assert_eq!(
            (a.unwrap()["id"].as_u64(), b.unwrap()["id"].as_u64()),
            (Some(2), Some(3))
        );
        let e = qmp.execute("bad", json!({}), LIMIT).await.unwrap_err();
        assert!(e.to_string().contains("no such thing"), "{e}");
        assert_eq!(events.recv().await.unwrap().data["n"], 1);
        assert_eq!(events.recv().await.unwrap().name, "B");
    }

    #[tokio::test]
    async fn a_qemu_that_does_not_answer_or_dies_holds_nobody_up() {
        let (stream, _) = fake(|id, name| match name {
            "qmp_capabilities" => format!("{{\"return\":{{}},\"id\":{id}}}\r\n"),
            "die" => "bye".to_owned(),
            _ => String::new(),
        });
        let (qmp, _, mut events) = Qmp::connect(stream, LIMIT).await.unwrap();
        let e = qmp
            .execute("hang", json!({}), Duration::from_millis(5))
            .await
            .unwrap_err();
        assert!(matches!(e, ControlError::NoAnswer { .. }), "{e}");
        let (hanging, dying) = tokio::join!(
            qmp.execute("hang", json!({}), LIMIT),
            qmp.execute("die", json!({}), LIMIT)
        );
        assert_eq!(
            (hanging, dying),
            (Err(ControlError::Gone), Err(ControlError::Gone))
        );
        assert!(events.recv().await.is_none());
        let after = qmp.execute("a", json!({}), LIMIT).await;
        assert_eq!(after, Err(ControlError::Gone));
    }

    #[tokio::test]
    async fn a_peer_that_is_no_qemu_is_refused() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        theirs.write_all(b"220 mail.example.org\r\n").unwrap();
        let e = Qmp::connect(ours, LIMIT).await.unwrap_err();
        assert!(e.to_string().contains("220 mail"), "{e}");
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(
            Qmp::connect(ours, LIMIT).await.unwrap_err(),
            ControlError::Gone
        );
    }
}
