//! `cargo xtask`: what a script would do for this repository.
fn main() {}
