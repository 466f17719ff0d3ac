//! Flush: a running guest's memory on its way to the store, so that the suspend which follows has
//! only to bring what has changed since.
//!
//! ```text
//! begin: .tmp, tracker -> pass over all, guest runs -> rest -> pass over what was written -> rest ..
//! suspend: stop -> pass over what was written -> the devices, commit
//! ```
//! The passes take one thread and a tenth of the time at most, so a guest that writes its memory as
//! fast as it can costs the disk no more than that, and the suspend no more than without a flush. What
//! the tracker tells is kept in `missing` until it is in the image: a pass that fails or is given up
//! loses nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use image_store::{
    ChunkSet, Effort, MemoryImage, SavedMemory, StateError, StateWriter, free_bytes,
};
use protocol::ids::StateId;
use protocol::time::Span;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::guest::{DEVICE_BYTES, QemuGuest, Running};
use super::suspend::to_be_copied;
use super::tracker::Tracker;
use crate::hypervisor::errors::ControlError;
use crate::hypervisor::memory::GuestMemory;
use crate::hypervisor::offload::offload;
use crate::hypervisor::stage::MEMORY;
use crate::hypervisor::state::Failure;
use crate::hypervisor::stopwatch::Stopwatch;
use crate::hypervisor::types::GuestEvent;

/// The least pause between two passes.
const REST: Duration = Duration::from_secs(2);
/// A pause is so many times as long as the pass before it.
const REST_FACTOR: u32 = 9;
/// The same where a pass has to read all of the memory to find what has changed.
const BLIND_REST: Duration = Duration::from_secs(20);
const BLIND_REST_FACTOR: u32 = 40;
/// Less than this is left to be brought at the end: it takes a disk some hundredths of a second.
const WORTH_A_PASS: u64 = 8 << 20;
/// Passes of a checkpoint over a running guest: one that writes faster than we do has no use for more.
const MOST_PASSES: u32 = 3;
/// What a suspend has still to write is not known.
const UNKNOWN: u64 = u64::MAX;

/// What a guest has for it.
#[derive(Debug)]
pub(super) struct Flush {
    /// One is under way.
    on: AtomicBool,
    /// A suspend waits for the pass to be given up.
    hurry: AtomicBool,
    hurried: Notify,
    ahead: Mutex<Option<Ahead>>,
    /// Outlives the suspend: to end it takes as long as to begin it.
    tracker: Mutex<Option<Tracker>>,
    /// What was to be brought when it was last known.
    left: AtomicU64,
}

impl Default for Flush {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            hurried: Notify::new(),
            ahead: Mutex::default(),
            tracker: Mutex::default(),
            left: AtomicU64::new(UNKNOWN),
        }
    }
}

/// A state that is under construction, and its memory.
#[derive(Debug)]
pub(super) struct Ahead {
    pub writer: StateWriter,
    pub draft: Draft,
}

/// A memory that is partly in the store.
#[derive(Debug)]
pub(super) struct Draft {
    image: MemoryImage,
    /// What is not in the image, beside what was written since the tracker was last asked.
    missing: ChunkSet,
}

/// How a pass ended.
enum Pass {
    /// It took so long.
    Done(Duration),
    /// There is nothing more to be flushed.
    Over,
}

impl QemuGuest {
    /// Begins to bring the memory of the running guest to the store, and goes on with it until its
    /// suspend or its end. Idempotent. Where it can't be done, the suspend does without.
    pub(in crate::hypervisor) fn flush(&self) -> Result<(), ControlError> {
        let running = Arc::clone(&self.0);
        if running.shared.exit.borrow().is_some() {
            return Err(ControlError::Gone);
        }
        if !running.flush.on.swap(true, Ordering::AcqRel) {
            tokio::spawn(async move { running.keep_flushing().await });
        }
        Ok(())
    }
}

impl Running {
    async fn keep_flushing(self: Arc<Self>) {
        let this = Arc::clone(&self);
        let begun = offload("flush-begin", move || this.begin_flush()).await;
        if let Err(failure) = begun.unwrap_or_else(|e| Err(Failure::Failed(e.to_string()))) {
            let reason = failure.reason(Span::ZERO);
            tracing::warn!(
                guest.pid = self.pid,
                "the guest's memory is not flushed: {reason}"
            );
            return;
        }
        let mut exit = self.shared.exit.subscribe();
        loop {
            let this = Arc::clone(&self);
            let rest = match offload("flush-pass", move || this.flush_pass()).await {
                Ok(Ok(Pass::Done(took))) => {
                    // Nobody may be listening any more.
                    drop(self.events.send(GuestEvent::Flushed));
                    self.flush.rest_after(took)
                }
                Ok(Ok(Pass::Over)) => return,
                Ok(Err(e @ StateError::NoSpace { .. })) => {
                    tracing::warn!(guest.pid = self.pid, error = %e, "the guest's memory is not flushed any more, what it took is given back");
                    let this = Arc::clone(&self);
                    drop(offload("flush-end", move || this.give_up_ahead()).await);
                    return;
                }
                Ok(Err(e)) => {
                    tracing::warn!(guest.pid = self.pid, error = %e, "a pass over the guest's memory failed; it is tried again");
                    BLIND_REST
                }
                Err(e) => {
                    tracing::warn!(guest.pid = self.pid, error = %e, "the guest's memory is not flushed any more");
                    return;
                }
            };
            tokio::select! {
                _ = exit.wait_for(Option::is_some) => return,
                () = self.flush.hurried.notified() => {
                    // It may have been meant for an earlier flush.
                    if self.flush.is_hurried() {
                        return;
                    }
                }
                () = sleep(rest) => {}
            }
        }
    }

    fn begin_flush(&self) -> Result<(), Failure> {
        let mut place = lock(&self.flush.ahead);
        if self.flush.is_hurried() {
            return Ok(());
        }
        let memory = self.memory()?;
        let id = self.suspended_id()?;
        let ahead = self.begin_ahead(&id)?;
        // In the image is nothing yet: whatever is written before that is in the first pass.
        let tracker = self.pid.map(|pid| Tracker::begin(pid, &memory));
        if let Some(Err(e)) = &tracker {
            tracing::info!(guest.pid = self.pid, error = %e, "this node does not tell what a guest writes: flushes read all of its memory");
        }
        *lock(&self.flush.tracker) = tracker.and_then(Result::ok);
        *place = Some(ahead);
        Ok(())
    }

    /// A new state, with nothing of the memory in it.
    pub(super) fn begin_ahead(&self, id: &StateId) -> Result<Ahead, Failure> {
        let (store, memory) = (&self.driver.store, self.memory()?);
        let resident = memory.in_use() + DEVICE_BYTES;
        let layers = to_be_copied(&self.disks(), store.states_dir());
        let needed = resident + resident / 20 + layers;
        let free = free_bytes(store.states_dir())
            .map_err(|e| Failure::Failed(format!("the store does not say what is free: {e}")))?;
        if free < needed {
            return Err(Failure::Full(format!(
                "the suspend needs {} MiB in the store at {}, which has {} MiB free",
                needed >> 20,
                store.states_dir().display(),
                free >> 20
            )));
        }
        let writer = StateWriter::begin(store, id)?;
        let image = writer.memory_image(MEMORY, memory.bytes())?;
        let missing = ChunkSet::all(memory.bytes());
        let draft = Draft { image, missing };
        Ok(Ahead { writer, draft })
    }

    fn flush_pass(&self) -> Result<Pass, StateError> {
        let (Ok(memory), watch) = (self.memory(), Stopwatch::start()) else {
            return Ok(Pass::Over);
        };
        let mut place = lock(&self.flush.ahead);
        let (Some(ahead), false) = (place.as_mut(), self.flush.is_hurried()) else {
            return Ok(Pass::Over);
        };
        let tracker = lock(&self.flush.tracker);
        let draft = &mut ahead.draft;
        draft.ask(tracker.as_ref(), &memory, true);
        drop(tracker);
        if draft.missing.data_bytes() >= WORTH_A_PASS {
            let hurry = || self.flush.is_hurried();
            if !draft.bring(&memory, Effort::Background, &hurry)? {
                return Ok(Pass::Over);
            }
            draft.image.sync()?;
        }
        let left = draft.missing.data_bytes();
        self.flush.left.store(left, Ordering::Release);
        Ok(Pass::Done(watch.read().as_duration()))
    }

    /// What a flush has got ready for a state of this name, or a new one. The flush is over. Blocks
    /// until its pass is.
    pub(super) fn take_ahead(&self, id: &StateId) -> Result<Ahead, Failure> {
        self.flush.hurry.store(true, Ordering::Release);
        self.flush.hurried.notify_one();
        let ahead = lock(&self.flush.ahead).take();
        match ahead.filter(|ahead| ahead.writer.id() == id) {
            Some(ahead) => Ok(ahead),
            None => self.begin_ahead(id),
        }
    }

    /// Removes what is in the store.
    fn give_up_ahead(&self) {
        drop(lock(&self.flush.ahead).take());
        drop(lock(&self.flush.tracker).take());
        self.flush.left.store(UNKNOWN, Ordering::Release);
    }

    /// The name of the state that a suspend of it makes.
    fn suspended_id(&self) -> Result<StateId, Failure> {
        let id = self.parts.request.guest.state_id();
        id.map_err(|e| Failure::Failed(format!("a state of this guest can't be named: {e}")))
    }

    pub(super) fn is_flushing(&self) -> bool {
        self.flush.on.load(Ordering::Acquire)
    }

    /// The passes of a checkpoint, over a guest that runs: as many as make its rest small.
    pub(super) fn bring_ahead(&self, draft: &mut Draft) -> Result<(), Failure> {
        let memory = self.memory()?;
        let mut tracker = lock(&self.flush.tracker);
        if tracker.is_none() {
            *tracker = self.pid.and_then(|pid| Tracker::begin(pid, &memory).ok());
        }
        // Without one all of it has to be brought when the guest stands still.
        let Some(tracker) = tracker.as_ref() else {
            return Ok(());
        };
        for _ in 0..MOST_PASSES {
            draft
                .missing
                .merge(&tracker.take().map_err(|e| Failure::Failed(e.to_string()))?);
            if draft.missing.data_bytes() < WORTH_A_PASS {
                break;
            }
            draft.bring(&memory, Effort::Background, &|| false)?;
        }
        draft.image.sync()?;
        Ok(())
    }

    /// Lets another flush begin.
    pub(super) fn end_flush(&self) {
        self.give_up_ahead();
        self.flush.hurry.store(false, Ordering::Release);
        self.flush.on.store(false, Ordering::Release);
    }

    /// What a suspend has to write for the memory, at most, if a flush knows; takes some milliseconds.
    pub(super) fn left_to_flush(&self) -> Option<u64> {
        let known = self.flush.left.load(Ordering::Acquire);
        if known == UNKNOWN {
            return None;
        }
        let memory = self.parts.memory.as_ref()?;
        let mut place = match self.flush.ahead.try_lock() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            // A pass is under way: there will be less.
            Err(TryLockError::WouldBlock) => return Some(known),
        };
        let tracker = lock(&self.flush.tracker);
        let (ahead, tracker) = (place.as_mut()?, tracker.as_ref()?);
        let mut left = ahead.draft.missing.clone();
        left.merge(&tracker.written().ok()?);
        let left = left.data_bytes().min(memory.in_use());
        self.flush.left.store(left, Ordering::Release);
        Some(left)
    }

    /// The last pass, over a guest that stands still.
    pub(super) fn bring_rest(&self, mut draft: Draft) -> Result<SavedMemory, Failure> {
        let memory = self.memory()?;
        let tracker = lock(&self.flush.tracker);
        draft.ask(tracker.as_ref(), &memory, false);
        drop(tracker);
        if !draft.bring(&memory, Effort::Full, &|| false)? {
            return Err(Failure::Aborted);
        }
        Ok(draft.image.finish()?)
    }
}

impl Flush {
    fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::Acquire)
    }

    fn rest_after(&self, took: Duration) -> Duration {
        if lock(&self.tracker).is_some() {
            REST.max(took * REST_FACTOR)
        } else {
            BLIND_REST.max(took * BLIND_REST_FACTOR)
        }
    }
}

impl Draft {
    /// Adds what was written to what is missing: all, where that is not known.
    fn ask(&mut self, tracker: Option<&Tracker>, memory: &GuestMemory, again: bool) {
        let written = match tracker {
            Some(tracker) if again => tracker.take(),
            Some(tracker) => tracker.written(),
            None => Ok(ChunkSet::all(memory.bytes())),
        };
        let all = |_| ChunkSet::all(memory.bytes());
        self.missing.merge(&written.unwrap_or_else(all));
    }

    /// Brings what is missing. False when it was given up.
    fn bring(
        &mut self,
        memory: &GuestMemory,
        effort: Effort,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<bool, StateError> {
        let image = &mut self.image;
        let whole = image
            .bring(memory.file(), &self.missing, effort, stop)?
            .is_some();
        if whole {
            self.missing = ChunkSet::none(memory.bytes());
        }
        Ok(whole)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
