//! The node that the pilot runs on: its facts, whether it can do the job, and its processes.

pub mod processes;
