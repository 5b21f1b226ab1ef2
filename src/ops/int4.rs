//! INT4 weights: quantising, dequantising, and both at once for training.

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
use crate::int4::{Int4Block, Int4Format, Int4Layout, Int4View, Int4ViewMut, PANEL, PANEL_WORDS};
use crate::place::{Place, misplaced};
use crate::view::{View, ViewMut};

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
    /// `[groups, out, in]`.
    pub x: View<'a, T, 3>,
    /// `[groups, out, in]`, overwritten, padding included.
    pub w: Int4ViewMut<'a>,
}

/// `y = scale (q - zero)`, rounded to `T`: the very weights that products with `w` see.
#[derive(Debug)]
pub struct DequantizeInt4<'a, T> {
    /// `[groups, out, in]`.
    pub w: Int4View<'a>,
    /// `[groups, out, in]`.
    pub y: ViewMut<'a, T, 3>,
}

/// [`QuantizeInt4`] and [`DequantizeInt4`] in one pass, to the bit, with nothing packed: what training with
/// quantised weights multiplies by. Its gradient passes through unchanged (straight-through).
#[derive(Debug)]
pub struct FakeQuantInt4<'a, T> {
    /// `[groups, out, in]`.
    pub x: View<'a, T, 3>,
    /// `[groups, out, in]`.
    pub y: ViewMut<'a, T, 3>,
    /// How the weights would be stored.
    pub format: Int4Format,
}

impl Int4Layout {
    /// Columns that share a scale.
    fn columns(&self) -> usize {
        if self.shift() == 31 { self.shape()[2].max(1) } else { PANEL << self.shift() }
    }

    /// The codes of strip `strip` of a matrix, `[blocks, 32]`; or those that all of its strips share.
    fn codes<T: Elem>(&self, x: View<'_, T, 2>, strip: usize, shared: Option<Code>) -> Vec<Code> {
        match shared {
            Some(code) => vec![code; PANEL],
            None => vectorize!(|| codes(self.strip(x, strip), self.columns(), self.format().symmetric)),
        }
    }

    /// The code of a matrix, if one is all it has.
    fn code<T: Elem>(&self, x: View<'_, T, 2>) -> Option<Code> {
        let rows = (0..x.dim(0)).into_par_iter().map(|row| {
            let mut range = Range::default();
            vectorize!(|| range.add(x.row(row)));
            range
        });
        let whole = self.format().block == Int4Block::Matrix;
        whole.then(|| Code::new(rows.reduce(Range::default, Range::merge), self.format().symmetric))
    }

    /// Rows of strip `strip` of a matrix.
    fn strip<'a, T>(&self, x: View<'a, T, 2>, strip: usize) -> View<'a, T, 2> {
        x.narrow(0, strip * PANEL..x.dim(0).min((strip + 1) * PANEL))
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

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: x, w)
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
        let shared: Vec<_> = (0..layout.shape()[0]).map(|g| layout.code(self.x.matrix(g))).collect();
        let (mut words, mut scales, mut zeros) = self.w.into_parts();
        let mut codes = vec![Vec::new(); layout.shape()[0] * strips];
        let panels = words.as_slice_mut().par_chunks_mut(steps * PANEL_WORDS);
        panels.zip(&mut codes).enumerate().for_each(|(i, (panels, codes))| {
            let x = self.x.matrix(i / strips);
            *codes = layout.codes(x, i % strips, shared[i / strips]);
            let code = |step: usize, row: usize| codes[(step >> layout.shift()) * PANEL + row];
            vectorize!(|| pack(layout.strip(x, i % strips), code, panels));
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
        let [x_matrix, x_stride, _] = self.x.strides();
        let params = QuantizeInt4Params {
            w: weights_of(&self.w.as_view()),
            x: self.x.address(),
            x_matrix: x_matrix as u64,
            x_stride: x_stride as u64,
        };
        let blocks = quantizing_blocks(self.w.layout(), device.tile(QUANTIZE)?.rows as usize);
        // SAFETY: the views are on this device (`misplaced`) and of one shape (`check`).
        unsafe { device.launch(QUANTIZE, T::DTYPE.variant(), [blocks, 1, 1], &params) }
    }
}

impl<T: Elem> Op for DequantizeInt4<'_, T> {
    const NAME: &'static str = "dequantize_int4";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: w, y)
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
        let layout = self.w.layout();
        for (g, y) in self.y.into_matrices().into_iter().enumerate() {
            strips_of(y, layout.strips()).into_par_iter().enumerate().for_each(|(strip, mut y)| {
                let first = strip * PANEL;
                for row in 0..y.dim(0) {
                    let (one, to) = (first + row..first + row + 1, y.row_mut(row));
                    vectorize!(|| unpack::<T, T>(&self.w, g, one, 0..layout.steps(), to, to.len()));
                }
            });
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let layout = self.w.layout();
        let [y_matrix, y_stride, _] = self.y.strides();
        let params = DequantizeInt4Params {
            w: weights_of(&self.w),
            y: self.y.address(),
            y_matrix: y_matrix as u64,
            y_stride: y_stride as u64,
        };
        let panels = layout.shape()[0] * layout.strips() * layout.steps();
        let blocks = panels.div_ceil(device.tile(DEQUANTIZE)?.rows as usize);
        // SAFETY: the views are on this device (`misplaced`) and of one shape (`check`).
        unsafe { device.launch(DEQUANTIZE, T::DTYPE.variant(), [blocks, 1, 1], &params) }
    }
}

impl<T: Elem> Op for FakeQuantInt4<'_, T> {
    const NAME: &'static str = "fake_quant_int4";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: x, y)
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
        for (g, y) in self.y.into_matrices().into_iter().enumerate() {
            let x = self.x.matrix(g);
            let shared = layout.code(x);
            strips_of(y, layout.strips()).into_par_iter().enumerate().for_each(|(strip, mut y)| {
                let codes = layout.codes(x, strip, shared);
                let x = layout.strip(x, strip);
                for row in 0..x.dim(0) {
                    let (from, to) = (x.row(row), y.row_mut(row));
                    vectorize!(|| fake(from, layout.columns(), |block| codes[block * PANEL + row], to));
                }
            });
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let layout = Int4Layout::new(self.x.shape(), self.format)?;
        let ([x_matrix, x_stride, _], [y_matrix, y_stride, _]) = (self.x.strides(), self.y.strides());
        let params = FakeQuantInt4Params {
            w: weights(&layout, [0, 0, 1]),
            x: self.x.address(),
            y: self.y.address(),
            x_matrix: x_matrix as u64,
            x_stride: x_stride as u64,
            y_matrix: y_matrix as u64,
            y_stride: y_stride as u64,
        };
        let blocks = quantizing_blocks(&layout, device.tile(FAKE_QUANT)?.rows as usize);
        // SAFETY: the views are on this device (`misplaced`) and of one shape (`check`).
        unsafe { device.launch(FAKE_QUANT, T::DTYPE.variant(), [blocks, 1, 1], &params) }
    }
}

/// The strips of a matrix.
fn strips_of<T>(y: ViewMut<'_, T, 2>, strips: usize) -> Vec<ViewMut<'_, T, 2>> {
    let rows = y.shape()[0];
    let bounds: Vec<usize> = (0..=strips).map(|s| rows.min(s * PANEL)).collect();
    y.cut(0, &bounds)
}
