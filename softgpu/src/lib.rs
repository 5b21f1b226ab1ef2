//! A software CUDA driver: runs real PTX on the CPU, with a sanitizer.

pub mod error;
pub mod numeric;
pub mod ptx;

pub use error::{Code, Error, Result};
