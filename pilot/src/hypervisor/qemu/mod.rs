//! The QEMU driver: one process per guest, spoken to by QMP.
//!
//! What was measured and must hold (each has a test):
//! * The default migration bandwidth is far below any disk's: it is lifted for each suspend.
//! * `exec:` migration reports success when its consumer fails: never used. The stream, which has
//!   the devices alone, goes through a pipe whose other end is our own.
//! * Page by page, QEMU writes a memory slower than a disk takes it: the pilot shares the guest's
//!   memory and saves it itself.
//! * QEMU accepts altered states, smaller disks, poorer processors: everything is compared with
//!   the manifest before it sees a state (`stage.rs`).
//! * A process that was killed and a guest that was switched off by SIGTERM exit alike:
//!   `-no-shutdown` keeps the process until we have seen the guest's own power-off.

mod args;
mod boot;
mod checkpoint;
mod flush;
mod guest;
mod qmp;
mod suspend;
mod tracker;
mod watch;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use image_store::{Platform, Store};
use protocol::slot_file::HypervisorSection;

use super::errors::{SetupError, StageError};
use super::fetch::Fetcher;
use super::memory::GuestMemory;
use super::stage::{self, DiskKind, Outfit, Parts};
use super::types::{Setup, StageRequest};
pub(super) use args::mac_of;
use args::{Machine, devices, lease_port};
pub use guest::QemuGuest;

/// The machine type that guests are pinned to when the slot file names none.
const DEFAULT_MACHINE: &str = "pc-q35-7.2";
/// The CPU model when the slot file names none: any x86-64 processor has it.
const DEFAULT_CPU: &str = "qemu64";
/// Name of the file of a state that has QEMU's stream of its devices.
const DEVICES: &str = "devices";
/// For commands that QEMU answers at once unless it hangs.
const COMMAND: Duration = Duration::from_secs(10);
/// From the start of the process to its greeting.
const GREETING: Duration = Duration::from_secs(30);

/// The driver; clones share it.
#[derive(Clone, Debug)]
pub struct QemuDriver(Arc<Driver>);

#[derive(Debug)]
struct Driver {
    setup: Setup,
    store: Store,
    fetcher: Fetcher,
    binary: OsString,
    machine: Machine,
}

impl QemuDriver {
    pub(super) fn new(
        section: &HypervisorSection,
        setup: Setup,
        store: Store,
    ) -> Result<Self, SetupError> {
        let accelerator = section.accelerator.ok_or(SetupError::NoAccelerator)?;
        if setup.store.to_str().is_none() {
            return Err(SetupError::OddPath(setup.store));
        }
        let machine = Machine {
            accelerator: accelerator.as_str().to_owned(),
            machine: section
                .machine
                .clone()
                .unwrap_or_else(|| DEFAULT_MACHINE.to_owned()),
            cpu: section
                .cpu
                .clone()
                .unwrap_or_else(|| DEFAULT_CPU.to_owned()),
        };
        let binary = section.binary.clone().map_or_else(
            || OsString::from("qemu-system-x86_64"),
            PathBuf::into_os_string,
        );
        let fetcher = Fetcher::default();
        Ok(Self(Arc::new(Driver {
            setup,
            store,
            fetcher,
            binary,
            machine,
        })))
    }

    pub(super) async fn stage(&self, request: StageRequest) -> Result<Parts, StageError> {
        if request.dir.to_str().is_none() {
            let path = request.dir.display();
            return Err(StageError::Node(format!("the path {path} is not UTF-8")));
        }
        let spec = &request.spec;
        let guest = &request.guest.workspace;
        let without_port = devices(spec.image.disks.len(), spec.network, guest);
        let mut devices = without_port.clone();
        devices.extend(lease_port());
        let this = &self.0;
        let memory = GuestMemory::new(spec.resources.memory_mib).map_err(|e| {
            StageError::Node(format!("there is no memory for a guest to be had: {e}"))
        })?;
        let outfit = Outfit {
            platform: this.machine.platform(""),
            devices,
            earlier_devices: vec![without_port],
            memory: Some(Arc::new(memory)),
            disks: DiskKind::Layers,
        };
        stage::stage(request, &this.store, &this.fetcher, outfit).await
    }

    pub(super) async fn start(&self, parts: Parts) -> Result<boot::Started, super::StartError> {
        boot::start(Arc::clone(&self.0), parts).await
    }
}

impl Machine {
    fn platform(&self, version: &str) -> Platform {
        Platform {
            hypervisor: "qemu".to_owned(),
            version: version.to_owned(),
            machine: self.machine.clone(),
            cpu: self.cpu.clone(),
            accelerator: self.accelerator.clone(),
        }
    }
}

/// The end of QEMU's own log of a guest, on one line.
pub(super) fn log_tail(path: &std::path::Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(1000)..]).into_owned();
    let text = text.trim().replace('\n', "; ");
    if text.is_empty() {
        "it said nothing".to_owned()
    } else {
        text
    }
}

fn boot_failed(what: &str, e: &io::Error) -> super::StartError {
    super::StartError::BootFailed(format!("can't {what}: {e}"))
}
