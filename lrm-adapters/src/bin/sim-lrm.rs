//! `sim-lrm`: see `sim-lrm --help`.

fn main() {}
