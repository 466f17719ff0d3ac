//! The contract of the workspace pilot: everything that crosses a process or a machine.
//!
//! Rules of this crate:
//! * Wire types (JSON) carry a `version` where they start a conversation, tolerate unknown fields
//!   from a newer peer, and give instants as RFC 3339 text and spans as whole milliseconds in
//!   fields that end in `_ms`.
//! * Types that a person writes (TOML) are separate "file" types that refuse unknown keys and
//!   are resolved into wire types.
//! * Nothing here reads a clock, a file or the network.
//!
//! The words are those of the vocabulary in `docs/architecture.md`.
#![forbid(unsafe_code)]

pub mod api;
pub mod canary;
pub mod codes;
pub mod file_error;
pub mod finding;
pub mod ids;
pub mod lease;
pub mod lrm;
pub mod messages;
pub mod notice;
pub mod resources;
pub mod slot;
pub mod slot_file;
pub mod suspend_cost;
pub mod text;
pub mod time;
pub mod workspace;
pub mod workspace_file;

/// Version of the pilot-broker and user-broker messages in this crate.
///
/// A peer that names a higher version is answered with what this version knows; a peer that
/// names a lower one than [`OLDEST_WIRE_VERSION`] is refused with
/// [`codes::ErrorCode::VersionTooOld`].
pub const WIRE_VERSION: u32 = 1;

/// The oldest message version that is still understood.
pub const OLDEST_WIRE_VERSION: u32 = 1;
