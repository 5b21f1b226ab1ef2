//! Matrices in plain memory, as they are quantised from and dequantised to.

use std::ops::Range;

use crate::elem::Elem;
use crate::int4::PANEL;
use crate::place::{Operand, Place};
use crate::view::{View, ViewMut};

/// Matrices `[groups, out, in]` in plain memory, the rows of each in parts, one below the other: those of a cluster's
/// factor, for one, expert by expert. A view `[groups, out, in]` is one of a single part.
#[derive(Clone, Copy, Debug)]
pub enum Stacked<'a, T> {
    /// `[groups, parts, out / parts, in]`.
    Rows(View<'a, T, 4>),
    /// `[groups, parts, in, out / parts]`: each part transposed.
    Columns(View<'a, T, 4>),
}

/// [`Stacked`], to write.
#[derive(Debug)]
pub enum StackedMut<'a, T> {
    /// `[groups, parts, out / parts, in]`.
    Rows(ViewMut<'a, T, 4>),
    /// `[groups, parts, in, out / parts]`: each part transposed.
    Columns(ViewMut<'a, T, 4>),
}

/// `[groups, out, in]` of a view of this shape.
fn shape_of(transposed: bool, [groups, parts, rows, columns]: [usize; 4]) -> [usize; 3] {
    if transposed { [groups, parts * columns, rows] } else { [groups, parts * rows, columns] }
}

impl<'a, T> From<View<'a, T, 3>> for Stacked<'a, T> {
    fn from(view: View<'a, T, 3>) -> Self {
        let ([groups, out, input], [group, row, _]) = (view.shape(), view.strides());
        Stacked::Rows(view.reindex([groups, 1, out, input], [group, group, row, 1]))
    }
}

impl<'a, T> From<ViewMut<'a, T, 3>> for StackedMut<'a, T> {
    fn from(view: ViewMut<'a, T, 3>) -> Self {
        let ([groups, out, input], [group, row, _]) = (view.shape(), view.strides());
        StackedMut::Rows(view.reindex([groups, 1, out, input], [group, group, row, 1]))
    }
}

impl<T> Stacked<'_, T> {
    /// `[groups, out, in]`.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Stacked::Rows(view) => shape_of(false, view.shape()),
            Stacked::Columns(view) => shape_of(true, view.shape()),
        }
    }
}

impl<T> StackedMut<'_, T> {
    /// `[groups, out, in]`.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            StackedMut::Rows(view) => shape_of(false, view.shape()),
            StackedMut::Columns(view) => shape_of(true, view.shape()),
        }
    }

    /// The same matrices, to read.
    pub fn as_view(&self) -> Stacked<'_, T> {
        match self {
            StackedMut::Rows(view) => Stacked::Rows(view.as_view()),
            StackedMut::Columns(view) => Stacked::Columns(view.as_view()),
        }
    }
}

impl<T: Elem> Stacked<'_, T> {
    /// Calls `work` with rows `rows` of group `group`: where they lie if they can be read there, else copied.
    pub(crate) fn rows<R>(
        &self,
        group: usize,
        rows: Range<usize>,
        work: impl FnOnce(View<'_, T, 2>) -> R,
    ) -> R {
        let input = self.shape()[2];
        let (Stacked::Rows(view) | Stacked::Columns(view)) = *self;
        let per = if let Stacked::Rows(_) = self { view.dim(2) } else { view.dim(3) };
        let part = |p: usize| view.narrow(0, group..group + 1).narrow(1, p..p + 1).into_matrix();
        let (first, inside) = (rows.start / per.max(1), rows.start % per.max(1));
        if matches!(self, Stacked::Rows(_)) && inside + rows.len() <= per {
            return work(part(first).narrow(0, inside..inside + rows.len()));
        }
        let mut copy = vec![T::from_f32(0.0); rows.len() * input];
        for p in first..rows.end.div_ceil(per.max(1)) {
            let (begin, end) = (rows.start.max(p * per), rows.end.min((p + 1) * per));
            let to = &mut copy[(begin - rows.start) * input..(end - rows.start) * input];
            let (part, inside) = (part(p), begin - p * per..end - p * per);
            match self {
                Stacked::Rows(_) => {
                    for (to, row) in to.chunks_exact_mut(input.max(1)).zip(inside) {
                        to.copy_from_slice(part.row(row));
                    }
                }
                Stacked::Columns(_) => {
                    for i in 0..input {
                        let from = &part.row(i)[inside.clone()];
                        from.iter().enumerate().for_each(|(row, &v)| to[row * input + i] = v);
                    }
                }
            }
        }
        work(View::front(&copy, [rows.len(), input]))
    }
}

/// At most 32 rows of a matrix, to write.
pub(crate) struct Piece<'a, T> {
    /// The matrix.
    pub group: usize,
    /// The rows.
    pub rows: Range<usize>,
    to: ViewMut<'a, T, 2>,
    transposed: bool,
}

impl<'a, T: Elem> StackedMut<'a, T> {
    /// All rows, in pieces that are written independently.
    pub(crate) fn pieces(self) -> Vec<Piece<'a, T>> {
        let transposed = matches!(self, StackedMut::Columns(_));
        let (StackedMut::Rows(view) | StackedMut::Columns(view)) = self;
        let ([groups, parts, ..], axis) = (view.shape(), if transposed { 3 } else { 2 });
        let per = view.dim(axis);
        let each = |n: usize| (0..=n).collect::<Vec<_>>();
        let strips: Vec<usize> = (0..=per.div_ceil(PANEL)).map(|s| per.min(s * PANEL)).collect();
        let mut pieces = Vec::new();
        for (group, matrix) in view.cut(0, &each(groups)).into_iter().enumerate() {
            for (part, rows) in matrix.cut(1, &each(parts)).into_iter().enumerate() {
                for (bounds, to) in strips.windows(2).zip(rows.cut(axis, &strips)) {
                    let rows = part * per + bounds[0]..part * per + bounds[1];
                    pieces.push(Piece { group, rows, to: to.into_matrix(), transposed });
                }
            }
        }
        pieces
    }
}

impl<T: Elem> Piece<'_, T> {
    /// Writes the rows: `work(i, row)` is to fill row `i` of them.
    pub(crate) fn fill(mut self, mut work: impl FnMut(usize, &mut [T])) {
        if !self.transposed {
            (0..self.rows.len()).for_each(|i| work(i, self.to.row_mut(i)));
            return;
        }
        let mut row = vec![T::from_f32(0.0); self.to.dim(0)];
        for i in 0..self.rows.len() {
            work(i, &mut row);
            row.iter().enumerate().for_each(|(column, &v)| self.to.row_mut(column)[i] = v);
        }
    }
}

impl<T> Operand for Stacked<'_, T> {
    fn is_at(&self, place: Place) -> bool {
        let (Stacked::Rows(view) | Stacked::Columns(view)) = self;
        view.is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

impl<T> Operand for StackedMut<'_, T> {
    fn is_at(&self, place: Place) -> bool {
        let (StackedMut::Rows(view) | StackedMut::Columns(view)) = self;
        view.is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

#[cfg(feature = "cuda")]
mod device {
    use super::{Stacked, StackedMut};
    use crate::cuda::Int4Matrices;

    impl<T> Stacked<'_, T> {
        /// What kernels know of them.
        pub(crate) fn matrices(&self) -> Int4Matrices {
            let (Stacked::Rows(view) | Stacked::Columns(view)) = self;
            let ([_, _, rows, columns], stride) = (view.shape(), view.stride(2));
            let (row, column, rows) = match self {
                Stacked::Rows(_) => (stride, 1, rows),
                Stacked::Columns(_) => (1, stride, columns),
            };
            let (address, group, part) = (view.address(), view.stride(0), view.stride(1));
            Int4Matrices { address, group, part, row, column, rows: rows.max(1) as u32, unused: 0 }
        }
    }

    impl<T> StackedMut<'_, T> {
        /// As [`Stacked::matrices`].
        pub(crate) fn matrices(&self) -> Int4Matrices {
            self.as_view().matrices()
        }
    }
}
