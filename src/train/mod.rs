//! The reference trainer around the layer: model, data, optimiser, checkpoints.

pub mod accounting;
pub mod config;
pub mod data;
pub mod exchange;
pub(crate) mod layout;
pub mod param;
pub mod preset;
