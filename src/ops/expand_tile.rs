//! The CPU inner loops of [`Expand`](super::Expand) and its kin: one block of rows of one cluster at a time.

use std::ops::Range;

use rayon::prelude::*;

use super::expand_factors::{Columns, Expert, Factors, Plain};
use crate::cpu::gemm::{Mat, multiply};
use crate::cpu::math::vectorize;
use crate::cpu::{pieces, rows, scratch};
use crate::elem::Elem;
use crate::plan::Plan;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows of one forward task.
const ROWS: usize = 128;
/// Most rows whose slots are expanded at once: their activations stay in the second-level cache.
const TILE: usize = 128;

/// Rows of one cluster, in cluster order.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub cluster: usize,
    pub rows: Range<usize>,
}

/// Cuts every cluster into blocks of at most `most` rows; together they cover all rows in order.
pub(super) fn blocks(plan: &Plan, most: usize) -> Vec<Block> {
    let offsets = plan.by_cluster().offsets();
    let of_cluster = |g: usize| {
        let (start, len) = (offsets[g] as usize, (offsets[g + 1] - offsets[g]) as usize);
        let blocks = pieces(len, most).into_iter().filter(|p| !p.is_empty());
        blocks.map(move |p| Block { cluster: g, rows: start + p.start..start + p.end })
    };
    (0..plan.clusters()).flat_map(of_cluster).collect()
}

/// Where consecutive blocks start, and where the last ends: what to cut their rows at.
pub(super) fn bounds(blocks: &[Block]) -> Vec<usize> {
    std::iter::once(0).chain(blocks.iter().map(|b| b.rows.end)).collect()
}

impl Block {
    /// For each expert of the cluster, its slots (rows in expert order) whose token lies in this block.
    pub(super) fn slots<'p>(&'p self, plan: &'p Plan) -> impl Iterator<Item = Range<usize>> + 'p {
        let (per, experts, place) =
            (plan.experts() / plan.clusters(), plan.by_expert(), plan.by_cluster().place());
        (self.cluster * per..(self.cluster + 1) * per).map(move |e| {
            let (start, end) = (experts.offsets()[e] as usize, experts.offsets()[e + 1] as usize);
            let row = |choice: u32| place[choice as usize / experts.fan()] as usize;
            // Both orders are stable, so the rows of an expert's slots ascend.
            let sources = &experts.source()[start..end];
            let from = sources.partition_point(|&c| row(c) < self.rows.start);
            let to = sources.partition_point(|&c| row(c) < self.rows.end);
            start + from..start + to
        })
    }

    fn tiles(&self) -> impl Iterator<Item = Block> + '_ {
        let shift = |p: Range<usize>| self.rows.start + p.start..self.rows.start + p.end;
        pieces(self.rows.len(), TILE)
            .into_iter()
            .map(move |p| Block { cluster: self.cluster, rows: shift(p) })
    }
}

/// The operands that every block shares.
pub(super) struct Residuals<'a, F> {
    pub factors: F,
    pub plan: &'a Plan,
    pub weight: View<'a, f32, 2>,
}

/// A slot of a tile: the row of its token within the tile, and its weight.
struct Slot {
    row: usize,
    weight: f32,
}

impl<F: Factors> Residuals<'_, F> {
    fn slots(&self, block: &Block, range: Range<usize>) -> Vec<Slot> {
        let order = self.plan.by_expert();
        let slot = |&choice: &u32| {
            let (token, slot) = (choice as usize / order.fan(), choice as usize % order.fan());
            let row = self.plan.by_cluster().place()[token] as usize - block.rows.start;
            Slot { row, weight: self.weight.row(token)[slot] }
        };
        order.source()[range].iter().map(slot).collect()
    }

    /// Writes `[hbar | Q]` from `bp`, all rows, in parallel.
    pub(super) fn run<T: Elem>(&self, bp: View<'_, T, 2>, hq: ViewMut<'_, T, 2>) {
        let blocks = blocks(self.plan, ROWS);
        let bounds = bounds(&blocks);
        hq.cut(0, &bounds).into_par_iter().zip(blocks).with_max_len(1).for_each_part(|(hq, block)| {
            self.forward(&block, bp.narrow(0, block.rows.clone()), hq);
        });
    }

    /// Writes `[hbar | Q]` of the block from its rows of `bp`.
    fn forward<T: Elem>(&self, block: &Block, bp: View<'_, T, 2>, mut hq: ViewMut<'_, T, 2>) {
        let [inner, rank] = self.factors.size();
        for tile in block.tiles() {
            let (rows, first) = (tile.rows.len(), tile.rows.start - block.rows.start);
            let width = hq.dim(1);
            let bp = bp.narrow(0, first..first + rows);
            let lens = [rows * width, rows * 2 * inner, rows * inner, rows * 2 * rank];
            scratch::with(lens, |[sum, z, h, p]| {
                sum.fill(0.0);
                for (local, range) in tile.slots(self.plan).enumerate().filter(|(_, r)| !r.is_empty()) {
                    let (slots, columns) = (self.slots(&tile, range), self.factors.columns(local));
                    let of = Expert { cluster: tile.cluster, local };
                    self.gate_and_up(of, &slots, bp, &columns, z, p);
                    vectorize!(|| {
                        let rows = z.chunks_exact(2 * inner).zip(h.chunks_exact_mut(inner));
                        for (slot, (z, h)) in slots.iter().zip(rows) {
                            let (gate, up) = z.split_at(inner);
                            rows::swiglu(slot.weight, gate, up, h);
                            rows::add(h, &mut sum[slot.row * width..][..inner]);
                        }
                    });
                    let q = matrix_mut(p, [slots.len(), rank], rank);
                    self.factors.a2(of, matrix(h, [slots.len(), inner], inner), q);
                    for (slot, q) in slots.iter().zip(p.chunks_exact(rank)) {
                        rows::add(q, &mut sum[slot.row * width..][columns.q.clone()]);
                    }
                }
                vectorize!(|| {
                    for (r, sum) in sum.chunks_exact(width).enumerate() {
                        rows::narrow(sum, hq.row_mut(first + r));
                    }
                });
            });
        }
    }

    /// `z = (gate | up)` of the slots, `[slots, 2 inner]`; `p` gets their factors, `[slots, 2 rank]`.
    fn gate_and_up<T: Elem>(
        &self,
        of: Expert,
        slots: &[Slot],
        bp: View<'_, T, 2>,
        columns: &Columns,
        z: &mut [f32],
        p: &mut [f32],
    ) {
        let [inner, rank] = self.factors.size();
        vectorize!(|| {
            for ((slot, z), p) in
                slots.iter().zip(z.chunks_exact_mut(2 * inner)).zip(p.chunks_exact_mut(2 * rank))
            {
                let row = bp.row(slot.row);
                rows::widen(&row[..2 * inner], z);
                for (p, columns) in p.chunks_exact_mut(rank).zip(&columns.p) {
                    rows::widen(&row[columns.clone()], p);
                }
            }
        });
        for half in 0..2 {
            let z = matrix_mut(&mut z[half * inner..], [slots.len(), inner], 2 * inner);
            let p = matrix(&p[half * rank..], [slots.len(), rank], 2 * rank);
            self.factors.add_b(of, half, p, z);
        }
    }
}

impl<T: Elem> Residuals<'_, Plain<'_, T>> {
    /// Turns the block's rows of `bp` into their gradient, adds its factor gradients to `partial`
    /// (`[experts of the cluster, db (2 inner x rank) then da2 (rank x inner)]`), and returns the gradient of
    /// each slot's weight, expert by expert.
    pub(super) fn backward(
        &self,
        block: &Block,
        mut bp: ViewMut<'_, T, 2>,
        dhq: View<'_, T, 2>,
        partial: &mut [f32],
    ) -> Vec<f32> {
        let [inner, rank] = self.factors.size();
        let width = bp.dim(1);
        let per = self.plan.experts() / self.plan.clusters();
        let mut dots: Vec<Vec<f32>> = vec![Vec::new(); per];
        for tile in block.tiles() {
            let (rows, first) = (tile.rows.len(), tile.rows.start - block.rows.start);
            let lens = [rows * width, rows * 2 * inner, rows * 2 * rank, rows * inner, rows * 2 * rank];
            scratch::with(lens, |[sum, z, p, dh, r]| {
                sum.fill(0.0);
                let dhq = dhq.narrow(0, first..first + rows);
                for (local, range) in tile.slots(self.plan).enumerate().filter(|(_, r)| !r.is_empty()) {
                    let (slots, columns) = (self.slots(&tile, range), self.factors.columns(local));
                    let (n, of) = (slots.len(), Expert { cluster: tile.cluster, local });
                    self.gate_and_up(of, &slots, bp.as_view().narrow(0, first..first + rows), &columns, z, p);

                    // dh = dhbar + R A2, the gradient of the weighted activation.
                    vectorize!(|| {
                        for ((slot, dh), r) in
                            slots.iter().zip(dh.chunks_exact_mut(inner)).zip(r.chunks_exact_mut(rank))
                        {
                            let row = dhq.row(slot.row);
                            rows::widen(&row[..inner], dh);
                            rows::widen(&row[columns.q.clone()], r);
                        }
                    });
                    let r_rows = matrix(r, [n, rank], rank);
                    multiply(matrix_mut(dh, [n, inner], inner), true, r_rows, self.factors.a2_of(of));

                    // z becomes its gradient, dh becomes the weighted activation h.
                    vectorize!(|| {
                        let rows = z.chunks_exact_mut(2 * inner).zip(dh.chunks_exact_mut(inner));
                        for (slot, (z, dh)) in slots.iter().zip(rows) {
                            let (gate, up) = z.split_at_mut(inner);
                            dots[local].push(rows::swiglu_backward(slot.weight, gate, up, dh));
                            rows::add(z, &mut sum[slot.row * width..][..2 * inner]);
                        }
                    });
                    let (db, da2) = partial[local * 3 * inner * rank..][..3 * inner * rank]
                        .split_at_mut(2 * inner * rank);
                    let h = matrix(dh, [n, inner], inner);
                    multiply(
                        matrix_mut(da2, [rank, inner], inner),
                        true,
                        Mat::t(matrix(r, [n, rank], rank)),
                        h,
                    );
                    for half in 0..2 {
                        let dz = matrix(&z[half * inner..], [n, inner], 2 * inner);
                        let p = matrix(&p[half * rank..], [n, rank], 2 * rank);
                        let db = matrix_mut(&mut db[half * inner * rank..], [inner, rank], rank);
                        multiply(db, true, Mat::t(dz), p);
                        let b = self.factors.b_of(of, half);
                        multiply(matrix_mut(&mut r[half * rank..], [n, rank], 2 * rank), false, dz, b);
                    }
                    for (slot, dp) in slots.iter().zip(r.chunks_exact(2 * rank)) {
                        for (dp, columns) in dp.chunks_exact(rank).zip(&columns.p) {
                            rows::add(dp, &mut sum[slot.row * width..][columns.clone()]);
                        }
                    }
                }
                vectorize!(|| {
                    for (i, sum) in sum.chunks_exact(width).enumerate() {
                        rows::narrow(sum, bp.row_mut(first + i));
                    }
                });
            });
        }
        dots.concat()
    }
}

/// A matrix in a scratch buffer whose rows start `stride` elements apart.
fn matrix(buffer: &[f32], shape: [usize; 2], stride: usize) -> View<'_, f32, 2> {
    View::strided(buffer, shape, [stride, 1]).expect("scratch is sized for the tile")
}

/// As [`matrix`], to write.
fn matrix_mut(buffer: &mut [f32], shape: [usize; 2], stride: usize) -> ViewMut<'_, f32, 2> {
    ViewMut::strided(buffer, shape, [stride, 1]).expect("scratch is sized for the tile")
}
