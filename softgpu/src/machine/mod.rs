//! The machine that executes programs: memory, warps, blocks, grids.

pub mod access;
pub mod allocation;
pub mod block;
pub mod bulk;
pub mod cluster;
pub mod copies;
pub mod footprint;
pub mod grid;
pub mod mbarrier;
pub mod memory;
pub mod registers;
pub mod step;
pub mod warp;
pub mod wgmma;
