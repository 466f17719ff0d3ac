//! `pilot-broker`: the service that queues workspaces and wins slots for them.
//!
//! ```text
//!  http ----+                      +--> store (one transaction per batch)
//!           +--> owner: Broker ----+
//!  lrm_loop +     (broker-core)    +--> replies, wakes, effects -> lrm_loop
//! ```
//!
//! Everything is decided in `broker-core`; this crate persists the decisions, answers calls and
//! talks to the LRMs. [`serve()`] runs it within a process, as the tests do; `pilot-broker serve`
//! as a service.

pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod doctor;
mod housekeeping;
pub mod http;
pub mod jobs;
mod listings;
mod lrm_loop;
pub mod owner;
mod pilot_jobs;
pub mod preview;
pub mod qualify;
mod serve;
pub mod store;
pub mod tokens;
pub mod wakes;

pub use config::Settings;
pub use serve::{Running, ServeError, serve};
