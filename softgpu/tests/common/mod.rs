//! What the tests share.
#![allow(dead_code, unused_imports)] // each test binary uses a part

pub mod check;
pub mod conversion;
pub mod driver;
pub mod fatbin;
pub mod lab;
pub mod lanes;
pub mod nvcc;
mod random;
pub mod reference;
mod vectors;

pub use random::Random;
pub use vectors::recorded;
