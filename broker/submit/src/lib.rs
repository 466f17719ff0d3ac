//! The users' command line of the workspace pilot, and the typed client of the broker's API
//! under it.
#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
