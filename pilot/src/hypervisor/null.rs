//! The null driver: guests that are no processes, for tests of scale. It keeps the whole contract
//! (staging, states, events are real), so that what works with it differs only in the guest.
//!
//! A null guest has a boot id and counts the time that it has run; both are its memory, written
//! to its state and told on its console. Words on the image's command line make it misbehave:
//! `null.poweroff_after=SPAN` and `null.crash_after=SPAN` (of run time, over all slots),
//! `null.ignores_acpi` (it says so on its console), `null.suspend_takes=SPAN`, `null.suspend_fails`
//! (no space left; both also of checkpoints), `null.boot_fails`, `null.deaf` (no agent),
//! `null.says_ready` (as soon as it is told that it will be suspended). What it is told stands on its
//! console.

mod whims;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use image_store::{Committed, Decision, Platform, StateError, StateWriter, Store};
use pilot_core::guest_words::{Said, Words};
use protocol::codes::{Reason, ReasonCode};
use protocol::lease::StateRef;
use protocol::time::Span;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::errors::{ControlError, StageError, StartError, SuspendError};
use super::fetch::Fetcher;
use super::offload::offload;
use super::stage::{self, DiskKind, MEMORY, Outfit, Parts};
use super::state::{Failure, commit, manifest};
use super::stopwatch::Stopwatch;
use super::types::{ExitHow, GuestEvent, Setup, StageRequest, SuspendOrder, Suspended, WhenLate};
use whims::Whims;

/// How long a suspend that failed waits for its own files to be gone.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// The driver; clones share it.
#[derive(Clone, Debug)]
pub struct NullDriver(Arc<Driver>);

#[derive(Debug)]
struct Driver {
    setup: Setup,
    store: Store,
    fetcher: Fetcher,
}

/// What of a null guest survives a suspend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Memory {
    boot: String,
    #[serde(rename = "ran_ms")]
    ran: Span,
}

fn platform() -> Platform {
    Platform {
        hypervisor: "null".to_owned(),
        version: String::new(),
        machine: String::new(),
        cpu: String::new(),
        accelerator: String::new(),
    }
}

impl NullDriver {
    pub(super) fn new(setup: Setup, store: Store) -> Self {
        Self(Arc::new(Driver {
            setup,
            store,
            fetcher: Fetcher::default(),
        }))
    }

    pub(super) async fn stage(&self, request: StageRequest) -> Result<Parts, StageError> {
        let driver = &self.0;
        let outfit = Outfit {
            platform: platform(),
            devices: Vec::new(),
            earlier_devices: Vec::new(),
            memory: None,
            disks: DiskKind::Layers,
        };
        stage::stage(request, &driver.store, &driver.fetcher, outfit).await
    }

    /// Starts a guest.
    pub(super) fn start(
        &self,
        parts: Parts,
    ) -> Result<(NullGuest, mpsc::UnboundedReceiver<GuestEvent>), StartError> {
        let cmdline = parts.request.spec.image.cmdline.as_deref().unwrap_or("");
        let whims = Whims::read(cmdline).map_err(StartError::BootFailed)?;
        if whims.boot_fails {
            return Err(StartError::BootFailed(
                "this null guest does not boot".to_owned(),
            ));
        }
        let memory = match &parts.state {
            Some(state) => fs::read(state.path(MEMORY))
                .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
                .map_err(|e| StartError::StateCorrupt(format!("can't load the memory: {e}")))?,
            None => Memory {
                boot: blake3::hash(parts.request.marker.as_str().as_bytes()).to_hex()[..8]
                    .to_owned(),
                ran: Span::ZERO,
            },
        };
        let (out, receiver) = mpsc::unbounded_channel();
        let guest = NullGuest(Arc::new(Running {
            driver: Arc::clone(&self.0),
            console: parts.request.dir.join("console.log"),
            parts,
            whims,
            boot: memory.boot,
            ran: Mutex::new((memory.ran, Some(Stopwatch::start()))),
            changed: Notify::new(),
            abort: Notify::new(),
            suspending: tokio::sync::Mutex::new(()),
            exit: watch::Sender::new(None),
            out,
        }));
        guest
            .0
            .say("starts")
            .map_err(|e| StartError::BootFailed(format!("can't write the console: {e}")))?;
        if !guest.0.whims.deaf {
            guest.0.report(GuestEvent::Said(Said::Hello));
        }
        tokio::spawn(live(Arc::clone(&guest.0)));
        Ok((guest, receiver))
    }
}

/// A running null guest; clones are handles of the same.
#[derive(Clone, Debug)]
pub struct NullGuest(Arc<Running>);

#[derive(Debug)]
struct Running {
    driver: Arc<Driver>,
    parts: Parts,
    console: PathBuf,
    whims: Whims,
    boot: String,
    /// Run time up to the last pause, and the time since when it runs.
    ran: Mutex<(Span, Option<Stopwatch>)>,
    /// It was paused or let go.
    changed: Notify,
    abort: Notify,
    suspending: tokio::sync::Mutex<()>,
    exit: watch::Sender<Option<ExitHow>>,
    out: mpsc::UnboundedSender<GuestEvent>,
}

/// The guest's own acts: off, or dead, after so much run time.
async fn live(guest: Arc<Running>) {
    let mut exit = guest.exit.subscribe();
    loop {
        let whims = &guest.whims;
        let (ran, runs) = (guest.ran(), guest.runs());
        let next = match (whims.poweroff_after, whims.crash_after) {
            (Some(off), Some(crash)) => Some(off.min(crash)),
            (off, crash) => off.or(crash),
        };
        let wait = next.filter(|_| runs).map(|at| at.minus(ran));
        if wait.is_some_and(Span::is_zero) {
            guest.end(if next == whims.poweroff_after {
                ExitHow::PoweredOff
            } else {
                let text = "this null guest crashes";
                ExitHow::Crashed(Reason::new(ReasonCode::GuestCrashed, text))
            });
            return;
        }
        tokio::select! {
            () = sleep(wait.unwrap_or(Span::MAX).as_duration()), if wait.is_some() => {}
            () = guest.changed.notified() => {}
            _ = exit.wait_for(Option::is_some) => return,
        }
    }
}

impl Running {
    fn ran(&self) -> Span {
        let (before, since) = *self.ran.lock().unwrap_or_else(PoisonError::into_inner);
        before + since.map_or(Span::ZERO, Stopwatch::read)
    }

    fn runs(&self) -> bool {
        self.ran
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .is_some()
    }

    fn let_run(&self, run: bool) {
        {
            let mut ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
            let (before, since) = *ran;
            *ran = match (run, since) {
                (true, None) => (before, Some(Stopwatch::start())),
                (false, Some(since)) => (before + since.read(), None),
                (true, Some(_)) | (false, None) => (before, since),
            };
        }
        self.changed.notify_one();
    }

    fn alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    fn gone(&self) -> Result<(), ControlError> {
        if self.alive() {
            Ok(())
        } else {
            Err(ControlError::Gone)
        }
    }

    /// Ends it, if it has not ended.
    fn end(&self, how: ExitHow) {
        self.let_run(false);
        let first = self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            if first {
                *exit = Some(how.clone());
            }
            first
        });
        if first {
            self.report(GuestEvent::Exited(how));
        }
    }

    fn report(&self, event: GuestEvent) {
        // Nobody may be listening any more.
        drop(self.out.send(event));
    }

    fn say(&self, what: &str) -> io::Result<()> {
        let mut line = String::new();
        let ran = self.ran().as_millis();
        writeln!(line, "NULL-GUEST {what} boot={} ran_ms={ran}", self.boot)
            .map_err(io::Error::other)?;
        let mut console = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.console)?;
        console.write_all(line.as_bytes())
    }

    /// Writes the state, unless it takes longer than the order allows or is called off.
    async fn within_budget(self: &Arc<Self>, order: &SuspendOrder) -> Result<Committed, Failure> {
        let decision = Arc::new(Mutex::new(None));
        let mut exit = self.exit.subscribe();
        let attempt = Arc::clone(self).write_state(order.clone(), Arc::clone(&decision));
        tokio::pin!(attempt);
        let failure = tokio::select! {
            biased;
            made = &mut attempt => return made,
            _ = exit.wait_for(Option::is_some) => Failure::Gone,
            () = sleep(order.budget.as_duration()) => Failure::Late,
            () = self.abort.notified() => Failure::Aborted,
        };
        let decision = decision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match decision {
            None => Err(failure),
            // The thread leaves nothing behind when it finds that it was called off.
            Some(d) => {
                let called_off = d.call_off();
                match timeout(CLEAN_UP, attempt).await {
                    Ok(made) if !called_off => made,
                    Ok(_) | Err(_) => Err(failure),
                }
            }
        }
    }

    async fn write_state(
        self: Arc<Self>,
        order: SuspendOrder,
        decision: Arc<Mutex<Option<Decision>>>,
    ) -> Result<Committed, Failure> {
        sleep(self.whims.suspend_takes.as_duration()).await;
        let text = self.driver.setup.store.display().to_string();
        if self.whims.suspend_fails {
            return Err(Failure::Full(format!(
                "no space left in the store at {text}"
            )));
        }
        let writer = StateWriter::begin(&self.driver.store, &order.state)?;
        decision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(writer.decision());
        let this = Arc::clone(&self);
        let made = offload("null-suspend", move || this.fill(writer, &order)).await;
        made.map_err(|e| Failure::Failed(e.to_string()))?
            .map_err(Failure::from)
    }

    fn fill(&self, mut writer: StateWriter, order: &SuspendOrder) -> Result<Committed, StateError> {
        let memory = Memory {
            boot: self.boot.clone(),
            ran: self.ran(),
        };
        let failed = |path: PathBuf| {
            move |source: io::Error| StateError::Io {
                operation: "write",
                path,
                source,
            }
        };
        let bytes = serde_json::to_vec(&memory).map_err(io::Error::other);
        let mut file = writer.create(MEMORY)?;
        bytes
            .and_then(|b| file.write_all(&b))
            .map_err(failed(writer.path(MEMORY)))?;
        writer.add(MEMORY)?;
        let manifest = manifest(
            &self.parts,
            &self.parts.disks,
            platform(),
            Vec::new(),
            order,
        );
        commit(writer, manifest, &self.parts.disks, &self.driver.store)
    }
}

impl NullGuest {
    pub(super) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(super) fn console_path(&self) -> &Path {
        &self.0.console
    }

    /// What a suspend of it writes.
    pub(super) const fn resident_bytes() -> u64 {
        4096
    }

    pub(super) fn pause(&self) -> Result<(), ControlError> {
        self.0.gone()?;
        self.0.let_run(false);
        Ok(())
    }

    pub(super) fn cont(&self) -> Result<(), ControlError> {
        self.0.gone()?;
        self.0.let_run(true);
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<(), ControlError> {
        self.0.gone()
    }

    pub(super) fn shutdown(&self) -> Result<(), ControlError> {
        self.0.gone()?;
        self.0.let_run(true);
        if self.0.whims.ignores_acpi {
            if let Err(e) = self.0.say("stays") {
                tracing::warn!(error = %e, "a null guest can't write its console");
            }
        } else {
            self.0.end(ExitHow::PoweredOff);
        }
        Ok(())
    }

    pub(super) fn tell(&self, words: &Words) {
        if self.0.whims.deaf || !self.0.alive() {
            return;
        }
        if let Err(e) = self.0.say(&format!("told `{words}`")) {
            tracing::warn!(error = %e, "a null guest's console can't be written");
        }
        if self.0.whims.says_ready && matches!(words, Words::SuspendSoon { .. }) {
            self.0.report(GuestEvent::Said(Said::Ready));
        }
    }

    pub(super) fn kill(&self) {
        self.0.end(ExitHow::EndedByUs);
    }

    pub(super) fn abort_suspend(&self) {
        self.0.abort.notify_waiters();
    }

    pub(super) async fn suspend(&self, order: SuspendOrder) -> Result<Suspended, SuspendError> {
        let (made, _) = self.save(order).await?;
        self.0.end(ExitHow::EndedByUs);
        Ok(made)
    }

    /// As a suspend, but the guest goes on. It writes to nothing, so that its state and it can have
    /// their files in common.
    pub(super) async fn checkpoint(&self, order: SuspendOrder) -> Result<Suspended, SuspendError> {
        let when_late = WhenLate::Continue;
        let (made, ran) = self.save(SuspendOrder { when_late, ..order }).await?;
        if ran && self.0.alive() {
            self.0.let_run(true);
        }
        Ok(made)
    }

    /// Writes its state. It stands still afterwards; said is whether it ran before. If it fails,
    /// the guest is as it was, or killed where the order wants that.
    async fn save(&self, order: SuspendOrder) -> Result<(Suspended, bool), SuspendError> {
        let guest = &self.0;
        let watch = Stopwatch::start();
        let Ok(_busy) = guest.suspending.try_lock() else {
            let text = "another suspend or checkpoint of this guest is still under way";
            let reason = Reason::new(ReasonCode::SuspendFailed, text);
            return Err(SuspendError {
                reason,
                guest_alive: guest.alive(),
            });
        };
        let ran_before = guest.runs();
        guest.let_run(false);
        match guest.within_budget(&order).await {
            Ok(made) => {
                let took = watch.read();
                let state = StateRef {
                    id: order.state,
                    manifest: made.manifest,
                    site: guest.driver.setup.site.clone(),
                    bytes: made.bytes,
                    run: order.run,
                    at: order.at,
                };
                let made = Suspended {
                    state,
                    written: made.written,
                    took,
                    paused: took,
                };
                Ok((made, ran_before))
            }
            Err(failure) => {
                let late = matches!(failure, Failure::Late | Failure::Aborted);
                if late && order.when_late == WhenLate::Kill {
                    guest.end(ExitHow::EndedByUs);
                } else if ran_before && guest.alive() {
                    guest.let_run(true);
                }
                let reason = failure.reason(order.budget);
                Err(SuspendError {
                    reason,
                    guest_alive: guest.alive(),
                })
            }
        }
    }
}
