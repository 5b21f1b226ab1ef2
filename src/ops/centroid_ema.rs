//! The moving mean of what each expert was sent.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::vectorize;
#[cfg(feature = "cuda")]
use crate::cuda::{CentroidEmaParams, Cuda, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::plan::Order;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Columns per task.
const COLUMNS: usize = 256;

#[cfg(feature = "cuda")]
const CENTROID_EMA: Kernel =
    Kernel { image: &images::CENTROID_EMA, name: "centroid_ema", tile: "moe_centroid_ema_launch" };

/// `mu[e] = (1 - beta) mu[e] + beta mean of x[t] over the tokens t sent to expert e`, in f32; an expert that got none keeps
/// its centroid (method.md, "Clustering").
///
/// Reads a token's row once for each expert it was sent to. The order of a sum depends on the expert's rows alone.
#[derive(Debug)]
pub struct CentroidEma<'a, T> {
    /// `[tokens, hidden]`, in token order.
    pub x: View<'a, T, 2>,
    /// The order of (token, slot) pairs by expert.
    pub order: &'a Order,
    /// Weight of this batch, from 0 to 1.
    pub beta: f32,
    /// `[experts, hidden]`.
    pub mu: ViewMut<'a, f32, 2>,
}

impl<T: Elem> Op for CentroidEma<'_, T> {
    const NAME: &'static str = "centroid_ema";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, order, mu);
    }

    fn check(&self) -> Result<()> {
        let (x, mu, order) = (self.x.shape(), self.mu.shape(), self.order);
        ensure!(Self::NAME, x[0] == order.tokens(), x = x, tokens = order.tokens());
        ensure!(Self::NAME, mu == [order.groups(), x[1]], mu = mu, x = x, experts = order.groups());
        ensure!(Self::NAME, (0.0..=1.0).contains(&self.beta), beta = self.beta);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.order.rows() == 0 || self.mu.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        (self.order.rows() * self.x.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        let [tokens, hidden] = self.x.shape();
        (tokens * hidden * T::DTYPE.size() + 2 * self.mu.dim(0) * hidden * size_of::<f32>()) as u64
    }

    fn cpu(self) -> Result<()> {
        let CentroidEma { x, order, beta, mu } = self;
        let columns = bounds(x.dim(1), COLUMNS);
        let experts: Vec<usize> = (0..=order.groups()).collect();
        let tiles = mu.cut(1, &columns).into_par_iter().zip(columns.par_windows(2));
        let tiles = tiles.flat_map(|(strip, columns)| {
            strip.cut(0, &experts).into_par_iter().enumerate().map(move |(e, mu)| (e, mu, columns))
        });
        tiles.for_each_part(|(e, mut mu, columns)| {
            let rows = &order.source()[order.offsets()[e] as usize..order.offsets()[e + 1] as usize];
            if rows.is_empty() {
                return;
            }
            let mut sums = vec![0f32; columns[1] - columns[0]];
            vectorize!(|| {
                for &choice in rows {
                    let x = &x.row(choice as usize / order.fan())[columns[0]..columns[1]];
                    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.to_f32());
                }
                let count = rows.len() as f32;
                let means = mu.row_mut(0).iter_mut().zip(&sums);
                means.for_each(|(mu, sum)| *mu = (1.0 - beta) * *mu + beta * (sum / count));
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [experts, hidden] = self.mu.shape();
        let order = self.order.addresses(device)?;
        let params = CentroidEmaParams {
            x: self.x.address(),
            mu: self.mu.address(),
            offsets: order.offsets,
            source: order.source,
            x_stride: self.x.stride(0),
            mu_stride: self.mu.stride(0),
            experts: experts as u32,
            hidden: hidden as u32,
            fan: self.order.fan() as u32,
            beta: self.beta,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(CENTROID_EMA, T::DTYPE, [experts, hidden], &params) }
    }
}
