//! Guests: what happens to them, by themselves and by the agent.

use pilot_core::agent::{Event, ExitHow};
use pilot_core::guest::LeaseKey;
use pilot_core::guest_words::Said;
use protocol::codes::{Reason, ReasonCode};
use protocol::time::{Mono, Span};

use super::{Due, Vm, VmEvent, World, is_alive};

impl World {
    /// The guest says something, if it runs.
    pub fn say(&mut self, key: &LeaseKey, said: Said) {
        if self.guests.get(key).is_some_and(|g| g.vm == Vm::Running) {
            let lease = key.clone();
            self.step(Event::GuestSaid { lease, said });
        }
    }

    /// The guest switches itself off, if there is one.
    pub fn power_off(&mut self, key: &LeaseKey) {
        if self.guests.get(key).is_some_and(|g| g.vm == Vm::Running) {
            self.vm_event(key, VmEvent::PoweredOff);
        }
    }

    /// The hypervisor dies, if there is one.
    pub fn crash(&mut self, key: &LeaseKey) {
        let Some(guest) = self.guests.get_mut(key) else {
            return;
        };
        let (lease, was) = (key.clone(), guest.vm.clone());
        match was {
            Vm::Running | Vm::Paused => {
                guest.vm = Vm::Gone;
                self.step(Event::GuestExited {
                    lease,
                    how: ExitHow::Crashed {
                        text: "boom".into(),
                    },
                });
            }
            Vm::Suspending => {
                guest.vm = Vm::Gone;
                self.step(Event::SuspendFailed {
                    lease,
                    reason: Reason::new(ReasonCode::GuestCrashed, "boom"),
                    guest_alive: false,
                });
            }
            Vm::Checkpointing => {
                guest.vm = Vm::Gone;
                let text = "boom".to_owned();
                self.step(Event::CheckpointFailed {
                    lease: lease.clone(),
                    reason: Reason::new(ReasonCode::GuestCrashed, text.clone()),
                    guest_alive: false,
                });
                let how = ExitHow::Crashed { text };
                self.step(Event::GuestExited { lease, how });
            }
            Vm::Staging | Vm::Staged | Vm::Starting | Vm::Gone => {}
        }
    }

    /// The pilot is stopped for `secs` while its guests run on: nobody steps the agent, and its
    /// warden ends the guests when the fence that it was told has passed. What happened meanwhile
    /// is told after; news of the guests first, or after the rest.
    pub fn stop(&mut self, secs: u64, guests_first: bool) {
        let fence = self.agent.fence_at().map_or(u64::MAX, Mono::as_millis);
        self.now += secs * 1000;
        if self.now < fence {
            return;
        }
        let alive = self.guests.iter().filter(|(_, g)| is_alive(g));
        let keys: Vec<LeaseKey> = alive.map(|(k, _)| k.clone()).collect();
        let mut news = Vec::new();
        for lease in keys {
            self.log.push(format!("{fence:>9} the warden ends {lease}"));
            self.fenced.insert(lease.clone());
            let guest = self.guests.get_mut(&lease).unwrap();
            let was = std::mem::replace(&mut guest.vm, Vm::Gone);
            let text = "killed by signal 9".to_owned();
            let reason = Reason::new(ReasonCode::GuestCrashed, text.clone());
            let event = match was {
                Vm::Starting => Event::StartFailed {
                    lease,
                    reason,
                    permanent: false,
                },
                Vm::Suspending => Event::SuspendFailed {
                    lease,
                    reason,
                    guest_alive: false,
                },
                Vm::Checkpointing => {
                    news.push(Event::CheckpointFailed {
                        lease: lease.clone(),
                        reason,
                        guest_alive: false,
                    });
                    let how = ExitHow::Crashed { text };
                    Event::GuestExited { lease, how }
                }
                Vm::Running | Vm::Paused | Vm::Staging | Vm::Staged | Vm::Gone => {
                    let how = ExitHow::Crashed { text };
                    Event::GuestExited { lease, how }
                }
            };
            news.push(event);
        }
        for event in news {
            if guests_first {
                self.step(event);
            } else {
                self.later(50, Due::Report(event));
            }
        }
    }

    pub(super) fn vm_event(&mut self, key: &LeaseKey, event: VmEvent) {
        let Some(guest) = self.guests.get_mut(key) else {
            return;
        };
        let lease = key.clone();
        let report = match (event, guest.vm.clone()) {
            (VmEvent::Staged, Vm::Staging) => {
                guest.vm = Vm::Staged;
                Event::Staged { lease }
            }
            (VmEvent::Started, Vm::Starting) => {
                guest.vm = Vm::Running;
                if self.rules.measures {
                    let bytes = guest.bytes;
                    let event = Event::Measured {
                        lease: lease.clone(),
                        bytes,
                    };
                    self.later(10, Due::Report(event));
                }
                Event::Running { lease }
            }
            (VmEvent::Paused, Vm::Running) => {
                guest.vm = Vm::Paused;
                Event::Paused { lease }
            }
            (VmEvent::Continued, Vm::Paused) => {
                guest.vm = Vm::Running;
                Event::Continued { lease }
            }
            (VmEvent::Suspended(attempt, took), Vm::Suspending) if attempt == guest.attempt => {
                guest.vm = Vm::Gone;
                let bytes = guest.bytes;
                self.states.insert(lease.clone());
                Event::Suspended {
                    lease,
                    manifest: "m".into(),
                    bytes,
                    written: bytes,
                    took: Span::from_millis(took),
                }
            }
            (VmEvent::Checkpointed(attempt, took), Vm::Checkpointing)
                if attempt == guest.attempt =>
            {
                guest.vm = Vm::Running;
                let bytes = guest.bytes;
                let (state, run) = guest.checkpoint.take().expect("it was ordered");
                self.checkpoints.insert(state.clone(), run);
                Event::Checkpointed {
                    lease,
                    state,
                    manifest: "m".into(),
                    bytes,
                    written: bytes,
                    took: Span::from_millis(took),
                    paused: Span::from_millis(took),
                }
            }
            (VmEvent::CalledOff, Vm::Checkpointing) => {
                guest.vm = Vm::Running;
                Event::CheckpointFailed {
                    lease,
                    reason: Reason::new(ReasonCode::SuspendTooSlow, "called off"),
                    guest_alive: true,
                }
            }
            (VmEvent::Broken(attempt), Vm::Suspending) if attempt == guest.attempt => {
                guest.vm = Vm::Running;
                Event::SuspendFailed {
                    lease,
                    reason: Reason::new(ReasonCode::DiskFull, "no space"),
                    guest_alive: true,
                }
            }
            (VmEvent::Flushed, Vm::Running | Vm::Paused) => {
                guest.bytes /= 100; // what has changed since
                let bytes = guest.bytes;
                Event::Measured { lease, bytes }
            }
            (VmEvent::PoweredOff, Vm::Running) => {
                guest.vm = Vm::Gone;
                Event::GuestExited {
                    lease,
                    how: ExitHow::PoweredOff,
                }
            }
            (VmEvent::Dead, _) => {
                guest.vm = Vm::Gone;
                Event::GuestExited {
                    lease,
                    how: ExitHow::Killed,
                }
            }
            _ => return,
        };
        self.step(report);
    }

    pub(super) fn expect(&self, key: &LeaseKey, wanted: &[Vm], what: &str) {
        let vm = self.guests.get(key).map(|g| &g.vm);
        assert!(
            vm.is_some_and(|vm| wanted.contains(vm)),
            "{key} is {what} while it is {vm:?}\n{self}"
        );
    }

    pub(super) fn set(&mut self, key: &LeaseKey, vm: Vm) {
        if let Some(guest) = self.guests.get_mut(key) {
            guest.vm = vm;
        }
    }
}
