//! The reference trainer around the layer: model, data, optimiser, checkpoints.

pub mod accounting;
pub mod config;
pub mod exchange;
pub mod param;
pub mod preset;
