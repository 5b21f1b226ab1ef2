//! Adding one tensor to another: a residual connection.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::vectorize;
#[cfg(feature = "cuda")]
use crate::cuda::{AddParams, Cuda, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task.
const ROWS: usize = 128;

#[cfg(feature = "cuda")]
const ADD: Kernel = Kernel { image: &images::ADD, name: "add", tile: "moe_add_launch" };

/// `y += x`, in f32, rounded once.
#[derive(Debug)]
pub struct Add<'a, T> {
    /// `[rows, hidden]`.
    pub x: View<'a, T, 2>,
    /// `[rows, hidden]`.
    pub y: ViewMut<'a, T, 2>,
}

impl<T: Elem> Op for Add<'_, T> {
    const NAME: &'static str = "add";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, y);
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.x.shape() == self.y.shape(), x = self.x.shape(), y = self.y.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (3 * self.x.dim(0) * self.x.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.x.dim(0), ROWS);
        self.y.cut(0, &rows).into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            vectorize!(|| {
                for p in rows[0]..rows[1] {
                    let y = band.row_mut(p - rows[0]).iter_mut();
                    y.zip(self.x.row(p)).for_each(|(y, x)| *y = T::from_f32(y.to_f32() + x.to_f32()));
                }
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, hidden] = self.y.shape();
        let params = AddParams {
            x: self.x.address(),
            y: self.y.address(),
            x_stride: self.x.stride(0),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            hidden: hidden as u32,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(ADD, T::DTYPE, [rows, hidden], &params) }
    }
}
