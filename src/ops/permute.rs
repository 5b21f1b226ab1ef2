//! Moving rows between token order and a sorted [`Order`], and summing a token's rows.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::{dot, vectorize};
#[cfg(feature = "cuda")]
use crate::cuda::{CombineBackwardParams, CombineParams, Cuda, Kernel, PermuteParams, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::plan::Order;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task of the row-wise operations of this file.
const ROWS: usize = 128;

#[cfg(feature = "cuda")]
const PERMUTE: Kernel = Kernel { image: &images::PERMUTE, name: "permute", tile: "moe_permute_launch" };
#[cfg(feature = "cuda")]
const COMBINE: Kernel = Kernel { image: &images::PERMUTE, name: "combine", tile: "moe_combine_launch" };
#[cfg(feature = "cuda")]
const COMBINE_BACKWARD: Kernel =
    Kernel { image: &images::PERMUTE, name: "combine_backward", tile: "moe_combine_backward_launch" };

/// `y[p] = x[token of row p]`: copies each token's row to its places in a sorted buffer.
///
/// Its backward is [`Combine`] without weights.
#[derive(Debug)]
pub struct Permute<'a, T> {
    /// `[tokens, hidden]`.
    pub x: View<'a, T, 2>,
    /// The order of the rows of `y`.
    pub order: &'a Order,
    /// `[rows, hidden]`.
    pub y: ViewMut<'a, T, 2>,
}

/// `y[t] = sum over slots s of weight[t, s] x[row of (t, s)]`, in f32 and in slot order.
#[derive(Debug)]
pub struct Combine<'a, T> {
    /// `[rows, hidden]`.
    pub x: View<'a, T, 2>,
    /// The order of the rows of `x`.
    pub order: &'a Order,
    /// `[tokens, fan]`; `None` means ones.
    pub weight: Option<View<'a, f32, 2>>,
    /// `[tokens, hidden]`.
    pub y: ViewMut<'a, T, 2>,
    /// Add to `y` instead of overwriting it.
    pub accumulate: bool,
}

/// Gradient of [`Combine`]: `dx[row of (t, s)] = weight[t, s] dy[t]`, `dweight[t, s] = <dy[t], x[row]>`.
#[derive(Debug)]
pub struct CombineBackward<'a, T> {
    /// `[tokens, hidden]`.
    pub dy: View<'a, T, 2>,
    /// `[rows, hidden]`, the input of the forward.
    pub x: View<'a, T, 2>,
    /// The order of the rows of `x` and `dx`.
    pub order: &'a Order,
    /// `[tokens, fan]`.
    pub weight: View<'a, f32, 2>,
    /// `[rows, hidden]`.
    pub dx: ViewMut<'a, T, 2>,
    /// `[tokens, fan]`.
    pub dweight: ViewMut<'a, f32, 2>,
}

impl<T: Elem> Op for Permute<'_, T> {
    const NAME: &'static str = "permute";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, order, y);
    }

    fn check(&self) -> Result<()> {
        let (x, y) = (self.x.shape(), self.y.shape());
        ensure!(Self::NAME, x[0] == self.order.tokens(), x = x, tokens = self.order.tokens());
        ensure!(Self::NAME, y == [self.order.rows(), x[1]], y = y, x = x, rows = self.order.rows());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        ((self.x.dim(0) + self.y.dim(0)) * self.x.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.y.dim(0), ROWS);
        let bands: Vec<_> = self.y.cut(0, &rows);
        bands.into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            for (i, &choice) in self.order.source()[rows[0]..rows[1]].iter().enumerate() {
                band.row_mut(i).copy_from_slice(self.x.row(choice as usize / self.order.fan()));
            }
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [tokens, hidden] = self.x.shape();
        let order = self.order.addresses(device)?;
        let params = PermuteParams {
            x: self.x.address(),
            y: self.y.address(),
            place: order.place,
            x_stride: self.x.stride(0),
            y_stride: self.y.stride(0),
            tokens: tokens as u32,
            hidden: hidden as u32,
            fan: self.order.fan() as u32,
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(PERMUTE, T::DTYPE, [tokens, hidden], &params) }
    }
}

impl<T: Elem> Op for Combine<'_, T> {
    const NAME: &'static str = "combine";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, order, weight, y);
    }

    fn check(&self) -> Result<()> {
        let (x, y) = (self.x.shape(), self.y.shape());
        ensure!(Self::NAME, x[0] == self.order.rows(), x = x, rows = self.order.rows());
        ensure!(Self::NAME, y == [self.order.tokens(), x[1]], y = y, x = x, tokens = self.order.tokens());
        if let Some(weight) = self.weight {
            let want = [self.order.tokens(), self.order.fan()];
            ensure!(Self::NAME, weight.shape() == want, weight = weight.shape(), want = want);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        2 * (self.x.dim(0) * self.x.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        ((self.x.dim(0) + self.y.dim(0)) * self.x.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.y.dim(0), ROWS);
        let (bands, fan) = (self.y.cut(0, &rows), self.order.fan());
        bands.into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            let mut sum = vec![0f32; band.dim(1)];
            vectorize!(|| {
                for t in rows[0]..rows[1] {
                    let out = band.row_mut(t - rows[0]);
                    if self.accumulate {
                        sum.iter_mut().zip(&*out).for_each(|(s, o)| *s = o.to_f32());
                    } else {
                        sum.fill(0.0);
                    }
                    for (slot, &row) in self.order.place()[t * fan..(t + 1) * fan].iter().enumerate() {
                        let w = self.weight.map_or(1.0, |weight| weight.row(t)[slot]);
                        let x = self.x.row(row as usize);
                        sum.iter_mut().zip(x).for_each(|(s, x)| *s += w * x.to_f32());
                    }
                    out.iter_mut().zip(&sum).for_each(|(o, &s)| *o = T::from_f32(s));
                }
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [tokens, hidden] = self.y.shape();
        let order = self.order.addresses(device)?;
        let (weight, weight_stride) = self.weight.map_or((0, 0), |w| (w.address(), w.stride(0)));
        let params = CombineParams {
            x: self.x.address(),
            y: self.y.address(),
            weight,
            place: order.place,
            x_stride: self.x.stride(0),
            y_stride: self.y.stride(0),
            weight_stride,
            tokens: tokens as u32,
            hidden: hidden as u32,
            fan: self.order.fan() as u32,
            accumulate: u32::from(self.accumulate),
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(COMBINE, T::DTYPE, [tokens, hidden], &params) }
    }
}

impl<T: Elem> Op for CombineBackward<'_, T> {
    const NAME: &'static str = "combine_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: dy, x, order, weight, dx, dweight);
    }

    fn check(&self) -> Result<()> {
        let (x, dy, dx) = (self.x.shape(), self.dy.shape(), self.dx.shape());
        ensure!(Self::NAME, x[0] == self.order.rows(), x = x, rows = self.order.rows());
        ensure!(Self::NAME, dx == x, dx = dx, x = x);
        ensure!(Self::NAME, dy == [self.order.tokens(), x[1]], dy = dy, x = x, tokens = self.order.tokens());
        let want = [self.order.tokens(), self.order.fan()];
        ensure!(Self::NAME, self.weight.shape() == want, weight = self.weight.shape(), want = want);
        ensure!(Self::NAME, self.dweight.shape() == want, dweight = self.dweight.shape(), want = want);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dweight.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        3 * (self.x.dim(0) * self.x.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        ((2 * self.x.dim(0) + self.dy.dim(0)) * self.x.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let fan = self.order.fan();
        let rows = bounds(self.dx.dim(0), ROWS);
        let bands = self.dx.cut(0, &rows);
        bands.into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            vectorize!(|| {
                for (i, &choice) in self.order.source()[rows[0]..rows[1]].iter().enumerate() {
                    let (token, slot) = (choice as usize / fan, choice as usize % fan);
                    let (w, dy) = (self.weight.row(token)[slot], self.dy.row(token));
                    band.row_mut(i).iter_mut().zip(dy).for_each(|(d, g)| *d = T::from_f32(w * g.to_f32()));
                }
            });
        });
        let rows = bounds(self.dweight.dim(0), ROWS);
        let bands = self.dweight.cut(0, &rows);
        bands.into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            vectorize!(|| {
                for t in rows[0]..rows[1] {
                    let places = &self.order.place()[t * fan..(t + 1) * fan];
                    for (d, &row) in band.row_mut(t - rows[0]).iter_mut().zip(places) {
                        *d = dot(self.dy.row(t), self.x.row(row as usize));
                    }
                }
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [tokens, hidden] = self.dy.shape();
        let order = self.order.addresses(device)?;
        let params = CombineBackwardParams {
            dy: self.dy.address(),
            x: self.x.address(),
            dx: self.dx.address(),
            weight: self.weight.address(),
            dweight: self.dweight.address(),
            place: order.place,
            dy_stride: self.dy.stride(0),
            x_stride: self.x.stride(0),
            dx_stride: self.dx.stride(0),
            weight_stride: self.weight.stride(0),
            dweight_stride: self.dweight.stride(0),
            tokens: tokens as u32,
            hidden: hidden as u32,
            fan: self.order.fan() as u32,
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(COMBINE_BACKWARD, T::DTYPE, [tokens, hidden], &params) }
    }
}
