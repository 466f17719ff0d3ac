//! `pilot`: see `pilot --help`.

fn main() {}
