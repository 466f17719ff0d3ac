//! What the shell's reports mean for a lease.

use protocol::codes::{Reason, ReasonCode};
use protocol::lease::{EndOutcome, StateRef};
use protocol::time::Span;

use super::checkpoint::Made;
use super::{Agent, Effect, Event, ExitHow};
use crate::guest::{Lease, LeaseKey, Means, Stage};

impl Agent {
    /// Takes a report about one lease; one about a lease that we do not have says nothing.
    pub(super) fn on_guest(&mut self, event: Event) {
        let Some(key) = lease_of(&event).cloned() else {
            return;
        };
        let Some(mut lease) = self.leases.remove(&key) else {
            return;
        };
        self.on_report(&mut lease, event);
        self.leases.insert(key, lease);
    }

    fn on_report(&mut self, lease: &mut Lease, event: Event) {
        let now = self.now.mono;
        match event {
            Event::Staged { .. } => {
                if lease.stage == Stage::Staging {
                    lease.enter(now, Stage::Staged);
                    self.exchange.news = true;
                }
            }
            Event::StageFailed {
                reason, permanent, ..
            } => {
                if lease.stage == Stage::Staging {
                    self.end(lease, EndOutcome::Failed { reason, permanent });
                }
            }
            Event::Running { .. } => {
                if let Stage::Starting { resuming } = lease.stage {
                    lease.enter(
                        now,
                        Stage::Running {
                            since: now,
                            pausing: false,
                        },
                    );
                    let text = if resuming {
                        format!("resumed, with {} of guest time behind it", lease.ran)
                    } else {
                        "booted from its image".to_owned()
                    };
                    self.note("guest_running", lease, text);
                    if resuming {
                        self.tell_resumed(lease);
                    }
                }
            }
            Event::StartFailed {
                reason, permanent, ..
            } => match lease.stage.clone() {
                Stage::Starting { .. } => {
                    let outcome = fenced(lease).unwrap_or(EndOutcome::Failed { reason, permanent });
                    self.end(lease, outcome);
                }
                Stage::Killing { outcome, .. } => self.end(lease, outcome),
                Stage::Staging
                | Stage::Staged
                | Stage::Running { .. }
                | Stage::Paused { .. }
                | Stage::Checkpointing { .. }
                | Stage::Suspending { .. }
                | Stage::Stopping { .. }
                | Stage::Ended { .. } => {}
            },
            Event::Paused { .. } => {
                if let Stage::Running { .. } = lease.stage {
                    lease.enter(now, Stage::Paused { continuing: false });
                    lease.talk.still_since = Some(now);
                    self.note("guest_paused", lease, "paused".to_owned());
                }
            }
            Event::Continued { .. } => {
                if let Stage::Paused { .. } = lease.stage {
                    lease.enter(
                        now,
                        Stage::Running {
                            since: now,
                            pausing: false,
                        },
                    );
                    self.note("guest_continued", lease, "runs again".to_owned());
                    self.tell_continued(lease);
                }
            }
            Event::Measured { bytes, .. } => lease.measured(bytes),
            Event::Console { bytes, .. } => lease.console_bytes = bytes.max(lease.console_bytes),
            Event::GuestSaid { said, .. } => self.on_said(lease, said),
            Event::Suspended {
                manifest,
                bytes,
                written,
                took,
                ..
            } => self.on_suspended(lease, manifest, bytes, written, took),
            Event::SuspendFailed {
                reason,
                guest_alive,
                ..
            } => self.on_suspend_failed(lease, reason, guest_alive),
            Event::Checkpointed {
                state,
                manifest,
                bytes,
                written,
                took,
                paused,
                ..
            } => {
                let made = Made {
                    state,
                    manifest,
                    bytes,
                    written,
                    took,
                };
                self.on_checkpointed(lease, made, paused);
            }
            Event::CheckpointFailed {
                reason,
                guest_alive,
                ..
            } => self.on_checkpoint_failed(lease, &reason, guest_alive),
            Event::GuestExited { how, .. } => self.on_exit(lease, how),
            // `lease_of` gives no lease for these.
            Event::Started
            | Event::Registered(_)
            | Event::RegisterFailed { .. }
            | Event::RegisterRefused { .. }
            | Event::SyncAnswered { .. }
            | Event::SyncFailed { .. }
            | Event::SyncRefused { .. }
            | Event::Probed(_)
            | Event::Signal { .. }
            | Event::Tick
            | Event::Discarded { .. }
            | Event::DiscardFailed { .. }
            | Event::CleanedUp { .. } => {}
        }
    }

    fn on_suspended(
        &mut self,
        lease: &mut Lease,
        manifest: String,
        bytes: u64,
        written: u64,
        took: Span,
    ) {
        self.rates.learn(written, took);
        let Some(id) = lease.key.state_id() else {
            return;
        };
        if let Some(departure) = &mut lease.departure {
            departure.last = Means::Suspend;
            departure.written = Some((written, took));
        }
        let reason = match &lease.stage {
            Stage::Suspending { reason, .. } => reason.clone(),
            // Committed in the moment in which it was given up: a state is a state.
            Stage::Killing {
                outcome: EndOutcome::Killed { reason },
                ..
            } => reason.clone(),
            Stage::Ended {
                outcome: EndOutcome::Suspended { .. },
            } => return,
            Stage::Staging
            | Stage::Staged
            | Stage::Starting { .. }
            | Stage::Running { .. }
            | Stage::Paused { .. }
            | Stage::Checkpointing { .. }
            | Stage::Stopping { .. }
            | Stage::Killing { .. }
            | Stage::Ended { .. } => {
                self.effects.push(Effect::Discard { state: id });
                return;
            }
        };
        let text = format!("{written} bytes written and verified in {took}");
        let data = serde_json::json!({
            "bytes": bytes, "written": written, "took_ms": took.as_millis(),
        });
        self.record("suspend_measured", Some(&lease.key), text, data);
        let state = StateRef {
            id,
            manifest,
            site: self.facts.site.clone(),
            bytes,
            run: lease.ran,
            at: self.now.wall.before(took),
        };
        self.end(lease, EndOutcome::Suspended { state, reason });
    }

    fn on_suspend_failed(&mut self, lease: &mut Lease, reason: Reason, guest_alive: bool) {
        let Stage::Suspending { was_paused, .. } = lease.stage else {
            return;
        };
        let text = format!("the suspend failed and was discarded: {reason}");
        self.note("suspend_failed", lease, text);
        if !guest_alive {
            let outcome = fenced(lease).unwrap_or(EndOutcome::Killed { reason });
            self.end(lease, outcome);
            return;
        }
        lease.departure = None;
        lease.failed_suspends = lease.failed_suspends.saturating_add(1);
        let pause = self
            .settings
            .suspend_retry
            .times(1 << lease.failed_suspends.saturating_sub(1).min(5));
        lease.retry_at = self.now.mono + pause;
        let stage = if was_paused {
            Stage::Paused { continuing: false }
        } else {
            Stage::Running {
                since: self.now.mono,
                pausing: false,
            }
        };
        lease.enter(self.now.mono, stage);
        if !was_paused {
            self.tell_continued(lease);
        }
    }

    fn on_exit(&mut self, lease: &mut Lease, how: ExitHow) {
        let outcome = match (&lease.stage, how) {
            (Stage::Killing { outcome, .. } | Stage::Stopping { outcome, .. }, _) => {
                outcome.clone()
            }
            (
                Stage::Running { .. } | Stage::Paused { .. } | Stage::Checkpointing { .. },
                ExitHow::PoweredOff,
            ) => EndOutcome::Finished {
                reason: Reason::new(
                    ReasonCode::GuestPoweredOff,
                    format!(
                        "the guest switched itself off after {}",
                        lease.ran_at(self.now.mono)
                    ),
                ),
            },
            (Stage::Suspending { .. }, ExitHow::PoweredOff | ExitHow::Killed) => fenced(lease)
                .unwrap_or_else(|| EndOutcome::Killed {
                    reason: Reason::new(
                        ReasonCode::SuspendFailed,
                        "the hypervisor ended before the suspend did",
                    ),
                }),
            (
                Stage::Staging
                | Stage::Staged
                | Stage::Starting { .. }
                | Stage::Running { .. }
                | Stage::Paused { .. }
                | Stage::Checkpointing { .. }
                | Stage::Suspending { .. },
                how,
            ) => {
                let text = match how {
                    ExitHow::PoweredOff => "the guest switched itself off before it ran".to_owned(),
                    ExitHow::Killed => "the hypervisor was ended without our wish".to_owned(),
                    ExitHow::Crashed { text } => format!("the hypervisor ended: {text}"),
                };
                fenced(lease).unwrap_or_else(|| EndOutcome::Failed {
                    reason: Reason::new(ReasonCode::GuestCrashed, text),
                    permanent: false,
                })
            }
            (Stage::Ended { .. }, _) => return,
        };
        self.end(lease, outcome);
    }

    pub(super) fn note(&mut self, kind: &str, lease: &Lease, text: String) {
        let data = serde_json::json!({"run_ms": lease.ran_at(self.now.mono).as_millis()});
        self.record(kind, Some(&lease.key), text, data);
    }
}

/// How a guest ends that ended by itself, as far as the pilot knows, after its lease had run out:
/// the pilot did not run then, and its warden has ended the guest.
fn fenced(lease: &Lease) -> Option<EndOutcome> {
    let text = "the lease ran out while the pilot did not run; its warden ended the guest";
    lease.expired.then(|| EndOutcome::Killed {
        reason: Reason::new(ReasonCode::LeaseExpired, text),
    })
}

fn lease_of(event: &Event) -> Option<&LeaseKey> {
    match event {
        Event::Staged { lease }
        | Event::StageFailed { lease, .. }
        | Event::Running { lease }
        | Event::StartFailed { lease, .. }
        | Event::Paused { lease }
        | Event::Continued { lease }
        | Event::Measured { lease, .. }
        | Event::Console { lease, .. }
        | Event::GuestSaid { lease, .. }
        | Event::Suspended { lease, .. }
        | Event::SuspendFailed { lease, .. }
        | Event::Checkpointed { lease, .. }
        | Event::CheckpointFailed { lease, .. }
        | Event::GuestExited { lease, .. } => Some(lease),
        Event::Started
        | Event::Registered(_)
        | Event::RegisterFailed { .. }
        | Event::RegisterRefused { .. }
        | Event::SyncAnswered { .. }
        | Event::SyncFailed { .. }
        | Event::SyncRefused { .. }
        | Event::Probed(_)
        | Event::Signal { .. }
        | Event::Tick
        | Event::Discarded { .. }
        | Event::DiscardFailed { .. }
        | Event::CleanedUp { .. } => None,
    }
}
