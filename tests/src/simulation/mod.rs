//! The whole system in one thread on a virtual clock: the broker's core, the pilots' cores and
//! the model of the LRM, with seeded faults; the promises are checked at every step.
//!
//! Owner: [`World`], which holds all machines and the one queue of things to come. A machine's
//! effects become things to come for others, after a drawn delay, or get lost. What is *really*
//! on nodes and in stores is kept in [`truth::Truth`]; the promises are checked against that,
//! not against what the machines believe.

mod broker_side;
mod chance;
mod check;
mod check_guests;
mod check_owners;
mod fault;
mod guest_side;
mod lrm_side;
mod options;
mod pilot_faults;
mod pilot_side;
mod size;
mod store;
mod story;
mod summary;
mod truth;
mod users;
mod wire;
mod world;

pub use chance::Chance;
pub use fault::{Fault, Faults};
pub use options::{Break, Options, Promise, Violation};
pub use summary::{Kills, Spread, Summary, Suspends};
pub use world::World;

/// Runs one simulation to its end.
///
/// # Errors
/// A promise was broken, or something is stuck.
pub fn run(options: Options) -> Result<Summary, Box<Violation>> {
    World::new(options).run()
}

/// Runs one simulation to its end and gives the last `lines` of its story that name `about`.
///
/// # Errors
/// A promise was broken, or something is stuck.
pub fn tell(
    options: Options,
    about: &[String],
    lines: usize,
) -> Result<(Summary, String), Box<Violation>> {
    let mut world = World::new(options);
    let summary = world.run()?;
    Ok((summary, world.story.about(about, lines)))
}
