//! Bulk asynchronous copies (`cp.async.bulk`) that were issued and have not moved their data.

use super::copies::Issued;
use crate::sanitizer::clock::Released;

/// A stretch of shared memory and what it is copied from or to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in shared memory.
    pub shared: usize,
    /// Generic address of the other side; `None`: outside the tensor.
    pub memory: Option<u64>,
    /// Size of both.
    pub bytes: usize,
}

/// A copy into the shared memory of a block. The block holds it until somebody waits at its mbarrier.
#[derive(Clone, Debug)]
pub struct Load {
    /// Offset of the mbarrier, in the same block.
    pub mbarrier: usize,
    /// The stretches.
    pub segments: Vec<Segment>,
    /// Bytes of an element, when what lies outside the tensor becomes NaN and not zero.
    pub nan: Option<usize>,
    /// How data is combined with what is there.
    pub reduction: Option<Reduction>,
    /// What came before the copy, for those who wait.
    pub released: Released,
}

impl Load {
    /// Bytes that the mbarrier counts.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.bytes).sum()
    }
}

/// A copy out of the shared memory of the own block.
#[derive(Clone, Debug)]
pub struct Store {
    /// The lane that issued it.
    pub lane: usize,
    /// The stretches.
    pub segments: Vec<Segment>,
    /// How data is combined with what is there.
    pub reduction: Option<Reduction>,
}

impl Issued for Store {
    fn lane(&self) -> usize {
        self.lane
    }
}

/// A reduction of elements in memory.
#[derive(Clone, Copy, Debug)]
pub struct Reduction {
    /// Bytes of an element: 2, 4 or 8.
    pub bytes: usize,
    /// The new value, from the old one and the operand (the third is not used).
    pub update: fn(u64, u64, u64) -> u64,
}

/// The place of a byte under a swizzle of `span` bytes (32, 64 or 128; else none): the index of its 16-byte chunk in
/// the span is combined with the number of the 128-byte line, so that columns spread over the banks. `base` is
/// the number of the line at which the pattern starts.
#[inline(always)]
pub fn swizzled(address: usize, span: usize, base: usize) -> usize {
    let line = (address >> 7).wrapping_sub(base);
    match span {
        128 => address ^ (line & 7) << 4,
        64 => address ^ (line & 3) << 4,
        32 => address ^ (line & 1) << 4,
        _ => address,
    }
}
