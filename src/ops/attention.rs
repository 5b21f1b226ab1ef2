//! Causal multi-head attention.

use rayon::prelude::*;

use super::Op;
#[cfg(feature = "cuda")]
use super::attention_kernels::{FORWARD, over_heads};
use crate::cpu::gemm::multiply;
use crate::cpu::math::{exp, max, sum_by, vectorize};
#[cfg(feature = "cuda")]
use crate::cuda::{AttentionParams, Cuda};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Queries of a tile: a task holds their scores against the keys they see, and nothing larger.
pub(super) const QUERIES: usize = 64;

/// `out[i] = sum over j <= i of softmax_j(q[i] . k[j] / sqrt(head_dim)) v[j]`, for every head of every
/// sequence. Scores are never rounded to `T` and never leave a tile of queries.
///
/// On CUDA devices tensor cores multiply the probabilities of 16-bit dtypes with `v`: their numerators, at most 1, are
/// rounded to `T` for that, as every flash attention does; the denominators are sums of what they were before. Heads
/// have at most 256 columns there, 128 in f32.
#[derive(Debug)]
pub struct Attention<'a, T> {
    /// `[batch * seq, 3 * hidden]`: queries, keys and values side by side, each `heads * head_dim` wide.
    pub qkv: View<'a, T, 2>,
    /// Number of heads.
    pub heads: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// `[batch * seq, hidden]`.
    pub out: ViewMut<'a, T, 2>,
    /// `[heads, batch * seq]`, f32: logarithm of the sum of the exponentials of the scaled scores of each
    /// query, which the backward needs.
    pub lse: ViewMut<'a, f32, 2>,
}

/// How the rows and columns of a `qkv` matrix are cut into heads; checked.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a, T> {
    pub qkv: View<'a, T, 2>,
    pub heads: usize,
    pub seq: usize,
}

impl<'a, T: Elem> Heads<'a, T> {
    /// Rules that the forward and the backward share.
    pub fn check(&self, op: &'static str) -> Result<()> {
        let (qkv, heads, seq) = (self.qkv.shape(), self.heads, self.seq);
        ensure!(op, heads >= 1, heads = heads);
        ensure!(op, qkv[1] >= 1 && qkv[1] % 3 == 0, qkv = qkv);
        ensure!(op, qkv[1] / 3 % heads == 0, qkv = qkv, heads = heads);
        ensure!(op, seq >= 1, seq = seq);
        ensure!(op, qkv[0] % seq == 0, qkv = qkv, seq = seq);
        Ok(())
    }

    /// Columns of the output.
    pub fn hidden(&self) -> usize {
        self.qkv.dim(1) / 3
    }

    /// Columns of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden() / self.heads
    }

    /// Multiply-adds, counted as two, of `products` products of a causal half square with a head.
    pub fn flops(&self, products: u64) -> u64 {
        let pairs = self.qkv.dim(0) as u64 * (self.seq as u64 + 1) / 2;
        2 * products * pairs * self.hidden() as u64
    }

    /// Factor of the scores.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim() as f32).sqrt()
    }

    /// Row bounds of the sequences and column bounds of the heads.
    pub fn bounds(&self) -> (Vec<usize>, Vec<usize>) {
        let rows = (0..=self.qkv.dim(0) / self.seq).map(|s| s * self.seq).collect();
        (rows, (0..=self.heads).map(|h| h * self.head_dim()).collect())
    }

    /// Queries, keys and values of the sequence that starts at `row`, of the head that starts at `col`.
    pub fn parts(&self, row: usize, col: usize) -> [View<'a, T, 2>; 3] {
        let sequence = self.qkv.narrow(0, row..row + self.seq);
        [0, 1, 2].map(|part| {
            let start = part * self.hidden() + col;
            sequence.narrow(1, start..start + self.head_dim())
        })
    }

    /// Cuts a matrix of `hidden` columns into one part per head and sequence: heads outside.
    pub fn cut<'m, E>(&self, matrix: ViewMut<'m, E, 2>) -> Vec<ViewMut<'m, E, 2>> {
        let (rows, cols) = self.bounds();
        matrix.cut(1, &cols).into_iter().flat_map(|strip| strip.cut(0, &rows)).collect()
    }

    /// First row and column of the parts of [`Heads::cut`].
    pub fn starts(&self) -> Vec<(usize, usize)> {
        let (rows, cols) = self.bounds();
        let starts = |bounds: &[usize]| bounds[..bounds.len() - 1].to_vec();
        let rows = starts(&rows);
        starts(&cols)
            .into_iter()
            .flat_map(|col| rows.iter().map(move |&row| (row, col)).collect::<Vec<_>>())
            .collect()
    }
}

impl<T: Elem> Attention<'_, T> {
    fn layout(&self) -> Heads<'_, T> {
        Heads { qkv: self.qkv, heads: self.heads, seq: self.seq }
    }
}

impl<T: Elem> Op for Attention<'_, T> {
    const NAME: &'static str = "attention";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: qkv, out, lse);
    }

    fn check(&self) -> Result<()> {
        self.layout().check(Self::NAME)?;
        let (qkv, out, lse) = (self.qkv.shape(), self.out.shape(), self.lse.shape());
        ensure!(Self::NAME, out == [qkv[0], qkv[1] / 3], out = out, qkv = qkv);
        ensure!(Self::NAME, lse == [self.heads, qkv[0]], lse = lse, heads = self.heads, qkv = qkv);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.qkv.dim(0) == 0
    }

    fn flops(&self) -> u64 {
        self.layout().flops(2)
    }

    fn bytes(&self) -> u64 {
        let [rows, cols] = self.qkv.shape();
        (rows * (cols + cols / 3) * T::DTYPE.size() + rows * self.heads * size_of::<f32>()) as u64
    }

    fn cpu(self) -> Result<()> {
        let layout = Heads { qkv: self.qkv, heads: self.heads, seq: self.seq };
        let lse = self.lse.cut(0, &(0..=self.heads).collect::<Vec<_>>());
        let lse: Vec<_> = lse.into_iter().flat_map(|head| head.cut(1, &layout.bounds().0)).collect();
        let tasks = layout.starts().into_par_iter().zip(layout.cut(self.out)).zip(lse).with_max_len(1);
        tasks.try_for_each_part(|(((row, col), out), lse)| {
            head(layout.parts(row, col), layout.scale(), out, lse)
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let layout = self.layout();
        let params = AttentionParams {
            qkv: self.qkv.address(),
            out: self.out.address(),
            lse: self.lse.address(),
            qkv_stride: self.qkv.stride(0),
            out_stride: self.out.stride(0),
            lse_stride: self.lse.stride(0),
            seq: self.seq as u32,
            heads: self.heads as u32,
            head_dim: layout.head_dim() as u32,
            scale: layout.scale(),
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { over_heads(device, Self::NAME, FORWARD, &layout, &params) }
    }
}

/// One head of one sequence: `out` is `[seq, head_dim]`, `lse` is `[1, seq]`.
fn head<T: Elem>(
    [q, k, v]: [View<'_, T, 2>; 3],
    scale: f32,
    mut out: ViewMut<'_, T, 2>,
    mut lse: ViewMut<'_, f32, 2>,
) -> Result<()> {
    let [seq, head_dim] = out.shape();
    let mut scores = scratch(QUERIES.min(seq), seq)?;
    let mut sums = Tensor::<f32, 2>::zeros([QUERIES.min(seq), head_dim])?;
    let keys = transposed(k)?;
    let lse = lse.row_mut(0);
    for start in (0..seq).step_by(QUERIES) {
        let end = (start + QUERIES).min(seq);
        let mut p = scores.view_mut().narrow(0, 0..end - start).narrow(1, 0..end);
        multiply(p.reborrow(), false, q.narrow(0, start..end), keys.view().narrow(1, 0..end));
        let mut inverse = [0f32; QUERIES];
        vectorize!(|| {
            for i in start..end {
                let (seen, masked) = p.row_mut(i - start).split_at_mut(i + 1);
                let top = max(seen);
                seen.iter_mut().for_each(|s| *s = exp((*s - top) * scale));
                masked.fill(0.0);
                let sum = sum_by(seen.len(), |j| seen[j]);
                inverse[i - start] = 1.0 / sum;
                lse[i] = top * scale + sum.ln();
            }
        });
        let mut sums = sums.view_mut().narrow(0, 0..end - start);
        multiply(sums.reborrow(), false, p.as_view(), v.narrow(0, 0..end));
        vectorize!(|| {
            for (i, inverse) in inverse[..end - start].iter().enumerate() {
                let out = out.row_mut(start + i).iter_mut();
                out.zip(sums.row_mut(i)).for_each(|(o, s)| *o = T::from_f32(*s * inverse));
            }
        });
    }
    Ok(())
}

/// Zeros whose rows are a little apart: rows a power of two apart would share a few
/// sets of the cache.
pub(super) fn scratch(rows: usize, cols: usize) -> Result<Tensor<f32, 2>> {
    Tensor::zeros([rows, cols.next_multiple_of(16) + 16])
}

/// The transpose in f32, once a head: products with it need no packing, which would be done for each tile.
pub(super) fn transposed<T: Elem>(x: View<'_, T, 2>) -> Result<Tensor<f32, 2>> {
    const BLOCK: usize = 16;
    let [rows, cols] = x.shape();
    let mut out = scratch(cols, rows)?;
    let stride = out.shape()[1];
    for (block, values) in out.host_mut()?.chunks_mut(BLOCK * stride).enumerate() {
        let start = block * BLOCK;
        for row in 0..rows {
            let column = values[row..].iter_mut().step_by(stride);
            column.zip(&x.row(row)[start..]).for_each(|(out, v)| *out = v.to_f32());
        }
    }
    Ok(out)
}
