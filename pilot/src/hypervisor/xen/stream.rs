//! A save's stream: from the helper, through a pipe, into the file of a state that is hashed on the
//! way; and what the helper says of the save in the end.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;

use image_store::{StateError, StateWriter};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use xen_helper::Saved;

use super::helper::Helper;
use crate::hypervisor::stage::MEMORY;
use crate::hypervisor::state::Failure;

/// What is read at a time, and what the pipe holds: it has 64 KiB by itself, and each of its fillings
/// costs two changes of the process.
const BLOCK: usize = 1 << 20;

/// What a thread has made. Where nobody waits for it any more, its files are gone before others
/// are let in.
pub(super) struct Held<T> {
    pub made: T,
    /// Dropped after it.
    #[expect(dead_code, reason = "held, not looked at")]
    pub busy: Arc<OwnedMutexGuard<()>>,
}

/// The helper's verdict on a save; comes also when its stream is not read any more.
pub(super) type Verdict = watch::Receiver<Option<Saved>>;

/// Has a guest saved. The helper is never killed: only its pipe is closed.
pub(super) fn call_save(helper: &Helper, uuid: &str) -> Result<(ChildStdout, Verdict), Failure> {
    let failed = |e: std::io::Error| Failure::Failed(format!("can't call the helper for Xen: {e}"));
    let mut command: tokio::process::Command = helper.command(&["save", uuid]).into();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(stream), Some(said)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::Failed(
            "the helper for Xen has no pipes".to_owned(),
        ));
    };
    // Where it stays small, it is only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&stream, BLOCK);
    let (tell, verdict) = watch::channel(None);
    tokio::spawn(async move {
        let mut text = String::new();
        let mut said = BufReader::new(said);
        let read = (&mut said).take(1 << 16).read_to_string(&mut text).await;
        drop(child.wait().await);
        let last = text.lines().last().unwrap_or("");
        let saved = serde_json::from_str(last).unwrap_or_else(|_| {
            let why = read.err().map(|e| e.to_string()).unwrap_or_default();
            // What it has left of the guest is not known: it may stand still for good.
            Saved::Stuck {
                text: format!("the save of the guest was killed: {} {why}", text.trim()),
            }
        });
        tell.send_replace(Some(saved));
    });
    Ok((stream, verdict))
}

/// Passes the stream on to the thread that stores it, in blocks.
pub(super) async fn pass_on(
    mut stream: ChildStdout,
    blocks: mpsc::Sender<Vec<u8>>,
) -> Result<(), Failure> {
    loop {
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK {
            match stream.read_buf(&mut block).await {
                Ok(0) if block.is_empty() => {
                    // Only now the thread knows that it has all.
                    drop(blocks.send(Vec::new()).await);
                    return Ok(());
                }
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return Err(Failure::Failed(format!("the stream can't be read: {e}"))),
            }
        }
        if blocks.send(block).await.is_err() {
            // The thread says why.
            std::future::pending::<()>().await;
        }
    }
}

/// Writes and hashes blocks until an empty one comes. Without that, the state is dropped.
pub(super) fn store(
    mut writer: StateWriter,
    mut blocks: mpsc::Receiver<Vec<u8>>,
) -> Result<StateWriter, Failure> {
    let failed = |writer: &StateWriter, source| StateError::Io {
        operation: "write",
        path: writer.path(MEMORY),
        source,
    };
    let mut file: File = writer.create(MEMORY)?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    while let Some(block) = blocks.blocking_recv() {
        if block.is_empty() {
            writer.add_hashed(MEMORY, file, bytes, hasher.finalize())?;
            return Ok(writer);
        }
        file.write_all(&block)
            .map_err(|e| full_or(failed(&writer, e)))?;
        hasher.update(&block);
        bytes += block.len() as u64;
    }
    Err(Failure::Aborted)
}

fn full_or(e: StateError) -> Failure {
    match e {
        StateError::Io { source, path, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Failure::Full(format!("no space left for {}", path.display()))
        }
        e => e.into(),
    }
}

/// Waits for the verdict.
pub(super) async fn verdict_of(mut verdict: Verdict) -> Saved {
    let said = verdict.wait_for(Option::is_some).await;
    said.ok()
        .and_then(|s| s.clone())
        .unwrap_or_else(|| Saved::Stuck {
            text: "nobody knows how the save ended".to_owned(),
        })
}

pub(super) fn judge(saved: Saved) -> Result<(), Failure> {
    match saved {
        Saved::Whole => Ok(()),
        Saved::Failed { text } | Saved::Stuck { text } => Err(Failure::Failed(text)),
        Saved::Gone => Err(Failure::Gone),
    }
}
