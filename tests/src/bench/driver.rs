//! A guest on the pilot's QEMU driver alone, without broker and batch system: for what is about the
//! driver, and asks for guests at moments that no broker would choose.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use pilot::exec_guest::Trampoline;
use pilot::hypervisor::{
    Guest, GuestId, Hypervisor, Setup, StageRequest, SuspendOrder, Suspended, WhenLate,
};
use pilot::journal::{Claim, Journal, What};
use protocol::ids::{Generation, Incarnation, SiteName, SubmitKey, WorkspaceId};
use protocol::lease::StateRef;
use protocol::slot_file::{Accelerator, HypervisorKind, HypervisorSection};
use protocol::time::{Span, Timestamp};
use protocol::workspace::WorkspaceSpec;

use super::Options;
use crate::harness::wait::{PATIENCE, until};

/// Where the guest goes from lease to lease.
pub(super) struct Driver {
    /// On the disk of the programs.
    pub root: tempfile::TempDir,
    journal: Journal,
    hypervisor: Hypervisor,
    spec: WorkspaceSpec,
    generation: u64,
    state: Option<StateRef>,
}

impl Driver {
    pub(super) fn new(options: &Options, spec: WorkspaceSpec) -> Result<Self> {
        // The driver could fetch images; here it does not. One that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(&options.programs)?;
        let store = root.path().join("store");
        fs::create_dir(&store)?;
        let journal = Journal::create(&Claim {
            submit_key: &SubmitKey::new("bench")?,
            incarnation: &Incarnation::new("1")?,
            scratch: &root.path().join("slot"),
            store: &store,
            node_state: root.path(),
        })?;
        let section = HypervisorSection {
            kind: HypervisorKind::Qemu,
            accelerator: Some(Accelerator::Tcg),
            binary: None,
            machine: None,
            cpu: None,
        };
        let setup = Setup {
            site: SiteName::new("bench")?,
            store,
            trampoline: Trampoline::of(&options.pilot()),
        };
        Ok(Self {
            hypervisor: Hypervisor::new(&section, setup)?,
            root,
            journal,
            spec,
            generation: 0,
            state: None,
        })
    }

    /// Where its states are.
    pub(super) fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    /// Boots it, or goes on with its latest state.
    pub(super) async fn start(&mut self) -> Result<Guest> {
        self.generation += 1;
        let guest = GuestId {
            workspace: WorkspaceId::new("ws")?,
            generation: Generation(self.generation),
        };
        let program = "qemu".to_owned();
        let request = StageRequest {
            dir: self
                .journal
                .scratch()
                .join("guests")
                .join(guest.to_string()),
            marker: self.journal.intend(What::Process { program })?.marker(),
            spec: self.spec.clone(),
            state: self.state.clone(),
            guest,
        };
        let staged = self.hypervisor.stage(request).await?;
        Ok(self.hypervisor.start(staged).await?.0)
    }

    /// Suspends it, and says how long it took until it was gone; the state before is removed.
    pub(super) async fn suspend(&mut self, guest: &Guest) -> Result<(Suspended, Duration)> {
        let order = SuspendOrder {
            state: guest.id().state_id()?,
            run: Span::ZERO,
            at: Timestamp::from_secs(0),
            budget: Span::from_secs(300),
            when_late: WhenLate::Kill,
        };
        let begin = super::clock::now();
        let made = guest.suspend(order).await?;
        let took = begin.elapsed();
        if let Some(old) = self.state.replace(made.state.clone()) {
            self.hypervisor.discard(&old.id).await?;
        }
        Ok((made, took))
    }

    /// Waits until the guest has said these words so many times under this lease.
    pub(super) async fn says(&self, guest: &Guest, words: &str, times: usize) -> Result<()> {
        let what = format!("the guest to say `{words}` {times} times");
        until(&what, PATIENCE, async || {
            Ok((said(guest, words)? >= times).then_some(()))
        })
        .await
    }

    /// Begins a flush and waits until its first pass is over, which leaves little to be written; or
    /// until it is clear that this guest writes too fast for that.
    pub(super) async fn flush(&self, guest: &Guest) -> Result<()> {
        let whole = guest.resident_bytes().await;
        guest.flush()?;
        let begin = super::clock::now();
        until("a pass over the guest's memory", PATIENCE, async || {
            let left = guest.resident_bytes().await;
            let is_long = begin.elapsed() > Duration::from_secs(20);
            Ok((left < whole / 8 || is_long).then_some(()))
        })
        .await
    }
}

/// How often the guest has said these words under this lease.
pub(super) fn said(guest: &Guest, words: &str) -> Result<usize> {
    let path = guest.console_path();
    let console = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&console).matches(words).count())
}
