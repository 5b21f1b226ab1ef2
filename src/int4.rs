//! INT4 weights: the format, how they lie in memory, views.
//!
//! A weight is `w = scale (q - zero)` with a code `q` from 0 to 15; its block shares a scale (bf16) and a zero-point (0 to 15).
//! A block is a run of 32, 64 or 128 columns of a row, a row, or a matrix. In a product or a matrix of dtype `T` it counts
//! as the `T` nearest to `T(scale) (q - zero)`, where `T(scale)` is the `T` nearest to the scale: the scale itself in f32 and
//! bf16, and in f16 from 2^-17 to 65504.
//!
//! **Quantising.** A block's range is `low = min(0, w..)` to `high = max(0, w..)`. Symmetric: `scale = max(-low, high) / 7`,
//! `zero = 8`. Asymmetric: `scale = high / 15 - low / 15`, `zero = round(-low / scale)`. The scale is rounded up to the next bf16
//! (not below 2^-126), then `q = clamp(round(w / scale) + zero, 0, 15)`, in f32 with the reciprocal of the scale; `round` takes
//! ties to even. So an error is at most half a scale, 0 stays 0, and a block of zeros has scale 0. A block with a value that
//! is not finite gets the scale NaN: what goes in as a fault comes out as one, on every device.
//!
//! **Layout.** The same on every device, made for the tensor cores' `m16n8k16`: the weights `[out, in]` of a group are cut into
//! panels of 32 rows (a strip) by 32 columns (a step), padded with codes that stand for 0; panels lie strip by strip, step by
//! step. A panel is 32 quads of words, one quad a lane of a warp, and a word 8 codes of one row:
//!
//! ```text
//! panel [32 rows, 32 columns], lane = 4 (row / 4) + (column % 8) / 2, word of its quad = row % 4
//!
//!              columns 0 1   2 3   4 5   6 7 | 8 9 ...             word: nibble (4 bits) of each column pair
//!  rows  0..3  lane 0     1     2     3      | 0     ...           bits  0    4    8    12 | 16   20   24   28
//!  rows  4..7  lane 4     5     6     7      | 4     ...           k =   2t   2t+8 +16  +24| 2t+1 2t+9 +17  +25
//!    ...
//!  rows 28..31 lane 28    29    30    31     | 28    ...           (t = lane % 4)
//! ```
//!
//! So a lane's 16 bytes are its B fragments of two products along the columns for four products along the rows, whose
//! column `g` stands for row `4 g + word`; and two columns that make one register lie 16 bits apart, where one mask and one
//! exponent turn both into numbers. Scales and zero-points of a strip lie block by block, one a row: `[groups, strips, blocks,
//! 32]`; those of whole matrices are there 32 times, `[groups, 32]`, so that they are read like any other.
//!
//! **Factors** of residuals are quantised along their long side, hidden or inner. Those of a cluster are one matrix
//! `[K rank, long]`, the experts' ranks one after the other, so that only the last strip of a cluster is padded: factors of
//! rank 16 take 4 bits an element and their scales. In plain memory they lie in parts, some transposed: [`Stacked`].

mod stacked;
mod view;

pub use stacked::{Stacked, StackedMut};
pub use view::{Int4Tensor, Int4View, Int4ViewMut};

use crate::error::{Result, ensure};

/// Rows of a strip and columns of a step.
pub(crate) const PANEL: usize = 32;
/// Words of a panel.
pub(crate) const PANEL_WORDS: usize = PANEL * PANEL / 8;

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Int4Block {
    /// 32 columns of a row.
    Columns32,
    /// 64 columns of a row.
    Columns64,
    /// 128 columns of a row.
    Columns128,
    /// A row: one output channel.
    Row,
    /// A matrix of a group: one scale for each cluster, matrix and factor.
    Matrix,
}

/// How weights are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Int4Format {
    /// The zero-point is 8 everywhere and not stored.
    pub symmetric: bool,
    /// What shares a scale.
    pub block: Int4Block,
}

/// Where everything is in INT4 weights of one shape and format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Int4Layout {
    shape: [usize; 3],
    format: Int4Format,
}

impl Int4Layout {
    /// The layout of weights `[groups, out, in]`; errors if `out`, `in` or the number of words is beyond what is counted.
    pub fn new(shape: [usize; 3], format: Int4Format) -> Result<Self> {
        let [groups, out, input] = shape;
        let fits = shape.iter().all(|&n| n <= u32::MAX as usize - PANEL);
        ensure!("Int4Layout", fits, shape = shape);
        let panels = out.div_ceil(PANEL) as u128 * input.div_ceil(PANEL) as u128 * groups as u128;
        ensure!("Int4Layout", panels <= (usize::MAX / (8 * PANEL_WORDS)) as u128, shape = shape);
        Ok(Int4Layout { shape, format })
    }

    /// `[groups, out, in]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// How the weights are quantised.
    pub fn format(&self) -> Int4Format {
        self.format
    }

    /// Words of 8 codes.
    pub fn words(&self) -> usize {
        self.shape[0] * self.strips() * self.steps() * PANEL_WORDS
    }

    /// Scales.
    pub fn scales(&self) -> usize {
        match self.format.block {
            Int4Block::Matrix => self.shape[0] * PANEL,
            _ => self.shape[0] * self.strips() * self.blocks() * PANEL,
        }
    }

    /// Zero-points.
    pub fn zeros(&self) -> usize {
        if self.format.symmetric { 0 } else { self.scales() }
    }

    /// Bytes of words, scales and zero-points.
    pub fn bytes(&self) -> u64 {
        (4 * self.words() + 2 * self.scales() + self.zeros()) as u64
    }

    /// Word and lowest bit of the code of row `out`, column `input` of group `group`.
    pub fn position(&self, [group, out, input]: [usize; 3]) -> (usize, u32) {
        let lane = out % PANEL / 4 * 4 + input % 8 / 2;
        let bit = input % PANEL / 8 * 4 + input % 2 * 16;
        (self.panel(group, out / PANEL, input / PANEL) + lane * 4 + out % 4, bit as u32)
    }

    /// Scale and zero-point of row `out`, column `input` of group `group`.
    pub fn scale(&self, [group, out, input]: [usize; 3]) -> usize {
        match self.format.block {
            Int4Block::Matrix => group * PANEL + out % PANEL,
            _ => {
                let block = (input / PANEL) >> self.shift();
                ((group * self.strips() + out / PANEL) * self.blocks() + block) * PANEL + out % PANEL
            }
        }
    }

    /// First word of a panel.
    pub(crate) fn panel(&self, group: usize, strip: usize, step: usize) -> usize {
        ((group * self.strips() + strip) * self.steps() + step) * PANEL_WORDS
    }

    /// Strips of 32 rows.
    pub(crate) fn strips(&self) -> usize {
        self.shape[1].div_ceil(PANEL)
    }

    /// Steps of 32 columns.
    pub(crate) fn steps(&self) -> usize {
        self.shape[2].div_ceil(PANEL)
    }

    /// Blocks of a row; 1 for whole matrices.
    pub(crate) fn blocks(&self) -> usize {
        self.steps().div_ceil(1 << self.shift())
    }

    /// A block has `2^shift` steps; 31: all of them.
    pub(crate) fn shift(&self) -> u32 {
        match self.format.block {
            Int4Block::Columns32 => 0,
            Int4Block::Columns64 => 1,
            Int4Block::Columns128 => 2,
            Int4Block::Row | Int4Block::Matrix => 31,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const BLOCKS: [Int4Block; 5] = [
        Int4Block::Columns32,
        Int4Block::Columns64,
        Int4Block::Columns128,
        Int4Block::Row,
        Int4Block::Matrix,
    ];

    #[test]
    fn every_element_has_a_place_of_its_own() {
        for block in BLOCKS {
            let format = Int4Format { symmetric: false, block };
            let layout = Int4Layout::new([3, 33, 70], format).unwrap();
            let mut seen = HashSet::new();
            for (g, o, i) in (0..3).flat_map(|g| (0..33).flat_map(move |o| (0..70).map(move |i| (g, o, i)))) {
                let (word, bit) = layout.position([g, o, i]);
                assert!(word < layout.words() && bit % 4 == 0 && bit < 32);
                assert!(seen.insert((word, bit)), "{:?}", (g, o, i));
                assert!(layout.scale([g, o, i]) < layout.scales());
            }
        }
    }

    #[test]
    fn a_lane_holds_its_fragments() {
        let layout =
            Int4Layout::new([1, 32, 32], Int4Format { symmetric: true, block: Int4Block::Row }).unwrap();
        // B of m16n8k16: lane 4 g + t has k = 2t, 2t + 1, 2t + 8, 2t + 9 of column g, here row 4 g + word.
        for (lane, word) in (0..32).flat_map(|lane| (0..4).map(move |word| (lane, word))) {
            let (g, t) = (lane / 4, lane % 4);
            for (product, half, low) in
                (0..2).flat_map(|p| (0..2).flat_map(move |h| (0..2).map(move |l| (p, h, l))))
            {
                let k = 16 * product + 8 * half + 2 * t + low;
                let at = (lane * 4 + word, (8 * product + 4 * half + 16 * low) as u32);
                assert_eq!(layout.position([0, 4 * g + word, k]), at);
            }
        }
    }

    #[test]
    fn sizes_and_limits() {
        let layout =
            |block, symmetric| Int4Layout::new([2, 40, 200], Int4Format { symmetric, block }).unwrap();
        let all = BLOCKS.map(|block| layout(block, false));
        assert!(all.iter().all(|l| l.words() == 2 * 2 * 7 * 128));
        assert_eq!(all.map(|l| l.scales()), [2 * 64 * 7, 2 * 64 * 4, 2 * 64 * 2, 2 * 64, 2 * 32]);
        assert_eq!(all.map(|l| l.zeros()), all.map(|l| l.scales()));
        assert_eq!(layout(Int4Block::Columns32, true).zeros(), 0);
        assert_eq!(layout(Int4Block::Matrix, false).bytes(), 4 * 2 * 2 * 7 * 128 + 3 * 2 * 32);
        let format = Int4Format { symmetric: true, block: Int4Block::Row };
        assert!(Int4Layout::new([1, u32::MAX as usize, 1], format).is_err());
        assert!(Int4Layout::new([1 << 30, 1 << 30, 1 << 30], format).is_err());
    }
}
