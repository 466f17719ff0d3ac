//! Writing a guest to the store: the suspend, after which it is gone, and the checkpoint, after
//! which it goes on.
//!
//! The state's temporary directory is in the journal before it exists, and is said to be gone when
//! it is. Meanwhile only what ends it is listened to.

use std::pin::pin;

use pilot_core::agent::{Event, ExitHow};
use protocol::codes::{Reason, ReasonCode};

use super::{GuestTask, Order, Over, Save, exit_how};
use crate::clock;
use crate::hypervisor::{
    Guest, GuestEvent, GuestEvents, SuspendError, SuspendOrder, Suspended, WhenLate,
};

/// What became of a state that was to be made.
struct Saved {
    result: Result<Suspended, SuspendError>,
    /// The agent wants the guest to be ended.
    killed: bool,
}

impl GuestTask {
    /// Suspends the guest. Returns how its time ended, if it did.
    pub(super) async fn suspend(&mut self, guest: &Guest, save: Save) -> Option<Over> {
        let saved = self.save(guest, save, WhenLate::Kill).await;
        let lease = self.lease.clone();
        let alive = match saved.result {
            Ok(done) => {
                self.tools.report(Event::Suspended {
                    lease,
                    manifest: done.state.manifest,
                    bytes: done.state.bytes,
                    written: done.written,
                    took: done.took,
                });
                return Some(Over::Told);
            }
            Err(e) => {
                self.tools.report(Event::SuspendFailed {
                    lease,
                    reason: e.reason,
                    guest_alive: e.guest_alive,
                });
                e.guest_alive
            }
        };
        if saved.killed {
            guest.kill().await;
            Some(Over::Exited(ExitHow::Killed))
        } else {
            (!alive).then_some(Over::Told)
        }
    }

    /// Makes a checkpoint of the guest. Returns how its time ended, if it did.
    pub(super) async fn checkpoint(
        &mut self,
        guest: &Guest,
        events: &mut GuestEvents,
        save: Save,
    ) -> Option<Over> {
        let saved = self.save(guest, save, WhenLate::Continue).await;
        let lease = self.lease.clone();
        let alive = match saved.result {
            Ok(done) => {
                self.tools.report(Event::Checkpointed {
                    lease,
                    state: done.state.id,
                    manifest: done.state.manifest,
                    bytes: done.state.bytes,
                    written: done.written,
                    took: done.took,
                    paused: done.paused,
                });
                true
            }
            Err(e) => {
                self.tools.report(Event::CheckpointFailed {
                    lease,
                    reason: e.reason,
                    guest_alive: e.guest_alive,
                });
                e.guest_alive
            }
        };
        if saved.killed {
            guest.kill().await;
            Some(Over::Exited(ExitHow::Killed))
        } else if alive {
            None
        } else {
            Some(Over::Exited(exit_of(events).await))
        }
    }

    /// Has a state made, listening to what would end that.
    async fn save(&mut self, guest: &Guest, save: Save, when_late: WhenLate) -> Saved {
        if let Err(text) = self.begin_state(&save.state) {
            return Saved {
                result: Err(SuspendError {
                    reason: Reason::new(ReasonCode::SuspendFailed, text),
                    guest_alive: true,
                }),
                killed: false,
            };
        }
        let state = save.state.clone();
        let order = SuspendOrder {
            state: save.state,
            run: save.run,
            at: clock::now().wall,
            budget: clock::until(save.abort_at),
            when_late,
        };
        let mut killed = false;
        let mut saving = pin!(async {
            match when_late {
                WhenLate::Kill => guest.suspend(order).await,
                WhenLate::Continue => guest.checkpoint(order).await,
            }
        });
        let result = loop {
            tokio::select! {
                // First, so that it is under way when an order comes to call it off.
                biased;
                result = &mut saving => break result,
                order = self.inbox.recv(), if !self.released => match order {
                    Some(Order::AbortSuspend) => guest.abort_suspend(),
                    Some(Order::Kill) => {
                        killed = true;
                        guest.abort_suspend();
                    }
                    Some(Order::Release) | None => {
                        self.released = true;
                        killed = true;
                        guest.abort_suspend();
                    }
                    Some(Order::Tell(words)) => guest.tell(&words),
                    Some(
                        Order::Start
                        | Order::Pause
                        | Order::Continue
                        | Order::Shutdown
                        | Order::Flush
                        | Order::Suspend(_)
                        | Order::Checkpoint(_),
                    ) => {}
                },
            }
        };
        // A flush that goes on after a checkpoint has its own.
        self.settle_states(Some(&state)).await;
        Saved { result, killed }
    }
}

/// How a guest ended that is known to be gone: the last of its events says so.
async fn exit_of(events: &mut GuestEvents) -> ExitHow {
    loop {
        match events.next().await {
            Some(GuestEvent::Exited(how)) => return exit_how(how),
            Some(GuestEvent::IoError(_) | GuestEvent::Said(_) | GuestEvent::Flushed) => {}
            None => {
                let text = "it was lost from sight".to_owned();
                return ExitHow::Crashed { text };
            }
        }
    }
}
