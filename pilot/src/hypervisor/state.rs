//! What every driver's suspend does alike: the manifest, the disks' layers, the reasons.

use std::future::Future;
use std::time::Duration;

use image_store::{Committed, DiskEntry, Manifest, Platform, StateError, StateWriter, Store};
use protocol::codes::{Reason, ReasonCode};
use protocol::time::Span;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::stage::{DiskKind, Parts, StagedDisk};
use super::types::SuspendOrder;

/// A rename that is under way when the time is up.
const RENAME: Duration = Duration::from_secs(2);

/// Why there is no state.
pub(super) enum Failure {
    Late,
    Aborted,
    Gone,
    Full(String),
    Failed(String),
}

impl Failure {
    /// The reason as the broker gets it; `budget` is what the suspend was allowed.
    pub(super) fn reason(self, budget: Span) -> Reason {
        match self {
            Self::Late => Reason::new(
                ReasonCode::SuspendTooSlow,
                format!("the suspend was not done within {budget} and was discarded"),
            ),
            Self::Aborted => Reason::new(
                ReasonCode::SuspendTooSlow,
                "the suspend was called off and was discarded",
            ),
            Self::Gone => Reason::new(
                ReasonCode::GuestCrashed,
                "the guest ended during the suspend, which was discarded",
            ),
            Self::Full(text) => Reason::new(ReasonCode::DiskFull, text),
            Self::Failed(text) => Reason::new(ReasonCode::SuspendFailed, text),
        }
    }
}

/// An attempt at a state, for as long as the guest lives, the budget lasts and nobody calls it off.
///
/// `call_off` sees to it that the state is never committed; false when that is too late, because the
/// rename is under way or done: then the attempt's result counts. Otherwise the attempt is dropped.
pub(super) async fn within_budget<T, E>(
    attempt: impl Future<Output = Result<T, Failure>>,
    budget: Span,
    mut exit: watch::Receiver<Option<E>>,
    abort: &Notify,
    call_off: impl FnOnce() -> bool,
) -> Result<T, Failure> {
    tokio::pin!(attempt);
    let failure = tokio::select! {
        result = &mut attempt => return result,
        _ = exit.wait_for(Option::is_some) => Failure::Gone,
        () = sleep(budget.as_duration()) => Failure::Late,
        () = abort.notified() => Failure::Aborted,
    };
    if call_off() {
        return Err(failure);
    }
    match timeout(RENAME, attempt).await {
        Ok(result) => result,
        Err(_) => Err(failure),
    }
}

/// The manifest of a state of this guest; the writer fills in what it knows better.
pub(super) fn manifest(
    parts: &Parts,
    disks: &[StagedDisk],
    platform: Platform,
    devices: Vec<String>,
    order: &SuspendOrder,
) -> Manifest {
    let request = &parts.request;
    let spec = &request.spec;
    Manifest {
        version: 0, // by the writer
        state: order.state.clone(),
        workspace: request.guest.workspace.clone(),
        generation: request.guest.generation,
        platform,
        cores: spec.resources.cores,
        memory_mib: spec.resources.memory_mib,
        devices,
        disks: disks
            .iter()
            .enumerate()
            .map(|(n, d)| DiskEntry {
                size_bytes: d.size_bytes,
                base: d.base.as_ref().map(|b| b.pin.clone()),
                layers: (0..=d.frozen.len()).map(|l| layer_name(n, l, d)).collect(),
            })
            .collect(),
        run: order.run,
        created: order.at,
        files: Vec::new(), // by the writer
    }
}

/// Name of a layer's file in a state.
fn layer_name(n: usize, layer: usize, disk: &StagedDisk) -> String {
    let format = match disk.kind {
        DiskKind::Layers => "qcow2",
        DiskKind::Raw => "raw",
    };
    format!("disk-{n}.{layer}.{format}")
}

/// Brings the disks' layers and commits. The memory is already in.
pub(super) fn commit(
    mut writer: StateWriter,
    mut manifest: Manifest,
    disks: &[StagedDisk],
    store: &Store,
) -> Result<Committed, StateError> {
    for (n, disk) in disks.iter().enumerate() {
        for (layer, frozen) in disk.frozen.iter().enumerate() {
            writer.bring(
                &layer_name(n, layer, disk),
                &frozen.path,
                frozen.known.as_ref(),
            )?;
        }
        writer.bring(&layer_name(n, disk.frozen.len(), disk), &disk.top, None)?;
    }
    for (entry, disk) in manifest.disks.iter_mut().zip(disks) {
        if let (Some(pin), Some(base)) = (&mut entry.base, &disk.base)
            && pin.digest.is_none()
            && let Ok(staged) = store.stage_file(&base.path, None)
        {
            pin.digest = staged.digest.map(|d| d.to_string());
        }
    }
    writer.commit(manifest)
}

impl From<StateError> for Failure {
    fn from(e: StateError) -> Self {
        let text = e.to_string();
        match e {
            StateError::NoSpace { .. } => Self::Full(text),
            StateError::Missing { .. }
            | StateError::Corrupt { .. }
            | StateError::UnknownVersion { .. }
            | StateError::Exists { .. }
            | StateError::CalledOff { .. }
            | StateError::Io { .. } => Self::Failed(text),
        }
    }
}
