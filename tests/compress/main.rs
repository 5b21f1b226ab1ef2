//! `trimoe compress`, through the real binary.

#[path = "../command/mod.rs"]
mod command;
#[path = "../common/rng.rs"]
#[allow(dead_code, reason = "shared with the tests of operations")]
mod rng;

mod faults;
mod hub;
mod model;
mod own;
mod pack;
