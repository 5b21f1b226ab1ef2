//! Root-mean-square normalisation of rows, and its gradient.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::{dot, sum_by, vectorize};
#[cfg(feature = "cuda")]
use crate::cuda::{
    Cuda, Kernel, ONLY, RMS_NORM_PARTIAL_ROWS, RmsNormBackwardParams, RmsNormDgainParams, RmsNormParams,
    images,
};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task of the forward.
const ROWS: usize = 128;
/// Rows per task of the backward, and per partial sum of the gain's gradient.
const PARTIAL_ROWS: usize = 32;

#[cfg(feature = "cuda")]
const _: () = assert!(PARTIAL_ROWS == RMS_NORM_PARTIAL_ROWS as usize, "the kernels' workspace");
#[cfg(feature = "cuda")]
const RMS_NORM: Kernel = Kernel { image: &images::RMS_NORM, name: "rms_norm", tile: "moe_rms_norm_launch" };
#[cfg(feature = "cuda")]
const BACKWARD: Kernel =
    Kernel { image: &images::RMS_NORM, name: "rms_norm_backward", tile: "moe_rms_norm_backward_launch" };
#[cfg(feature = "cuda")]
const DGAIN: Kernel =
    Kernel { image: &images::RMS_NORM, name: "rms_norm_dgain", tile: "moe_rms_norm_dgain_launch" };

/// `y = x gain / rms(x)` with `rms(x) = sqrt(mean(x^2) + eps)` over each row.
#[derive(Debug)]
pub struct RmsNorm<'a, T> {
    /// `[rows, hidden]`.
    pub x: View<'a, T, 2>,
    /// `[hidden]`.
    pub gain: View<'a, T, 1>,
    /// Added to the mean square; above 0.
    pub eps: f32,
    /// `[rows, hidden]`.
    pub y: ViewMut<'a, T, 2>,
    /// `[rows]`: `1 / rms(x)`, which the backward needs.
    pub inv_rms: ViewMut<'a, f32, 1>,
}

/// Gradient of [`RmsNorm`]: with `n = x inv_rms` and `g = dy gain`, `dx = inv_rms (g - n mean(g n))` and
/// `dgain = sum over rows of dy n`.
#[derive(Debug)]
pub struct RmsNormBackward<'a, T> {
    /// `[rows, hidden]`.
    pub dy: View<'a, T, 2>,
    /// `[rows, hidden]`, the input of the forward.
    pub x: View<'a, T, 2>,
    /// `[hidden]`.
    pub gain: View<'a, T, 1>,
    /// `[rows]`, from the forward.
    pub inv_rms: View<'a, f32, 1>,
    /// `[rows, hidden]`.
    pub dx: ViewMut<'a, T, 2>,
    /// Add to `dx` instead of overwriting it: the gradient of a residual branch.
    pub accumulate_dx: bool,
    /// `[hidden]`, f32.
    pub dgain: ViewMut<'a, f32, 1>,
    /// Add to `dgain` instead of overwriting it.
    pub accumulate: bool,
    /// Partial sums of `dgain`: [`RmsNormBackward::workspace_len`] elements or more.
    pub workspace: ViewMut<'a, f32, 1>,
}

impl<T> RmsNormBackward<'_, T> {
    /// Elements of workspace: a partial sum for every started 32 rows.
    pub fn workspace_len(rows: usize, hidden: usize) -> usize {
        rows.div_ceil(PARTIAL_ROWS) * hidden
    }
}

impl<T: Elem> Op for RmsNorm<'_, T> {
    const NAME: &'static str = "rms_norm";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, gain, y, inv_rms);
    }

    fn check(&self) -> Result<()> {
        let (x, y, gain) = (self.x.shape(), self.y.shape(), self.gain.shape());
        ensure!(Self::NAME, x[1] >= 1, x = x);
        ensure!(Self::NAME, y == x, y = y, x = x);
        ensure!(Self::NAME, gain == [x[1]], gain = gain, x = x);
        ensure!(Self::NAME, self.inv_rms.shape() == [x[0]], inv_rms = self.inv_rms.shape(), x = x);
        ensure!(Self::NAME, self.eps > 0.0, eps = self.eps);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.x.dim(0) == 0
    }

    fn flops(&self) -> u64 {
        2 * (self.x.dim(0) * self.x.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        let [rows, hidden] = self.x.shape();
        ((2 * rows + 1) * hidden * T::DTYPE.size() + rows * size_of::<f32>()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.x.dim(0), ROWS);
        let (x, gain, eps, hidden) = (self.x, self.gain.as_slice(), self.eps, self.x.dim(1));
        let bands = self.y.cut(0, &rows).into_par_iter().zip(self.inv_rms.cut(0, &rows));
        bands.zip(rows.par_windows(2)).for_each_part(|((mut y, mut inv_rms), rows)| {
            vectorize!(|| {
                for (i, inv) in inv_rms.as_slice_mut().iter_mut().enumerate() {
                    let x = x.row(rows[0] + i);
                    *inv = 1.0 / (dot(x, x) / hidden as f32 + eps).sqrt();
                    for ((y, x), gain) in y.row_mut(i).iter_mut().zip(x).zip(gain) {
                        *y = T::from_f32(x.to_f32() * *inv * gain.to_f32());
                    }
                }
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, hidden] = self.x.shape();
        let params = RmsNormParams {
            x: self.x.address(),
            gain: self.gain.address(),
            y: self.y.address(),
            inv_rms: self.inv_rms.address(),
            x_stride: self.x.stride(0),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            hidden: hidden as u32,
            eps: self.eps,
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(RMS_NORM, T::DTYPE, [rows, hidden], &params) }
    }
}

impl<T: Elem> Op for RmsNormBackward<'_, T> {
    const NAME: &'static str = "rms_norm_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: dy, x, gain, inv_rms, dx, dgain, workspace);
    }

    fn check(&self) -> Result<()> {
        let (x, dy, dx, gain) = (self.x.shape(), self.dy.shape(), self.dx.shape(), self.gain.shape());
        ensure!(Self::NAME, x[1] >= 1, x = x);
        ensure!(Self::NAME, x[0].max(x[1]) <= u32::MAX as usize, x = x);
        ensure!(Self::NAME, dy == x, dy = dy, x = x);
        ensure!(Self::NAME, dx == x, dx = dx, x = x);
        ensure!(Self::NAME, gain == [x[1]], gain = gain, x = x);
        ensure!(Self::NAME, self.dgain.shape() == gain, dgain = self.dgain.shape(), gain = gain);
        ensure!(Self::NAME, self.inv_rms.shape() == [x[0]], inv_rms = self.inv_rms.shape(), x = x);
        let (workspace, need) = (self.workspace.dim(0), Self::workspace_len(x[0], x[1]));
        ensure!(Self::NAME, workspace >= need, workspace = workspace, need = need);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // Without rows `dgain` is still written: a sum over none.
        false
    }

    fn flops(&self) -> u64 {
        4 * (self.x.dim(0) * self.x.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        let [rows, hidden] = self.x.shape();
        let passes = if self.accumulate_dx { 4 } else { 3 };
        ((passes * rows + 1) * hidden * T::DTYPE.size() + (rows + hidden) * size_of::<f32>()) as u64
    }

    fn cpu(mut self) -> Result<()> {
        let rows = bounds(self.x.dim(0), PARTIAL_ROWS);
        let (x, dy, hidden, add) = (self.x, self.dy, self.x.dim(1), self.accumulate_dx);
        let (gain, inv_rms) = (self.gain.as_slice(), self.inv_rms.as_slice());
        let partial = &mut self.workspace.as_slice_mut()[..Self::workspace_len(x.dim(0), hidden)];
        let bands = self.dx.cut(0, &rows).into_par_iter().zip(partial.par_chunks_exact_mut(hidden));
        bands.zip(rows.par_windows(2)).for_each_part(|((mut dx, dgain), rows)| {
            dgain.fill(0.0);
            vectorize!(|| {
                for (p, &inv) in (rows[0]..rows[1]).zip(&inv_rms[rows[0]..rows[1]]) {
                    let (x, dy) = (&x.row(p)[..hidden], &dy.row(p)[..hidden]);
                    let sum = sum_by(hidden, |i| dy[i].to_f32() * gain[i].to_f32() * x[i].to_f32());
                    let mean = sum * inv / hidden as f32;
                    let dx = &mut dx.row_mut(p - rows[0])[..hidden];
                    for i in 0..hidden {
                        let (n, g) = (x[i].to_f32() * inv, dy[i].to_f32());
                        let d = inv * (g * gain[i].to_f32() - n * mean);
                        dx[i] = T::from_f32(if add { dx[i].to_f32() + d } else { d });
                        dgain[i] += g * n;
                    }
                }
            });
        });
        let dgain = self.dgain.as_slice_mut();
        if !self.accumulate {
            dgain.fill(0.0);
        }
        for piece in partial.chunks_exact(hidden) {
            dgain.iter_mut().zip(piece).for_each(|(d, p)| *d += p);
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, hidden] = self.x.shape();
        let params = RmsNormBackwardParams {
            dy: self.dy.address(),
            x: self.x.address(),
            gain: self.gain.address(),
            inv_rms: self.inv_rms.address(),
            dx: self.dx.address(),
            partial: self.workspace.address(),
            dy_stride: self.dy.stride(0),
            x_stride: self.x.stride(0),
            dx_stride: self.dx.stride(0),
            rows: rows as u32,
            hidden: hidden as u32,
            accumulate_dx: u32::from(self.accumulate_dx),
            unused: 0,
        };
        if rows > 0 {
            // SAFETY: the views are on this device (`misplaced`), of these shapes and, the workspace, large enough
            // (`check`).
            unsafe { device.over_rows(BACKWARD, T::DTYPE, [rows, hidden], &params)? };
        }
        let params = RmsNormDgainParams {
            partial: self.workspace.address(),
            dgain: self.dgain.address(),
            partials: rows.div_ceil(PARTIAL_ROWS) as u32,
            hidden: hidden as u32,
            accumulate: u32::from(self.accumulate),
            unused: 0,
        };
        let blocks = hidden.div_ceil(device.tile(DGAIN)?.columns as usize);
        // SAFETY: as above; the partial sums are those that the kernel before wrote.
        unsafe { device.launch(DGAIN, ONLY, [blocks, 1, 1], &params) }
    }
}
