//! What [`Expand`](super::Expand) and [`ExpandInt4`](super::ExpandInt4) do differently on the CPU: the products with factors.

use std::ops::Range;

use crate::cpu::gemm::{Mat, multiply};
use crate::cpu::int4::unpack;
use crate::cpu::math::vectorize;
use crate::cpu::scratch;
use crate::elem::Elem;
use crate::int4::{Int4View, PANEL};
use crate::view::{View, ViewMut};

/// An expert, by its number in its cluster.
#[derive(Clone, Copy)]
pub(super) struct Expert {
    pub cluster: usize,
    pub local: usize,
}

/// The columns of one expert.
pub(super) struct Columns {
    /// In `bp`: gate factor and up factor.
    pub p: [Range<usize>; 2],
    /// In `hq`.
    pub q: Range<usize>,
}

/// The factors of residuals.
pub(super) trait Factors: Sync {
    /// Inner size of an expert, and rank.
    fn size(&self) -> [usize; 2];

    /// The columns of number `local` of a cluster.
    fn columns(&self, local: usize) -> Columns;

    /// `z += p B^T` for gate (`half` 0) or up (1): `p` is `[slots, rank]`, `z` is `[slots, inner]`.
    fn add_b(&self, of: Expert, half: usize, p: View<'_, f32, 2>, z: ViewMut<'_, f32, 2>);

    /// `q = h A2^T`: `h` is `[slots, inner]`, `q` is `[slots, rank]`.
    fn a2(&self, of: Expert, h: View<'_, f32, 2>, q: ViewMut<'_, f32, 2>);
}

/// Those of [`Expand`](super::Expand).
#[derive(Clone, Copy)]
pub(super) struct Plain<'a, T> {
    pub b: View<'a, T, 3>,
    pub a2: View<'a, T, 3>,
    /// Experts of a cluster.
    pub per: usize,
}

impl<'a, T> Plain<'a, T> {
    fn number(&self, of: Expert) -> usize {
        of.cluster * self.per + of.local
    }

    /// B of gate or of up, `[inner, rank]`.
    pub(super) fn b_of(&self, of: Expert, half: usize) -> View<'a, T, 2> {
        let inner = self.a2.dim(2);
        self.b.matrix(self.number(of)).narrow(0, half * inner..(half + 1) * inner)
    }

    /// A2, `[rank, inner]`.
    pub(super) fn a2_of(&self, of: Expert) -> View<'a, T, 2> {
        self.a2.matrix(self.number(of))
    }
}

impl<T: Elem> Factors for Plain<'_, T> {
    fn size(&self) -> [usize; 2] {
        let [_, rank, inner] = self.a2.shape();
        [inner, rank]
    }

    fn columns(&self, local: usize) -> Columns {
        let [inner, rank] = self.size();
        let (p, q) = (2 * inner + 2 * rank * local, inner + rank * local);
        Columns { p: [p..p + rank, p + rank..p + 2 * rank], q: q..q + rank }
    }

    fn add_b(&self, of: Expert, half: usize, p: View<'_, f32, 2>, z: ViewMut<'_, f32, 2>) {
        multiply(z, true, p, Mat::t(self.b_of(of, half)));
    }

    fn a2(&self, of: Expert, h: View<'_, f32, 2>, q: ViewMut<'_, f32, 2>) {
        multiply(q, false, h, Mat::t(self.a2_of(of)));
    }
}

/// Those of [`ExpandInt4`](super::ExpandInt4): `[clusters, K rank, inner]` each, dequantised by tiles as they count in `T`.
pub(super) struct Packed<'a, T> {
    /// B^T of gate and of up.
    pub b: [Int4View<'a>; 2],
    pub a2: Int4View<'a>,
    pub rank: usize,
    pub dtype: std::marker::PhantomData<T>,
}

/// Most columns of a dequantised tile: with those it meets it stays in the second-level cache.
const COLUMNS: usize = 512;

impl<T: Elem> Packed<'_, T> {
    /// Calls `work` with every tile `[rank, columns]` of an expert's factor.
    fn tiles(&self, w: &Int4View<'_>, of: Expert, mut work: impl FnMut(View<'_, f32, 2>, Range<usize>)) {
        let [inner, rank] = self.size();
        let rows = of.local * rank..(of.local + 1) * rank;
        for first in (0..inner).step_by(COLUMNS) {
            let columns = first..inner.min(first + COLUMNS);
            let (width, steps) = (columns.len(), first / PANEL..columns.end.div_ceil(PANEL));
            scratch::with([rank * width], |[tile]| {
                vectorize!(|| unpack::<T, f32>(w, of.cluster, rows.clone(), steps, tile, width));
                work(View::front(tile, [rank, width]), columns);
            });
        }
    }
}

impl<T: Elem> Factors for Packed<'_, T> {
    fn size(&self) -> [usize; 2] {
        [self.a2.shape()[2], self.rank]
    }

    fn columns(&self, local: usize) -> Columns {
        let ([_, factors, inner], rank) = (self.a2.shape(), self.rank);
        let (p, q) = (2 * inner + rank * local, inner + rank * local);
        Columns { p: [p..p + rank, p + factors..p + factors + rank], q: q..q + rank }
    }

    fn add_b(&self, of: Expert, half: usize, p: View<'_, f32, 2>, mut z: ViewMut<'_, f32, 2>) {
        self.tiles(&self.b[half], of, |tile, columns| {
            multiply(z.reborrow().narrow(1, columns), true, p, tile)
        });
    }

    fn a2(&self, of: Expert, h: View<'_, f32, 2>, mut q: ViewMut<'_, f32, 2>) {
        self.tiles(&self.a2, of, |tile, columns| {
            let later = columns.start > 0;
            multiply(q.reborrow(), later, h.narrow(1, columns), Mat::t(tile));
        });
    }
}
