//! Clustered, compressed Mixture-of-Experts.

mod error;
pub mod train;

pub(crate) use error::ensure;
pub use error::{Error, Result};
