//! The simulated LRM: a batch system that ships with the product.
//!
//! * [`profiles`]: how real LRMs signal, as data.
//! * [`model`]: the batch system itself, pure and on a virtual clock if wanted.
//! * [`SimLrm`]: the adapter: renders a pilot job, runs `sim-lrm`, reads its output.
//! * [`daemon`]: the model with real processes, behind a unix socket; [`wire`] and [`words`] are
//!   what it and the `sim-lrm` command say.
//! * [`testing`]: a daemon of its own for a test.

mod adapter;
pub mod cli;
pub mod daemon;
pub mod model;
pub mod profiles;
pub mod testing;
pub mod wire;
pub mod words;

pub use adapter::{SimLrm, SimLrmSettings};
