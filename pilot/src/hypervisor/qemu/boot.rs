//! Starting a guest: from its image or from its state.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::args::{GuestFiles, arguments, has_lease_port};
use super::guest::QemuGuest;
use super::qmp::{Event, Qmp, Version};
use super::{COMMAND, DEVICES, Driver, GREETING, boot_failed, log_tail};
use crate::hypervisor::errors::{ControlError, StartError};
use crate::hypervisor::offload::begin;
use crate::hypervisor::stage::{PIN_UP_TO, Parts};
use crate::hypervisor::types::GuestEvent;

pub(in crate::hypervisor) type Started = (QemuGuest, mpsc::UnboundedReceiver<GuestEvent>);

/// For the devices of a state, less than a megabyte.
const LOAD: Duration = Duration::from_secs(20);

/// A QEMU that has said hello and has no guest running yet.
pub(super) struct Process {
    pub child: Child,
    pub qmp: Qmp,
    pub version: Version,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub log: PathBuf,
    pub console: PathBuf,
    /// Our end of the guest's lease port.
    pub lease: Option<UnixStream>,
}

pub(super) async fn start(driver: Arc<Driver>, mut parts: Parts) -> Result<Started, StartError> {
    // QEMU starts meanwhile: it looks at the memory only when it gets the devices.
    let filled = fill_memory(&mut parts);
    let mut process = spawn(&driver, &parts).await?;
    let ready = match filled.await {
        Ok(()) => ready(&mut process, &parts).await,
        Err(e) => Err(e),
    };
    if let Err(e) = ready {
        return Err(give_up(process, e).await);
    }
    pin_bases(&driver, &parts);
    Ok(QemuGuest::new(driver, parts, process))
}

/// Fills the guest's memory from its state, if there is one, and verifies every byte; begins at once.
/// Dropped, it ends with the block that it is at.
fn fill_memory(parts: &mut Parts) -> impl Future<Output = Result<(), StartError>> + use<> {
    let filling = parts.image.take().zip(parts.memory.clone());
    let filling = filling.map(|(image, memory)| {
        begin("fill-memory", move |wanted| {
            image.load(memory.file(), wanted)
        })
    });
    async move {
        let Some(filling) = filling else {
            return Ok(());
        };
        let loaded = filling.await;
        let loaded = loaded.map_err(|e| boot_failed("load the guest's memory", &e))?;
        Ok(loaded?)
    }
}

async fn spawn(driver: &Driver, parts: &Parts) -> Result<Process, StartError> {
    let dir = &parts.request.dir;
    let files = guest_files(parts)?;
    let log = dir.join("hypervisor.log");
    let err = File::create(&log).map_err(|e| boot_failed("make the hypervisor's log", &e))?;
    let memory = parts.memory.as_ref();
    let memory = memory.ok_or_else(|| StartError::BootFailed("it has no memory".to_owned()))?;
    let out = memory
        .as_output()
        .map_err(|e| boot_failed("share the guest's memory", &e))?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| boot_failed("make a socket", &e))?;
    let (lease, port) = match has_lease_port(&parts.devices) {
        true => lease_sockets().map(|(ours, theirs)| (Some(ours), Some(theirs))),
        false => Ok((None, None)),
    }
    .map_err(|e| boot_failed("make a socket", &e))?;

    let child = {
        // Dropped before the wait: it holds the other end of the socket.
        let mut command: Command = driver
            .setup
            .trampoline
            .command(&parts.request.marker, &driver.binary)
            .into();
        command
            .args(arguments(
                &driver.machine,
                parts,
                &files,
                port.as_ref().map(AsRawFd::as_raw_fd),
            ))
            .current_dir(dir)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true);
        let what = format!("start `{}`", driver.binary.display());
        command.spawn().map_err(|e| boot_failed(&what, &e))?
    };
    let mut child = child;
    drop(port);
    match Qmp::connect(ours, GREETING).await {
        Ok((qmp, version, events)) => {
            let console = files.console;
            Ok(Process {
                child,
                qmp,
                version,
                events,
                log,
                console,
                lease,
            })
        }
        Err(e) => {
            let text = death(&mut child, &e).await;
            Err(StartError::BootFailed(format!(
                "qemu did not start: {text}: {}",
                log_tail(&log)
            )))
        }
    }
}

/// A pair of sockets whose second goes to the next process that is started; until it is dropped,
/// that is, and processes are started by this thread alone.
fn lease_sockets() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok((ours, theirs))
}

/// Writes the guest's files.
fn guest_files(parts: &Parts) -> Result<GuestFiles, StartError> {
    let dir = &parts.request.dir;
    let files = GuestFiles {
        console: dir.join("console.log"),
        user_data: dir.join("user-data"),
        meta_data: dir.join("meta-data"),
    };
    let context = &parts.request.spec.context;
    let id = &parts.request.guest.workspace;
    let hostname = context.hostname.as_deref().unwrap_or(id.as_str());
    let meta = format!("instance-id: {id}\nlocal-hostname: {hostname}\n");
    fs::write(&files.meta_data, meta)
        .and_then(|()| fs::write(&files.user_data, context.user_data.as_deref().unwrap_or("")))
        .and_then(|()| File::create(&files.console).map(drop))
        .map_err(|e| boot_failed("write the guest's files", &e))?;
    Ok(files)
}

/// Loads the devices of the state, if there is one, and lets the guest go.
async fn ready(process: &mut Process, parts: &Parts) -> Result<(), StartError> {
    let failed = |e: ControlError| StartError::BootFailed(format!("qemu did not start: {e}"));
    // The memory is shared with us and no part of a stream.
    let capabilities = json!({ "capabilities": [
        { "capability": "events", "state": true },
        { "capability": "x-ignore-shared", "state": true },
    ] });
    process
        .qmp
        .execute("migrate-set-capabilities", capabilities, COMMAND)
        .await
        .map_err(failed)?;
    load(process, parts).await?;
    process
        .qmp
        .execute("cont", json!({}), COMMAND)
        .await
        .map_err(failed)?;
    let status = process
        .qmp
        .execute("query-status", json!({}), COMMAND)
        .await
        .map_err(failed)?;
    if status["running"].as_bool() == Some(true) {
        return Ok(());
    }
    let status = status["status"].as_str().unwrap_or("unknown").to_owned();
    Err(StartError::BootFailed(format!(
        "the guest does not run: its status is `{status}`"
    )))
}

async fn load(process: &mut Process, parts: &Parts) -> Result<(), StartError> {
    let Some(state) = &parts.state else {
        return Ok(());
    };
    let path = state.path(DEVICES);
    let corrupt = |text: String| StartError::StateCorrupt(text);
    let uri = if process.version.number >= (8, 2) {
        format!("file:{}", path.display())
    } else {
        let file = File::open(&path)
            .map_err(|e| corrupt(format!("the state's devices can't be opened: {e}")))?;
        process
            .qmp
            .give_file("state", file.into(), COMMAND)
            .await
            .map_err(|e| corrupt(e.to_string()))?;
        "fd:state".to_owned()
    };
    let loading = async {
        process
            .qmp
            .execute("migrate-incoming", json!({ "uri": uri }), LOAD)
            .await?;
        while let Some(event) = process.events.recv().await {
            match (event.name.as_str(), event.data["status"].as_str()) {
                ("MIGRATION", Some("completed")) => return Ok(()),
                ("MIGRATION", Some("failed")) => break,
                _ => {}
            }
        }
        Err(ControlError::Gone)
    };
    match timeout(LOAD, loading).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => {
            let cause = death(&mut process.child, &e).await;
            let log = log_tail(&process.log);
            let text = format!("qemu does not take the state: {cause}: {log}");
            Err(if is_misfit(&log) {
                StartError::StateIncompatible(text)
            } else {
                corrupt(text)
            })
        }
        Err(_) => Err(corrupt(format!(
            "qemu did not load the state within {} s",
            LOAD.as_secs()
        ))),
    }
}

/// What QEMU says of a state that is whole but made by something else.
fn is_misfit(log: &str) -> bool {
    [
        "Machine type received",
        "Size mismatch",
        "Unknown savevm section",
        "Missing section footer",
        "Unknown ramblock",
        "does not support",
    ]
    .iter()
    .any(|words| log.contains(words))
}

/// Makes sure that nothing is left running.
async fn give_up(mut process: Process, error: StartError) -> StartError {
    if let Err(e) = process.child.kill().await {
        tracing::warn!(error = %e, "a qemu that failed to start could not be killed");
    }
    match error {
        StartError::BootFailed(text) => {
            StartError::BootFailed(format!("{text}: {}", log_tail(&process.log)))
        }
        e @ (StartError::StateIncompatible(_) | StartError::StateCorrupt(_)) => e,
    }
}

/// Ends the process, if it has not ended, and says how it had.
async fn death(child: &mut Child, error: &ControlError) -> String {
    // It closes its connection a moment before it is gone.
    match timeout(Duration::from_secs(2), child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(e)) => e.to_string(),
        Err(_) => {
            drop(child.kill().await);
            error.to_string()
        }
    }
}

/// Reads local bases that nobody vouches for, so that a later state can name them by their
/// digest. Best effort: the state falls back to length and time of change.
fn pin_bases(driver: &Driver, parts: &Parts) {
    for base in parts.disks.iter().filter_map(|d| d.base.as_ref()) {
        if base.pin.digest.is_some() || base.pin.bytes > PIN_UP_TO {
            continue;
        }
        let (store, path) = (driver.store.clone(), base.path.clone());
        let pinning = std::thread::Builder::new()
            .name("pin-base".to_owned())
            .spawn(move || {
                if let Err(e) = store.pin(&path) {
                    tracing::warn!(error = %e, "a disk's base could not be read for its digest");
                }
            });
        drop(pinning);
    }
}
