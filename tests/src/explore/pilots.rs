//! The pilots of a small world. Everything that they do with guests is done at once, but for
//! suspends, which end when the explorer says so.

use std::collections::VecDeque;

use broker_core::Event as BrokerEvent;
use pilot_core::agent::{self, Agent, Effect, ExitHow};
use pilot_core::guest::LeaseKey;
use pilot_core::now::Now;
use pilot_core::settings::Settings;
use protocol::ids::{Incarnation, NodeName, PilotBoot, StateId, SubmitKey};
use protocol::slot::{HostFacts, SlotFacts};
use protocol::time::{Mono, Span};

use super::messages::{Message, What, Wire};
use super::small::{BEGIN, Checked, Pilot, Small, Writing, room, site};

/// The pilots' settings: pauses that are so long that few steps fill a lease's life.
fn settings() -> Settings {
    Settings {
        retry_min: Span::from_secs(6),
        retry_max: Span::from_secs(6),
        sync_gap: Span::from_secs(1),
        start_cost: Span::ZERO,
        ..Settings::default()
    }
}

impl Small {
    pub(super) fn pilot_now(&self) -> Now {
        Now {
            mono: Mono::from_millis(self.now.since(BEGIN).as_millis()),
            wall: self.now,
        }
    }

    /// A pilot starts for a pilot job; one that was there goes on as long as nobody tells it.
    pub(super) fn pilot_lands(&mut self, key: SubmitKey) -> Checked {
        let number = self.pilots.len();
        let facts = SlotFacts {
            site: site(),
            submit_key: key.clone(),
            incarnation: Incarnation::new(&format!("start-{number}")).expect("a name"),
            lrm_job_id: None,
            node: NodeName::new(&format!("n{number}")).expect("a name"),
            resources: room(),
            start: self.now,
            end: self.now + Span::from_mins(60),
            notice: Span::from_secs(30),
            margin: Span::from_secs(2),
        };
        let boot = PilotBoot::new(&format!("b{number}")).expect("a name");
        let now = self.pilot_now();
        let agent = Agent::new(now, facts, HostFacts::default(), boot, settings());
        self.tell(|| format!("pilot {number} starts for {key}"));
        self.pilots.push(Pilot {
            agent: Some(agent),
            key,
            hangs: None,
            replaced: false,
        });
        self.pilot_step(number, agent::Event::Started)
    }

    /// A pilot takes an event, and all that follows at once.
    pub(super) fn pilot_step(&mut self, pilot: usize, event: agent::Event) -> Checked {
        let mut todo = VecDeque::from([event]);
        let now = self.pilot_now();
        while let Some(event) = todo.pop_front() {
            let Some(agent) = &mut self.pilots[pilot].agent else {
                return Ok(());
            };
            for effect in agent.step(now, event) {
                self.pilot_wants(pilot, effect, &mut todo)?;
            }
        }
        Ok(())
    }

    fn guest_starts(&mut self, pilot: usize, lease: LeaseKey) -> agent::Event {
        self.tell(|| format!("pilot {pilot} starts the guest of {lease}"));
        self.guests.insert((pilot, lease.clone()));
        agent::Event::Running { lease }
    }

    fn pilot_wants(
        &mut self,
        pilot: usize,
        effect: Effect,
        todo: &mut VecDeque<agent::Event>,
    ) -> Checked {
        let sent = self.pilot_now().mono;
        match effect {
            Effect::Register => {
                let Some(agent) = &self.pilots[pilot].agent else {
                    return Ok(());
                };
                let request = Box::new(agent.registration("small"));
                self.send(pilot, sent, None, BrokerEvent::Register { request });
            }
            Effect::Sync { request, .. } => {
                let number = Some(request.number);
                let received = self.now;
                let event = BrokerEvent::Sync { request, received };
                self.send(pilot, sent, number, event);
            }
            Effect::Probe => todo.push_back(agent::Event::Probed(None)),
            Effect::Stage { lease, .. } => todo.push_back(agent::Event::Staged { lease }),
            Effect::Boot { lease } => todo.push_back(self.guest_starts(pilot, lease)),
            Effect::Resume { lease } => todo.push_back(self.guest_starts(pilot, lease)),
            Effect::Pause { lease } => todo.push_back(agent::Event::Paused { lease }),
            Effect::Continue { lease } => todo.push_back(agent::Event::Continued { lease }),
            Effect::Suspend { lease, state, .. } => self.writing.push(Writing {
                pilot,
                lease,
                state,
                late: false,
            }),
            // No request here wants checkpoints, and no guest has an agent.
            Effect::Flush { .. } | Effect::Checkpoint { .. } | Effect::Tell { .. } => {}
            Effect::AbortSuspend { lease } => {
                (self.writing).retain(|w| w.pilot != pilot || w.lease != lease);
            }
            Effect::Shutdown { lease } => {
                self.guests.remove(&(pilot, lease.clone()));
                let how = ExitHow::PoweredOff;
                todo.push_back(agent::Event::GuestExited { lease, how });
            }
            Effect::Kill { lease } => {
                self.tell(|| format!("pilot {pilot} kills the guest of {lease}"));
                self.guests.remove(&(pilot, lease.clone()));
                let how = ExitHow::Killed;
                todo.push_back(agent::Event::GuestExited { lease, how });
            }
            Effect::ReleaseGuest { lease } => {
                if self.guests.contains(&(pilot, lease.clone())) {
                    return Err(format!(
                        "pilot {pilot} calls {lease} over while its guest is there"
                    ));
                }
            }
            Effect::Discard { state } => {
                self.discard(&state);
                todo.push_back(agent::Event::Discarded { state });
            }
            Effect::Record(event) => {
                self.tell(|| format!("pilot {pilot}: {}", event.text));
            }
            Effect::CleanUp => todo.push_back(agent::Event::CleanedUp {
                leftovers: Vec::new(),
            }),
            Effect::Exit { reason, .. } => {
                self.tell(|| format!("pilot {pilot} leaves: {reason}"));
                self.pilots[pilot].agent = None;
            }
        }
        Ok(())
    }

    fn discard(&mut self, state: &StateId) {
        self.tell(|| format!("{state} is deleted from the store"));
        self.states.remove(state);
    }

    fn send(&mut self, pilot: usize, sent: Mono, number: Option<u64>, event: BrokerEvent) {
        let wire = Wire {
            pilot,
            sent,
            number,
        };
        self.messages.push(Message {
            what: What::Request {
                wire,
                event: Box::new(event),
                repeated: false,
            },
            late: false,
        });
    }

    /// A suspend has ended: its state is in the store, and its guest is gone.
    pub(super) fn written(&mut self, writing: Writing) -> Checked {
        let Writing {
            pilot,
            lease,
            state,
            ..
        } = writing;
        self.tell(|| format!("pilot {pilot} has written {state}"));
        self.states.insert(state);
        self.guests.remove(&(pilot, lease.clone()));
        let event = agent::Event::Suspended {
            lease,
            manifest: "m".into(),
            bytes: 1 << 28,
            written: 1 << 28,
            took: Span::from_secs(1),
        };
        self.pilot_hears(pilot, event)
    }

    /// A pilot that hangs hears it when it goes on.
    pub(super) fn pilot_hears(&mut self, pilot: usize, event: agent::Event) -> Checked {
        if self.pilots[pilot].hangs.is_some() {
            self.messages.push(Message {
                what: What::Answer {
                    pilot,
                    event: Box::new(event),
                },
                late: true,
            });
            return Ok(());
        }
        self.pilot_step(pilot, event)
    }

    /// The process is gone, and its guests with it.
    pub(super) fn pilot_dies(&mut self, pilot: usize) {
        self.tell(|| format!("pilot {pilot} is killed, and its guests with it"));
        self.pilots[pilot].agent = None;
        self.guests.retain(|(p, _)| *p != pilot);
        self.writing.retain(|w| w.pilot != pilot);
    }

    /// The warden of a pilot that hangs ends its guests when a lease of them has run out.
    pub(super) fn wardens(&mut self) -> Checked {
        let now = self.pilot_now().mono;
        for pilot in 0..self.pilots.len() {
            let Some(Some(fence)) = self.pilots[pilot].hangs else {
                continue;
            };
            if now < fence {
                continue;
            }
            self.pilots[pilot].hangs = Some(None);
            let guests: Vec<_> =
                (self.guests.iter().filter(|(p, _)| *p == pilot).cloned()).collect();
            for (_, lease) in guests {
                self.tell(|| format!("the warden of pilot {pilot} kills the guest of {lease}"));
                self.guests.remove(&(pilot, lease.clone()));
                let writes = |w: &Writing| w.pilot == pilot && w.lease == lease;
                let was_writing = self.writing.iter().any(writes);
                self.writing.retain(|w| !writes(w));
                let event = if was_writing {
                    suspend_failed(lease, false)
                } else {
                    let how = ExitHow::Crashed {
                        text: "signal 9".into(),
                    };
                    agent::Event::GuestExited { lease, how }
                };
                self.pilot_hears(pilot, event)?;
            }
        }
        Ok(())
    }
}

/// There is no state.
pub(super) fn suspend_failed(lease: LeaseKey, guest_alive: bool) -> agent::Event {
    let reason = protocol::codes::Reason::new(
        protocol::codes::ReasonCode::DiskFull,
        "no space left on device",
    );
    agent::Event::SuspendFailed {
        lease,
        reason,
        guest_alive,
    }
}
