//! Small worlds, explored completely: the real cores of broker and pilots, one or two workspaces,
//! two pilots, and every order of deliveries, losses, repetitions, delays, expiries, crashes and
//! restarts, up to a bound of faults, steps and time. The simulation draws one story from each
//! seed; this takes all of them, breadth first, so that the first counterexample is a shortest one.
//!
//! A message that is not delivered before time goes on costs a fault, as does everything else that
//! goes wrong; what remains is only the order of things that happen at the same moment. States
//! that were met before (by a digest of all records, machines, messages and guests) are not
//! entered again. Where the bounds end a story, a calm world without faults goes on from there
//! with a fresh pilot, and every request must come to its end.
//!
//! Owner: [`explore`].

mod act;
mod calm;
mod messages;
mod pilots;
mod search;
mod small;

pub use search::{Begin, Bounds, Counterexample, Explored, explore};
