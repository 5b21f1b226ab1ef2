//! Looking up rows of a table, and its gradient.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::vectorize;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, misplaced};
use crate::view::{View, ViewMut};

/// Rows per task of the forward.
const ROWS: usize = 128;
/// Columns per task of the backward.
const COLS: usize = 64;

/// `y[p] = scale table[ids[p]]`.
#[derive(Debug)]
pub struct Embedding<'a, T> {
    /// `[rows]`, each below `vocab`.
    pub ids: &'a [u32],
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
#[derive(Debug)]
pub struct EmbeddingBackward<'a, T> {
    /// `[rows]`, each below `vocab`.
    pub ids: &'a [u32],
    /// `[rows, hidden]`.
    pub dy: View<'a, T, 2>,
    /// As in the forward.
    pub scale: f32,
    /// `[vocab, hidden]`, f32.
    pub dtable: ViewMut<'a, f32, 2>,
}

impl<T: Elem> Op for Embedding<'_, T> {
    const NAME: &'static str = "embedding";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: ids, table, y)
    }

    fn check(&self) -> Result<()> {
        let (ids, table, y) = (self.ids, self.table.shape(), self.y.shape());
        ensure!(Self::NAME, y == [ids.len(), table[1]], y = y, ids = ids.len(), table = table);
        ensure!(
            Self::NAME,
            ids.iter().all(|&id| (id as usize) < table[0]),
            max = ids.iter().max(),
            table = table
        );
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (size_of_val(self.ids) + 2 * self.y.dim(0) * self.y.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.ids.len(), ROWS);
        self.y.cut(0, &rows).into_par_iter().zip(rows.par_windows(2)).for_each(|(mut y, rows)| {
            vectorize!(|| {
                for (i, &id) in self.ids[rows[0]..rows[1]].iter().enumerate() {
                    let row = y.row_mut(i).iter_mut().zip(self.table.row(id as usize));
                    row.for_each(|(y, e)| *y = T::from_f32(self.scale * e.to_f32()));
                }
            });
        });
        Ok(())
    }
}

impl<T: Elem> Op for EmbeddingBackward<'_, T> {
    const NAME: &'static str = "embedding_backward";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: ids, dy, dtable)
    }

    fn check(&self) -> Result<()> {
        let (ids, dtable, dy) = (self.ids, self.dtable.shape(), self.dy.shape());
        ensure!(Self::NAME, dy == [ids.len(), dtable[1]], dy = dy, ids = ids.len(), dtable = dtable);
        ensure!(
            Self::NAME,
            ids.iter().all(|&id| (id as usize) < dtable[0]),
            max = ids.iter().max(),
            dtable = dtable
        );
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dy.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let elements = self.dy.dim(0) * self.dy.dim(1);
        (size_of_val(self.ids) + elements * (T::DTYPE.size() + 2 * size_of::<f32>())) as u64
    }

    fn cpu(self) -> Result<()> {
        // Strips of columns, not of ids: no two tasks share an element, each element is summed in row
        // order, and the work is even however often an id occurs.
        let cols = bounds(self.dtable.dim(1), COLS);
        self.dtable.cut(1, &cols).into_par_iter().zip(cols.par_windows(2)).for_each(|(mut strip, cols)| {
            vectorize!(|| {
                for (p, &id) in self.ids.iter().enumerate() {
                    let dy = &self.dy.row(p)[cols[0]..cols[1]];
                    strip
                        .row_mut(id as usize)
                        .iter_mut()
                        .zip(dy)
                        .for_each(|(d, g)| *d += self.scale * g.to_f32());
                }
            });
        });
        Ok(())
    }
}
