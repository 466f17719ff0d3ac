//! One question to the daemon.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use protocol::time::Span;

use crate::sim::wire::{Request, Response, socket_path};

/// Asks the daemon; no answer is an answer of its own.
pub(super) fn ask(dir: &Path, timeout: Span, request: &Request) -> Response {
    let socket = socket_path(dir);
    let limit = match request {
        Request::Wait { .. } => None,
        Request::Submit { .. }
        | Request::List { .. }
        | Request::Nodes
        | Request::Job { .. }
        | Request::Node { .. }
        | Request::End { .. }
        | Request::AddFault(_)
        | Request::ClearFaults
        | Request::Faults
        | Request::Crash
        | Request::Poke => Some(timeout.as_duration()),
    };
    let converse = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        let line = serde_json::to_string(request).map_err(std::io::Error::other)?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    match converse() {
        Ok(answer) => serde_json::from_str(&answer).unwrap_or_else(|e| {
            Response::Failed(format!("could not read the daemon's answer: {e}"))
        }),
        Err(e) => Response::Failed(format!(
            "could not reach the daemon at `{}`: {e}; is `sim-lrm serve` running?",
            socket.display()
        )),
    }
}
