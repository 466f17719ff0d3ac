//! Nothing outlives the slot: real pilot-like processes, killed for real at every step, and the
//! node compared with what it was before.

mod crash_points;
mod death;
mod epilogue;
mod groups;
mod host;
mod kernel;
mod limits;
mod node;
mod role;
