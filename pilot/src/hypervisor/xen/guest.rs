//! The handle of a running guest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pilot_core::guest_words::Words;
use tokio::sync::{Mutex, Notify, mpsc};
use xen_helper::command;

use super::Driver;
use super::process::Process;
use crate::hypervisor::errors::ControlError;
use crate::hypervisor::stage::Parts;

/// So many words may wait to be told.
const WORDS: usize = 64;

/// A running guest; clones are handles of the same.
#[derive(Clone, Debug)]
pub struct XenGuest(pub(super) Arc<Running>);

#[derive(Debug)]
pub(super) struct Running {
    pub driver: Arc<Driver>,
    pub parts: Parts,
    pub process: Arc<Process>,
    console: PathBuf,
    words: mpsc::Sender<Words>,
    /// Stopped at its owner's wish.
    pub paused: AtomicBool,
    pub abort: Notify,
    /// Held while a suspend, or a thread that one left behind, is at work.
    pub suspending: Arc<Mutex<()>>,
}

impl XenGuest {
    pub(super) fn new(
        driver: Arc<Driver>,
        parts: Parts,
        process: Arc<Process>,
        console: PathBuf,
    ) -> Self {
        let (words, to_tell) = mpsc::channel(WORDS);
        tokio::spawn(tell_all(Arc::clone(&process), to_tell));
        Self(Arc::new(Running {
            driver,
            parts,
            process,
            console,
            words,
            paused: AtomicBool::new(false),
            abort: Notify::new(),
            suspending: Arc::default(),
        }))
    }

    pub(in crate::hypervisor) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(in crate::hypervisor) fn console_path(&self) -> &Path {
        &self.0.console
    }

    /// All of its memory: Xen knows of no page that it has never used. Beside that, 0.3 % were
    /// measured, and the descriptions of its devices.
    pub(in crate::hypervisor) fn resident_bytes(&self) -> u64 {
        let memory = self.0.parts.request.spec.resources.memory_mib << 20;
        memory + memory / 100 + (1 << 20)
    }

    pub(in crate::hypervisor) async fn pause(&self) -> Result<(), ControlError> {
        self.0.process.request(command::PAUSE).await?;
        self.0.paused.store(true, Ordering::Release);
        Ok(())
    }

    pub(in crate::hypervisor) async fn cont(&self) -> Result<(), ControlError> {
        self.0.process.request(command::CONTINUE).await?;
        self.0.paused.store(false, Ordering::Release);
        Ok(())
    }

    pub(in crate::hypervisor) async fn shutdown(&self) -> Result<(), ControlError> {
        self.0.process.request(command::SHUTDOWN).await?;
        self.0.paused.store(false, Ordering::Release);
        Ok(())
    }

    /// Xen's guest has its words in xenstore: the last that it was told. Where dom0 is so slow that
    /// many of them wait, the newest are lost.
    pub(in crate::hypervisor) fn tell(&self, words: &Words) {
        if let Err(e) = self.0.words.try_send(words.clone()) {
            tracing::debug!(error = %e, "a guest could not be told something");
        }
    }

    /// There is nothing to do ahead: Xen saves a memory in one go.
    pub(in crate::hypervisor) fn flush(&self) -> Result<(), ControlError> {
        if self.0.process.exit.borrow().is_some() {
            return Err(ControlError::Gone);
        }
        Ok(())
    }

    pub(in crate::hypervisor) async fn kill(&self) {
        self.0.process.kill().await;
    }

    pub(in crate::hypervisor) fn abort_suspend(&self) {
        self.0.abort.notify_waiters();
    }
}

/// Tells a guest its words in their order, as long as somebody has a handle of it.
async fn tell_all(process: Arc<Process>, mut words: mpsc::Receiver<Words>) {
    while let Some(words) = words.recv().await {
        let told = process.request(&format!("{} {words}", command::TELL)).await;
        if let Err(e) = told {
            tracing::debug!(error = %e, "a guest could not be told something");
        }
    }
}
