//! Dot products between all experts.

use std::ops::Range;

use rayon::prelude::*;

use super::Op;
use crate::cpu::double::{Matrix, multiply, widen};
use crate::cpu::math::vectorize;
use crate::cpu::{bounds, pieces};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, GramParams, GramSumParams, Kernel, ONLY, images};
#[cfg(feature = "cuda")]
use crate::elem::DType;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

#[cfg(feature = "cuda")]
const GRAM: Kernel = Kernel { image: &images::SIMILARITY, name: "gram", tile: "moe_gram_launch" };
#[cfg(feature = "cuda")]
const GRAM_SMALL: Kernel =
    Kernel { image: &images::SIMILARITY, name: "gram_small", tile: "moe_gram_small_launch" };
#[cfg(feature = "cuda")]
const GRAM_SUM: Kernel = Kernel { image: &images::SIMILARITY, name: "gram_sum", tile: "moe_gram_sum_launch" };

/// Most experts for which one small tile of a kernel has all pairs.
const SMALL: usize = 64;
/// Experts along a side of a large tile.
const LARGE: usize = 128;
/// Tiles of work to aim at, of small and of large tiles: several for each multiprocessor of any device, so that
/// they end together, and few enough that the partial sums are a small part of what is read.
const TASKS: [usize; 2] = [1024, 512];
/// Fewest elements of an expert in a span.
const SPAN: usize = 4096;
/// Experts of a task on the CPU.
const BAND: usize = 64;
/// Elements of an expert that are widened at a time on the CPU.
const DEPTH: usize = 512;

/// `gram[i, j] = <x_i, x_j>` over all elements of the experts' matrices.
///
/// The bits of `gram[i, j]` and `gram[j, i]` are the same, and those of every run. The CPU computes in f64. CUDA devices
/// multiply on tensor cores, f32 as three products of TF32 that lose 2^-22 of it, and sum in f32: chains of at most 64
/// additions, which cut off there, then those sums, rounded; and in f64 the sums of up to 1,024 spans.
///
/// What is not finite in an expert makes all its products NaN or infinite, and those of no other two.
///
/// All elements are read once for up to 128 experts; beyond, once for every 128 experts, most of it from cache.
#[derive(Debug)]
pub struct Gram<'a, T> {
    /// `[experts, rows, columns]`, with gaps anywhere; vectors are matrices of one row. Less than 2^31 elements each.
    pub x: View<'a, T, 3>,
    /// `[experts, experts]`.
    pub gram: ViewMut<'a, f64, 2>,
    /// Partial sums: [`Gram::workspace_len`] elements or more.
    pub workspace: ViewMut<'a, f64, 1>,
    /// Add to `gram`, whose lower half is read, instead of overwriting it.
    pub accumulate: bool,
}

impl<T> Gram<'_, T> {
    /// Elements of workspace for experts of this shape: one sum of each pair for every span.
    pub fn workspace_len([experts, rows, columns]: [usize; 3]) -> usize {
        spans(experts, rows.saturating_mul(columns)).saturating_mul(packed(experts))
    }
}

/// Number of pairs `(i, j)` with `j <= i` below row `i`: where row `i` starts in the packed half of a matrix.
fn packed(i: usize) -> usize {
    i.saturating_mul(i.saturating_add(1)) / 2
}

/// Into how many spans the elements of the experts are cut: a function of the shape alone, and the order of the sum
/// with it.
fn spans(experts: usize, length: usize) -> usize {
    let (tasks, side) = if experts <= SMALL { (TASKS[0], SMALL) } else { (TASKS[1], LARGE) };
    let tiles = packed(experts.div_ceil(side)).max(1);
    (length / SPAN).min(tasks / tiles).max(1)
}

impl<T: Elem> Op for Gram<'_, T> {
    const NAME: &'static str = "gram";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, gram, workspace);
    }

    fn check(&self) -> Result<()> {
        let (x, gram) = (self.x.shape(), self.gram.shape());
        ensure!(Self::NAME, x[0] <= u16::MAX as usize, x = x);
        ensure!(Self::NAME, x[1].saturating_mul(x[2]) <= i32::MAX as usize, x = x);
        ensure!(Self::NAME, gram == [x[0], x[0]], gram = gram, x = x);
        let need = Self::workspace_len(x);
        ensure!(Self::NAME, self.workspace.dim(0) >= need, workspace = self.workspace.dim(0), need = need);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // Of matrices without elements the products are zero, and have to be written.
        self.gram.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        let [experts, rows, columns] = self.x.shape();
        2 * (packed(experts) * rows * columns) as u64
    }

    fn bytes(&self) -> u64 {
        let [experts, rows, columns] = self.x.shape();
        (experts * rows * columns * T::DTYPE.size() + experts * experts * size_of::<f64>()) as u64
    }

    fn cpu(mut self) -> Result<()> {
        let [experts, rows, columns] = self.x.shape();
        let (length, pairs) = (rows * columns, packed(experts));
        let spans = spans(experts, length);
        let (sum, rest) = self.workspace.as_slice_mut()[..spans * pairs].split_at_mut(pairs);
        let bands = bounds(experts, BAND);
        let mut tasks = Vec::with_capacity(spans * bands.len());
        for (s, mut partial) in std::iter::once(&mut *sum).chain(rest.chunks_mut(pairs)).enumerate() {
            for band in bands.windows(2) {
                let (of_band, tail) = partial.split_at_mut(packed(band[1]) - packed(band[0]));
                tasks.push((s * length / spans..(s + 1) * length / spans, band[0]..band[1], of_band));
                partial = tail;
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each_part(|(span, band, partial)| {
            products(self.x, span, band, partial);
        });
        for partial in rest.chunks(pairs) {
            vectorize!(|| sum.iter_mut().zip(partial).for_each(|(s, p)| *s += p));
        }
        for i in 0..experts {
            for j in 0..=i {
                let old = if self.accumulate { self.gram.row_mut(i)[j] } else { 0.0 };
                let total = old + sum[packed(i) + j];
                self.gram.row_mut(i)[j] = total;
                self.gram.row_mut(j)[i] = total;
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [expert, row, _] = self.x.strides();
        let x = Operand {
            dtype: T::DTYPE,
            address: self.x.address(),
            shape: self.x.shape(),
            strides: [expert, row],
        };
        let gram = (self.gram.address(), self.gram.stride(0));
        // SAFETY: the views are on this device (`misplaced`) and of these shapes, and the workspace has room for all
        // pairs of all spans (`check`).
        unsafe { launch(device, x, self.workspace.address(), gram, self.accumulate) }
    }
}

/// Matrices of experts in the memory of a device.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub dtype: DType,
    pub address: u64,
    /// `[experts, rows, columns]`.
    pub shape: [usize; 3],
    /// Elements from expert to expert, and from row to row.
    pub strides: [usize; 2],
}

/// Enqueues the kernels: the partial sums of every span, then their sum into `gram`, an address and a stride.
///
/// # Safety
/// All addresses are of this device: `x` of matrices of these strides, `partial` of [`Gram::workspace_len`] elements,
/// `gram` of an f64 matrix. The shape obeys the rules of [`Gram`] and has experts.
#[cfg(feature = "cuda")]
pub(super) unsafe fn launch(
    device: &Cuda,
    x: Operand,
    partial: u64,
    (gram, gram_stride): (u64, u64),
    accumulate: bool,
) -> Result<()> {
    let ([experts, rows, columns], [expert_stride, row_stride]) = (x.shape, x.strides);
    let (spans, pairs) = (spans(experts, rows * columns), packed(experts));
    // Rows without gaps between them are one row.
    let whole = rows <= 1 || row_stride == columns;
    let (rows, columns, row_stride) =
        if whole { (1, rows * columns, 0) } else { (rows, columns, row_stride as u64) };
    let kernel = if experts <= SMALL { GRAM_SMALL } else { GRAM };
    let tile = device.tile(kernel)?;
    let chunks = rows * columns.div_ceil(16 / x.dtype.size());
    let params = GramParams {
        x: x.address,
        partial,
        expert_stride: expert_stride as u64,
        row_stride,
        experts: experts as u32,
        rows: rows as u32,
        columns: columns as u32,
        span: chunks.div_ceil(spans).next_multiple_of(tile.columns as usize) as u32,
    };
    let tiles = packed(experts.div_ceil(tile.rows as usize));
    // SAFETY: the caller's.
    unsafe { device.launch(kernel, x.dtype.variant(), [tiles, spans, 1], &params)? };
    let (experts, spans) = (experts as u32, spans as u32);
    let accumulate = u32::from(accumulate);
    let params = GramSumParams { partial, gram, gram_stride, experts, spans, accumulate, unused: 0 };
    let blocks = pairs.div_ceil(device.tile(GRAM_SUM)?.columns as usize);
    // SAFETY: the caller's.
    unsafe { device.launch(GRAM_SUM, ONLY, [blocks, 1, 1], &params) }
}

/// Products of the experts `band` with all up to them, over the elements `span`, packed.
fn products<T: Elem>(x: View<'_, T, 3>, span: Range<usize>, band: Range<usize>, partial: &mut [f64]) {
    let (experts, first) = (band.end, packed(band.start));
    let mut sum = vec![0.0; band.len() * experts]; // [band, experts]
    let mut wide = vec![0.0; experts * DEPTH]; // [experts, depth]
    for piece in pieces(span.len(), DEPTH).into_iter().filter(|piece| !piece.is_empty()) {
        let depth = piece.len();
        for (expert, wide) in wide.chunks_exact_mut(depth).take(experts).enumerate() {
            gather(x.matrix(expert), span.start + piece.start, wide);
        }
        let rows = Matrix::new(&wide[band.start * depth..], [band.len(), depth], depth);
        multiply(&mut sum, experts, rows, Matrix::new(&wide, [experts, depth], depth).t());
    }
    for (sum, i) in sum.chunks_exact(experts).zip(band) {
        partial[packed(i) - first..][..=i].copy_from_slice(&sum[..=i]);
    }
}

/// Elements `from..` of a matrix that has some, in row-major order.
fn gather<T: Elem>(matrix: View<'_, T, 2>, from: usize, mut to: &mut [f64]) {
    let (mut row, mut column) = (from / matrix.dim(1), from % matrix.dim(1));
    while !to.is_empty() {
        let count = to.len().min(matrix.dim(1) - column);
        let (part, rest) = to.split_at_mut(count);
        widen(&matrix.row(row)[column..column + count], part);
        (to, row, column) = (rest, row + 1, 0);
    }
}

#[test]
fn spans_follow_the_shape() {
    assert_eq!(spans(32, 7 << 20), 1024);
    assert_eq!(spans(128, 18 << 20), 512);
    assert_eq!(spans(1024, 18 << 20), 14);
    assert_eq!(spans(32, 768), 1);
    assert_eq!(spans(65, 3 * SPAN), 3);
    assert_eq!(spans(u16::MAX as usize, 1 << 30), 1);
    assert_eq!(Gram::<f32>::workspace_len([4, 0, 7]), 10);
}
