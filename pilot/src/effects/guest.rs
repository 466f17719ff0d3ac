//! One lease's task: it alone holds the guest, takes the agent's orders and reports.
//!
//! ```text
//! stage -> (Start) -> start -> running [pause, continue, checkpoint, shutdown, suspend] -> over
//!                                                                               -> (Release)
//! ```
//! The directory and the process are in the journal before they exist, and are said to be gone
//! after they are.

mod begun;
mod save;

use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use pilot_core::agent::{Event, ExitHow};
use pilot_core::guest::LeaseKey;
use pilot_core::guest_words::Words;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::StateId;
use protocol::lease;
use protocol::time::{Mono, Span};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, Sleep, interval, sleep};

use begun::Begun;

use super::Tools;
use super::console::Console;
use crate::broker_client::chain;
use crate::hypervisor::{self, Guest, GuestEvent, GuestEvents, StageRequest};
use crate::journal::{Entry, JournalError, What};

/// How often it is measured what a suspend would write.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// After a write of the guest has failed it is let go again so often.
const IO_RETRY: Duration = Duration::from_secs(2);

/// What the agent wants of the guest.
#[derive(Debug)]
pub(super) enum Order {
    /// Boot or resume it.
    Start,
    /// Stop it, keep it in RAM.
    Pause,
    /// Let it run.
    Continue,
    /// Begin to bring its memory to the store.
    Flush,
    /// Write it to the store; it is gone then.
    Suspend(Save),
    /// Write it to the store; it goes on.
    Checkpoint(Save),
    /// Give that up.
    AbortSuspend,
    /// Ask it to switch itself off.
    Shutdown,
    /// Say something to it.
    Tell(Words),
    /// End it at once.
    Kill,
    /// The lease is over: leave nothing.
    Release,
}

/// A state that is to be made.
#[derive(Debug)]
pub(super) struct Save {
    pub(super) state: StateId,
    pub(super) run: Span,
    pub(super) abort_at: Mono,
}

/// The task's own things.
#[derive(Debug)]
pub(super) struct GuestTask {
    tools: Rc<Tools>,
    lease: LeaseKey,
    order: lease::Order,
    inbox: UnboundedReceiver<Order>,
    /// States that are worked on.
    begun: Vec<Begun>,
    /// [`Order::Release`] has come, or the agent is gone.
    released: bool,
}

/// How the time of a running guest ended.
enum Over {
    /// Its hypervisor is gone.
    Exited(ExitHow),
    /// The agent knows already.
    Told,
}

/// The report that no hypervisor of the lease is here (any more).
pub(super) fn gone(lease: &LeaseKey) -> Event {
    Event::GuestExited {
        lease: lease.clone(),
        how: ExitHow::Killed,
    }
}

impl GuestTask {
    pub(super) fn new(
        tools: Rc<Tools>,
        lease: LeaseKey,
        order: lease::Order,
        inbox: UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            tools,
            lease,
            order,
            inbox,
            begun: Vec::new(),
            released: false,
        }
    }

    /// Runs until the lease is released.
    pub(super) async fn run(mut self) {
        let name = self.lease.to_string();
        let dir = self.tools.journal.scratch().join("guests").join(name);
        match self.intend(&dir) {
            Ok((directory, process)) => {
                let console = self.live(&dir, &process).await;
                self.until_released().await;
                if let Some(console) = console {
                    console.finish().await;
                }
                self.leave(&dir, directory, process).await;
            }
            Err(e) => {
                self.stage_failed(Reason::new(ReasonCode::Internal, chain(&e)), false);
                self.until_released().await;
            }
        }
    }

    fn intend(&self, dir: &Path) -> Result<(Entry, Entry), JournalError> {
        let journal = &self.tools.journal;
        let directory = journal.intend(What::Directory {
            path: dir.to_owned(),
        })?;
        let process = journal.intend(What::Process {
            program: format!("hypervisor of {}", self.lease),
        })?;
        Ok((directory, process))
    }

    async fn leave(&mut self, dir: &Path, directory: Entry, process: Entry) {
        self.settle_states(None).await;
        let removed = tokio::fs::remove_dir_all(dir).await;
        let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        match removed {
            Err(e) if !absent(&e) => {
                tracing::warn!(lease.id = %self.lease, error = %e, "the guest's directory could not be removed yet");
            }
            Ok(()) | Err(_) => said(directory.gone()),
        }
        said(process.gone());
    }

    async fn live(&mut self, dir: &Path, process: &Entry) -> Option<Console> {
        let tools = Rc::clone(&self.tools);
        let request = StageRequest {
            guest: self.guest_id(),
            spec: self.order.spec.clone(),
            state: self.order.state.clone(),
            dir: dir.to_owned(),
            marker: process.marker(),
        };
        let staged = tokio::select! {
            staged = tools.hypervisor.stage(request) => staged,
            () = self.until_released() => return None,
        };
        let staged = match staged {
            Ok(staged) => staged,
            Err(e) => {
                self.stage_failed(e.reason(), e.permanent());
                return None;
            }
        };
        tools.report(Event::Staged {
            lease: self.lease.clone(),
        });
        if !self.until_start().await {
            return None;
        }
        let started = tokio::select! {
            started = tools.hypervisor.start(staged) => started,
            () = self.until_killed() => {
                tools.hypervisor.start_given_up(&process.marker()).await;
                tools.report(gone(&self.lease));
                return None;
            }
        };
        match started {
            Ok((guest, events)) => {
                if let Some(pid) = guest.pid() {
                    said(process.made(pid).map(drop));
                }
                let path = guest.console_path().to_owned();
                tools.report(Event::Running {
                    lease: self.lease.clone(),
                });
                let console = Console::follow(Rc::clone(&tools), self.lease.clone(), path);
                self.running(guest, events).await;
                Some(console)
            }
            Err(e) => {
                tools.report(Event::StartFailed {
                    lease: self.lease.clone(),
                    reason: e.reason(),
                    permanent: false,
                });
                None
            }
        }
    }

    async fn running(&mut self, guest: Guest, mut events: GuestEvents) {
        let tools = Rc::clone(&self.tools);
        let mut measure = interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry_io: Option<Pin<Box<Sleep>>> = None;
        let over = loop {
            tokio::select! {
                order = self.inbox.recv() => {
                    if let Some(over) = self.obey(&guest, &mut events, order).await {
                        break over;
                    }
                }
                event = events.next() => match event {
                    Some(GuestEvent::Exited(how)) => break Over::Exited(exit_how(how)),
                    Some(GuestEvent::IoError(reason)) => {
                        tracing::warn!(lease.id = %self.lease, "the guest can't write to its disk: {reason}");
                        retry_io = Some(Box::pin(sleep(IO_RETRY)));
                    }
                    Some(GuestEvent::Flushed) => self.measure(&guest).await,
                    Some(GuestEvent::Said(said)) => tools.report(Event::GuestSaid {
                        lease: self.lease.clone(),
                        said,
                    }),
                    None => break Over::Exited(ExitHow::Crashed {
                        text: "it was lost from sight".to_owned(),
                    }),
                },
                _ = measure.tick() => self.measure(&guest).await,
                () = until(retry_io.as_mut()) => {
                    retry_io = None;
                    self.warn("continue", guest.cont().await);
                }
            }
        };
        match over {
            Over::Told => {}
            Over::Exited(how) => tools.report(Event::GuestExited {
                lease: self.lease.clone(),
                how,
            }),
        }
    }

    async fn measure(&self, guest: &Guest) {
        self.tools.report(Event::Measured {
            lease: self.lease.clone(),
            bytes: guest.resident_bytes().await,
        });
    }

    /// Carries out an order. Returns how the guest's time ended, if it did.
    async fn obey(
        &mut self,
        guest: &Guest,
        events: &mut GuestEvents,
        order: Option<Order>,
    ) -> Option<Over> {
        let lease = self.lease.clone();
        match order {
            Some(Order::Start | Order::AbortSuspend) => None,
            Some(Order::Pause) => {
                let result = guest.pause().await;
                if result.is_ok() {
                    self.tools.report(Event::Paused { lease });
                }
                self.warn("pause", result);
                None
            }
            Some(Order::Continue) => {
                let result = guest.cont().await;
                if result.is_ok() {
                    self.tools.report(Event::Continued { lease });
                }
                self.warn("continue", result);
                None
            }
            Some(Order::Shutdown) => {
                self.warn("shut down", guest.shutdown().await);
                None
            }
            Some(Order::Tell(words)) => {
                guest.tell(&words);
                None
            }
            Some(Order::Flush) => {
                self.flush(guest);
                None
            }
            Some(Order::Suspend(save)) => self.suspend(guest, save).await,
            Some(Order::Checkpoint(save)) => self.checkpoint(guest, events, save).await,
            Some(Order::Kill) => {
                guest.kill().await;
                Some(Over::Exited(ExitHow::Killed))
            }
            Some(Order::Release) | None => {
                self.released = true;
                guest.kill().await;
                Some(Over::Exited(ExitHow::Killed))
            }
        }
    }

    fn guest_id(&self) -> hypervisor::GuestId {
        hypervisor::GuestId {
            workspace: self.lease.workspace.clone(),
            generation: self.lease.generation,
        }
    }

    fn stage_failed(&self, reason: Reason, permanent: bool) {
        self.tools.report(Event::StageFailed {
            lease: self.lease.clone(),
            reason,
            permanent,
        });
    }

    fn warn(&self, what: &str, result: Result<(), hypervisor::ControlError>) {
        if let Err(e) = result {
            tracing::warn!(lease.id = %self.lease, error = %e, "the guest could not be told to {what}");
        }
    }

    /// True when the guest is to be started, false when the lease is over before that.
    async fn until_start(&mut self) -> bool {
        loop {
            match self.inbox.recv().await {
                Some(Order::Start) => return true,
                Some(Order::Kill) => {
                    self.tools.report(gone(&self.lease));
                    return false;
                }
                Some(Order::Release) | None => {
                    self.released = true;
                    return false;
                }
                Some(
                    Order::Pause
                    | Order::Continue
                    | Order::Flush
                    | Order::Suspend(_)
                    | Order::Checkpoint(_)
                    | Order::AbortSuspend
                    | Order::Tell(_)
                    | Order::Shutdown,
                ) => {}
            }
        }
    }

    async fn until_killed(&mut self) {
        loop {
            match self.inbox.recv().await {
                Some(Order::Kill) => return,
                Some(Order::Release) | None => {
                    self.released = true;
                    return;
                }
                Some(
                    Order::Start
                    | Order::Pause
                    | Order::Continue
                    | Order::Flush
                    | Order::Suspend(_)
                    | Order::Checkpoint(_)
                    | Order::AbortSuspend
                    | Order::Tell(_)
                    | Order::Shutdown,
                ) => {}
            }
        }
    }

    /// Waits until nothing more is wanted of this lease. A late order to kill is answered: there
    /// is nothing to kill.
    async fn until_released(&mut self) {
        while !self.released {
            match self.inbox.recv().await {
                Some(Order::Kill) => self.tools.report(gone(&self.lease)),
                Some(Order::Release) | None => self.released = true,
                Some(
                    Order::Start
                    | Order::Pause
                    | Order::Continue
                    | Order::Flush
                    | Order::Suspend(_)
                    | Order::Checkpoint(_)
                    | Order::AbortSuspend
                    | Order::Tell(_)
                    | Order::Shutdown,
                ) => {}
            }
        }
    }
}

fn exit_how(how: hypervisor::ExitHow) -> ExitHow {
    match how {
        hypervisor::ExitHow::PoweredOff => ExitHow::PoweredOff,
        hypervisor::ExitHow::EndedByUs => ExitHow::Killed,
        hypervisor::ExitHow::Crashed(reason) => ExitHow::Crashed { text: reason.text },
    }
}

/// The journal could not be written: reclaim looks for the thing nevertheless.
fn said(result: Result<(), JournalError>) {
    if let Err(e) = result {
        tracing::warn!(error = chain(&e), "the journal could not be written");
    }
}

async fn until(timer: Option<&mut Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}
