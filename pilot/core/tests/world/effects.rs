//! What the agent wants is done.

use pilot_core::agent::{Effect, Event};
use pilot_core::guest::LeaseKey;
use protocol::codes::{Reason, ReasonCode};
use protocol::messages::{KnownCosts, PilotEvent, RegisterReply};
use protocol::time::Span;
use protocol::workspace::OnEviction;

use super::{Due, Guest, Vm, VmEvent, World, is_alive, wall};

impl World {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        if !matches!(effect, Effect::Sync { .. } | Effect::Probe) {
            self.log.push(format!("{:>9} -> {effect:?}", self.now));
        }
        assert!(self.exit.is_none(), "an effect after the end\n{self}");
        match effect {
            Effect::Register => {
                let event = if self.now < self.deaf_until {
                    Event::RegisterFailed {
                        text: "deaf".into(),
                    }
                } else {
                    Event::Registered(RegisterReply {
                        version: 1,
                        lease_ttl: Span::from_secs(self.rules.ttl),
                        hold: Span::from_secs(self.rules.hold),
                        idle_limit: self.rules.idle_limit.map(Span::from_secs),
                        now: self.clocks().wall,
                        costs: Some(KnownCosts {
                            of_node: true,
                            nodes: 1,
                            samples: self.rules.known.clone(),
                        }),
                    })
                };
                self.later(20, Due::Report(event));
            }
            Effect::Sync { request, timeout } => self.take_sync(request, timeout),
            Effect::Probe => {
                self.probes += 1;
                let end = self.end_told.map(wall);
                self.later(15, Due::Report(Event::Probed(end)));
            }
            Effect::Stage { lease, order } => {
                self.check_acceptance(&lease);
                let bytes = order.spec.resources.memory_mib << 20;
                let guest = Guest {
                    vm: Vm::Staging,
                    killed_at: None,
                    attempt: 0,
                    bytes,
                    checkpoint: None,
                    flushed: false,
                };
                assert!(
                    self.guests.insert(lease.clone(), guest).is_none(),
                    "{lease} is staged twice\n{self}"
                );
                let ms = self.any(10, 400);
                self.later(ms, Due::Vm(lease, VmEvent::Staged));
            }
            Effect::Boot { lease } | Effect::Resume { lease } => {
                self.expect(&lease, &[Vm::Staged], "started");
                self.set(&lease, Vm::Starting);
                let ms = self.any(50, 2000);
                self.later(ms, Due::Vm(lease, VmEvent::Started));
            }
            Effect::Pause { lease } => self.later(5, Due::Vm(lease, VmEvent::Paused)),
            Effect::Continue { lease } => self.later(5, Due::Vm(lease, VmEvent::Continued)),
            Effect::Flush { lease } => {
                self.expect(&lease, &[Vm::Running], "flushed");
                let policy = &self.book[&lease].order.spec.policy;
                assert_eq!(policy.on_eviction, OnEviction::Suspend, "{self}");
                let (rate, given) = (self.rules.rate, self.rules.flush_ms);
                let guest = self.guests.get_mut(&lease).unwrap();
                assert!(!guest.flushed, "{lease} is flushed twice\n{self}");
                guest.flushed = true;
                let ms = given.unwrap_or(guest.bytes * 1000 / rate);
                self.later(ms, Due::Vm(lease, VmEvent::Flushed));
            }
            Effect::Suspend { lease, state, .. } => {
                self.expect(&lease, &[Vm::Running, Vm::Paused, Vm::Gone], "suspended");
                assert_eq!(state.as_str(), lease.to_string());
                let fails = self.one_in(self.rules.suspend_fails);
                let guest = self.guests.get_mut(&lease).unwrap();
                if guest.vm == Vm::Gone {
                    return; // its exit is on the way
                }
                guest.vm = Vm::Suspending;
                guest.attempt += 1;
                let (attempt, bytes) = (guest.attempt, guest.bytes);
                let took = 30 + bytes * 1000 / self.rules.rate;
                if self.rules.broken == Some(lease.workspace.as_str()) {
                    self.later(2000, Due::Vm(lease, VmEvent::Broken(attempt)));
                } else if fails {
                    guest.vm = Vm::Running;
                    let event = Event::SuspendFailed {
                        lease,
                        reason: Reason::new(ReasonCode::DiskFull, "no space"),
                        guest_alive: true,
                    };
                    self.later(20, Due::Report(event));
                } else {
                    self.later(took, Due::Vm(lease, VmEvent::Suspended(attempt, took)));
                }
            }
            Effect::Checkpoint {
                lease, state, run, ..
            } => {
                self.expect(&lease, &[Vm::Running, Vm::Gone], "checkpointed");
                let number = state.checkpoint_of(&lease.workspace, lease.generation);
                assert!(number.is_some(), "{state} is no checkpoint of {lease}");
                assert!(
                    !self.checkpoints.contains_key(&state),
                    "{state} is made twice\n{self}"
                );
                let fails = self.one_in(self.rules.suspend_fails);
                let guest = self.guests.get_mut(&lease).unwrap();
                guest.attempt += 1;
                let (attempt, bytes) = (guest.attempt, guest.bytes);
                if guest.vm == Vm::Gone {
                    return; // its exit is on the way
                }
                guest.vm = Vm::Checkpointing;
                guest.checkpoint = Some((state, run));
                let took = 30 + bytes * 1000 / self.rules.rate;
                if fails {
                    self.later(20, Due::Vm(lease, VmEvent::CalledOff));
                } else {
                    self.later(took, Due::Vm(lease, VmEvent::Checkpointed(attempt, took)));
                }
            }
            Effect::AbortSuspend { lease } => {
                let guest = self.guests.get_mut(&lease).unwrap();
                if guest.vm == Vm::Checkpointing {
                    guest.attempt += 1;
                    self.later(10, Due::Vm(lease, VmEvent::CalledOff));
                }
            }
            Effect::Shutdown { lease } => {
                if self.rules.obedient {
                    let ms = self.any(60, 900);
                    self.later(ms, Due::Vm(lease, VmEvent::PoweredOff));
                }
            }
            Effect::Kill { lease } => {
                let now = self.now;
                if let Some(guest) = self.guests.get_mut(&lease) {
                    guest.killed_at.get_or_insert(now);
                    guest.attempt += 1;
                }
                self.later(50, Due::Vm(lease, VmEvent::Dead));
            }
            Effect::ReleaseGuest { lease } => {
                if let Some(guest) = self.guests.get(&lease) {
                    assert!(
                        matches!(guest.vm, Vm::Gone | Vm::Staging | Vm::Staged),
                        "{lease} is released while it is {:?}\n{self}",
                        guest.vm
                    );
                }
                self.set(&lease, Vm::Gone);
            }
            Effect::Discard { state } => {
                self.later(10, Due::Report(Event::Discarded { state }));
            }
            Effect::Tell { lease, words } => {
                self.told.push((self.now, lease, words.to_string()));
            }
            Effect::Record(event) => self.recorded(event),
            Effect::CleanUp => {
                assert!(self.clean_up_at.is_none(), "cleaned up twice\n{self}");
                self.clean_up_at = Some(self.now);
                for (key, guest) in &self.guests {
                    assert!(
                        !is_alive(guest) || guest.killed_at.is_some(),
                        "{key} runs when the clean-up begins\n{self}"
                    );
                }
                for guest in self.guests.values_mut() {
                    guest.vm = Vm::Gone;
                }
                self.cleaned = true;
                self.later(300, Due::Report(Event::CleanedUp { leftovers: vec![] }));
            }
            Effect::Exit { code, reason } => {
                assert!(self.cleaned, "it leaves without cleaning up\n{self}");
                self.exit = Some((code, reason));
            }
        }
    }

    /// Of every guest that had to go it is recorded once what was foreseen and what came of it.
    fn recorded(&mut self, event: PilotEvent) {
        let lease = event.workspace.zip(event.generation);
        let lease = lease.map(|(workspace, generation)| LeaseKey {
            workspace,
            generation,
        });
        match (event.kind.as_str(), lease) {
            ("guest_evicted", Some(lease)) => {
                for key in ["means", "outcome", "budget_ms", "actual_ms", "left_ms"] {
                    assert!(!event.data[key].is_null(), "no {key} in {}", event.data);
                }
                let before = self.evicted.insert(lease.clone(), event.data);
                assert!(before.is_none(), "{lease} is evicted twice\n{self}");
            }
            ("guest_finished", Some(lease)) => {
                assert!(!self.evicted.contains_key(&lease), "{lease}\n{self}");
            }
            _ => {}
        }
    }
}
