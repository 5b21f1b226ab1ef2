//! Looking up rows of a table, and its gradient.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::vectorize;
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, EmbeddingBackwardParams, EmbeddingParams, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task of the forward.
const ROWS: usize = 128;
/// Columns per task of the backward.
const COLS: usize = 64;

#[cfg(feature = "cuda")]
const EMBEDDING: Kernel =
    Kernel { image: &images::EMBEDDING, name: "embedding", tile: "moe_embedding_launch" };
#[cfg(feature = "cuda")]
const BACKWARD: Kernel =
    Kernel { image: &images::EMBEDDING, name: "embedding_backward", tile: "moe_embedding_backward_launch" };

/// `y[p] = scale table[ids[p]]`.
///
/// An id that is not below `vocab` is an error where the host can see it; on a CUDA device its row becomes NaN.
#[derive(Debug)]
pub struct Embedding<'a, T> {
    /// `[rows]`, each below `vocab`.
    pub ids: View<'a, u32, 1>,
    /// `[vocab, hidden]`.
    pub table: View<'a, T, 2>,
    /// Factor of the rows: a table that is the output projection too holds smaller values than a stream of
    /// activations wants.
    pub scale: f32,
    /// `[rows, hidden]`.
    pub y: ViewMut<'a, T, 2>,
}

/// Gradient of [`Embedding`]: `dtable[ids[p]] += scale dy[p]`, in row order.
///
/// Always adds, because the table is usually tied to the output projection, whose gradient is in `dtable`
/// already.
///
/// An id that is not below `vocab` is an error where the host can see it; on a CUDA device its row is left out. There the
/// rows of an id are searched, not sorted: up to `rows^2` ids are compared for every 1,024 columns, 1,024 at a time. At
/// 16,384 rows that is a small part of the time; at many times as many it is most of it.
#[derive(Debug)]
pub struct EmbeddingBackward<'a, T> {
    /// `[rows]`, each below `vocab`.
    pub ids: View<'a, u32, 1>,
    /// `[rows, hidden]`.
    pub dy: View<'a, T, 2>,
    /// As in the forward.
    pub scale: f32,
    /// `[vocab, hidden]`, f32.
    pub dtable: ViewMut<'a, f32, 2>,
}

/// Whether ids are below `vocab`, as far as the host can read them; the kernels look for themselves.
pub(super) fn check_ids(op: &'static str, ids: View<'_, u32, 1>, vocab: usize) -> Result<()> {
    ensure!(op, vocab <= u32::MAX as usize, vocab = vocab);
    if ids.place() == Place::Host {
        let ids = ids.as_slice();
        ensure!(op, ids.iter().all(|&id| (id as usize) < vocab), max = ids.iter().max(), vocab = vocab);
    }
    Ok(())
}

impl<T: Elem> Op for Embedding<'_, T> {
    const NAME: &'static str = "embedding";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: ids, table, y);
    }

    fn check(&self) -> Result<()> {
        let (ids, table, y) = (self.ids.shape(), self.table.shape(), self.y.shape());
        ensure!(Self::NAME, y == [ids[0], table[1]], y = y, ids = ids, table = table);
        check_ids(Self::NAME, self.ids, table[0])
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (self.ids.dim(0) * size_of::<u32>() + 2 * self.y.dim(0) * self.y.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.ids.dim(0), ROWS);
        self.y.cut(0, &rows).into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut y, rows)| {
            vectorize!(|| {
                for (i, &id) in self.ids.as_slice()[rows[0]..rows[1]].iter().enumerate() {
                    let row = y.row_mut(i).iter_mut().zip(self.table.row(id as usize));
                    row.for_each(|(y, e)| *y = T::from_f32(self.scale * e.to_f32()));
                }
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, hidden] = self.y.shape();
        let params = EmbeddingParams {
            ids: self.ids.address(),
            table: self.table.address(),
            y: self.y.address(),
            table_stride: self.table.stride(0),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            hidden: hidden as u32,
            vocab: self.table.dim(0) as u32,
            scale: self.scale,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the kernel looks at no row
        // of the table that is not below `vocab`.
        unsafe { device.over_rows(EMBEDDING, T::DTYPE, [rows, hidden], &params) }
    }
}

impl<T: Elem> Op for EmbeddingBackward<'_, T> {
    const NAME: &'static str = "embedding_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: ids, dy, dtable);
    }

    fn check(&self) -> Result<()> {
        let (ids, dtable, dy) = (self.ids.shape(), self.dtable.shape(), self.dy.shape());
        ensure!(Self::NAME, dy == [ids[0], dtable[1]], dy = dy, ids = ids, dtable = dtable);
        check_ids(Self::NAME, self.ids, dtable[0])
    }

    fn is_empty(&self) -> bool {
        self.dy.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let elements = self.dy.dim(0) * self.dy.dim(1);
        (self.ids.dim(0) * size_of::<u32>() + elements * (T::DTYPE.size() + 2 * size_of::<f32>())) as u64
    }

    fn cpu(self) -> Result<()> {
        // Strips of columns, not of ids: no two tasks share an element, each element is summed in row
        // order, and the work is even however often an id occurs.
        let cols = bounds(self.dtable.dim(1), COLS);
        self.dtable.cut(1, &cols).into_par_iter().zip(cols.par_windows(2)).for_each_part(
            |(mut strip, cols)| {
                vectorize!(|| {
                    for (p, &id) in self.ids.as_slice().iter().enumerate() {
                        let dy = &self.dy.row(p)[cols[0]..cols[1]];
                        strip
                            .row_mut(id as usize)
                            .iter_mut()
                            .zip(dy)
                            .for_each(|(d, g)| *d += self.scale * g.to_f32());
                    }
                });
            },
        );
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, hidden] = self.dy.shape();
        let params = EmbeddingBackwardParams {
            ids: self.ids.address(),
            dy: self.dy.address(),
            dtable: self.dtable.address(),
            dy_stride: self.dy.stride(0),
            dtable_stride: self.dtable.stride(0),
            rows: rows as u32,
            hidden: hidden as u32,
            vocab: self.dtable.dim(0) as u32,
            scale: self.scale,
        };
        // SAFETY: as in the forward.
        unsafe { device.over_rows(BACKWARD, T::DTYPE, [rows, hidden], &params) }
    }
}
