//! `pilot-submit`: see `pilot-submit --help`.

fn main() {}
