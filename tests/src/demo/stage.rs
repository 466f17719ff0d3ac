//! Where the demo is played: on this machine, or on a real Xen host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::workspace::WorkspaceSpec;

use super::plain_write;
use super::watch::Watch;
use crate::harness::xen::XenSite;
use crate::harness::{Binaries, Guests, Installation, Setup};
use crate::requests;

/// Where the guests of the demo run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Here, under QEMU.
    Here,
    /// On a Xen host, which itself runs here under QEMU: `scripts/lab/xen`.
    Xen,
}

/// A stage that is set.
#[derive(Debug)]
pub struct Stage {
    /// The installation.
    pub setup: Setup,
    /// Its programs.
    pub binaries: Binaries,
    /// What there is, for a reader.
    pub told: &'static str,
    /// From the batch system's first signal to its SIGKILL.
    pub notice: Duration,
    /// How far the guest counts that needs more than one slot.
    pub long: u64,
    /// How far the one counts that is preempted.
    pub short: u64,
    /// How long the site's own job has the node: so long that it is seen empty before a next pilot.
    pub site_job: &'static str,
    /// No part of an act takes longer.
    pub patience: Duration,
    guest: PathBuf,
    site: Option<XenSite>,
}

impl Stage {
    /// Sets it.
    ///
    /// # Errors
    /// A Xen host does not boot.
    pub fn set(place: Where, binaries: &Binaries, guest: &Path, watch: &Watch) -> Result<Self> {
        match place {
            Where::Here => Ok(Self {
                setup: Setup {
                    walltime: "45s",
                    notice: "12s",
                    ..Setup::new(Guests::Qemu)
                },
                binaries: binaries.clone(),
                told: "a broker, and a batch system with one node; pilots get 45 s, and 12 s from \
                       SIGTERM to SIGKILL",
                notice: Duration::from_secs(12),
                long: 50,
                short: 22,
                site_job: "5s",
                patience: Duration::from_secs(180),
                guest: guest.to_owned(),
                site: None,
            }),
            Where::Xen => {
                watch.say("site", "boots a Xen host, under software emulation");
                let site = XenSite::start(binaries, Some(guest), 1)?;
                let setup = Setup {
                    walltime: "200s",
                    notice: "150s",
                    lease_ttl: "30s",
                    margin: "20s",
                    ..site.setup(Guests::Xen, 0)
                };
                Ok(Self {
                    setup,
                    binaries: site.binaries.clone(),
                    told: "a broker, and a batch system whose one node is the host's dom0; pilots \
                           get 200 s, and 150 s from SIGTERM to SIGKILL",
                    notice: Duration::from_secs(150),
                    long: 150,
                    short: 22,
                    site_job: "60s",
                    patience: Duration::from_secs(600),
                    guest: site.guest.clone().context("the host has no guest")?,
                    site: Some(site),
                })
            }
        }
    }

    /// A request for a guest that counts so far.
    pub fn guest(&self, name: &str, count_to: u64) -> WorkspaceSpec {
        match self.site {
            None => requests::counter(&self.guest, name, 448, 256, count_to),
            Some(_) => requests::counter_on_xen(&self.guest, name, 96, count_to),
        }
    }

    /// True for a Xen host under software emulation. A suspend takes so much longer there than is
    /// foreseen before the first one that a preemption has to come first, which leaves time for it; and
    /// whoever looks at the host takes its one processor away from it.
    pub fn is_slow(&self) -> bool {
        self.site.is_some()
    }

    /// True when no pilot and no guest runs.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn is_empty(&self, it: &Installation) -> Result<bool> {
        match &self.site {
            None => Ok(it.pilots().is_empty() && it.hypervisors().is_empty()),
            Some(site) => Ok(site.leftovers()?.is_empty()),
        }
    }

    /// What is on a Xen host that was not there before the slots.
    ///
    /// # Errors
    /// The host does not answer.
    pub async fn leftovers(&self) -> Result<Vec<String>> {
        match &self.site {
            None => Ok(Vec::new()),
            Some(site) => match site.is_clean().await {
                Ok(()) => Ok(Vec::new()),
                Err(_) => site.leftovers(),
            },
        }
    }

    /// Rate of plain writes of so many bytes to the store, by a node; MB/s. `store` is where it is on
    /// this machine.
    ///
    /// # Errors
    /// They fail.
    pub fn plain_write(&self, store: &Path, bytes: u64) -> Result<f64> {
        let Some(site) = &self.site else {
            return plain_write::rate(store, bytes);
        };
        let store = self.setup.node.as_ref().and_then(|n| n.store.as_ref());
        let store = store.context("the host has no store of its own")?;
        let file = store.join("plain-write").display().to_string();
        let mib = bytes.div_ceil(1 << 20).to_string();
        let script = "s=$(date +%s%N); dd if=/dev/zero of=\"$1\" bs=1M count=\"$2\" conv=fsync \
                      2>/dev/null && rm \"$1\" && echo $(($(date +%s%N) - s))";
        let words = ["sh", "-c", script, "write", &file, &mib];
        let took = site.hosts[0].command(&words)?;
        let took: f64 = took.trim().parse().context("cannot read the time")?;
        Ok(bytes as f64 * 1e3 / took.max(1.0))
    }
}
