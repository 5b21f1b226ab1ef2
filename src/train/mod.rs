//! The reference trainer around the layer: model, data, optimiser, checkpoints.

mod activations;
pub mod backward;
pub mod config;
pub mod data;
mod layout;
pub mod load;
pub mod model;
pub mod param;
pub mod preset;
pub mod trainer;
