//! From the slot file to the agent's first step: sweep, claim, guard, set up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image_store::Store;
use pilot_core::agent::{Agent, Event};
use pilot_core::settings::Settings;
use pilot_core::slot_clock::SlotClock;
use protocol::ids::PilotBoot;
use protocol::slot_file::{HypervisorKind, SlotFile};
use protocol::time::Span;
use tokio::sync::mpsc::UnboundedSender;

use super::RunError;
use crate::broker_client::{BrokerClient, chain};
use crate::clock;
use crate::effects::{Effects, Tools};
use crate::exec_guest::Trampoline;
use crate::host;
use crate::hypervisor::{Helper, Hypervisor, Setup};
use crate::journal::{Claim, Journal, What, default_node_state};
use crate::reclaim::{self, Effort, Swept};
use crate::warden::Warden;

/// How often the probe is asked when the slot file does not say.
const PROBE_EVERY: Span = Span::from_secs(30);
/// How long undoing one leftover of a predecessor may take, per process.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);
/// How long the warden may take to be ready.
const WARDEN_LIMIT: Duration = Duration::from_secs(5);
/// Something unfinished in the store that nobody has written to for so long is nobody's.
const STORE_SWEEP_AGE: Duration = Duration::from_hours(1);
/// Memory of QEMU itself beside its guest's, MiB: measured 93 with software emulation.
const QEMU_OVERHEAD_MIB: u64 = 96;

/// Where the slot's things are.
#[derive(Debug)]
pub(super) struct Paths {
    scratch: PathBuf,
    store: PathBuf,
    node_state: PathBuf,
}

impl Paths {
    pub(super) fn of(slot: &SlotFile) -> Self {
        let scratch = slot.paths.scratch.clone();
        let node_state = slot.paths.node_state.clone();
        Self {
            node_state: node_state.unwrap_or_else(|| default_node_state(&scratch).to_owned()),
            store: slot.paths.store.clone(),
            scratch,
        }
    }
}

/// All that the loop needs.
pub(super) struct Started {
    pub(super) agent: Agent,
    pub(super) effects: Effects,
    pub(super) warden: Warden,
}

pub(super) fn read_slot_file(path: &Path) -> Result<SlotFile, RunError> {
    let text = fs::read_to_string(path).map_err(|source| RunError::ReadSlotFile {
        path: path.to_owned(),
        source,
    })?;
    SlotFile::parse(&path.to_string_lossy(), &text).map_err(RunError::SlotFile)
}

pub(super) async fn start(
    slot: &SlotFile,
    paths: &Paths,
    events: UnboundedSender<Event>,
) -> Result<Started, RunError> {
    // The only failure is that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The store is the site's and stays. The other directories must be there: what is made before
    // the journal is there could not be undone. What can fail comes after it, as far as it can: then
    // the slot goes, with the file that the job's script wrote.
    fs::create_dir_all(&paths.store).map_err(|source| RunError::Directory {
        what: "the store",
        path: paths.store.clone(),
        source,
    })?;
    sweep(&paths.node_state, default_node_state(&paths.scratch));
    let claim = Claim {
        submit_key: &slot.submit_key,
        incarnation: &slot.incarnation,
        scratch: &paths.scratch,
        store: &paths.store,
        node_state: &paths.node_state,
    };
    let journal = Journal::create(&claim).map_err(|source| RunError::Journal { source })?;
    // From here on nothing may return without undoing the slot, and nothing is created before the
    // warden is there.
    let trampoline = Trampoline::of_this_program();
    let settings = settings(slot);
    let remaining = warden_time(&slot_clock(slot, &settings)).as_duration();
    let warden = match Warden::start(trampoline.pilot(), &journal, remaining, WARDEN_LIMIT) {
        Ok(warden) => warden,
        Err(source) => {
            undo(&journal);
            return Err(RunError::Warden { source });
        }
    };
    match equip(slot, &journal, trampoline, settings, events).await {
        Ok((agent, effects)) => Ok(Started {
            agent,
            effects,
            warden,
        }),
        Err(e) => {
            undo(&journal);
            warden.goodbye(WARDEN_LIMIT);
            Err(e)
        }
    }
}

fn undo(journal: &Journal) {
    let report = reclaim::finish(journal, SWEEP_LIMIT);
    for leftover in &report.leftovers {
        tracing::error!(leftover.what = %leftover, "could not be removed");
    }
}

/// Everything that the agent and its effects need, in a slot that is guarded.
async fn equip(
    slot: &SlotFile,
    journal: &Journal,
    trampoline: Trampoline,
    settings: Settings,
    events: UnboundedSender<Event>,
) -> Result<(Agent, Effects), RunError> {
    let client = BrokerClient::new(&slot.broker).map_err(|source| RunError::Access { source })?;
    let boot = PilotBoot::new(&uuid::Uuid::new_v4().simple().to_string()).map_err(|e| {
        RunError::Runtime {
            source: std::io::Error::other(e),
        }
    })?;
    let trampoline = in_own_group(journal, trampoline, host::cgroup::delegated().as_deref());
    let setup = Setup {
        site: slot.site.clone(),
        store: journal.holder().store.clone(),
        trampoline: trampoline.clone(),
    };
    let hypervisor = Hypervisor::new(&slot.hypervisor, setup)
        .map_err(|source| RunError::Hypervisor { source })?;
    let facts = host::inspect(slot, journal, &trampoline)
        .await
        .map_err(|source| RunError::Host { source })?;
    if slot.hypervisor.kind == HypervisorKind::Xen {
        take_domains(slot, journal)?;
    }
    make_guests_directory(journal)?;
    let agent = Agent::new(clock::now(), slot.facts(), facts, boot, settings);
    let effects = Effects::new(Tools {
        client,
        hypervisor,
        journal: journal.clone(),
        trampoline,
        probe: slot.probe.clone(),
        events,
    });
    sweep_store(journal.holder().store.clone());
    Ok((agent, effects))
}

/// Lets all that is started be in a control group of the slot's own, if groups may be made in `all`.
/// Where that fails, processes are known by their mark alone, as everywhere else.
fn in_own_group(journal: &Journal, trampoline: Trampoline, all: Option<&Path>) -> Trampoline {
    let Some(path) = all.map(|all| all.join(&journal.holder().slot)) else {
        return trampoline;
    };
    let made = journal
        .intend(What::Group { path: path.clone() })
        .map_err(|e| chain(&e))
        .and_then(|_| host::cgroup::make(&path).map_err(|e| e.to_string()));
    match made {
        // The entry stays open: the group goes with the slot.
        Ok(()) => trampoline.into_group(path),
        Err(e) => {
            tracing::warn!(error = e, "the slot has no control group of its own");
            trampoline
        }
    }
}

/// The slot's clock by the slot file alone.
fn slot_clock(slot: &SlotFile, settings: &Settings) -> SlotClock {
    let facts = slot.facts();
    SlotClock::new(
        clock::now(),
        slot.clock.end,
        facts.notice,
        facts.margin,
        settings.word_stale_after,
    )
}

/// Writes down that there may be domains, and destroys those that nobody has any more.
fn take_domains(slot: &SlotFile, journal: &Journal) -> Result<(), RunError> {
    let helper = Helper::of(&slot.hypervisor).path().to_owned();
    let what = What::Domains {
        helper: helper.clone(),
    };
    // The entry stays open: the domains go with the slot.
    let _ = journal
        .intend(what)
        .map_err(|source| RunError::Journal { source })?;
    match reclaim::sweep_domains(&helper) {
        None => {}
        Some(report) if report.removed.is_empty() && report.is_clean() => {}
        Some(report) => tracing::warn!(%report, "domains had nobody any more"),
    }
    Ok(())
}

/// The parent of the guests' own directories.
fn make_guests_directory(journal: &Journal) -> Result<(), RunError> {
    let path = journal.scratch().join("guests");
    // The entry stays open: the directory goes with the slot.
    let _ = journal
        .intend(What::Directory { path: path.clone() })
        .map_err(|source| RunError::Journal { source })?;
    fs::create_dir(&path).map_err(|source| RunError::Directory {
        what: "the guests' directory",
        path,
        source,
    })
}

/// How long the warden waits before it takes us for hung: until a quarter of the margin after
/// the time at which nothing of ours may be left.
pub(super) fn warden_time(clock: &SlotClock) -> Span {
    let quarter = Span::from_millis(clock.margin().as_millis() / 4);
    clock::until(clock.kill_at() + quarter).max(Span::from_secs(1))
}

fn settings(slot: &SlotFile) -> Settings {
    Settings {
        probe_every: slot
            .probe
            .as_ref()
            .map(|p| p.every.map_or(PROBE_EVERY, |e| e.0)),
        guest_overhead_mib: match slot.hypervisor.kind {
            HypervisorKind::Qemu => QEMU_OVERHEAD_MIB,
            // Xen's guests take nothing of dom0's memory.
            HypervisorKind::Xen | HypervisorKind::Null => 0,
        },
        // `xl save` writes a memory in one go.
        flushes: match slot.hypervisor.kind {
            HypervisorKind::Qemu | HypervisorKind::Null => true,
            HypervisorKind::Xen => false,
        },
        ..Settings::default()
    }
}

/// Removes what pilots that died, here or on other nodes, have left unfinished in the site's
/// store. Nobody waits for it: the store may be slow.
fn sweep_store(store: PathBuf) {
    let work = move || {
        let swept = match Store::open(&store) {
            Ok(store) => store.sweep_tmp(STORE_SWEEP_AGE, clock::of_files()),
            Err(e) => {
                tracing::warn!(
                    error = chain(&e),
                    "the store could not be opened to be swept"
                );
                return;
            }
        };
        match swept {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                tracing::warn!(?removed, "removed what was left unfinished in the store")
            }
            Err(e) => tracing::warn!(error = chain(&e), "the store could not be swept"),
        }
    };
    if let Err(e) = std::thread::Builder::new()
        .name("sweep-store".into())
        .spawn(work)
    {
        tracing::warn!(error = %e, "the store could not be swept");
    }
}

/// Undoes what dead pilots of this account have left on this node, and, in the directory of the
/// slots, jobs that had no pilot yet.
fn sweep(node_state: &Path, slots: &Path) {
    let effort = Effort {
        limit: SWEEP_LIMIT,
        force: false,
    };
    match reclaim::sweep(node_state, effort) {
        Ok(all) => {
            for swept in all {
                match swept {
                    Swept::Reclaimed(report) if report.is_clean() => {
                        tracing::warn!(
                            slot.key = report.slot.submit_key,
                            "removed what a dead pilot had left"
                        );
                    }
                    Swept::Reclaimed(report) => {
                        tracing::error!(%report, "a dead pilot has left something that can't be removed");
                    }
                    Swept::LeftAlone(_) => {}
                    Swept::Failed(e) => {
                        tracing::warn!(
                            error = chain(&e),
                            "a predecessor's slot could not be looked at"
                        );
                    }
                }
            }
        }
        Err(e) => tracing::warn!(error = chain(&e), "predecessors could not be looked for"),
    }
    for slot in reclaim::unbegun(slots) {
        match reclaim::reclaim(&slot, effort) {
            Ok(report) => tracing::warn!(%report, "a job had left its slot before its pilot began"),
            Err(e) => tracing::warn!(error = chain(&e), "an old slot could not be looked at"),
        }
    }
}
