//! Checkpoint: a complete state of a guest that goes on.
//!
//! ```text
//! memory to .tmp while it runs -> stop -> new top layers -> the rest of the memory, devices -> go on
//!                                                      -> sync, layers, manifest, rename
//! ```
//! It stands still as a guest does whose memory was flushed; what makes the state durable comes after.
//! The layers that it has written are frozen: the state gets second names of them, so that neither
//! needs the other. Each checkpoint so makes the chains of layers longer by one, until the guest's next
//! slot merges them.

use std::sync::{Arc, MutexGuard, PoisonError};

use image_store::qcow2;
use serde_json::{Value, json};

use super::COMMAND;
use super::guest::{QemuGuest, Running};
use super::suspend::After;
use crate::hypervisor::errors::SuspendError;
use crate::hypervisor::offload::offload;
use crate::hypervisor::stage::{Frozen, StagedDisk};
use crate::hypervisor::state::Failure;
use crate::hypervisor::types::{SuspendOrder, Suspended, WhenLate};

/// Layers of one disk, at most. QEMU looks through all of them for what was never written.
const MOST_LAYERS: usize = 64;

/// The disks as they are now, with the names of their topmost nodes in QEMU.
#[derive(Debug)]
pub(super) struct Disks {
    now: Vec<StagedDisk>,
    nodes: Vec<String>,
    /// How many layers were made on top: no name is used twice.
    made: u32,
    /// Nothing was written since the last one was made.
    are_frozen: bool,
}

impl Disks {
    pub(super) fn of(staged: &[StagedDisk]) -> Self {
        Self {
            now: staged.to_vec(),
            nodes: (0..staged.len()).map(|n| format!("disk{n}")).collect(),
            made: 0,
            are_frozen: false,
        }
    }
}

/// A layer that is to become the topmost of a disk.
struct NewTop {
    node: String,
    path: std::path::PathBuf,
}

impl QemuGuest {
    pub(in crate::hypervisor) async fn checkpoint(
        &self,
        order: SuspendOrder,
    ) -> Result<Suspended, SuspendError> {
        let when_late = WhenLate::Continue;
        let flushed = self.0.is_flushing();
        let made = self
            .save(SuspendOrder { when_late, ..order }, After::GoesOn)
            .await;
        if flushed && let Err(e) = self.flush() {
            tracing::debug!(error = %e, "no flush is begun again after a checkpoint");
        }
        made
    }
}

impl Running {
    /// The disks as they are now.
    pub(super) fn disks(&self) -> Vec<StagedDisk> {
        self.lock_disks().now.clone()
    }

    /// The guest is about to go on, and to write.
    pub(super) fn thaw(&self) {
        self.lock_disks().are_frozen = false;
    }

    fn lock_disks(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each disk of the guest, which is stopped, an empty layer on top, and returns the disks
    /// with what it has written frozen. A guest that has stood still since its last one has written
    /// nothing: its layers are still empty.
    pub(super) async fn freeze_disks(self: &Arc<Self>) -> Result<Vec<StagedDisk>, Failure> {
        if self.kept_devices().is_some() {
            if self.lock_disks().are_frozen {
                return Ok(self.without_tops());
            }
            let text =
                "a paused guest whose suspend has failed is not checkpointed before it goes on";
            return Err(Failure::Failed(text.to_owned()));
        }
        let tops = self.new_tops().await?;
        let mut actions = Vec::new();
        for (top, below) in tops.iter().zip(self.lock_disks().nodes.clone()) {
            actions.push(json!({
                "type": "blockdev-snapshot",
                "data": { "node": below, "overlay": top.node },
            }));
        }
        let all = json!({ "actions": actions });
        if !tops.is_empty() {
            self.qmp.execute("transaction", all, COMMAND).await?;
        }
        let mut disks = self.lock_disks();
        for (n, top) in tops.into_iter().enumerate() {
            let path = std::mem::replace(&mut disks.now[n].top, top.path);
            disks.now[n].frozen.push(Frozen { path, known: None });
            disks.nodes[n] = top.node;
        }
        disks.are_frozen = true;
        drop(disks);
        Ok(self.without_tops())
    }

    /// All that is frozen: the last of it in the place of the top.
    fn without_tops(&self) -> Vec<StagedDisk> {
        let mut disks = self.disks();
        for disk in &mut disks {
            if let Some(last) = disk.frozen.pop() {
                disk.top = last.path;
            }
        }
        disks
    }

    /// Makes the files and tells QEMU of them.
    async fn new_tops(self: &Arc<Self>) -> Result<Vec<NewTop>, Failure> {
        let (disks, made) = {
            let mut disks = self.lock_disks();
            disks.made += 1;
            (disks.now.clone(), disks.made)
        };
        if let Some(long) = disks.iter().find(|d| d.frozen.len() >= MOST_LAYERS) {
            return Err(Failure::Failed(format!(
                "a disk has {} layers; no more checkpoints are made before its next slot merges them",
                long.frozen.len()
            )));
        }
        let mut tops = Vec::new();
        for (n, disk) in disks.iter().enumerate() {
            let path = self
                .parts
                .request
                .dir
                .join(format!("disk-{n}.top-{made}.qcow2"));
            let (size, file) = (disk.size_bytes, path.clone());
            let created =
                offload("checkpoint-layer", move || qcow2::create_layer(&file, size)).await;
            created.flatten().map_err(|e| {
                Failure::Failed(format!("can't make the layer {}: {e}", path.display()))
            })?;
            let node = format!("disk{n}-{made}");
            for described in self.describe(&node, &path) {
                self.qmp.execute("blockdev-add", described, COMMAND).await?;
            }
            tops.push(NewTop { node, path });
        }
        Ok(tops)
    }

    /// The two nodes of a new layer, with nothing below yet.
    fn describe(&self, node: &str, path: &std::path::Path) -> [Value; 2] {
        let file = format!("{node}-file");
        [
            json!({ "driver": "file", "node-name": file, "discard": "unmap", "filename": path }),
            json!({
                "driver": "qcow2", "node-name": node, "discard": "unmap", "file": file,
                "backing": null,
            }),
        ]
    }
}
