//! `pilot-broker`: see `pilot-broker --help`.

fn main() {}
