//! Jobs on several nodes: one job at the LRM, a pilot with a slot of its own on each node.

mod lrm_words;
mod rig;
mod slots;
#[expect(dead_code, reason = "this program uses a part of the world")]
#[path = "../world/mod.rs"]
mod world;
