//! Suspend and checkpoint: a complete state, or nothing and the guest as it was.
//!
//! ```text
//! room? -> `save`: stream -> pipe -> .tmp, hashed -> the guest is paused
//!       -> suspend:    disks by link, manifest, rename -> destroy
//!       -> checkpoint: disks by copy -> let go -> manifest, rename
//! ```
//! Called off by closing the pipe: the save fails, and Xen lets the guest go on. Only when that
//! does not happen within its time the guest is destroyed: it is gone with its last good state.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use image_store::{Committed, Decision, StateWriter, free_bytes};
use protocol::codes::{Reason, ReasonCode};
use protocol::lease::StateRef;
use protocol::time::Span;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::timeout;
use xen_helper::Saved;

use super::guest::{Running, XenGuest};
use super::stream::{Held, Verdict, call_save, judge, pass_on, store, verdict_of};
use crate::hypervisor::errors::SuspendError;
use crate::hypervisor::offload::offload;
use crate::hypervisor::raw;
use crate::hypervisor::stage::StagedDisk;
use crate::hypervisor::state::{Failure, commit, manifest, within_budget};
use crate::hypervisor::stopwatch::Stopwatch;
use crate::hypervisor::types::{SuspendOrder, Suspended, WhenLate};

/// How long a suspend that failed waits for its own files to be gone.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// How long a save that is called off may take to let the guest go on: one second was measured.
const LET_GO: Duration = Duration::from_secs(90);
/// How many blocks may wait for the disk.
const BLOCKS: usize = 8;

/// What becomes of a guest whose state was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Gone,
    GoesOn,
}

/// How far an attempt got: what has to be undone.
#[derive(Default)]
struct Progress {
    decision: Option<Decision>,
    verdict: Option<Verdict>,
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

impl XenGuest {
    pub(in crate::hypervisor) async fn suspend(
        &self,
        order: SuspendOrder,
    ) -> Result<Suspended, SuspendError> {
        self.save(order, After::Gone).await
    }

    /// As a suspend, but the guest goes on, whatever becomes of it.
    pub(in crate::hypervisor) async fn checkpoint(
        &self,
        order: SuspendOrder,
    ) -> Result<Suspended, SuspendError> {
        let when_late = WhenLate::Continue;
        self.save(SuspendOrder { when_late, ..order }, After::GoesOn)
            .await
    }

    async fn save(&self, order: SuspendOrder, after: After) -> Result<Suspended, SuspendError> {
        let running = &self.0;
        let watch = Stopwatch::start();
        let Ok(busy) = Arc::clone(&running.suspending).try_lock_owned() else {
            let text = "another suspend or checkpoint of this guest is still under way";
            return Err(SuspendError {
                reason: Reason::new(ReasonCode::SuspendFailed, text),
                guest_alive: running.alive(),
            });
        };
        let progress = Shared::default();
        // Dropped, it closes the pipe.
        let attempt = running.attempt(&order, after, &progress, Arc::new(busy));
        let exit = running.process.exit.subscribe();
        let call_off = || call_off(&progress);
        let made = within_budget(attempt, order.budget, exit, &running.abort, call_off).await;
        match made {
            Ok((made, paused)) => {
                let took = watch.read();
                match after {
                    After::Gone => running.process.kill().await,
                    After::GoesOn => {}
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
            Err(failure) => Err(running.undo(&order, failure, &progress).await),
        }
    }
}

impl Running {
    fn alive(&self) -> bool {
        self.process.exit.borrow().is_none()
    }

    async fn attempt(
        &self,
        order: &SuspendOrder,
        after: After,
        progress: &Shared,
        busy: Arc<OwnedMutexGuard<()>>,
    ) -> Result<(Committed, Span), Failure> {
        if !self.alive() {
            return Err(Failure::Gone);
        }
        let writer = self.begin(order, progress, Arc::clone(&busy)).await?;
        let watch = Stopwatch::start();
        let (stream, verdict) = call_save(&self.driver.helper, &self.process.uuid)?;
        at(progress, |p| p.verdict = Some(verdict.clone()));
        let (blocks, to_disk) = mpsc::channel(BLOCKS);
        let holds = Arc::clone(&busy);
        let storing = offload("suspend-stream", move || {
            store(writer, to_disk).map(|made| Held { made, busy: holds })
        });
        tokio::pin!(storing);
        // A disk that takes nothing more ends it at once, and so does a save that has failed.
        let judged = async { judge(verdict_of(verdict).await) };
        let passing = pass_on(stream, blocks);
        tokio::pin!(judged, passing);
        let (mut saved, mut passed) = (None, false);
        while !passed || saved.is_none() {
            tokio::select! {
                biased;
                stored = &mut storing, if !passed => {
                    return Err(match stored.map_err(|e| Failure::Failed(e.to_string()))? {
                        Ok(_) => Failure::Failed("the stream was not stored to its end".to_owned()),
                        Err(e) => e,
                    });
                }
                result = &mut passing, if !passed => {
                    result?;
                    passed = true;
                }
                verdict = &mut judged, if saved.is_none() => {
                    verdict?;
                    saved = Some(());
                }
            }
        }
        let stored = storing
            .await
            .map_err(|e| Failure::Failed(e.to_string()))??;
        let writer = stored.made;
        let disks = match after {
            After::Gone => self.parts.disks.clone(),
            After::GoesOn => self.copy_disks(Arc::clone(&busy)).await?,
        };
        if after == After::GoesOn {
            self.let_go().await?;
        }
        let paused = watch.read();
        let platform = self.driver.platform();
        let manifest = manifest(
            &self.parts,
            &disks,
            platform,
            self.parts.devices.clone(),
            order,
        );
        let store = self.driver.store.clone();
        let made = offload("suspend-commit", move || {
            let made = commit(writer, manifest, &disks, &store);
            if after == After::GoesOn {
                remove_copies(&disks);
            }
            drop(busy);
            made
        });
        let made = made.await.map_err(|e| Failure::Failed(e.to_string()))??;
        Ok((made, paused))
    }

    /// Begins a state, if there is room for it.
    async fn begin(
        &self,
        order: &SuspendOrder,
        progress: &Shared,
        busy: Arc<OwnedMutexGuard<()>>,
    ) -> Result<StateWriter, Failure> {
        let memory = self.parts.request.spec.resources.memory_mib << 20;
        let (store, state, progress) = (
            self.driver.store.clone(),
            order.state.clone(),
            Arc::clone(progress),
        );
        let begun = offload("suspend-prepare", move || {
            let free = free_bytes(store.states_dir()).unwrap_or(u64::MAX);
            if free < memory {
                let (free, need) = (free >> 20, memory >> 20);
                let text = format!(
                    "no space for the state: {free} MiB free in the store, {need} MiB needed"
                );
                return Err(Failure::Full(text));
            }
            let writer = StateWriter::begin(&store, &state)?;
            at(&progress, |p| p.decision = Some(writer.decision()));
            Ok(Held { made: writer, busy })
        });
        let begun = begun.await.map_err(|e| Failure::Failed(e.to_string()))?;
        begun.map(|held| held.made)
    }

    /// Copies of the disks of the guest, which is paused.
    async fn copy_disks(&self, busy: Arc<OwnedMutexGuard<()>>) -> Result<Vec<StagedDisk>, Failure> {
        let disks = self.parts.disks.clone();
        let copied = offload("checkpoint-disks", move || {
            let copies: Vec<StagedDisk> = (disks.iter())
                .map(|d| StagedDisk {
                    top: d.top.with_extension("copy"),
                    ..d.clone()
                })
                .collect();
            let mut result = Ok(());
            for (disk, copy) in disks.iter().zip(&copies) {
                // One that an earlier pilot's kill has left.
                let _ = std::fs::remove_file(&copy.top);
                result = result.and_then(|()| raw::copy(&disk.top, &copy.top, disk.size_bytes));
            }
            drop(busy);
            match result {
                Ok(()) => Ok(copies),
                Err(e) => {
                    remove_copies(&copies);
                    Err(Failure::Failed(format!(
                        "the guest's disks can't be copied: {e}"
                    )))
                }
            }
        });
        copied.await.map_err(|e| Failure::Failed(e.to_string()))?
    }

    /// Lets the guest go on, unless its owner wants it to stand still.
    async fn let_go(&self) -> Result<(), Failure> {
        if self.paused.load(Ordering::Acquire) {
            return Ok(());
        }
        let told = self.process.request(xen_helper::command::CONTINUE).await;
        told.map_err(|e| Failure::Failed(format!("the guest can't be let go: {e}")))
    }

    /// Brings the guest back to what it was, removes what was written, says what happened.
    async fn undo(
        &self,
        order: &SuspendOrder,
        failure: Failure,
        progress: &Shared,
    ) -> SuspendError {
        let late = matches!(failure, Failure::Late | Failure::Aborted);
        if late && order.when_late == WhenLate::Kill {
            self.kill_if_it_can_be().await;
        }
        let verdict = at(progress, |p| {
            // Also for a thread that has still to begin.
            if let Some(decision) = &p.decision {
                decision.call_off();
            }
            p.verdict.take()
        });
        if let Some(verdict) = verdict
            && self.alive()
        {
            self.recover(verdict).await;
        }
        if timeout(CLEAN_UP, self.suspending.lock()).await.is_err() {
            tracing::warn!(
                state.id = %order.state,
                "a thread of a suspend that was called off hangs in the store; it will not commit"
            );
        }
        SuspendError {
            reason: failure.reason(order.budget),
            guest_alive: self.alive(),
        }
    }

    /// After a save that nobody wants any more: the guest goes on, or is ended.
    async fn recover(&self, verdict: Verdict) {
        let saved = timeout(LET_GO, verdict_of(verdict)).await;
        let trouble = match saved {
            Ok(Saved::Whole) => self.let_go().await.err().map(|f| f.reason(Span::ZERO).text),
            // As it was before.
            Ok(Saved::Failed { .. }) => None,
            Ok(Saved::Stuck { text }) => Some(text),
            Ok(Saved::Gone) => {
                // Its own helper says how.
                let mut exit = self.process.exit.subscribe();
                match timeout(LET_GO, exit.wait_for(Option::is_some)).await {
                    Ok(_) => None,
                    Err(_) => Some("its domain is gone".to_owned()),
                }
            }
            Err(_) => Some(format!(
                "its save did not end within {} s",
                LET_GO.as_secs()
            )),
        };
        if let Some(text) = trouble
            && self.alive()
        {
            tracing::error!(
                error = text,
                "a guest whose suspend failed can't be let go, it is killed"
            );
            self.kill_if_it_can_be().await;
        }
    }

    /// Where Xen does not obey, the suspend comes to its end all the same, with a guest that is not
    /// known to be gone. Its end is told when it comes.
    async fn kill_if_it_can_be(&self) {
        if timeout(LET_GO, self.process.kill()).await.is_err() {
            tracing::error!("a guest whose suspend failed can't be killed yet");
        }
    }
}

fn remove_copies(disks: &[StagedDisk]) {
    for disk in disks {
        // The guest's directory goes with its lease, and all in it.
        let _ = std::fs::remove_file(&disk.top);
    }
}
