//! Gradient of causal multi-head attention.

use rayon::prelude::*;

use super::Op;
use super::attention::{Heads, QUERIES, scratch, transposed};
#[cfg(feature = "cuda")]
use super::attention_kernels::{BACKWARD_DKV, BACKWARD_DQ, over_heads};
use crate::cpu::gemm::{Mat, multiply};
use crate::cpu::math::{dot, exp, vectorize};
#[cfg(feature = "cuda")]
use crate::cuda::{AttentionBackwardParams, Cuda};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Gradient of [`Attention`](super::Attention). With `p[i, j]` the probabilities, computed again tile by
/// tile, and `ds[i, j] = p[i, j] (dout[i] . v[j] - dout[i] . out[i]) / sqrt(head_dim)`:
/// `dq[i] = sum_j ds[i, j] k[j]`, `dk[j] = sum_i ds[i, j] q[i]`, `dv[j] = sum_i p[i, j] dout[i]`.
///
/// On CUDA devices `p`, and `ds` before its division by `sqrt(head_dim)`, are rounded to 16-bit dtypes for the second
/// products, as the forward does; the limits of head_dim are the forward's.
#[derive(Debug)]
pub struct AttentionBackward<'a, T> {
    /// `[batch * seq, hidden]`.
    pub dout: View<'a, T, 2>,
    /// `[batch * seq, hidden]`, from the forward.
    pub out: View<'a, T, 2>,
    /// `[batch * seq, 3 * hidden]`, the input of the forward.
    pub qkv: View<'a, T, 2>,
    /// `[heads, batch * seq]`, f32, from the forward.
    pub lse: View<'a, f32, 2>,
    /// Number of heads.
    pub heads: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// `[batch * seq, 3 * hidden]`.
    pub dqkv: ViewMut<'a, T, 2>,
    /// [`AttentionBackward::workspace_len`] elements or more; the CPU leaves them as they are.
    pub workspace: ViewMut<'a, f32, 1>,
}

impl<T> AttentionBackward<'_, T> {
    /// Elements of workspace: `dout . out` of every row and head.
    pub fn workspace_len(rows: usize, heads: usize) -> usize {
        rows * heads
    }
}

impl<'a, T: Elem> AttentionBackward<'a, T> {
    fn layout(&self) -> Heads<'a, T> {
        Heads { qkv: self.qkv, heads: self.heads, seq: self.seq }
    }
}

impl<T: Elem> Op for AttentionBackward<'_, T> {
    const NAME: &'static str = "attention_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: dout, out, qkv, lse, dqkv, workspace);
    }

    fn check(&self) -> Result<()> {
        self.layout().check(Self::NAME)?;
        let (qkv, dqkv, lse) = (self.qkv.shape(), self.dqkv.shape(), self.lse.shape());
        let (out, dout) = (self.out.shape(), self.dout.shape());
        ensure!(Self::NAME, out == [qkv[0], qkv[1] / 3], out = out, qkv = qkv);
        ensure!(Self::NAME, dout == out, dout = dout, out = out);
        ensure!(Self::NAME, lse == [self.heads, qkv[0]], lse = lse, heads = self.heads, qkv = qkv);
        ensure!(Self::NAME, dqkv == qkv, dqkv = dqkv, qkv = qkv);
        let (workspace, need) = (self.workspace.dim(0), Self::workspace_len(qkv[0], self.heads));
        ensure!(Self::NAME, workspace >= need, workspace = workspace, need = need);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.qkv.dim(0) == 0
    }

    fn flops(&self) -> u64 {
        self.layout().flops(5)
    }

    fn bytes(&self) -> u64 {
        let [rows, cols] = self.qkv.shape();
        (rows * (2 * cols + 2 * cols / 3) * T::DTYPE.size() + rows * self.heads * size_of::<f32>()) as u64
    }

    fn cpu(self) -> Result<()> {
        let layout = self.layout();
        let hidden = layout.hidden();
        let mut parts = self.dqkv.cut(1, &[0, hidden, 2 * hidden, 3 * hidden]).into_iter();
        let (Some(dq), Some(dk), Some(dv)) = (parts.next(), parts.next(), parts.next()) else {
            return Ok(());
        };
        let gradients = layout.cut(dq).into_par_iter().zip(layout.cut(dk)).zip(layout.cut(dv));
        layout.starts().into_par_iter().zip(gradients).with_max_len(1).try_for_each_part(
            |((row, col), ((dq, dk), dv))| {
                let [q, k, v] = layout.parts(row, col);
                let rows = row..row + layout.seq;
                let cols = col..col + layout.head_dim();
                let head = Head {
                    q,
                    k,
                    v,
                    out: self.out.narrow(0, rows.clone()).narrow(1, cols.clone()),
                    dout: self.dout.narrow(0, rows.clone()).narrow(1, cols),
                    lse: &self.lse.row(col / layout.head_dim())[rows],
                    scale: layout.scale(),
                };
                head.backward(dq, dk, dv)
            },
        )
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let layout = self.layout();
        let params = AttentionBackwardParams {
            dout: self.dout.address(),
            out: self.out.address(),
            qkv: self.qkv.address(),
            dqkv: self.dqkv.address(),
            lse: self.lse.address(),
            delta: self.workspace.address(),
            dout_stride: self.dout.stride(0),
            out_stride: self.out.stride(0),
            qkv_stride: self.qkv.stride(0),
            dqkv_stride: self.dqkv.stride(0),
            lse_stride: self.lse.stride(0),
            rows: self.qkv.dim(0) as u64,
            seq: self.seq as u32,
            heads: self.heads as u32,
            head_dim: layout.head_dim() as u32,
            scale: layout.scale(),
        };
        for kernel in [BACKWARD_DQ, BACKWARD_DKV] {
            // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
            unsafe { over_heads(device, Self::NAME, kernel, &layout, &params) }?;
        }
        Ok(())
    }
}

/// One head of one sequence; the matrices are `[seq, head_dim]`.
struct Head<'a, T> {
    q: View<'a, T, 2>,
    k: View<'a, T, 2>,
    v: View<'a, T, 2>,
    out: View<'a, T, 2>,
    dout: View<'a, T, 2>,
    lse: &'a [f32],
    scale: f32,
}

impl<T: Elem> Head<'_, T> {
    fn backward(
        &self,
        mut dq: ViewMut<'_, T, 2>,
        dk: ViewMut<'_, T, 2>,
        dv: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        let [seq, head_dim] = self.q.shape();
        let mut tiles = [scratch(QUERIES.min(seq), seq)?, scratch(QUERIES.min(seq), seq)?];
        // A key collects from every tile of queries: in f32, rounded to `T` once.
        let (mut sum_k, mut sum_v) = (Tensor::zeros([seq, head_dim])?, Tensor::zeros([seq, head_dim])?);
        let (keys, values) = (transposed(self.k)?, transposed(self.v)?);
        for start in (0..seq).step_by(QUERIES) {
            let end = (start + QUERIES).min(seq);
            let [mut p, mut ds] =
                tiles.each_mut().map(|t| t.view_mut().narrow(0, 0..end - start).narrow(1, 0..end));
            let (q, dout) = (self.q.narrow(0, start..end), self.dout.narrow(0, start..end));
            multiply(p.reborrow(), false, q, keys.view().narrow(1, 0..end));
            multiply(ds.reborrow(), false, dout, values.view().narrow(1, 0..end));
            vectorize!(|| {
                for i in start..end {
                    let mean = dot(self.out.row(i), self.dout.row(i));
                    let (scale, lse) = (self.scale, self.lse[i]);
                    let (seen, masked) = p.row_mut(i - start).split_at_mut(i + 1);
                    let (ds, ds_masked) = ds.row_mut(i - start).split_at_mut(i + 1);
                    for (p, ds) in seen.iter_mut().zip(ds) {
                        *p = exp(*p * scale - lse);
                        *ds = *p * (*ds - mean) * scale;
                    }
                    masked.fill(0.0);
                    ds_masked.fill(0.0);
                }
            });
            multiply(dq.reborrow().narrow(0, start..end), false, ds.as_view(), self.k.narrow(0, 0..end));
            multiply(sum_k.view_mut().narrow(0, 0..end), true, Mat::t(ds.as_view()), q);
            multiply(sum_v.view_mut().narrow(0, 0..end), true, Mat::t(p.as_view()), dout);
        }
        store(sum_k.view(), dk);
        store(sum_v.view(), dv);
        Ok(())
    }
}

/// Rounds sums into their place.
fn store<T: Elem>(sums: View<'_, f32, 2>, mut out: ViewMut<'_, T, 2>) {
    vectorize!(|| {
        for i in 0..out.dim(0) {
            out.row_mut(i).iter_mut().zip(sums.row(i)).for_each(|(o, &s)| *o = T::from_f32(s));
        }
    });
}
