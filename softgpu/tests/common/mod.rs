//! What the tests share.
#![allow(dead_code, unused_imports)] // each test binary uses a part

pub mod fatbin;
pub mod lab;
pub mod lanes;
mod random;
mod vectors;

pub use random::Random;
pub use vectors::recorded;
