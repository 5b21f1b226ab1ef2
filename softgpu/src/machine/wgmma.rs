//! Products of a warpgroup (`wgmma.mma_async`) that a warp has issued and not waited for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::registers::R;
use super::step::Step;

/// A matrix of A or B in shared memory, as its 64-bit descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Offset of the matrix.
    pub start: usize,
    /// Leading dimension byte offset.
    pub leading: usize,
    /// Stride dimension byte offset.
    pub stride: usize,
    /// Number of the 128-byte line at which the swizzle starts.
    pub base: usize,
    /// Bytes of the swizzle: 0 (none), 32, 64, 128.
    pub span: usize,
}

impl Descriptor {
    /// What 64 bits say.
    pub fn decode(word: u64) -> Self {
        let field = |at: u32| ((word >> at & 0x3FFF) << 4) as usize;
        Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base: (word >> 49 & 7) as usize,
            span: [0, 128, 64, 32][(word >> 62) as usize],
        }
    }

    /// Offset of the 16 bytes (or of the element) at row `mn` and byte `k` of the row, when `k` runs fastest in
    /// memory.
    #[inline(always)]
    pub fn along_k(&self, mn: usize, k: usize) -> usize {
        let linear = match self.span {
            0 => self.start + mn / 8 * self.stride + mn % 8 * 16 + k / 16 * self.leading + k % 16,
            span => self.start + mn / 8 * self.stride + mn % 8 * span + k,
        };
        super::bulk::swizzled(linear, self.span, self.base)
    }

    /// Offset of the element at byte `mn` of column `k`, when rows run fastest in memory.
    #[inline(always)]
    pub fn along_mn(&self, mn: usize, k: usize) -> usize {
        let linear = match self.span {
            0 => self.start + mn / 16 * self.stride + mn % 16 + k / 8 * self.leading + k % 8 * 16,
            span => self.start + mn / span * self.leading + mn % span + k / 8 * self.stride + k % 8 * span,
        };
        super::bulk::swizzled(linear, self.span, self.base)
    }
}

/// What a product does once somebody waits for it.
pub type Perform = Arc<dyn Fn(&mut Step<'_>, &Product) + Send + Sync>;

/// A product under way.
#[derive(Clone)]
pub struct Product {
    /// Its instruction.
    pub perform: Perform,
    /// Index of it.
    pub pc: usize,
    /// A, unless it is in registers, and B.
    pub descriptors: [Option<Descriptor>; 2],
    /// Whether the accumulator is added.
    pub scaled: bool,
    /// The accumulator.
    pub registers: Arc<[R]>,
}

/// The products of a warp, oldest first.
#[derive(Default)]
pub struct Products {
    /// Issued, not committed.
    pub open: Vec<Product>,
    /// Committed.
    pub groups: VecDeque<Vec<Product>>,
}

impl Products {
    /// Closes the open products into a group.
    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// Takes the products of all groups but the `keep` newest.
    pub fn finish(&mut self, keep: usize) -> Vec<Product> {
        let due = self.groups.len().saturating_sub(keep);
        self.groups.drain(..due).flatten().collect()
    }

    /// Whether a register is an accumulator of a product under way.
    pub fn writes(&self, register: R) -> bool {
        let all = self.open.iter().chain(self.groups.iter().flatten());
        all.into_iter().any(|p| p.registers.contains(&register))
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.groups.iter().all(Vec::is_empty)
    }
}
