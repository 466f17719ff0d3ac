//! The owner task: the one place where the core is stepped.
//!
//! ```text
//!  handlers, loops --Command--> [ step a batch ] -> [ one transaction ] -> replies, effects, wakes
//!                                     ^                    | failed
//!                                     +---- load again <---+   replies: unavailable
//! ```
//!
//! Decide, record, act: a reply leaves here only after everything that it rests on is on the
//! disk. Commands that come while a transaction is being written form the next batch, so a slow
//! disk makes batches larger and not answers later and later. Questions are answered after the
//! batch's commit: nobody sees a state that could still be lost.

use std::sync::Arc;

use broker_core::records::{Log, Meta};
use broker_core::{Broker, BrokerConfig, Changes, Effect, Event, Reply};
use protocol::time::{Span, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::http::error::Chain;
use crate::store::{Store, StoreError};
use crate::wakes::Wakes;

/// Commands in one transaction, at most.
const BATCH: usize = 512;
/// Commands that wait for the owner, at most; then senders wait.
const CHANNEL: usize = 4096;
/// Ticks follow each other no faster.
const LEAST_TICK: Span = Span::from_millis(5);
/// Between two tries to get the store back.
const RETRY: Span = Span::from_secs(1);

/// A question to the core: reads, and sends its answer itself.
type Question = Box<dyn FnOnce(&Broker, Timestamp) + Send>;

/// What the owner is asked.
enum Command {
    /// Something happened; the reply is sent after the commit.
    Step(Event, oneshot::Sender<Result<Reply, Unavailable>>),
    /// Somebody wants to know.
    Ask(Question),
}

/// The store could not be written or the broker is stopping: nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Disk full, database locked, or the like.
    #[error("the broker can't write its database now")]
    Store,
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
}

/// Sends to the owner. Clones go to every handler and loop.
#[derive(Clone, Debug)]
pub struct Owner {
    commands: mpsc::Sender<Command>,
}

impl Owner {
    /// Lets the core take an event; returns its reply when it is durable.
    ///
    /// # Errors
    /// Nothing was changed: the store can't be written, or the broker stops.
    pub async fn step(&self, event: Event) -> Result<Reply, Unavailable> {
        let (tx, rx) = oneshot::channel();
        self.commands
            .send(Command::Step(event, tx))
            .await
            .map_err(|_| Unavailable::Stopping)?;
        rx.await.map_err(|_| Unavailable::Stopping)?
    }

    /// Asks the core something.
    ///
    /// # Errors
    /// The store can't be read back after a failure, or the broker stops.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Broker, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (tx, rx) = oneshot::channel();
        let ask: Question = Box::new(move |broker, now| {
            // Whoever asked may be gone.
            let _ = tx.send(question(broker, now));
        });
        self.commands
            .send(Command::Ask(ask))
            .await
            .map_err(|_| Unavailable::Stopping)?;
        rx.await.map_err(|_| Unavailable::Store)
    }
}

/// What the task needs.
pub struct OwnerTask {
    /// The only writer of the store.
    pub store: Store,
    /// The core's settings.
    pub config: BrokerConfig,
    /// Time.
    pub clock: Arc<Clock>,
    /// Who waits for news.
    pub wakes: Arc<Wakes>,
    /// Where effects on LRMs go.
    pub effects: mpsc::UnboundedSender<Effect>,
    /// Becomes true when the broker stops.
    pub stopping: watch::Receiver<bool>,
}

/// Loads the core, lets it take [`Event::Started`], and starts the task. The task ends when all
/// senders are gone, or soon after `stopping`.
///
/// # Errors
/// The store can't be read or written.
pub async fn start(
    mut task: OwnerTask,
) -> Result<(Owner, tokio::task::JoinHandle<()>), StoreError> {
    let mut broker = load(&mut task).await?;
    let step = broker.step(task.clock.now(), Event::Started);
    task.store.apply(&step.changes).await?;
    task.act(step.effects, &step.changes);
    let (commands, receiver) = mpsc::channel(CHANNEL);
    Ok((Owner { commands }, tokio::spawn(task.run(broker, receiver))))
}

async fn load(task: &mut OwnerTask) -> Result<Broker, StoreError> {
    let records = task.store.load(|| Meta::new(new_instance())).await?;
    Ok(Broker::load(task.config.clone(), records))
}

/// Eight characters that no other broker has.
fn new_instance() -> String {
    uuid::Uuid::new_v4()
        .simple()
        .to_string()
        .chars()
        .take(8)
        .collect()
}

impl OwnerTask {
    async fn run(mut self, mut broker: Broker, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wakeup = broker.next_wakeup();
            let wakeup = wakeup.map(|at| at.since(self.clock.now()).max(LEAST_TICK));
            tokio::select! {
                biased;
                n = commands.recv_many(&mut batch, BATCH) => if n == 0 { return },
                () = sleep(wakeup) => {}
            }
            if let Err(fault) = self.take(&mut broker, &mut batch).await {
                tracing::error!(error = %Chain(&fault), "failed to record decisions; they are taken back");
                match self.reload(&mut commands).await {
                    Some(again) => broker = again,
                    None => return,
                }
            }
        }
    }

    /// Steps everything in `batch`, and the time; commits; then answers and acts.
    async fn take(
        &mut self,
        broker: &mut Broker,
        batch: &mut Vec<Command>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut changes = Changes::default();
        let (mut effects, mut replies, mut questions) = (Vec::new(), Vec::new(), Vec::new());
        if broker.next_wakeup().is_some_and(|at| at <= now) {
            let step = broker.step(now, Event::Tick);
            changes.merge(step.changes);
            effects.extend(step.effects);
        }
        for command in batch.drain(..) {
            match command {
                Command::Step(event, reply) => {
                    let step = broker.step(now, event);
                    changes.merge(step.changes);
                    effects.extend(step.effects);
                    replies.push((reply, step.reply));
                }
                Command::Ask(question) => questions.push(question),
            }
        }
        let committed = if changes.is_empty() {
            Ok(())
        } else {
            self.store.apply(&changes).await
        };
        for (to, reply) in replies {
            // Whoever asked may be gone.
            let _ = to.send(if committed.is_ok() {
                Ok(reply)
            } else {
                Err(Unavailable::Store)
            });
        }
        // Questions that were not asked before a failure find nobody to answer them.
        committed?;
        self.act(effects, &changes);
        for question in questions {
            question(broker, now);
        }
        Ok(())
    }

    /// Carries out what the committed decisions want.
    fn act(&self, effects: Vec<Effect>, changes: &Changes) {
        for effect in effects {
            match effect {
                Effect::Wake(pilots) => pilots.iter().for_each(|key| self.wakes.pilots.wake(key)),
                Effect::SubmitPilot(_) | Effect::LookUp { .. } | Effect::CancelPilot { .. } => {
                    // The loops are gone only when the broker stops; all but a submit come again
                    // after the restart, and a submit becomes a look-up.
                    let _ = self.effects.send(effect);
                }
            }
        }
        for event in &changes.events {
            if let Log::Workspace(id) = &event.log {
                self.wakes.workspaces.wake(id);
            }
        }
    }

    /// Gets the core back from the store, however long that takes. Until then every command is
    /// answered with "unavailable". None: the broker stops.
    async fn reload(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Broker> {
        loop {
            match load(self).await {
                Ok(broker) => {
                    tracing::warn!("the state was read back; going on");
                    self.wakes.pilots.wake_all();
                    return Some(broker);
                }
                Err(fault) => {
                    tracing::error!(error = %Chain(&fault), "failed to read the state back")
                }
            }
            let pause = sleep(Some(RETRY));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    changed = self.stopping.changed() => {
                        if changed.is_err() || *self.stopping.borrow() { return None }
                    }
                    command = commands.recv() => match command {
                        Some(Command::Step(_, reply)) => {
                            let _ = reply.send(Err(Unavailable::Store));
                        }
                        Some(Command::Ask(_)) => {}
                        None => return None,
                    }
                }
            }
        }
    }
}

/// Ends after `span`; never, without one.
async fn sleep(span: Option<Span>) {
    match span {
        Some(span) => tokio::time::sleep(span.as_duration()).await,
        None => std::future::pending().await,
    }
}
