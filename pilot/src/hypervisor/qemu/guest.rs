//! The handle of a running guest.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use pilot_core::guest_words::Words;
use serde_json::json;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::boot::{Process, Started};
use super::checkpoint::Disks;
use super::flush::Flush;
use super::qmp::{Qmp, Version};
use super::watch::{Shared, Watcher};
use super::{COMMAND, Driver};
use crate::hypervisor::errors::ControlError;
use crate::hypervisor::lease_port::LeasePort;
use crate::hypervisor::offload::offload;
use crate::hypervisor::stage::Parts;
use crate::hypervisor::types::GuestEvent;

/// Upper bound of QEMU's stream of the devices; measured 0.4 MB.
pub(super) const DEVICE_BYTES: u64 = 4 << 20;
/// A guest may miss its power button while it boots: it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(3);

/// A running guest; clones are handles of the same.
#[derive(Clone, Debug)]
pub struct QemuGuest(pub(super) Arc<Running>);

#[derive(Debug)]
pub(super) struct Running {
    pub driver: Arc<Driver>,
    pub parts: Parts,
    pub version: Version,
    pub qmp: Qmp,
    pub shared: Arc<Shared>,
    pub events: mpsc::UnboundedSender<GuestEvent>,
    pub pid: Option<u32>,
    pub console: PathBuf,
    /// Where it is told of its time; none for a state from before there was such a port.
    pub lease: Option<LeasePort>,
    /// Stopped at its owner's wish.
    pub paused: AtomicBool,
    pub abort: Notify,
    /// Held while a suspend, or a thread that one left behind, is at work.
    pub suspending: Arc<Mutex<()>>,
    pub flush: Flush,
    pub disks: SyncMutex<Disks>,
    /// What QEMU has said of its devices while its owner has it stopped: they stay so, and it says it
    /// only once.
    pub devices: SyncMutex<Option<Vec<u8>>>,
}

impl QemuGuest {
    pub(super) fn new(driver: Arc<Driver>, parts: Parts, process: Process) -> Started {
        let Process {
            child,
            qmp,
            version,
            events,
            log,
            console,
            lease,
        } = process;
        let shared = Arc::new(Shared::default());
        let (out, receiver) = mpsc::unbounded_channel();
        let pid = child.id();
        let lease = lease.and_then(|socket| {
            LeasePort::open(socket, out.clone())
                .inspect_err(|e| tracing::warn!(error = %e, "the guest has no lease port"))
                .ok()
        });
        let told = out.clone();
        let watcher = Watcher::new(child, qmp.clone(), events, Arc::clone(&shared), out, log);
        tokio::spawn(watcher.run());
        let disks = SyncMutex::new(Disks::of(&parts.disks));
        let guest = Self(Arc::new(Running {
            driver,
            parts,
            version,
            qmp,
            shared,
            events: told,
            pid,
            console,
            lease,
            paused: AtomicBool::new(false),
            abort: Notify::new(),
            suspending: Arc::default(),
            flush: Flush::default(),
            disks,
            devices: SyncMutex::default(),
        }));
        tokio::spawn(release_at_the_end(Arc::clone(&guest.0)));
        (guest, receiver)
    }

    pub(in crate::hypervisor) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(in crate::hypervisor) fn console_path(&self) -> &Path {
        &self.0.console
    }

    pub(in crate::hypervisor) fn pid(&self) -> Option<u32> {
        self.0.pid
    }

    pub(in crate::hypervisor) async fn resident_bytes(&self) -> u64 {
        let running = Arc::clone(&self.0);
        let whole = self.0.parts.request.spec.resources.memory_mib << 20;
        let measured = offload("measure", move || running.resident_bytes()).await;
        measured.unwrap_or(whole + DEVICE_BYTES)
    }

    pub(in crate::hypervisor) async fn pause(&self) -> Result<(), ControlError> {
        self.0.execute("stop").await?;
        self.0.paused.store(true, Ordering::Release);
        Ok(())
    }

    pub(in crate::hypervisor) async fn cont(&self) -> Result<(), ControlError> {
        self.0.let_go().await?;
        self.0.paused.store(false, Ordering::Release);
        Ok(())
    }

    pub(in crate::hypervisor) async fn shutdown(&self) -> Result<(), ControlError> {
        self.0.execute("system_powerdown").await?;
        // A stopped guest would take notice only when it is let go.
        self.cont().await?;
        let running = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut exit = running.shared.exit.subscribe();
            loop {
                tokio::select! {
                    _ = exit.wait_for(Option::is_some) => return,
                    () = sleep(PRESS_AGAIN) => {}
                }
                if running.execute("system_powerdown").await == Err(ControlError::Gone) {
                    return;
                }
            }
        });
        Ok(())
    }

    pub(in crate::hypervisor) fn tell(&self, words: &Words) {
        if let Some(port) = &self.0.lease {
            port.tell(words.to_string());
        }
    }

    pub(in crate::hypervisor) async fn kill(&self) {
        self.0.kill().await;
    }

    pub(in crate::hypervisor) fn abort_suspend(&self) {
        self.0.abort.notify_waiters();
    }
}

/// The process is gone long before its lease is over; the memory may be wanted for the next guest.
async fn release_at_the_end(running: Arc<Running>) {
    let mut exit = running.shared.exit.subscribe();
    let known = exit.wait_for(Option::is_some).await.is_ok();
    if let (true, Some(memory)) = (known, running.parts.memory.clone()) {
        let released = offload("release-memory", move || {
            running.end_flush();
            memory.release();
        });
        drop(released.await);
    }
}

impl Running {
    /// Upper bound of what a suspend writes for memory and devices. Takes some milliseconds.
    pub(super) fn resident_bytes(&self) -> u64 {
        let all = || self.parts.memory.as_ref().map_or(0, |m| m.in_use());
        self.left_to_flush().unwrap_or_else(all) + DEVICE_BYTES
    }

    pub(super) async fn execute(&self, command: &str) -> Result<(), ControlError> {
        self.qmp
            .execute(command, json!({}), COMMAND)
            .await
            .map(drop)
    }

    pub(super) async fn kill(&self) {
        self.shared.ended_by_us.store(true, Ordering::Release);
        self.shared.kill.notify_one();
        let mut exit = self.shared.exit.subscribe();
        // Only a process that the kernel can't end (a dead file server) makes this wait.
        while timeout(COMMAND, exit.wait_for(Option::is_some))
            .await
            .is_err()
        {
            tracing::error!(guest.pid = self.pid, "a killed guest is not gone yet");
        }
    }
}
