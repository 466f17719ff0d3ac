//! The helper that lives with a guest: how it is started, and the one task that hears it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pilot_core::guest_words::Said;
use protocol::codes::{Reason, ReasonCode};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use xen_helper::{How, Order, Reclaimed, Told, Why};

use super::Driver;
use super::guest::XenGuest;
use super::helper::Helper;
use crate::hypervisor::errors::{ControlError, StartError};
use crate::hypervisor::stage::{MEMORY, Parts};
use crate::hypervisor::types::{ExitHow, GuestEvent};

pub(in crate::hypervisor) type Started = (XenGuest, mpsc::UnboundedReceiver<GuestEvent>);

/// `xl create` has its own limit in the helper; this is for one that says nothing at all.
const START: Duration = Duration::from_secs(300);
/// The same for a state that comes slower than this many bytes a second.
const SLOWEST: u64 = 10 << 20;
/// `xl` is slow on a busy host; where it hangs, the helper has its own limits.
const COMMAND: Duration = Duration::from_secs(90);
/// After that a domain whose helper does not destroy it is destroyed by another.
const KILL: Duration = Duration::from_secs(30);
/// Between two attempts to end a domain that can't be ended.
const AGAIN: Duration = Duration::from_secs(5);
/// How much of a state is read at a time.
const BLOCK: usize = 1 << 20;

/// What the handles of a guest share with the task that hears its helper.
#[derive(Debug)]
pub(super) struct Process {
    pub uuid: String,
    marker: String,
    helper: Helper,
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    number: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Option<String>>>>,
    pub ended_by_us: AtomicBool,
    /// None while the guest lives.
    pub exit: watch::Sender<Option<ExitHow>>,
}

struct Parted {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

pub(super) async fn start(driver: Arc<Driver>, parts: Parts) -> Result<Started, StartError> {
    let console = parts.request.dir.join("console.log");
    let parted = spawn(&driver.helper, &console)?;
    let (order, state_bytes) = order(&driver, &parts)?;
    let limit = START + Duration::from_secs(state_bytes / SLOWEST);
    let failure = match timeout(limit, begin(parted, &order, &parts, &console)).await {
        Ok(Ok((parted, uuid))) => return Ok(guest(driver, parts, parted, uuid, console)),
        Ok(Err(e)) => e,
        // Its input has ended with that: it destroys what it has made.
        Err(_) => StartError::BootFailed(format!(
            "Xen did not start the guest within {} s",
            limit.as_secs()
        )),
    };
    let marker = parts.request.marker.as_str();
    until_gone(|| driver.helper.reclaim(marker)).await;
    Err(failure)
}

/// Returns when no domain is there any more. A guest that may still run has not ended, whatever else
/// is known of it: its workspace must not go on elsewhere.
pub(super) async fn until_gone<F, E>(mut reclaim: impl FnMut() -> F)
where
    F: Future<Output = Result<Reclaimed, E>>,
    E: std::fmt::Display,
{
    loop {
        let trouble = match reclaim().await {
            Ok(done) if done.left.is_empty() => return,
            Ok(done) => {
                let left: Vec<String> = (done.left.into_iter())
                    .map(|(what, why)| format!("{what}: {why}"))
                    .collect();
                left.join("; ")
            }
            Err(e) => e.to_string(),
        };
        tracing::error!(
            error = trouble,
            "a guest can't be ended yet; it counts as running until it can"
        );
        sleep(AGAIN).await;
    }
}

fn boot_failed(what: &str, e: &std::io::Error) -> StartError {
    StartError::BootFailed(format!("can't {what}: {e}"))
}

fn spawn(helper: &Helper, console: &Path) -> Result<Parted, StartError> {
    let to_console = File::options()
        .append(true)
        .create(true)
        .open(console)
        .map_err(|e| boot_failed("make the guest's console", &e))?;
    let mut command: tokio::process::Command = helper.command(&["guest"]).into();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(to_console)
        .spawn()
        .map_err(|e| boot_failed("call the helper for Xen", &e))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(input), Some(output)) = (input, output) else {
        return Err(StartError::BootFailed(
            "the helper for Xen has no pipes".to_owned(),
        ));
    };
    let lines = BufReader::new(output).lines();
    Ok(Parted {
        child,
        input,
        lines,
    })
}

/// The order, and how much of a state follows it.
fn order(driver: &Driver, parts: &Parts) -> Result<(Vec<u8>, u64), StartError> {
    let request = &parts.request;
    let spec = &request.spec;
    let info = driver.info.get().cloned().unwrap_or_default();
    let memory = parts
        .state
        .as_ref()
        .map(|s| std::fs::metadata(s.path(MEMORY)));
    let memory = memory
        .transpose()
        .map_err(|e| StartError::StateCorrupt(format!("the state's memory can't be read: {e}")))?;
    let order = Order {
        workspace: request.guest.to_string(),
        marker: request.marker.as_str().to_owned(),
        kind: driver.kind(&info),
        cores: spec.resources.cores,
        memory_mib: spec.resources.memory_mib,
        kernel: parts.kernel.clone(),
        initrd: parts.initrd.clone(),
        cmdline: spec.image.cmdline.clone().unwrap_or_default(),
        disks: parts.disks.iter().map(|d| d.top.clone()).collect(),
        mac: driver.mac(request),
        hostname: (spec.context.hostname.as_deref())
            .unwrap_or(request.guest.workspace.as_str())
            .to_owned(),
        user_data: BASE64_STANDARD.encode(spec.context.user_data.as_deref().unwrap_or("")),
        state_bytes: memory.map(|m| m.len()),
    };
    let mut line = serde_json::to_vec(&order)
        .map_err(|e| StartError::BootFailed(format!("the order can't be written: {e}")))?;
    line.push(b'\n');
    Ok((line, order.state_bytes.unwrap_or(0)))
}

/// Gives the order and the state, and waits until the guest runs.
async fn begin(
    mut parted: Parted,
    order: &[u8],
    parts: &Parts,
    console: &Path,
) -> Result<(Parted, String), StartError> {
    let said = async {
        let input = &mut parted.input;
        input.write_all(order).await?;
        if let Some(state) = &parts.state {
            let file = tokio::fs::File::open(state.path(MEMORY)).await?;
            let mut file = tokio::io::BufReader::with_capacity(BLOCK, file);
            tokio::io::copy_buf(&mut file, input).await?;
        }
        input.flush().await
    };
    // A helper that has given up says why.
    let written = said.await;
    let line = parted.lines.next_line().await.ok().flatten();
    match line.and_then(|line| serde_json::from_str(&line).ok()) {
        Some(Told::Running { uuid, .. }) => Ok((parted, uuid)),
        Some(Told::Failed { why, text }) => Err(match why {
            Why::Refused | Why::Memory | Why::Toolstack => StartError::BootFailed(text),
            Why::State => StartError::StateCorrupt(text),
        }),
        Some(Told::Answer { .. } | Told::Said { .. } | Told::Exited { .. }) | None => {
            let log = crate::hypervisor::qemu::log_tail(console);
            let pipe = written.err().map(|e| format!(" ({e})")).unwrap_or_default();
            Err(StartError::BootFailed(format!(
                "the helper for Xen did not start the guest{pipe}: {log}"
            )))
        }
    }
}

fn guest(
    driver: Arc<Driver>,
    parts: Parts,
    parted: Parted,
    uuid: String,
    console: PathBuf,
) -> Started {
    let Parted {
        child,
        input,
        lines,
    } = parted;
    let process = Arc::new(Process {
        uuid,
        marker: parts.request.marker.as_str().to_owned(),
        helper: driver.helper.clone(),
        input: tokio::sync::Mutex::new(Some(input)),
        number: AtomicU64::new(0),
        waiting: Mutex::default(),
        ended_by_us: AtomicBool::new(false),
        exit: watch::Sender::new(None),
    });
    let (out, receiver) = mpsc::unbounded_channel();
    tokio::spawn(hear(Arc::clone(&process), child, lines, out));
    (XenGuest::new(driver, parts, process, console), receiver)
}

/// Hears the helper until it is gone, and says how the guest ended.
async fn hear(
    process: Arc<Process>,
    mut child: Child,
    mut lines: Lines<BufReader<ChildStdout>>,
    out: mpsc::UnboundedSender<GuestEvent>,
) {
    let mut how = None;
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Told::Answer { number, error }) => {
                if let Some(asker) = process.lock().remove(&number) {
                    drop(asker.send(error));
                }
            }
            Ok(Told::Said { text }) => {
                if let Some(said) = Said::parse(&text) {
                    drop(out.send(GuestEvent::Said(said)));
                }
            }
            Ok(Told::Exited { how: h }) => {
                how = Some(h);
                break;
            }
            Ok(Told::Running { .. } | Told::Failed { .. }) | Err(_) => {
                tracing::warn!(line, "the helper for Xen says what is not understood");
            }
        }
    }
    if matches!(how, None | Some(How::Left)) {
        // Nobody reaps it.
        until_gone(|| process.helper.reclaim(&process.marker)).await;
    }
    let how = process.judge(how);
    process.lock().clear();
    // Nobody may be listening any more.
    drop(out.send(GuestEvent::Exited(how.clone())));
    process.exit.send_replace(Some(how));
    process.input.lock().await.take();
    drop(child.wait().await);
}

impl Process {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Option<String>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: its helper died.
    fn judge(&self, how: Option<How>) -> ExitHow {
        let crashed = |text: &str| {
            if self.ended_by_us.load(Ordering::Acquire) {
                return ExitHow::EndedByUs;
            }
            ExitHow::Crashed(Reason::new(ReasonCode::GuestCrashed, text))
        };
        match how {
            Some(How::PoweredOff) => ExitHow::PoweredOff,
            Some(How::Destroyed) => ExitHow::EndedByUs,
            Some(How::Reset) => {
                crashed("the guest wanted to boot anew, which a guest can't do here")
            }
            Some(How::Crashed) => crashed("the guest's kernel crashed"),
            Some(How::Lost) => crashed("the guest's domain was destroyed by somebody else"),
            Some(How::Left) => crashed("the guest's domain could not be destroyed at once"),
            None => crashed("the helper of the guest's domain was killed"),
        }
    }

    /// Tells the guest's helper something and waits for its answer.
    pub(super) async fn request(&self, words: &str) -> Result<(), ControlError> {
        if self.exit.borrow().is_some() {
            return Err(ControlError::Gone);
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = oneshot::channel();
        self.lock().insert(number, send);
        let asked = async {
            self.write(&format!("{number} {words}\n")).await?;
            answer.await.map_err(|_| ControlError::Gone)
        };
        match timeout(COMMAND, asked).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(text))) => Err(ControlError::Refused {
                command: words.to_owned(),
                text,
            }),
            Ok(Err(e)) => Err(e),
            Err(_) => {
                self.lock().remove(&number);
                Err(ControlError::NoAnswer {
                    command: words.to_owned(),
                    seconds: COMMAND.as_secs(),
                })
            }
        }
    }

    async fn write(&self, line: &str) -> Result<(), ControlError> {
        let mut input = self.input.lock().await;
        let pipe = input.as_mut().ok_or(ControlError::Gone)?;
        pipe.write_all(line.as_bytes())
            .await
            .map_err(|_| ControlError::Gone)
    }

    /// Ends the guest, whatever state it is in; returns when it is gone.
    pub(super) async fn kill(&self) {
        self.ended_by_us.store(true, Ordering::Release);
        let mut exit = self.exit.subscribe();
        // The end of its input ends it.
        if let Ok(mut input) = timeout(Duration::from_secs(1), self.input.lock()).await {
            input.take();
        }
        while timeout(KILL, exit.wait_for(Option::is_some)).await.is_err() {
            tracing::error!(domain.uuid = self.uuid, "a killed guest is not gone yet");
            if let Ok(mut input) = self.input.try_lock() {
                input.take();
            }
            drop(self.helper.reclaim(&self.marker).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guest_has_not_ended_before_a_reclaim_has_left_nothing() {
        let left = |left: &[&str]| Reclaimed {
            left: (left.iter())
                .map(|what| ((*what).to_owned(), "xenstored is dead".to_owned()))
                .collect(),
            ..Reclaimed::default()
        };
        let mut answers = vec![
            Err("no answer within 180 s"),
            Ok(left(&["domain wp-1"])),
            Ok(left(&[])),
            Ok(left(&["never asked"])),
        ]
        .into_iter();
        until_gone(|| std::future::ready(answers.next().unwrap())).await;
        assert_eq!(answers.len(), 1);
    }
}
