//! Copying rows.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
#[cfg(feature = "cuda")]
use crate::cuda::{CopyParams, Cuda, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task.
const ROWS: usize = 128;

#[cfg(feature = "cuda")]
const COPY: Kernel = Kernel { image: &images::COPY, name: "copy", tile: "moe_copy_launch" };

/// `y = x`.
#[derive(Debug)]
pub struct Copy<'a, T> {
    /// `[rows, hidden]`.
    pub x: View<'a, T, 2>,
    /// `[rows, hidden]`.
    pub y: ViewMut<'a, T, 2>,
}

impl<T: Elem> Op for Copy<'_, T> {
    const NAME: &'static str = "copy";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, y);
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.x.shape() == self.y.shape(), x = self.x.shape(), y = self.y.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.x.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (2 * self.x.dim(0) * self.x.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.y.dim(0), ROWS);
        self.y.cut(0, &rows).into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            (rows[0]..rows[1]).for_each(|r| band.row_mut(r - rows[0]).copy_from_slice(self.x.row(r)));
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, hidden] = self.y.shape();
        let params = CopyParams {
            x: self.x.address(),
            y: self.y.address(),
            x_stride: self.x.stride(0),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            hidden: hidden as u32,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(COPY, T::DTYPE, [rows, hidden], &params) }
    }
}
