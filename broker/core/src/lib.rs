//! The broker's decisions, pure: workspace, lease and pilot-job life cycles, matchmaker,
//! provisioner, `explain`.
//!
//! ```text
//!            Event, now                        Changes -> one transaction
//!   shell ---------------> Broker::step ------> Reply   -> released after the commit
//!  (owner) <-- next_wakeup                      Effects -> carried out after the commit
//! ```
//!
//! The broker's shell owns the one [`Broker`], and follows three rules:
//! 1. *Decide, record, act*: the changes of a step (or of several, merged) are committed before
//!    its reply is released and its effects are carried out.
//! 2. A commit that fails ends this `Broker`: it is dropped and made again by [`Broker::load`]
//!    from what the store has. All state is in the records.
//! 3. `now` never goes back and does not jump: a wall clock read once and then advanced by the
//!    monotonic clock. After [`Broker::load`] in a new process, the first event is
//!    [`Event::Started`]; there the clock may have been set, to either side.
//!
//! Nothing here reads a clock, draws a random number or does I/O.
#![forbid(unsafe_code)]

pub mod changes;
mod check;
mod checkpoint;
pub mod config;
mod costs;
mod courtesy;
mod crowd;
mod discards;
pub mod effect;
pub mod event;
mod explain;
mod fit;
mod forget;
mod held_back;
mod lease;
mod lessons;
mod matchmaker;
mod members;
mod moves;
mod pilot_due;
mod pilot_job;
mod provision;
mod queue;
pub mod records;
mod register;
mod request;
mod restart;
mod site;
mod state;
mod sync;
mod tables;
mod views;
mod withdrawal;
mod words;

pub use changes::{Changes, Forgotten, Records};
pub use config::{BrokerConfig, ProvisionPolicy, SiteConfig};
pub use effect::{CancelScope, Effect, PilotOrder, Reply, Step, SyncDecision};
pub use event::{Caller, Event};
pub use state::Broker;
pub use views::WorkspaceFilter;
