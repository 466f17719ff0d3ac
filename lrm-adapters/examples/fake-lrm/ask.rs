//! One question to the daemon. A real command waits as long as its server hangs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use lrm_adapters::sim::wire::{JobRow, Request, Response, socket_path};

use crate::Play;

/// What the daemon said, as a command of a batch system would see it.
pub(crate) enum Answer {
    Told(Response),
    /// What is printed cannot be read.
    Garbled,
    /// The server has broken off; it may have done what was asked.
    BrokenOff,
    /// There is no server.
    Refused,
}

pub(crate) fn ask(play: &Play, request: &Request) -> Answer {
    let converse = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket_path(&play.sim))?;
        let line = serde_json::to_string(request).map_err(std::io::Error::other)?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let Ok(line) = converse() else {
        return Answer::Refused;
    };
    match serde_json::from_str(&line) {
        Ok(Response::Garbled(_)) => Answer::Garbled,
        Ok(Response::Failed(why)) if why.contains("timed out") => Answer::BrokenOff,
        Ok(Response::Failed(_)) => Answer::Refused,
        Ok(told) => Answer::Told(told),
        // The daemon was killed meanwhile.
        Err(_) => Answer::BrokenOff,
    }
}

/// The jobs, ended ones included; `Err` is what else the daemon said.
pub(crate) fn jobs(play: &Play) -> Result<Vec<JobRow>, Answer> {
    let request = Request::List {
        all: true,
        key: None,
    };
    match ask(play, &request) {
        Answer::Told(Response::Jobs(rows)) => Ok(rows),
        other => Err(other),
    }
}
