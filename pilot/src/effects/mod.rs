//! Carries out what the agent decides. Owner: the drive's loop.
//!
//! Each effect is begun at once, in order, on the main thread, and reports through one channel.
//! What belongs to one lease is done by that lease's own task ([`guest`]).

mod clean_up;
mod console;
mod guest;
pub(crate) mod probe;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pilot_core::agent::{Agent, Effect, Event};
use pilot_core::guest::LeaseKey;
use protocol::slot_file::ProbeSection;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::{AbortHandle, JoinHandle, spawn_local};

use crate::broker_client::{BrokerClient, CallError};
use crate::clock;
use crate::exec_guest::Trampoline;
use crate::hypervisor::Hypervisor;
use crate::journal::Journal;

use guest::{GuestTask, Order, Save};

/// How long the broker may take for a registration.
const REGISTER_LIMIT: Duration = Duration::from_secs(10);

/// What the effects work with.
#[derive(Debug)]
pub struct Tools {
    /// The slot's way to its broker.
    pub client: BrokerClient,
    /// What runs the guests.
    pub hypervisor: Hypervisor,
    /// Where everything is written down before it is made.
    pub journal: Journal,
    /// Starts processes that die with this one.
    pub trampoline: Trampoline,
    /// How to ask for the slot's end.
    pub probe: Option<ProbeSection>,
    /// Where everything is reported.
    pub events: UnboundedSender<Event>,
}

impl Tools {
    fn report(&self, event: Event) {
        // The receiver ends with the process.
        let _ = self.events.send(event);
    }
}

/// The effects under way.
#[derive(Debug)]
pub struct Effects {
    tools: Rc<Tools>,
    sync: Option<AbortHandle>,
    probing: Rc<Cell<bool>>,
    guests: BTreeMap<LeaseKey, Task>,
}

#[derive(Debug)]
struct Task {
    orders: UnboundedSender<Order>,
    ended: JoinHandle<()>,
}

impl Effects {
    /// Nothing is under way.
    pub fn new(tools: Tools) -> Self {
        Self {
            tools: Rc::new(tools),
            sync: None,
            probing: Rc::new(Cell::new(false)),
            guests: BTreeMap::new(),
        }
    }

    /// Begins an effect. Returns the exit code when the process is to end.
    pub fn begin(&mut self, agent: &Agent, effect: Effect) -> Option<i32> {
        match effect {
            Effect::Register => self.register(agent),
            Effect::Sync { request, timeout } => {
                let tools = Rc::clone(&self.tools);
                let sent = clock::now().mono;
                let call = spawn_local(async move {
                    let number = request.number;
                    let event = match tools.client.sync(&request, timeout.as_duration()).await {
                        Ok(reply) => Event::SyncAnswered {
                            sent,
                            reply: Box::new(reply),
                        },
                        Err(CallError::NoAnswer(text)) => Event::SyncFailed { number, text },
                        Err(CallError::Refused { code, text }) => {
                            Event::SyncRefused { number, code, text }
                        }
                    };
                    tools.report(event);
                });
                if let Some(older) = self.sync.replace(call.abort_handle()) {
                    older.abort();
                }
            }
            Effect::Probe => self.probe(),
            Effect::Stage { lease, order } => {
                let (orders, inbox) = mpsc::unbounded_channel();
                let task = GuestTask::new(Rc::clone(&self.tools), lease.clone(), *order, inbox);
                let ended = spawn_local(task.run());
                self.guests.insert(lease, Task { orders, ended });
            }
            Effect::Boot { lease } | Effect::Resume { lease } => self.tell(&lease, Order::Start),
            Effect::Pause { lease } => self.tell(&lease, Order::Pause),
            Effect::Continue { lease } => self.tell(&lease, Order::Continue),
            Effect::Flush { lease } => self.tell(&lease, Order::Flush),
            Effect::Suspend {
                lease,
                state,
                run,
                abort_at,
            } => {
                let save = Save {
                    state,
                    run,
                    abort_at,
                };
                self.tell(&lease, Order::Suspend(save));
            }
            Effect::Checkpoint {
                lease,
                state,
                run,
                abort_at,
            } => {
                let save = Save {
                    state,
                    run,
                    abort_at,
                };
                self.tell(&lease, Order::Checkpoint(save));
            }
            Effect::AbortSuspend { lease } => self.tell(&lease, Order::AbortSuspend),
            Effect::Shutdown { lease } => self.tell(&lease, Order::Shutdown),
            Effect::Tell { lease, words } => self.tell(&lease, Order::Tell(words)),
            Effect::Kill { lease } => self.tell(&lease, Order::Kill),
            Effect::ReleaseGuest { lease } => {
                if let Some(task) = self.guests.get(&lease) {
                    let _ = task.orders.send(Order::Release);
                }
                self.guests.retain(|_, task| !task.ended.is_finished());
            }
            Effect::Discard { state } => {
                let tools = Rc::clone(&self.tools);
                spawn_local(async move {
                    let event = match tools.hypervisor.discard(&state).await {
                        Ok(()) => Event::Discarded { state },
                        Err(e) => {
                            tracing::warn!(state.id = %state, error = %e, "a state could not be deleted");
                            Event::DiscardFailed { state }
                        }
                    };
                    tools.report(event);
                });
            }
            Effect::Record(event) => log(&event),
            Effect::CleanUp => self.clean_up(),
            Effect::Exit { code, reason } => {
                tracing::info!(exit.code = code, reason.code = %reason.code, "pilot ends: {reason}");
                return Some(code);
            }
        }
        None
    }

    fn register(&self, agent: &Agent) {
        let tools = Rc::clone(&self.tools);
        let request = agent.registration(env!("CARGO_PKG_VERSION"));
        spawn_local(async move {
            let event = match tools.client.register(&request, REGISTER_LIMIT).await {
                Ok(reply) => {
                    tracing::info!(lease.ttl = %reply.lease_ttl, "registered at the broker");
                    Event::Registered(reply)
                }
                Err(CallError::NoAnswer(text)) => {
                    tracing::warn!(error = text, "the broker does not answer yet");
                    Event::RegisterFailed { text }
                }
                Err(CallError::Refused { code, text }) => {
                    tracing::warn!(error = text, ?code, "the broker refused the registration");
                    Event::RegisterRefused { code, text }
                }
            };
            tools.report(event);
        });
    }

    fn probe(&self) {
        if self.tools.probe.is_none() || self.probing.replace(true) {
            return;
        }
        let (tools, probing) = (Rc::clone(&self.tools), Rc::clone(&self.probing));
        spawn_local(async move {
            if let Some(section) = &tools.probe {
                let end =
                    probe::ask(section, &tools.trampoline, &tools.journal.tool_marker()).await;
                tools.report(Event::Probed(end));
            }
            probing.set(false);
        });
    }

    fn tell(&self, lease: &LeaseKey, order: Order) {
        let is_kill = matches!(order, Order::Kill);
        let told = self
            .guests
            .get(lease)
            .is_some_and(|task| task.orders.send(order).is_ok());
        if !told && is_kill {
            self.tools.report(guest::gone(lease));
        }
    }

    fn clean_up(&mut self) {
        if let Some(sync) = self.sync.take() {
            sync.abort();
        }
        let tasks = std::mem::take(&mut self.guests);
        let tools = Rc::clone(&self.tools);
        spawn_local(async move {
            let tasks = tasks.into_values().map(|t| {
                drop(t.orders);
                t.ended
            });
            clean_up::clean_up(&tools, tasks.collect()).await;
        });
    }
}

fn log(event: &protocol::messages::PilotEvent) {
    match (&event.workspace, event.generation) {
        (Some(workspace), Some(generation)) => tracing::info!(
            event.kind,
            workspace.id = %workspace,
            lease.generation = %generation,
            "{}",
            event.text
        ),
        (_, _) => tracing::info!(event.kind, "{}", event.text),
    }
}
