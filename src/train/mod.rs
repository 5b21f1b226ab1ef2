//! The reference trainer around the layer: model, data, optimiser, checkpoints.

pub mod accounting;
mod activations;
mod anneal;
pub mod backward;
pub mod balance;
pub mod cache;
pub mod checkpoint;
pub mod clustering;
pub mod config;
mod convert;
pub mod data;
pub mod eval;
pub mod exchange;
mod forward;
pub mod generate;
pub(crate) mod layout;
mod ledger;
pub mod load;
pub mod memory;
pub mod model;
mod observe;
pub mod offload;
mod optimiser;
pub mod param;
pub mod preset;
mod seen;
pub mod trainer;
