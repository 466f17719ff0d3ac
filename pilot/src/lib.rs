//! The pilot: the agent that runs in a slot. The decisions are in `pilot-core`; here is the I/O.

pub mod broker_client;
pub mod canary;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod drive;
pub mod effects;
pub mod exec_guest;
pub mod host;
pub mod hypervisor;
pub mod journal;
pub mod reclaim;
pub mod signals;
pub mod warden;
