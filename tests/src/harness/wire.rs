//! HTTP/1.1 messages on a connection, one after the other: as much of it as pilot and broker use
//! between them (bodies with a `Content-Length`).

use std::io::ErrorKind;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Larger ones are not sent between pilot and broker.
const LARGEST: usize = 64 << 20;

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// First line.
    pub start: String,
    /// All of it, as it came.
    bytes: Vec<u8>,
    /// Where the body begins.
    body: usize,
}

impl Message {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }

    /// True for an answer that says that all is well.
    pub fn is_success(&self) -> bool {
        self.start
            .split(' ')
            .nth(1)
            .is_some_and(|s| s.starts_with('2'))
    }

    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = std::str::from_utf8(&self.bytes[..self.body]).ok()?;
        let mut lines = head.lines().skip(1).filter_map(|l| l.split_once(':'));
        lines.find_map(|(n, value)| n.eq_ignore_ascii_case(name).then(|| value.trim()))
    }

    /// The path of a request, without its query.
    pub fn path(&self) -> &str {
        let target = self.start.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// What was read and belongs to no message yet.
    rest: Vec<u8>,
}

impl Wire {
    /// Takes a connection.
    ///
    /// # Errors
    /// The socket can't be set up.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream
            .set_nodelay(true)
            .context("failed to set a socket up")?;
        Ok(Self {
            stream,
            rest: Vec::new(),
        })
    }

    /// The next message; none when the other end has closed the connection.
    ///
    /// # Errors
    /// The connection broke, or what came is not understood here.
    pub async fn read(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            self.rest.reserve(16 << 10);
            let n = match self.stream.read_buf(&mut self.rest).await {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => 0,
                Err(e) => return Err(e).context("failed to read from a connection"),
            };
            if n == 0 {
                return Ok(None);
            }
        }
    }

    /// Sends a message on as it came.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        let sent = self.stream.write_all(&message.bytes).await;
        sent.context("failed to write to a connection")
    }

    /// Sends the first half of a message, as a connection does that breaks in the middle.
    ///
    /// # Errors
    /// The connection broke before.
    pub async fn send_half(&mut self, message: &Message) -> Result<()> {
        let half = &message.bytes[..message.bytes.len() / 2];
        let sent = self.stream.write_all(half).await;
        sent.context("failed to write to a connection")
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The connection broke, or was closed without an answer.
    pub async fn post(&mut self, path: &str, token: &str, body: &[u8]) -> Result<Message> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        let sent = self.stream.write_all(&bytes).await;
        sent.context("failed to write to a connection")?;
        let answer = self.read().await?;
        answer.context("the broker closed the connection instead of answering")
    }

    /// Waits until the other end has closed the connection or says something unasked.
    pub async fn stirs(&self) {
        let mut byte = [0];
        // An error is an end as well.
        let _ = self.stream.peek(&mut byte).await;
    }

    fn take(&mut self) -> Result<Option<Message>> {
        let Some(end) = self.rest.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Ok(None);
        };
        let body = end + 4;
        let head = std::str::from_utf8(&self.rest[..end]).context("a message's head is no text")?;
        let length = content_length(head)?;
        if length > LARGEST {
            bail!("a message of {length} bytes is too large");
        }
        if self.rest.len() < body + length {
            return Ok(None);
        }
        let start = head.lines().next().unwrap_or_default().to_owned();
        let rest = self.rest.split_off(body + length);
        let bytes = std::mem::replace(&mut self.rest, rest);
        Ok(Some(Message { start, bytes, body }))
    }
}

fn content_length(head: &str) -> Result<usize> {
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse();
            return length.with_context(|| format!("a message says `{line}`"));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("a message comes in chunks (`{line}`), which is not understood here");
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn messages_are_taken_apart_however_they_come() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut sender = TcpStream::connect(address).await.unwrap();
        let mut wire = Wire::new(listener.accept().await.unwrap().0).unwrap();
        let bytes = b"POST /v1/x?offset=3 HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\nhelloHTTP/1.1 204 No Content\r\n\r\n";
        let (first, second) = bytes.split_at(30);
        sender.write_all(first).await.unwrap();
        let reading = tokio::spawn(async move {
            let post = wire.read().await.unwrap().unwrap();
            let answer = wire.read().await.unwrap().unwrap();
            (post, answer, wire.read().await.unwrap())
        });
        sender.write_all(second).await.unwrap();
        drop(sender);
        let (post, answer, end) = reading.await.unwrap();
        assert_eq!((post.path(), post.body()), ("/v1/x", b"hello".as_slice()));
        assert!(
            answer.is_success() && answer.body().is_empty(),
            "{answer:?}"
        );
        assert_eq!(end, None);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(content_length("GET / HTTP/1.1\r\nTransfer-Encoding: chunked").is_err());
        assert!(content_length("GET / HTTP/1.1\r\nContent-Length: many").is_err());
    }
}
