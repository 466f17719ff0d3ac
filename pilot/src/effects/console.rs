//! Brings a guest's console to the broker, as it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::agent::Event;
use pilot_core::guest::LeaseKey;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use super::Tools;
use crate::broker_client::CallError;
use crate::hypervisor::GuestId;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(300);
/// Most bytes in one call.
const CHUNK: u64 = 64 * 1024;
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long the rest may take after the guest has ended.
const REST_LIMIT: Duration = Duration::from_secs(3);

/// A console that is being followed.
#[derive(Debug)]
pub(super) struct Console {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Console {
    /// Follows the file from its beginning.
    pub(super) fn follow(tools: Rc<Tools>, lease: LeaseKey, path: PathBuf) -> Self {
        let (stop, stopped) = oneshot::channel();
        let follower = Follower {
            guest: GuestId {
                workspace: lease.workspace.clone(),
                generation: lease.generation,
            },
            tools,
            lease,
            path,
            offset: 0,
            refused: false,
        };
        Self {
            stop,
            task: spawn_local(follower.run(stopped)),
        }
    }

    /// The guest has ended: brings the rest, as far as that goes quickly.
    pub(super) async fn finish(self) {
        let _ = self.stop.send(());
        let abort = self.task.abort_handle();
        if tokio::time::timeout(REST_LIMIT, self.task).await.is_err() {
            abort.abort();
        }
    }
}

struct Follower {
    tools: Rc<Tools>,
    lease: LeaseKey,
    guest: GuestId,
    path: PathBuf,
    offset: u64,
    refused: bool,
}

impl Follower {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let last = tokio::select! {
                _ = &mut stopped => true,
                () = tokio::time::sleep(EVERY) => false,
            };
            while self.pass().await {}
            if last || self.refused {
                return;
            }
        }
    }

    /// Brings one chunk; true when there may be more.
    async fn pass(&mut self) -> bool {
        let Some(chunk) = self.read() else {
            return false;
        };
        let length = chunk.len() as u64;
        let sent = self
            .tools
            .client
            .console(&self.guest, self.offset, chunk, CALL_LIMIT)
            .await;
        match sent {
            Ok(reply) => {
                let moved = reply.next_offset != self.offset;
                self.offset = reply.next_offset;
                moved && length > 0
            }
            Err(CallError::NoAnswer(_)) => false, // the next pass tries again
            Err(CallError::Refused { code, text }) => {
                if !code.is_transient() {
                    tracing::warn!(lease.id = %self.lease, error = text, "the broker does not take the console");
                    self.refused = true;
                }
                false
            }
        }
    }

    /// The file is the node's own and the chunk small: not worth a thread.
    fn read(&self) -> Option<Bytes> {
        let mut file = File::open(&self.path).ok()?;
        let size = file.metadata().ok()?.len();
        if size <= self.offset {
            return None;
        }
        self.tools.report(Event::Console {
            lease: self.lease.clone(),
            bytes: size,
        });
        file.seek(SeekFrom::Start(self.offset)).ok()?;
        let mut chunk = Vec::new();
        file.take(CHUNK).read_to_end(&mut chunk).ok()?;
        (!chunk.is_empty()).then(|| chunk.into())
    }
}
