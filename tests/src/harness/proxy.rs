//! Between pilots and broker: a network that loses, delays, repeats and overtakes, when it is told
//! to.
//!
//! ```text
//! pilot --- call ---> proxy --- call ---> broker
//!        DropCall ^          ^ Delay, Repeat, Overtaken
//!   <-- answer ---        <-- answer ---
//!        DropAnswer, TornAnswer, cut ^
//! ```
//!
//! It understands as much of the calls as it needs to tell the pilots apart: `register` and `sync`
//! name their slot, and all calls of a pilot carry the same token.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::ids::SubmitKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::wire::{Message, Wire};

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed before the call has reached the broker.
    DropCall,
    /// The broker has acted; its answer is lost.
    DropAnswer,
    /// The broker has acted; half of its answer arrives.
    TornAnswer,
    /// The call reaches the broker so much later.
    Delay(Duration),
    /// The broker gets the same call once more, so long after it has answered the first.
    Repeat(Duration),
    /// The caller hears nothing. The broker gets the call when it has answered a later one of the
    /// same caller.
    Overtaken,
}

impl Fault {
    /// A stable name for summaries.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::DropCall => "drop_call",
            Self::DropAnswer => "drop_answer",
            Self::TornAnswer => "torn_answer",
            Self::Delay(_) => "delay",
            Self::Repeat(_) => "repeat",
            Self::Overtaken => "overtaken",
        }
    }
}

/// Who is cut off: what they send and what is sent to them is lost, and nobody is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cuts {
    all: bool,
    slots: BTreeSet<SubmitKey>,
}

impl Cuts {
    fn cuts(&self, slot: Option<&SubmitKey>) -> bool {
        self.all || slot.is_some_and(|s| self.slots.contains(s))
    }
}

#[derive(Debug, Default)]
struct Rules {
    /// For the next calls, one each.
    next: VecDeque<Fault>,
    /// For every so many-th call.
    every: Option<(u64, Fault)>,
    calls: u64,
    /// By the calls' `Authorization`.
    slots: BTreeMap<String, SubmitKey>,
    /// Calls that wait to be overtaken, by `Authorization`.
    overtaken: BTreeMap<String, Vec<Message>>,
    done: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Shared {
    broker: SocketAddr,
    rules: Mutex<Rules>,
    cuts: watch::Sender<Cuts>,
    tasks: Mutex<JoinSet<()>>,
}

/// The network. Ends with the value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listens: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listens.abort();
        locked(&self.shared.tasks).abort_all();
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Starts to listen on a port of its own; all goes well until it is told otherwise.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("failed to listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            broker,
            rules: Mutex::default(),
            cuts: watch::Sender::new(Cuts::default()),
            tasks: Mutex::default(),
        });
        let mine = Arc::clone(&shared);
        let listens = tokio::spawn(async move {
            while let Ok((pilot, _)) = listener.accept().await {
                let shared = Arc::clone(&mine);
                let mut tasks = locked(&mine.tasks);
                // Those that have ended need no room.
                while tasks.try_join_next().is_some() {}
                tasks.spawn(async move {
                    // A connection that breaks is its two ends' to notice.
                    let _ = shared.pass_on(pilot).await;
                });
            }
        });
        Ok(Self {
            address,
            shared,
            listens,
        })
    }

    /// Where pilots are to call.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// This happens to the next calls, whoever makes them; after what was injected before.
    pub fn inject(&self, fault: Fault, calls: usize) {
        let mut rules = locked(&self.shared.rules);
        rules.next.extend(std::iter::repeat_n(fault, calls));
    }

    /// This happens to every `nth` call from now on; with none, to none.
    pub fn every(&self, nth: u64, fault: Option<Fault>) {
        locked(&self.shared.rules).every = fault.map(|f| (nth.max(1), f));
    }

    /// Cuts one slot's pilot off, in silence.
    pub fn cut(&self, slot: &SubmitKey) {
        self.shared.cuts.send_modify(|cuts| {
            cuts.slots.insert(slot.clone());
        });
        self.count("cut");
    }

    /// Cuts all pilots off, in silence.
    pub fn cut_all(&self) {
        self.shared.cuts.send_modify(|cuts| cuts.all = true);
        self.count("cut_all");
    }

    /// Joins one slot's pilot again, as far as not all are cut off.
    pub fn join(&self, slot: &SubmitKey) {
        self.shared.cuts.send_modify(|cuts| {
            cuts.slots.remove(slot);
        });
    }

    /// Joins all pilots again that are not cut off one by one.
    pub fn join_all(&self) {
        self.shared.cuts.send_modify(|cuts| cuts.all = false);
    }

    /// All goes well again: no cuts, and no faults for calls to come.
    pub fn heal(&self) {
        {
            let mut rules = locked(&self.shared.rules);
            rules.next.clear();
            rules.every = None;
        }
        self.shared.cuts.send_replace(Cuts::default());
    }

    /// What was done so far, by [`Fault::kind`], and `cut`, `cut_all`.
    pub fn done(&self) -> BTreeMap<&'static str, u64> {
        locked(&self.shared.rules).done.clone()
    }

    fn count(&self, what: &'static str) {
        *locked(&self.shared.rules).done.entry(what).or_default() += 1;
    }
}

impl Shared {
    /// One connection, until either end closes it.
    async fn pass_on(self: &Arc<Self>, pilot: TcpStream) -> Result<()> {
        let mut pilot = Wire::new(pilot)?;
        let mut broker: Option<Wire> = None;
        while let Some(call) = pilot.read().await? {
            let caller = call.header("authorization").unwrap_or_default().to_owned();
            let (slot, fault) = self.judge(&caller, &call);
            tokio::select! {
                biased;
                // Nobody hears, and nobody is told.
                () = self.cut(slot.as_ref()) => {
                    tokio::select! {
                        () = self.joined(slot.as_ref()) => {}
                        () = pilot.stirs() => {}
                    }
                    return Ok(());
                }
                went_on = self.exchange(&mut pilot, &mut broker, &call, &caller, fault) => {
                    if !went_on? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whose call it is, and what happens to it.
    fn judge(&self, caller: &str, call: &Message) -> (Option<SubmitKey>, Option<Fault>) {
        let mut rules = locked(&self.rules);
        if let Some(slot) = slot_of(call) {
            rules.slots.insert(caller.to_owned(), slot);
        }
        let slot = rules.slots.get(caller).cloned();
        rules.calls += 1;
        let every = rules.every;
        let regular = every
            .filter(|(nth, _)| rules.calls.is_multiple_of(*nth))
            .map(|(_, fault)| fault);
        let fault = rules.next.pop_front().or(regular);
        if let Some(fault) = fault {
            *rules.done.entry(fault.kind()).or_default() += 1;
        }
        (slot, fault)
    }

    /// One call and its answer; false when the connection is over.
    async fn exchange(
        self: &Arc<Self>,
        pilot: &mut Wire,
        broker: &mut Option<Wire>,
        call: &Message,
        caller: &str,
        fault: Option<Fault>,
    ) -> Result<bool> {
        match fault {
            Some(Fault::DropCall) => return Ok(false),
            Some(Fault::Overtaken) => {
                let mut rules = locked(&self.rules);
                let waiting = rules.overtaken.entry(caller.to_owned()).or_default();
                waiting.push(call.clone());
                return Ok(false);
            }
            Some(Fault::Delay(by)) => tokio::time::sleep(by).await,
            Some(Fault::DropAnswer | Fault::TornAnswer | Fault::Repeat(_)) | None => {}
        }
        let wire = match broker {
            Some(wire) => wire,
            None => broker.insert(self.reach().await?),
        };
        wire.send(call).await?;
        let answer = tokio::select! {
            answer = wire.read() => answer?,
            // It has news and gives the held sync up.
            () = pilot.stirs() => return Ok(false),
        };
        let Some(answer) = answer else {
            return Ok(false);
        };
        let overtaken = locked(&self.rules).overtaken.remove(caller);
        for late in overtaken.into_iter().flatten() {
            self.send_alone(late, Duration::ZERO);
        }
        match fault {
            Some(Fault::DropAnswer) => return Ok(false),
            Some(Fault::TornAnswer) => {
                pilot.send_half(&answer).await?;
                return Ok(false);
            }
            Some(Fault::Repeat(after)) => self.send_alone(call.clone(), after),
            Some(Fault::DropCall | Fault::Overtaken | Fault::Delay(_)) | None => {}
        }
        pilot.send(&answer).await?;
        Ok(true)
    }

    async fn reach(&self) -> Result<Wire> {
        let stream = TcpStream::connect(self.broker).await;
        Wire::new(stream.context("failed to reach the broker")?)
    }

    /// Sends a call on a connection of its own; nobody waits for the answer.
    fn send_alone(self: &Arc<Self>, call: Message, after: Duration) {
        let shared = Arc::clone(self);
        locked(&self.tasks).spawn(async move {
            tokio::time::sleep(after).await;
            // The broker may be away: then this call is lost for good.
            if let Ok(mut wire) = shared.reach().await
                && wire.send(&call).await.is_ok()
            {
                let _ = wire.read().await;
            }
        });
    }

    /// Waits until this caller is cut off.
    async fn cut(&self, slot: Option<&SubmitKey>) {
        // The sender lives as long as we do.
        let _ = self.cuts.subscribe().wait_for(|c| c.cuts(slot)).await;
    }

    /// Waits until this caller is not cut off.
    async fn joined(&self, slot: Option<&SubmitKey>) {
        // The sender lives as long as we do.
        let _ = self.cuts.subscribe().wait_for(|c| !c.cuts(slot)).await;
    }
}

/// The slot that a call names.
fn slot_of(call: &Message) -> Option<SubmitKey> {
    let body = || serde_json::from_slice::<serde_json::Value>(call.body()).ok();
    let key = match call.path() {
        "/v1/pilot/register" => body()?.get("slot")?.get("submit_key")?.clone(),
        "/v1/pilot/sync" => body()?.get("submit_key")?.clone(),
        _ => return None,
    };
    SubmitKey::new(key.as_str()?).ok()
}

#[cfg(test)]
mod tests;
