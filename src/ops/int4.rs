//! INT4 weights: quantising, dequantising, and both at once for training.

use std::ops::Range as Span;

use rayon::prelude::*;

use super::Op;
use crate::cpu::int4::{Code, Range, codes, fake, pack, unpack};
use crate::cpu::math::vectorize;
#[cfg(feature = "cuda")]
use crate::cuda::{
    Cuda, DequantizeInt4Params, FakeQuantInt4Params, Int4Weights, Kernel, QuantizeInt4Params, images,
};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::int4::{
    Int4Block, Int4Format, Int4Layout, Int4View, Int4ViewMut, PANEL, PANEL_WORDS, Stacked, StackedMut,
};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::View;

#[cfg(feature = "cuda")]
const QUANTIZE: Kernel =
    Kernel { image: &images::INT4, name: "quantize_int4", tile: "moe_quantize_int4_launch" };
#[cfg(feature = "cuda")]
const DEQUANTIZE: Kernel =
    Kernel { image: &images::INT4, name: "dequantize_int4", tile: "moe_dequantize_int4_launch" };
#[cfg(feature = "cuda")]
const FAKE_QUANT: Kernel =
    Kernel { image: &images::INT4, name: "fake_quant_int4", tile: "moe_fake_quant_int4_launch" };

/// `w = quantised x`, by the rules of [`Int4Format`]'s module: rounding to nearest, at most half a scale of error.
///
/// Reads each weight once; twice where a scale spans a row or a matrix. Whole matrices, meant for factors of residuals, are
/// the work of one block of threads each on a CUDA device.
#[derive(Debug)]
pub struct QuantizeInt4<'a, T> {
    /// `[groups, out, in]`: a view of this shape, or the factors of clusters.
    pub x: Stacked<'a, T>,
    /// `[groups, out, in]`, overwritten, padding included.
    pub w: Int4ViewMut<'a>,
}

/// `y = scale (q - zero)`, rounded to `T`: the very weights that products with `w` see.
#[derive(Debug)]
pub struct DequantizeInt4<'a, T> {
    /// `[groups, out, in]`.
    pub w: Int4View<'a>,
    /// `[groups, out, in]`.
    pub y: StackedMut<'a, T>,
}

/// [`QuantizeInt4`] and [`DequantizeInt4`] in one pass, to the bit, with nothing packed: what training with
/// quantised weights multiplies by. Its gradient passes through unchanged (straight-through).
#[derive(Debug)]
pub struct FakeQuantInt4<'a, T> {
    /// `[groups, out, in]`.
    pub x: Stacked<'a, T>,
    /// `[groups, out, in]`.
    pub y: StackedMut<'a, T>,
    /// How the weights would be stored.
    pub format: Int4Format,
}

impl Int4Layout {
    /// Columns that share a scale.
    fn columns(&self) -> usize {
        if self.shift() == 31 { self.shape()[2].max(1) } else { PANEL << self.shift() }
    }

    /// The codes of at most 32 rows, `[blocks, 32]`; or those that all of their matrix share.
    fn codes<T: Elem>(&self, rows: View<'_, T, 2>, shared: Option<Code>) -> Vec<Code> {
        match shared {
            Some(code) => vec![code; PANEL],
            None => vectorize!(|| codes(rows, self.columns(), self.format().symmetric)),
        }
    }

    /// For each group the code of its matrix, if one is all it has.
    fn shared<T: Elem>(&self, x: &Stacked<'_, T>) -> Vec<Option<Code>> {
        let code = |group: usize| {
            let ranges = (0..self.strips()).into_par_iter().map_parts(|strip| {
                x.rows(group, self.strip(strip), |rows| {
                    let mut range = Range::default();
                    vectorize!(|| (0..rows.dim(0)).for_each(|row| range.add(rows.row(row))));
                    range
                })
            });
            Code::new(ranges.reduce(Range::default, Range::merge), self.format().symmetric)
        };
        let whole = self.format().block == Int4Block::Matrix;
        (0..self.shape()[0]).map(|group| whole.then(|| code(group))).collect()
    }

    /// Rows of strip `strip`.
    fn strip(&self, strip: usize) -> Span<usize> {
        strip * PANEL..self.shape()[1].min((strip + 1) * PANEL)
    }
}

/// What kernels know of weights, with these addresses.
#[cfg(feature = "cuda")]
pub(super) fn weights(layout: &Int4Layout, [words, scales, zeros]: [u64; 3]) -> Int4Weights {
    let [groups, outputs, inputs] = layout.shape();
    Int4Weights {
        words,
        scales,
        zeros: if layout.format().symmetric { 0 } else { zeros },
        groups: groups as u32,
        outputs: outputs as u32,
        inputs: inputs as u32,
        blocks: layout.blocks() as u32,
        shift: layout.shift(),
        per_matrix: u32::from(layout.format().block == Int4Block::Matrix),
    }
}

/// Weights to read, as kernels know them.
#[cfg(feature = "cuda")]
pub(super) fn weights_of(w: &Int4View<'_>) -> Int4Weights {
    weights(w.layout(), [w.words().address(), w.scales().address(), w.zeros().address()])
}

/// Blocks of threads of a quantising kernel with `per_block` warps each.
#[cfg(feature = "cuda")]
fn quantizing_blocks(layout: &Int4Layout, per_block: usize) -> usize {
    let strips = layout.shape()[0] * layout.strips();
    match layout.format().block {
        Int4Block::Matrix => layout.shape()[0],
        Int4Block::Row => strips,
        _ => (strips * layout.blocks()).div_ceil(per_block),
    }
}

impl<T: Elem> Op for QuantizeInt4<'_, T> {
    const NAME: &'static str = "quantize_int4";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w);
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.x.shape() == self.w.shape(), x = self.x.shape(), w = self.w.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.x.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (self.x.shape().iter().product::<usize>() * T::DTYPE.size()) as u64 + self.w.layout().bytes()
    }

    fn cpu(self) -> Result<()> {
        let layout = *self.w.layout();
        let (steps, strips, per) = (layout.steps(), layout.strips(), layout.blocks() * PANEL);
        let shared = layout.shared(&self.x);
        let (mut words, mut scales, mut zeros) = self.w.into_parts();
        let mut codes = vec![Vec::new(); layout.shape()[0] * strips];
        let panels = words.as_slice_mut().par_chunks_mut(steps * PANEL_WORDS);
        panels.zip(&mut codes).enumerate().for_each_part(|(i, (panels, codes))| {
            self.x.rows(i / strips, layout.strip(i % strips), |rows| {
                *codes = layout.codes(rows, shared[i / strips]);
                let code = |step: usize, row: usize| codes[(step >> layout.shift()) * PANEL + row];
                vectorize!(|| pack(rows, code, panels));
            });
        });
        let kept: Vec<Code> = match layout.format().block {
            Int4Block::Matrix => shared.into_iter().flatten().flat_map(|code| [code; PANEL]).collect(),
            _ => codes.into_iter().flat_map(|c| c.into_iter().take(per)).collect(),
        };
        scales.as_slice_mut().iter_mut().zip(&kept).for_each(|(s, code)| *s = code.scale());
        zeros.as_slice_mut().iter_mut().zip(&kept).for_each(|(z, code)| *z = code.zero());
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let params = QuantizeInt4Params { w: weights_of(&self.w.as_view()), x: self.x.matrices() };
        let blocks = quantizing_blocks(self.w.layout(), device.tile(QUANTIZE)?.rows as usize);
        // SAFETY: the views are on this device (`misplaced`) and of one shape (`check`).
        unsafe { device.launch(QUANTIZE, T::DTYPE.variant(), [blocks, 1, 1], &params) }
    }
}

impl<T: Elem> Op for DequantizeInt4<'_, T> {
    const NAME: &'static str = "dequantize_int4";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: w, y);
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.y.shape() == self.w.shape(), y = self.y.shape(), w = self.w.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (self.y.shape().iter().product::<usize>() * T::DTYPE.size()) as u64 + self.w.layout().bytes()
    }

    fn cpu(self) -> Result<()> {
        let steps = 0..self.w.layout().steps();
        self.y.pieces().into_par_iter().for_each_part(|piece| {
            let (group, first) = (piece.group, piece.rows.start);
            piece.fill(|i, to| {
                let row = first + i..first + i + 1;
                vectorize!(|| unpack::<T, T>(&self.w, group, row, steps.clone(), to, to.len()));
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let layout = self.w.layout();
        let params = DequantizeInt4Params { w: weights_of(&self.w), y: self.y.matrices() };
        let panels = layout.shape()[0] * layout.strips() * layout.steps();
        let blocks = panels.div_ceil(device.tile(DEQUANTIZE)?.rows as usize);
        // SAFETY: the views are on this device (`misplaced`) and of one shape (`check`).
        unsafe { device.launch(DEQUANTIZE, T::DTYPE.variant(), [blocks, 1, 1], &params) }
    }
}

impl<T: Elem> Op for FakeQuantInt4<'_, T> {
    const NAME: &'static str = "fake_quant_int4";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, y);
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.x.shape() == self.y.shape(), x = self.x.shape(), y = self.y.shape());
        Int4Layout::new(self.x.shape(), self.format)?;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        2 * (self.y.shape().iter().product::<usize>() * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let layout = Int4Layout::new(self.x.shape(), self.format)?;
        let shared = layout.shared(&self.x);
        self.y.pieces().into_par_iter().for_each_part(|piece| {
            self.x.rows(piece.group, piece.rows.clone(), |x| {
                let codes = layout.codes(x, shared[piece.group]);
                piece.fill(|row, to| {
                    let from = x.row(row);
                    vectorize!(|| fake(from, layout.columns(), |block| codes[block * PANEL + row], to));
                });
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let layout = Int4Layout::new(self.x.shape(), self.format)?;
        let (w, x, y) = (weights(&layout, [0, 0, 1]), self.x.matrices(), self.y.matrices());
        let params = FakeQuantInt4Params { w, x, y };
        let blocks = quantizing_blocks(&layout, device.tile(FAKE_QUANT)?.rows as usize);
        // SAFETY: the views are on this device (`misplaced`) and of one shape (`check`).
        unsafe { device.launch(FAKE_QUANT, T::DTYPE.variant(), [blocks, 1, 1], &params) }
    }
}
