//! The machine that executes programs: memory, warps, blocks, grids.

pub mod grid;
pub mod memory;
