//! The gated activation of an expert, with the router's weight folded in.

use rayon::prelude::*;

use super::Op;
use crate::cpu::math::vectorize;
use crate::cpu::{bounds, rows};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Kernel, SwiGluBackwardParams, SwiGluParams, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Operand, Place, Visit, operands};
use crate::plan::Order;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task.
const ROWS: usize = 64;

/// The router's weight of every row of a sorted buffer.
#[derive(Clone, Copy, Debug)]
pub struct SlotWeights<'a> {
    /// `[tokens, fan]`.
    pub weight: View<'a, f32, 2>,
    /// The order of the rows.
    pub order: &'a Order,
}

impl Operand for SlotWeights<'_> {
    fn is_at(&self, place: Place) -> bool {
        self.weight.is_at(place) && self.order.is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        self.weight.sizes()
    }
}

impl SlotWeights<'_> {
    fn fits(&self, rows: usize) -> bool {
        self.order.rows() == rows && self.weight.shape() == [self.order.tokens(), self.order.fan()]
    }

    fn at(&self, row: usize) -> f32 {
        let choice = self.order.source()[row] as usize;
        self.weight.row(choice / self.order.fan())[choice % self.order.fan()]
    }
}

/// `h = w * silu(gate) * up` with `z = (gate | up)`; Shazeer, "GLU Variants Improve Transformer" (2020).
///
/// Folding the weight in before the down projection makes the sum over a token's slots an unweighted one,
/// and gives the weight's gradient without keeping the down projection's output.
#[derive(Debug)]
pub struct SwiGlu<'a, T> {
    /// `[rows, 2 inner]`.
    pub z: View<'a, T, 2>,
    /// One weight a row; `None` means ones.
    pub weights: Option<SlotWeights<'a>>,
    /// `[rows, inner]`.
    pub h: ViewMut<'a, T, 2>,
}

/// Gradient of [`SwiGlu`], in place: `z` becomes `dz`, and `dh` becomes `h`, which the weight gradient of the
/// down projection needs next and which is cheaper to compute again than to keep.
#[derive(Debug)]
pub struct SwiGluBackward<'a, T> {
    /// `[rows, 2 inner]`: `z` on entry, its gradient on return.
    pub z: ViewMut<'a, T, 2>,
    /// `[rows, inner]`: the gradient of `h` on entry, `h` on return.
    pub dh: ViewMut<'a, T, 2>,
    /// The weights of the forward.
    pub weights: Option<SlotWeights<'a>>,
    /// `[tokens, fan]`: gradient of the weights, overwritten; required exactly if there are weights.
    pub dweight: Option<ViewMut<'a, f32, 2>>,
}

impl<T: Elem> Op for SwiGlu<'_, T> {
    const NAME: &'static str = "swiglu";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: z, weights, h);
    }

    fn check(&self) -> Result<()> {
        let (z, h) = (self.z.shape(), self.h.shape());
        ensure!(Self::NAME, z == [h[0], 2 * h[1]], z = z, h = h);
        ensure!(Self::NAME, self.weights.is_none_or(|w| w.fits(h[0])), weights = self.weights, h = h);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.h.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (3 * self.h.dim(0) * self.h.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let bands = bounds(self.h.dim(0), ROWS);
        let inner = self.h.dim(1);
        self.h.cut(0, &bands).into_par_iter().zip(bands.par_windows(2)).for_each_part(
            |(mut band, bounds)| {
                vectorize!(|| {
                    for p in bounds[0]..bounds[1] {
                        let (gate, up) = self.z.row(p).split_at(inner);
                        let w = self.weights.map_or(1.0, |w| w.at(p));
                        rows::swiglu(w, gate, up, band.row_mut(p - bounds[0]));
                    }
                });
            },
        );
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, inner] = self.h.shape();
        let (weight, weight_stride, source, fan) = weights_of(self.weights, device)?;
        let params = SwiGluParams {
            z: self.z.address(),
            h: self.h.address(),
            weight,
            source,
            z_stride: self.z.stride(0),
            h_stride: self.h.stride(0),
            weight_stride,
            rows: rows as u32,
            inner: inner as u32,
            fan,
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(SWIGLU, T::DTYPE, [rows, inner], &params) }
    }
}

#[cfg(feature = "cuda")]
const SWIGLU: Kernel = Kernel { image: &images::SWIGLU, name: "swiglu", tile: "moe_swiglu_launch" };
#[cfg(feature = "cuda")]
const SWIGLU_BACKWARD: Kernel =
    Kernel { image: &images::SWIGLU, name: "swiglu_backward", tile: "moe_swiglu_backward_launch" };

/// Address and stride of the weights, address of the choices, slots a token; zeros without weights.
#[cfg(feature = "cuda")]
fn weights_of(weights: Option<SlotWeights<'_>>, device: &Cuda) -> Result<(u64, u64, u64, u32)> {
    let Some(SlotWeights { weight, order }) = weights else { return Ok((0, 0, 0, 0)) };
    let source = order.addresses(device)?.source;
    Ok((weight.address(), weight.stride(0), source, order.fan() as u32))
}

impl<T: Elem> Op for SwiGluBackward<'_, T> {
    const NAME: &'static str = "swiglu_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: z, dh, weights, dweight);
    }

    fn check(&self) -> Result<()> {
        let (z, dh) = (self.z.shape(), self.dh.shape());
        ensure!(Self::NAME, z == [dh[0], 2 * dh[1]], z = z, dh = dh);
        ensure!(Self::NAME, self.weights.is_none_or(|w| w.fits(dh[0])), weights = self.weights, dh = dh);
        let [weight, dweight] =
            [self.weights.map(|w| w.weight.shape()), self.dweight.as_ref().map(|d| d.shape())];
        ensure!(Self::NAME, weight == dweight, weight = weight, dweight = dweight);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dh.dim(0) == 0 // without columns the weights' gradient, zero, is still written
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (6 * self.dh.dim(0) * self.dh.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let cuts = bounds(self.dh.dim(0), ROWS);
        let inner = self.dh.dim(1);
        let mut by_row = vec![0f32; self.dh.dim(0)];
        let bands = self.z.cut(0, &cuts).into_par_iter().zip(self.dh.cut(0, &cuts));
        let dots: Vec<&mut [f32]> = cuts.windows(2).scan(&mut by_row[..], split_front).collect();
        bands.zip(dots).zip(cuts.par_windows(2)).for_each_part(|(((mut z, mut dh), dots), bounds)| {
            vectorize!(|| {
                for (i, dot) in dots.iter_mut().enumerate() {
                    let w = self.weights.map_or(1.0, |w| w.at(bounds[0] + i));
                    let (gate, up) = z.row_mut(i).split_at_mut(inner);
                    *dot = rows::swiglu_backward(w, gate, up, dh.row_mut(i));
                }
            });
        });
        if let (Some(weights), Some(mut dweight)) = (self.weights, self.dweight) {
            let fan = weights.order.fan();
            for (t, places) in weights.order.place().chunks_exact(fan).enumerate() {
                dweight.row_mut(t).iter_mut().zip(places).for_each(|(d, &row)| *d = by_row[row as usize]);
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, inner] = self.dh.shape();
        let (weight, weight_stride, source, fan) = weights_of(self.weights, device)?;
        let (dweight, dweight_stride) = self.dweight.as_ref().map_or((0, 0), |d| (d.address(), d.stride(0)));
        let params = SwiGluBackwardParams {
            z: self.z.address(),
            dh: self.dh.address(),
            weight,
            dweight,
            source,
            z_stride: self.z.stride(0),
            dh_stride: self.dh.stride(0),
            weight_stride,
            dweight_stride,
            rows: rows as u32,
            inner: inner as u32,
            fan,
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(SWIGLU_BACKWARD, T::DTYPE, [rows, inner], &params) }
    }
}

/// Takes the next `bounds[1] - bounds[0]` elements off the front of a slice.
fn split_front<'a>(rest: &mut &'a mut [f32], bounds: &[usize]) -> Option<&'a mut [f32]> {
    let (front, back) = std::mem::take(rest).split_at_mut(bounds[1] - bounds[0]);
    *rest = back;
    Some(front)
}
