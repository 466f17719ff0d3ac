//! The one task that owns a guest's process: it hears its events, kills it, and says how it ended.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::codes::{Reason, ReasonCode};
use serde_json::json;
use tokio::process::Child;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

use super::log_tail;
use super::qmp::{Event, Qmp};
use crate::hypervisor::types::{ExitHow, GuestEvent};

/// A guest that has switched itself off gets so long to close its disks.
const CLOSE: Duration = Duration::from_secs(5);

/// What the watcher and the handles of a guest share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Set before we end the guest, so that its death is not taken for a crash.
    pub ended_by_us: AtomicBool,
    /// Kill it now.
    pub kill: Notify,
    /// None while the process lives.
    pub exit: watch::Sender<Option<ExitHow>>,
    /// Last status of a migration; empty before the first.
    pub migration: watch::Sender<String>,
}

pub(super) struct Watcher {
    pub child: Child,
    pub qmp: Qmp,
    pub from_qemu: mpsc::UnboundedReceiver<Event>,
    pub shared: Arc<Shared>,
    pub out: mpsc::UnboundedSender<GuestEvent>,
    pub log: PathBuf,
    /// The guest's last act, by its own events.
    last_act: Option<LastAct>,
    /// An error of its disks was told, and it has not been let go since.
    io_error_told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LastAct {
    PoweredOff,
    Reset,
}

impl Watcher {
    pub(super) fn new(
        child: Child,
        qmp: Qmp,
        from_qemu: mpsc::UnboundedReceiver<Event>,
        shared: Arc<Shared>,
        out: mpsc::UnboundedSender<GuestEvent>,
        log: PathBuf,
    ) -> Self {
        Self {
            child,
            qmp,
            from_qemu,
            shared,
            out,
            log,
            last_act: None,
            io_error_told: false,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                Some(event) = self.from_qemu.recv() => self.hear(&event),
                () = shared.kill.notified() => self.kill(),
            }
        };
        // What it said last may still be on its way.
        let rest = async {
            while let Some(event) = self.from_qemu.recv().await {
                self.hear(&event);
            }
        };
        drop(timeout(Duration::from_secs(1), rest).await);
        let how = self.how(status.ok());
        // Nobody may be listening any more.
        drop(self.out.send(GuestEvent::Exited(how.clone())));
        shared.exit.send_replace(Some(how));
    }

    fn kill(&mut self) {
        if let Err(e) = self.child.start_kill() {
            tracing::error!(error = %e, "a guest's process could not be killed");
        }
    }

    fn hear(&mut self, event: &Event) {
        let text = |name: &str| event.data[name].as_str().unwrap_or_default();
        match event.name.as_str() {
            "SHUTDOWN" if event.data["guest"].as_bool() == Some(true) => {
                self.last_act = Some(match text("reason") {
                    "guest-shutdown" => LastAct::PoweredOff,
                    _ => LastAct::Reset,
                });
                self.close();
            }
            "MIGRATION" => {
                self.shared
                    .migration
                    .send_replace(text("status").to_owned());
            }
            "BLOCK_IO_ERROR" if text("action") == "stop" && !self.io_error_told => {
                self.io_error_told = true;
                let full = event.data["nospace"].as_bool() == Some(true);
                let code = if full {
                    ReasonCode::DiskFull
                } else {
                    ReasonCode::GuestCrashed
                };
                let text = format!(
                    "the guest is stopped: its disk can't be {}: {}",
                    if text("operation") == "read" {
                        "read"
                    } else {
                        "written"
                    },
                    text("reason"),
                );
                drop(self.out.send(GuestEvent::IoError(Reason::new(code, text))));
            }
            "RESUME" => self.io_error_told = false,
            _ => {}
        }
    }

    /// The guest is off: lets QEMU close the disks, and kills it if it does not come to an end.
    fn close(&self) {
        let (qmp, shared) = (self.qmp.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let mut exit = shared.exit.subscribe();
            drop(qmp.execute("quit", json!({}), CLOSE).await);
            if timeout(CLOSE, exit.wait_for(Option::is_some))
                .await
                .is_err()
            {
                shared.kill.notify_one();
            }
        });
    }

    fn how(&self, status: Option<ExitStatus>) -> ExitHow {
        let crashed = |text: String| ExitHow::Crashed(Reason::new(ReasonCode::GuestCrashed, text));
        match self.last_act {
            Some(LastAct::PoweredOff) => ExitHow::PoweredOff,
            _ if self.shared.ended_by_us.load(Ordering::Acquire) => ExitHow::EndedByUs,
            Some(LastAct::Reset) => crashed(
                "the guest reset itself: a panic, or a reboot, which a guest can't do here".into(),
            ),
            None => {
                let status = status.map_or_else(|| "unknown status".into(), |s| s.to_string());
                crashed(format!(
                    "the guest's qemu ended ({status}): {}",
                    log_tail(&self.log)
                ))
            }
        }
    }
}
