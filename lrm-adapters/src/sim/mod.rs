//! The simulated LRM: a batch system that ships with the product.
//!
//! * [`profiles`]: how real LRMs signal, as data.
//! * [`model`]: the batch system itself, pure and on a virtual clock if wanted.
//! * [`SimLrm`]: the adapter: renders a pilot job, runs `sim-lrm`, reads its output.

mod adapter;
pub mod model;
pub mod profiles;
pub mod words;

pub use adapter::{SimLrm, SimLrmSettings};
