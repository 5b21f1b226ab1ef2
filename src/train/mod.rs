//! The reference trainer around the layer: model, data, optimiser, checkpoints.

pub mod accounting;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod exchange;
pub(crate) mod layout;
pub mod memory;
pub mod param;
pub mod preset;
