//! The Xen driver: PV and PVH guests of the control domain that the pilot runs in. The pilot has no
//! rights there; all that is done with Xen, `pilot-xen-helper` does (`pilot/xen-helper`), and only
//! that is called by sudo.
//!
//! What was measured and must hold (each has a test or a guard in the helper):
//! * One helper lives with each guest. When the pilot is gone, its input ends, and it destroys the
//!   domain; when it is gone too, its entry in the registry says so to every reclaim.
//! * The stream of a save goes through a pipe to the pilot, which hashes and stores it: root writes
//!   to no path of the pilot's, and a save is called off by closing the pipe. Xen then lets the guest
//!   go on. Killing `xl save` would leave it suspended for good.
//! * A save ends with the guest paused, not destroyed: so it goes on when the state can't be made
//!   durable, and its disks are as its memory has them. A checkpoint is a save that ends otherwise.
//! * Xen takes any stream for good: it is compared with its digest before it is restored.

mod guest;
mod helper;
mod process;
mod stream;
mod suspend;

use std::sync::Arc;

use image_store::{Platform, Store};
use protocol::slot_file::HypervisorSection;
use tokio::sync::OnceCell;
use xen_helper::{Info, Kind};

use super::errors::{SetupError, StageError, StartError};
use super::fetch::Fetcher;
use super::stage::{self, DiskKind, Outfit, Parts};
use super::types::{Setup, StageRequest};
pub use guest::XenGuest;
pub use helper::{Helper, HelperError};

/// The driver; clones share it.
#[derive(Clone, Debug)]
pub struct XenDriver(Arc<Driver>);

#[derive(Debug)]
struct Driver {
    setup: Setup,
    store: Store,
    fetcher: Fetcher,
    helper: Helper,
    /// What the slot file names.
    kind: Option<Kind>,
    info: OnceCell<Info>,
}

impl XenDriver {
    pub(super) fn new(
        section: &HypervisorSection,
        setup: Setup,
        store: Store,
    ) -> Result<Self, SetupError> {
        if let Some((key, text)) = section.contradiction() {
            return Err(SetupError::Contradiction(format!(
                "`hypervisor.{key}` {text}"
            )));
        }
        Ok(Self(Arc::new(Driver {
            setup,
            store,
            fetcher: Fetcher::default(),
            helper: Helper::of(section),
            kind: match section.machine.as_deref() {
                Some("pv") => Some(Kind::Pv),
                Some(_) => Some(Kind::Pvh),
                None => None,
            },
            info: OnceCell::new(),
        })))
    }

    pub(super) async fn stage(&self, request: StageRequest) -> Result<Parts, StageError> {
        let driver = &self.0;
        let info = driver.info.get_or_try_init(|| driver.helper.info()).await;
        let info = info.map_err(|e| StageError::Node(e.to_string()))?;
        let kind = driver.kind(info);
        let mut devices: Vec<String> = (request.spec.image.disks.iter().zip('a'..))
            .map(|(_, letter)| format!("xvd{letter}"))
            .collect();
        if driver.mac(&request).is_some() {
            devices.push("vif0".to_owned());
        }
        let outfit = Outfit {
            platform: platform(kind, &info.version),
            devices,
            earlier_devices: Vec::new(),
            memory: None,
            disks: DiskKind::Raw,
        };
        stage::stage(request, &driver.store, &driver.fetcher, outfit).await
    }

    pub(super) async fn start(&self, parts: Parts) -> Result<process::Started, StartError> {
        process::start(Arc::clone(&self.0), parts).await
    }

    /// The helper may have let the guest go in the moment in which its start was given up.
    pub(super) async fn start_given_up(&self, marker: &str) {
        process::until_gone(|| self.0.helper.reclaim(marker)).await;
    }
}

impl Driver {
    /// PVH needs no trust in the guest's page tables and is what Xen recommends; PV runs anywhere.
    fn kind(&self, info: &Info) -> Kind {
        self.kind
            .unwrap_or(if info.pvh { Kind::Pvh } else { Kind::Pv })
    }

    /// The kind and version of Xen here, as the state of a guest has them.
    fn platform(&self) -> Platform {
        let info = self.info.get().cloned().unwrap_or_default();
        platform(self.kind(&info), &info.version)
    }

    fn mac(&self, request: &StageRequest) -> Option<String> {
        use protocol::workspace::Network;
        match request.spec.network {
            Network::None => None,
            Network::User => Some(super::qemu::mac_of(&request.guest.workspace)),
        }
    }
}

fn platform(kind: Kind, version: &str) -> Platform {
    Platform {
        hypervisor: "xen".to_owned(),
        version: version.to_owned(),
        machine: kind.as_str().to_owned(),
        cpu: String::new(),
        accelerator: String::new(),
    }
}
