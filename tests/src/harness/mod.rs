//! A whole installation in a directory of its own: broker, simulated LRM, users.

pub mod node;
pub mod process;
pub mod wait;
