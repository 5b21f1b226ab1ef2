//! The reference trainer around the layer: model, data, optimiser, checkpoints.

pub mod data;
