//! A software CUDA driver: runs real PTX on the CPU, with a sanitizer.

pub mod chip;
pub mod counters;
pub mod driver;
pub mod error;
pub mod image;
pub mod isa;
pub mod machine;
pub mod numeric;
pub mod options;
pub mod program;
pub mod ptx;
pub mod sanitizer;
pub mod tensor_map;

pub use error::{Code, Error, Result};
