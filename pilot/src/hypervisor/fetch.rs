//! Brings artefacts from URLs into the store.

use std::time::Duration;

use bytes::Bytes;
use image_store::{Digest, ImageError, Ingest, Staged, Store};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::timeout;

use super::errors::StageError;
use super::offload::offload;
use crate::broker_client::chain;

/// The server must say something within this.
const STALL: Duration = Duration::from_secs(30);

/// Downloads. Makes its client when it is first needed: most slots never need it.
#[derive(Debug, Default)]
pub(super) struct Fetcher(OnceCell<reqwest::Client>);

impl Fetcher {
    /// Downloads `url` into the store, where it is verified. `owner` is the slot's name: reclaim
    /// finds by it what a dead pilot left half written.
    pub(super) async fn fetch(
        &self,
        store: &Store,
        owner: &str,
        url: &str,
        digest: Option<Digest>,
    ) -> Result<Staged, StageError> {
        let unreachable = |e: &dyn std::error::Error| {
            StageError::Unreachable(format!("the artefact {url} can't be fetched: {}", chain(e)))
        };
        let client = self
            .0
            .get_or_try_init(|| async {
                reqwest::Client::builder()
                    .connect_timeout(Duration::from_secs(10))
                    .read_timeout(STALL)
                    .build()
            })
            .await
            .map_err(|e| unreachable(&e))?;
        let mut answer = client.get(url).send().await.map_err(|e| unreachable(&e))?;
        let status = answer.status();
        if matches!(status.as_u16(), 401 | 403 | 404 | 410) {
            let text = format!("the artefact {url} can't be had: the server answered {status}");
            return Err(StageError::ImageMissing(text));
        }
        if !status.is_success() {
            let text = format!("the artefact {url} can't be had: the server answered {status}");
            return Err(StageError::Unreachable(text));
        }

        // The disk must not hold up the pilot's own clockwork: a thread writes, a short queue
        // between makes the slower of the two wait.
        let (send, receive) = mpsc::channel::<Bytes>(16);
        let (store, owner, what) = (store.clone(), owner.to_owned(), url.to_owned());
        let writing = offload("fetch", move || {
            let ingest = store.ingest(&owner, &what, digest);
            write(ingest, receive)
        });
        let reading = async move {
            while let Some(chunk) = answer.chunk().await? {
                if send.send(chunk).await.is_err() {
                    return Ok(());
                }
            }
            // An empty chunk says that all has come; a queue that just ends says it has not.
            drop(timeout(STALL, send.send(Bytes::new())).await);
            Ok::<(), reqwest::Error>(())
        };
        let (written, read) = tokio::join!(writing, reading);
        read.map_err(|e| unreachable(&e))?;
        match written {
            Ok(Some(staged)) => Ok(staged?),
            Ok(None) => Err(StageError::Unreachable(format!(
                "the artefact {url} was cut short"
            ))),
            Err(e) => Err(StageError::Node(e.to_string())),
        }
    }
}

/// None when the queue ended before the artefact did.
fn write(
    ingest: Result<Ingest, ImageError>,
    mut queue: mpsc::Receiver<Bytes>,
) -> Option<Result<Staged, ImageError>> {
    let mut ingest = match ingest {
        Ok(ingest) => ingest,
        Err(e) => return Some(Err(e)),
    };
    while let Some(chunk) = queue.blocking_recv() {
        if chunk.is_empty() {
            return Some(ingest.finish());
        }
        if let Err(e) = ingest.take(&chunk) {
            return Some(Err(e));
        }
    }
    None
}
