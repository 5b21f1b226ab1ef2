//! What the CPU implementations share: vector arithmetic, matrix products, fixed work splits.
//!
//! Work is always cut into pieces whose sizes depend on the shapes alone, never on the number of threads,
//! and every reduction over pieces is done in their order: results are the same to the bit on any machine
//! that has the same vector instructions, with any number of threads.

pub(crate) mod bf16;
pub(crate) mod double;
pub(crate) mod few;
pub(crate) mod gemm;
pub(crate) mod int4;
pub(crate) mod math;
pub(crate) mod rows;
pub(crate) mod scratch;

use std::ops::Range;

/// Cuts `0..len` into the fewest equal pieces of at most `most`; returns their bounds, from 0 to `len`.
pub(crate) fn bounds(len: usize, most: usize) -> Vec<usize> {
    let pieces = len.div_ceil(most).max(1);
    (0..=pieces).map(|i| i * len / pieces).collect()
}

/// The pieces of [`bounds`] as ranges.
pub(crate) fn pieces(len: usize, most: usize) -> Vec<Range<usize>> {
    bounds(len, most).windows(2).map(|b| b[0]..b[1]).collect()
}
