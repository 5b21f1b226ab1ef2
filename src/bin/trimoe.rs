//! The `trimoe` command.
fn main() {}
