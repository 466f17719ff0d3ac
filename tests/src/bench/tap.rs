//! Between pilot and broker: passes every message on and notes when it went by.
//!
//! So that "registered" and "lease granted" are the moments in which the broker's answers went
//! over the wire, and no polling is part of a figure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::messages::{SyncReply, SyncRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::clock;
use crate::harness::wire::{Message, Wire};

/// How long may pass before what is waited for went by.
const PATIENCE: Duration = Duration::from_secs(120);

/// What went by.
#[derive(Debug)]
pub(super) enum Passed {
    /// The broker has answered a registration.
    Registered,
    /// A sync of the pilot.
    Sync(Box<SyncRequest>),
    /// The broker's answer to one.
    Answer(Box<SyncReply>),
}

/// Listens for a pilot.
#[derive(Debug)]
pub(super) struct Tap {
    address: SocketAddr,
    passed: UnboundedReceiver<(Instant, Passed)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tap {
    /// Starts to pass on what comes to a port of its own.
    pub(super) async fn start(broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("failed to listen")?;
        let address = listener.local_addr()?;
        let (sender, passed) = unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((pilot, _)) = listener.accept().await {
                tokio::spawn(pass_on(pilot, broker, sender.clone()));
            }
        });
        Ok(Self {
            address,
            passed,
            task,
        })
    }

    /// Where the pilot is to call.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forgets what went by until now.
    pub(super) fn forget(&mut self) {
        while self.passed.try_recv().is_ok() {}
    }

    /// Waits for what `pick` takes; gives when it went by.
    pub(super) async fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Passed) -> Option<T>,
    ) -> Result<(Instant, T)> {
        let found = async {
            while let Some((at, passed)) = self.passed.recv().await {
                if let Some(found) = pick(&passed) {
                    return Some((at, found));
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!("nothing listens any more"),
            Err(_) => bail!("gave up waiting for {what} after {PATIENCE:?}"),
        }
    }
}

/// One connection, until either end closes it.
async fn pass_on(pilot: TcpStream, broker: SocketAddr, passed: UnboundedSender<(Instant, Passed)>) {
    // A connection that breaks is the pilot's to notice.
    if let Err(e) = exchange(pilot, broker, passed).await {
        eprintln!("bench: a connection between pilot and broker broke: {e:#}");
    }
}

async fn exchange(
    pilot: TcpStream,
    broker: SocketAddr,
    passed: UnboundedSender<(Instant, Passed)>,
) -> Result<()> {
    let (mut pilot, mut broker) = (
        Wire::new(pilot)?,
        Wire::new(
            TcpStream::connect(broker)
                .await
                .context("failed to reach the broker")?,
        )?,
    );
    while let Some(request) = pilot.read().await? {
        if request.path() == "/v1/pilot/sync" {
            note(&passed, request.body(), Passed::Sync);
        }
        broker.send(&request).await?;
        let answer = tokio::select! {
            answer = broker.read() => answer?,
            // It has news and gives the held sync up.
            () = pilot.stirs() => return Ok(()),
        };
        let Some(answer) = answer else { return Ok(()) };
        note_answer(&passed, &request, &answer);
        pilot.send(&answer).await?;
    }
    Ok(())
}

fn note_answer(passed: &UnboundedSender<(Instant, Passed)>, request: &Message, answer: &Message) {
    match request.path() {
        "/v1/pilot/register" if answer.is_success() => {
            let _ = passed.send((clock::now(), Passed::Registered));
        }
        "/v1/pilot/sync" if answer.is_success() => note(passed, answer.body(), Passed::Answer),
        _ => {}
    }
}

fn note<T: serde::de::DeserializeOwned>(
    passed: &UnboundedSender<(Instant, Passed)>,
    body: &[u8],
    make: impl Fn(Box<T>) -> Passed,
) {
    let at = clock::now();
    match serde_json::from_slice(body) {
        // Nobody may be interested any more.
        Ok(message) => drop(passed.send((at, make(Box::new(message))))),
        Err(e) => eprintln!("bench: a message that can't be read: {e}"),
    }
}
