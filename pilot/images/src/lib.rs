//! The store of a site: artefacts by their digest, suspended states that are complete or absent.
//!
//! ```text
//! <store>/blobs/<algorithm>-<hex>                        artefacts, written once
//! <store>/states/<StateId>/{manifest.json, memory, devices, disk-*.qcow2}
//! <store>/states/.tmp-<StateId>/                         a state under construction
//! ```
//!
//! Everything becomes visible by a rename after an fsync, so what has its final name is whole.
//! Several pilots on several nodes use one store at once; nothing here needs a lock.
//! There is no network in this crate: a caller that downloads writes into an [`Ingest`].
#![forbid(unsafe_code)]

mod blobs;
mod digest;
mod durable;
mod error;
mod manifest;
mod memory;
pub mod qcow2;
mod store;
mod verify;
mod walk;
mod writer;

pub use blobs::{Ingest, Staged};
pub use digest::{Algorithm, Digest, Hasher};
pub use durable::{Placed, free_bytes, link_or_copy};
pub use error::{ImageError, StateError};
pub use manifest::{BasePin, Chunks, DiskEntry, FileEntry, Manifest, Platform};
pub use memory::ChunkSet;
pub use store::Store;
pub use verify::{FoundState, UnreadMemory, VerifiedState};
pub use walk::Effort;
pub use writer::{Committed, Decision, MemoryImage, SavedMemory, StateWriter};
