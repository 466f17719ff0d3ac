//! Suspend: a complete state, or nothing and the guest as it was.
//!
//! ```text
//! room? -> stop -> memory to .tmp, by us  -> sync, layers, manifest, rename -> kill the process
//! (or what a    -> devices, by QEMU       /
//! flush has got
//! ready)
//! ```
//! The memory is a file that the guest and we share: several threads hash and write it at the
//! disk's speed while QEMU, whose own way is page by page, streams its devices through a pipe.
//!
//! Until the rename the process keeps the guest and can let it go on, whatever fails.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use image_store::{Committed, Decision, Manifest, SavedMemory, StateError, StateWriter, Store};
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::StateId;
use protocol::lease::StateRef;
use protocol::time::Span;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::flush::{Ahead, Draft};
use super::guest::{QemuGuest, Running};
use super::{COMMAND, DEVICES};
use crate::hypervisor::errors::{ControlError, SuspendError};
use crate::hypervisor::memory::GuestMemory;
use crate::hypervisor::offload::offload;
use crate::hypervisor::stage::StagedDisk;
use crate::hypervisor::state::{Failure, commit, manifest, within_budget};
use crate::hypervisor::stopwatch::Stopwatch;
use crate::hypervisor::types::{SuspendOrder, Suspended, WhenLate};

/// How long a suspend that failed waits for its own files to be gone.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// How long a migration that is called off may take to say so.
const CANCEL: Duration = Duration::from_secs(2);
/// More than any devices have: what is longer is something else.
const MOST_DEVICE_BYTES: u64 = 256 << 20;

/// What becomes of a guest whose state was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    Gone,
    GoesOn,
}

/// How far an attempt got: what has to be undone.
#[derive(Default)]
struct Progress {
    stopped: bool,
    migrating: bool,
    decision: Option<Decision>,
    files: Option<StateWriter>,
}

type Shared = Arc<Mutex<Progress>>;

fn at<T>(progress: &Shared, f: impl FnOnce(&mut Progress) -> T) -> T {
    f(&mut progress.lock().unwrap_or_else(PoisonError::into_inner))
}

/// False when the state is there already, or as good as.
fn call_off(progress: &Shared) -> bool {
    at(progress, |p| {
        p.decision.as_ref().is_none_or(Decision::call_off)
    })
}

impl QemuGuest {
    pub(in crate::hypervisor) async fn suspend(
        &self,
        order: SuspendOrder,
    ) -> Result<Suspended, SuspendError> {
        self.save(order, After::Gone).await
    }

    /// Makes a state. On success the guest is gone, or goes on.
    pub(super) async fn save(
        &self,
        order: SuspendOrder,
        after: After,
    ) -> Result<Suspended, SuspendError> {
        let running = &self.0;
        let watch = Stopwatch::start();
        let Ok(busy) = Arc::clone(&running.suspending).try_lock_owned() else {
            let text = "another suspend or checkpoint of this guest is still under way";
            return Err(SuspendError {
                reason: Reason::new(ReasonCode::SuspendFailed, text),
                guest_alive: running.shared.exit.borrow().is_none(),
            });
        };
        let busy = Arc::new(busy);
        let progress = Shared::default();
        let attempt = running.attempt(&order, after, &progress, Arc::clone(&busy));
        let exit = running.shared.exit.subscribe();
        let call_off = || call_off(&progress);
        let made = within_budget(attempt, order.budget, exit, &running.abort, call_off).await;
        match made {
            Ok((made, paused)) => {
                let took = watch.read();
                match after {
                    After::Gone => running.kill().await,
                    After::GoesOn => {
                        let running = Arc::clone(running);
                        drop(offload("flush-end", move || running.end_flush()).await);
                    }
                }
                Ok(Suspended {
                    state: StateRef {
                        id: order.state,
                        manifest: made.manifest,
                        site: running.driver.setup.site.clone(),
                        bytes: made.bytes,
                        run: order.run,
                        at: order.at,
                    },
                    written: made.written,
                    took,
                    paused,
                })
            }
            Err(failure) => {
                drop(busy);
                Err(running.undo(&order, failure, &progress).await)
            }
        }
    }
}

impl Running {
    async fn attempt(
        self: &Arc<Self>,
        order: &SuspendOrder,
        after: After,
        progress: &Shared,
        busy: Arc<OwnedMutexGuard<()>>,
    ) -> Result<(Committed, Span), Failure> {
        let draft = self
            .prepare(&order.state, after, progress, Arc::clone(&busy))
            .await?;
        let watch = Stopwatch::start();
        at(progress, |p| p.stopped = true);
        self.execute("stop").await?;
        let disks = match after {
            After::Gone => self.disks(),
            After::GoesOn => self.freeze_disks().await?,
        };
        let memory = self.save_memory(draft, Arc::clone(&busy));
        let devices = self.save_devices(progress, order.budget.as_duration());
        let call_off = |_: &Failure| {
            at(progress, |p| p.decision.as_ref().map(Decision::call_off));
        };
        // Each to its end: what QEMU says of its devices may be all that it ever says (`kept_devices`).
        let (memory, devices) = tokio::join!(memory, async { devices.await.inspect_err(call_off) });
        let (devices, memory) = (devices?, memory?);

        if after == After::GoesOn && !self.paused.load(Ordering::Acquire) {
            self.let_go().await?;
            at(progress, |p| p.stopped = false);
        }
        let paused = watch.read();
        let Some(writer) = at(progress, |p| p.files.take()) else {
            return Err(Failure::Failed("the state's files were lost".to_owned()));
        };
        let platform = self.driver.machine.platform(&self.version.text);
        let list = self.parts.devices.clone();
        let manifest = manifest(&self.parts, &disks, platform, list, order);
        let store = self.driver.store.clone();
        let made = offload("suspend-commit", move || {
            let made = finish(writer, memory, &devices, manifest, &disks, &store);
            drop(busy);
            made
        });
        let made = made.await.map_err(|e| Failure::Failed(e.to_string()))??;
        Ok((made, paused))
    }

    /// What a flush has got ready, or a new state; checks that there is room.
    async fn prepare(
        self: &Arc<Self>,
        state: &StateId,
        after: After,
        progress: &Shared,
        busy: Arc<OwnedMutexGuard<()>>,
    ) -> Result<Draft, Failure> {
        let (running, progress) = (Arc::clone(self), Arc::clone(progress));
        let state = state.clone();
        let prepared = offload("suspend-prepare", move || {
            let Ahead { writer, mut draft } = running.take_ahead(&state)?;
            at(&progress, |p| {
                p.decision = Some(writer.decision());
                p.files = Some(writer);
            });
            if after == After::GoesOn {
                running.bring_ahead(&mut draft)?;
            }
            drop(busy);
            Ok(draft)
        });
        prepared.await.map_err(|e| Failure::Failed(e.to_string()))?
    }

    pub(super) fn memory(&self) -> Result<Arc<GuestMemory>, Failure> {
        let memory = self.parts.memory.clone();
        memory.ok_or_else(|| Failure::Failed("the guest has no memory".to_owned()))
    }

    /// Brings what is not in the store of the memory of the guest, which is stopped.
    async fn save_memory(
        self: &Arc<Self>,
        draft: Draft,
        busy: Arc<OwnedMutexGuard<()>>,
    ) -> Result<SavedMemory, Failure> {
        let running = Arc::clone(self);
        let saved = offload("suspend-memory", move || {
            let saved = running.bring_rest(draft);
            drop(busy);
            saved
        });
        saved.await.map_err(|e| Failure::Failed(e.to_string()))?
    }

    /// The devices as QEMU has them; it has nothing else to stream.
    async fn save_devices(&self, progress: &Shared, budget: Duration) -> Result<Vec<u8>, Failure> {
        if let Some(kept) = self.kept_devices() {
            return Ok(kept);
        }
        let failed = |e: io::Error| Failure::Failed(format!("the devices can't be had: {e}"));
        let (source, sink) = io::pipe().map_err(failed)?;
        // On its own: it ends when nobody has the other end any more.
        let reading = tokio::spawn(offload("suspend-devices", move || read_devices(source)));
        at(progress, |p| p.migrating = true);
        self.migrate(sink, budget).await?;
        at(progress, |p| p.migrating = false);
        let devices = reading.await.map_err(io::Error::other).flatten();
        let devices = devices.flatten().map_err(failed)?;
        if self.paused.load(Ordering::Acquire) {
            *self.lock_devices() = Some(devices.clone());
        }
        Ok(devices)
    }

    /// The devices of a guest that stands still at its owner's wish and was saved before: QEMU streams
    /// nothing a second time without having let the guest go.
    pub(super) fn kept_devices(&self) -> Option<Vec<u8>> {
        self.lock_devices().clone()
    }

    /// Lets the guest go on.
    pub(super) async fn let_go(&self) -> Result<(), ControlError> {
        self.lock_devices().take();
        self.thaw();
        self.execute("cont").await
    }

    fn lock_devices(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn migrate(&self, sink: PipeWriter, budget: Duration) -> Result<(), Failure> {
        // Not at the default of 128 MiB/s.
        let unlimited = json!({ "max-bandwidth": 0 });
        self.qmp
            .execute("migrate-set-parameters", unlimited, COMMAND)
            .await?;
        self.qmp.give_file("suspend", sink.into(), COMMAND).await?;
        let mut status = self.shared.migration.subscribe();
        self.shared.migration.send_replace(String::new());
        self.qmp
            .execute("migrate", json!({ "uri": "fd:suspend" }), budget)
            .await?;
        let ended = |s: &String| matches!(s.as_str(), "completed" | "failed" | "cancelled");
        let ended = status.wait_for(ended).await.map(|s| s.clone());
        match ended.as_deref() {
            Ok("completed") => Ok(()),
            Ok(_) => {
                let info = self
                    .qmp
                    .execute("query-migrate", json!({}), COMMAND)
                    .await?;
                Err(migration_failure(&info))
            }
            Err(_) => Err(Failure::Gone),
        }
    }

    /// Brings the guest back to what it was, removes what was written, says what happened.
    async fn undo(
        self: &Arc<Self>,
        order: &SuspendOrder,
        failure: Failure,
        progress: &Shared,
    ) -> SuspendError {
        let late = matches!(failure, Failure::Late | Failure::Aborted);
        if late && order.when_late == WhenLate::Kill {
            self.kill().await;
        }
        let alive = || self.shared.exit.borrow().is_none();
        let (stopped, migrating) = at(progress, |p| (p.stopped, p.migrating));
        if migrating && alive() {
            self.cancel_migration().await;
        }
        self.clean_up(&order.state, progress).await;
        let reason = failure.reason(order.budget);
        if stopped
            && alive()
            && !self.paused.load(Ordering::Acquire)
            && let Err(e) = self.let_go().await
        {
            tracing::error!(error = %e, "a guest whose suspend failed can't be let go, it is killed");
            self.kill().await;
        }
        SuspendError {
            reason,
            guest_alive: alive(),
        }
    }

    async fn cancel_migration(&self) {
        let mut status = self.shared.migration.subscribe();
        if self
            .qmp
            .execute("migrate_cancel", json!({}), CANCEL)
            .await
            .is_ok()
        {
            let ended = |s: &String| matches!(s.as_str(), "completed" | "failed" | "cancelled");
            drop(timeout(CANCEL, status.wait_for(ended)).await);
        }
    }

    /// Removes the files of the attempt, also those that a thread still works on.
    async fn clean_up(self: &Arc<Self>, state: &StateId, progress: &Shared) {
        // First what would keep the disk busy, then whatever a thread was just about to make.
        discard_files(progress).await;
        if timeout(CLEAN_UP, self.suspending.lock()).await.is_err() {
            tracing::warn!(
                state.id = %state,
                "a thread of a suspend that was called off hangs in the store; it will not commit"
            );
        }
        discard_files(progress).await;
        let running = Arc::clone(self);
        drop(offload("flush-end", move || running.end_flush()).await);
    }
}

async fn discard_files(progress: &Shared) {
    if let Some(files) = at(progress, |p| p.files.take()) {
        let removing = offload("suspend-discard", move || drop(files));
        drop(timeout(CLEAN_UP, removing).await);
    }
}

/// Bytes of layers that lie on another file system than the store.
pub(super) fn to_be_copied(disks: &[StagedDisk], states: &Path) -> u64 {
    let store = fs::metadata(states).map_or(0, |m| m.dev());
    disks
        .iter()
        .flat_map(|d| d.frozen.iter().map(|f| &f.path).chain([&d.top]))
        .filter_map(|path| fs::metadata(path).ok())
        .filter(|m| m.dev() != store)
        .map(|m| m.len())
        .sum()
}

fn read_devices(source: PipeReader) -> io::Result<Vec<u8>> {
    let mut devices = Vec::new();
    source.take(MOST_DEVICE_BYTES).read_to_end(&mut devices)?;
    if devices.len() as u64 == MOST_DEVICE_BYTES {
        return Err(io::Error::other(
            "there is no end to what qemu calls its devices",
        ));
    }
    Ok(devices)
}

fn finish(
    mut writer: StateWriter,
    memory: SavedMemory,
    devices: &[u8],
    manifest: Manifest,
    disks: &[StagedDisk],
    store: &Store,
) -> Result<Committed, StateError> {
    writer.add_memory(memory)?;
    writer.add_bytes(DEVICES, devices)?;
    commit(writer, manifest, disks, store)
}

fn migration_failure(info: &Value) -> Failure {
    let text = info["error-desc"]
        .as_str()
        .unwrap_or("qemu does not say why");
    Failure::Failed(format!("qemu could not write the state: {text}"))
}

impl From<ControlError> for Failure {
    fn from(e: ControlError) -> Self {
        match e {
            ControlError::Gone => Self::Gone,
            ControlError::NoAnswer { .. } | ControlError::Refused { .. } => {
                Self::Failed(e.to_string())
            }
        }
    }
}
