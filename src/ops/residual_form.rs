//! One matrix of clustered experts, and dot products between its experts in f64 without writing it out.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::double::{Matrix, multiply, widen};
use crate::cpu::pieces;
use crate::elem::Elem;
use crate::profile::ParallelParts;
use crate::view::View;

/// Tasks that the rows of a matrix are cut into: the order of the sums with it.
const TASKS: usize = 16;
/// Elements of an expert that are written out at a time.
const BLOCK: usize = 4096;

/// `w_e = base_g + b_e a_e` of every expert.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'a, T> {
    /// `[clusters, rows, columns]`.
    pub base: View<'a, T, 3>,
    /// `[clusters, K, rank, columns]`.
    pub a: View<'a, T, 4>,
    /// `[clusters, K, rows, rank]`.
    pub b: View<'a, T, 4>,
}

/// Multiply-adds of the dot products of all pairs of experts `base_g + b_e a_e`, `[rows, columns]` each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// By [`Form::add_closed`].
    pub closed: f64,
    /// By [`Form::add_written`].
    pub written: f64,
}

impl Cost {
    pub(super) fn of(experts: usize, clusters: usize, rank: usize, [rows, columns]: [usize; 2]) -> Self {
        let [e, g, r, n, m] = [experts, clusters, rank, rows, columns].map(|v| v as f64);
        let residuals = e * r * n * m; // b_e a_e of every expert, in either way
        let bases = (g * g / 2.0 + g * e) * n * m;
        let factors = e * e / 2.0 * r * r * (n + m);
        Cost { closed: residuals + bases + factors, written: residuals + e * e / 2.0 * n * m }
    }
}

/// Factors of all experts in f64.
struct Factors {
    a: Vec<f64>, // [experts, rank, columns]
    b: Vec<f64>, // [experts, rank, rows]
}

impl<T: Elem> Form<'_, T> {
    fn experts(&self) -> usize {
        self.a.dim(0) * self.a.dim(1)
    }

    fn rank(&self) -> usize {
        self.a.dim(2)
    }

    /// Adds the dot products of all pairs, packed, by the way that costs less.
    pub(super) fn add(&self, gram: &mut [f64]) {
        let [clusters, rows, columns] = self.base.shape();
        let cost = Cost::of(self.experts(), clusters, self.rank(), [rows, columns]);
        if cost.closed < cost.written { self.add_closed(gram) } else { self.add_written(gram) }
    }

    /// By the experts' matrices, of which a few rows are written out at a time.
    fn add_written(&self, gram: &mut [f64]) {
        let (experts, per, factors) = (self.experts(), self.a.dim(1), self.factors());
        let sum = self.over_rows([experts; 2], |rows, sum| {
            let width = rows.len() * self.base.dim(2);
            let (bases, mut w) = (self.bases(rows.clone()), self.residuals(&factors, rows)); // [experts, width]
            for (expert, w) in w.chunks_exact_mut(width).enumerate() {
                w.iter_mut().zip(&bases[expert / per * width..]).for_each(|(w, base)| *w += base);
            }
            let w = Matrix::new(&w, [experts, width], width);
            multiply(sum, experts, w, w.t());
        });
        for_pairs(experts, gram, |i, j| sum[i * experts + j]);
    }

    /// By `<base_g, base_h> + <base_g, b_j a_j> + <b_i a_i, base_h> + tr((a_j a_i^T)(b_i^T b_j))`.
    ///
    /// The products `b_j a_j` are written out, a few rows at a time, for all bases: that takes `rank + clusters`
    /// multiply-adds an element, where `tr(a_j base_g^T b_j)` would take `rank clusters`.
    fn add_closed(&self, gram: &mut [f64]) {
        let (experts, per, clusters) = (self.experts(), self.a.dim(1), self.base.dim(0));
        let factors = self.factors();
        let columns = clusters + experts;
        // [clusters, clusters + experts]: bases with bases, then with residuals.
        let cross = self.over_rows([clusters, columns], |rows, sum| {
            let width = rows.len() * self.base.dim(2);
            let (bases, residuals) = (self.bases(rows.clone()), self.residuals(&factors, rows));
            let bases = Matrix::new(&bases, [clusters, width], width);
            multiply(sum, columns, bases, bases.t());
            multiply(
                &mut sum[clusters..],
                columns,
                bases,
                Matrix::new(&residuals, [experts, width], width).t(),
            );
        });
        let residuals: Vec<_> =
            (0..experts).into_par_iter().map_parts(|i| self.with_residuals(&factors, i)).collect();
        for_pairs(experts, gram, |i, j| {
            let (g, h) = (i / per, j / per);
            let row = |g: usize| &cross[g * columns..(g + 1) * columns];
            row(g)[h] + row(g)[clusters + j] + row(h)[clusters + i] + residuals[i][j]
        });
    }

    /// Dot products of the residual of expert `i` with those of `0..=i`.
    fn with_residuals(&self, factors: &Factors, i: usize) -> Vec<f64> {
        let (rank, [_, rows, columns]) = (self.rank(), self.base.shape());
        let others = (i + 1) * rank;
        let products = |x: &[f64], length: usize| {
            let mut out = vec![0.0; rank * others]; // [rank, others]
            let mine = Matrix::new(&x[i * rank * length..], [rank, length], length);
            multiply(&mut out, others, mine, Matrix::new(x, [others, length], length).t());
            out
        };
        let (a, b) = (products(&factors.a, columns), products(&factors.b, rows));
        let mut sums = vec![0.0; i + 1];
        for (a, b) in a.chunks_exact(others).zip(b.chunks_exact(others)) {
            for ((sum, a), b) in sums.iter_mut().zip(a.chunks_exact(rank)).zip(b.chunks_exact(rank)) {
                *sum += a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            }
        }
        sums
    }

    fn factors(&self) -> Factors {
        let (rank, [_, rows, columns]) = (self.rank(), self.base.shape());
        let mut a = vec![0.0; self.experts() * rank * columns];
        for (i, row) in a.chunks_exact_mut(columns).enumerate() {
            widen(self.factor(self.a, i / rank).row(i % rank), row);
        }
        let mut b = vec![0.0; self.experts() * rank * rows];
        let mut row = vec![0.0; rank];
        for (expert, of_expert) in b.chunks_exact_mut(rank * rows).enumerate() {
            let factor = self.factor(self.b, expert);
            for o in 0..rows {
                widen(factor.row(o), &mut row);
                row.iter().enumerate().for_each(|(q, &v)| of_expert[q * rows + o] = v);
            }
        }
        Factors { a, b }
    }

    fn factor<'b>(&self, factor: View<'b, T, 4>, expert: usize) -> View<'b, T, 2> {
        let (g, k) = (expert / factor.dim(1), expert % factor.dim(1));
        let [_, _, rows, columns] = factor.shape();
        let one = factor.narrow(0, g..g + 1).narrow(1, k..k + 1);
        one.reindex([rows, columns], [factor.strides()[2], 1])
    }

    /// `[clusters, rows, columns]` of these rows.
    fn bases(&self, rows: Range<usize>) -> Vec<f64> {
        let [clusters, _, columns] = self.base.shape();
        let mut bases = vec![0.0; clusters * rows.len() * columns];
        for (i, to) in bases.chunks_exact_mut(columns).enumerate() {
            widen(self.base.matrix(i / rows.len()).row(rows.start + i % rows.len()), to);
        }
        bases
    }

    /// `b_e a_e`, `[experts, rows, columns]` of these rows.
    fn residuals(&self, factors: &Factors, rows: Range<usize>) -> Vec<f64> {
        let (rank, [_, all_rows, columns]) = (self.rank(), self.base.shape());
        let mut residuals = vec![0.0; self.experts() * rows.len() * columns];
        let of_experts = factors.a.chunks_exact(rank * columns).zip(factors.b.chunks_exact(rank * all_rows));
        for (to, (a, b)) in residuals.chunks_exact_mut(rows.len() * columns).zip(of_experts) {
            let b = Matrix::new(&b[rows.start..], [rank, rows.len()], all_rows);
            multiply(to, columns, b.t(), Matrix::new(a, [rank, columns], columns));
        }
        residuals
    }

    /// The sum of a matrix of this shape over blocks of rows, each of which `work` adds; in a fixed order.
    fn over_rows(&self, shape: [usize; 2], work: impl Fn(Range<usize>, &mut [f64]) + Sync) -> Vec<f64> {
        let [_, rows, columns] = self.base.shape();
        let tasks = pieces(rows, rows.div_ceil(TASKS).max(1));
        let most = (BLOCK / columns.max(1)).max(1);
        let part = |task: Range<usize>| {
            let mut sum = vec![0.0; shape.iter().product()];
            for block in pieces(task.len(), most) {
                work(task.start + block.start..task.start + block.end, &mut sum);
            }
            sum
        };
        let parts: Vec<_> = tasks.into_par_iter().with_max_len(1).map_parts(part).collect();
        let mut parts = parts.into_iter();
        let mut sum = parts.next().unwrap_or_default();
        parts.for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
        sum
    }
}

/// Adds to every pair `(i, j)`, `j <= i`, of a packed matrix.
fn for_pairs(experts: usize, packed: &mut [f64], value: impl Fn(usize, usize) -> f64) {
    let pairs = (0..experts).flat_map(|i| (0..=i).map(move |j| (i, j)));
    packed.iter_mut().zip(pairs).for_each(|(to, (i, j))| *to += value(i, j));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_way_is_taken() {
        // Of method.md's sizes only few experts in many clusters are cheaper written out.
        let closed = |e, g, r, shape| {
            let cost = Cost::of(e, g, r, shape);
            cost.closed < cost.written
        };
        assert!(closed(32, 4, 16, [3072, 768]));
        assert!(closed(128, 16, 16, [1536, 4096]));
        assert!(!closed(8, 4, 16, [3072, 768]));
        assert!(!closed(32, 16, 16, [3072, 768]));
        assert!(!closed(32, 4, 64, [3072, 768]));
        let cost = Cost::of(4, 2, 3, [5, 7]);
        assert_eq!(
            cost,
            Cost { closed: 420.0 + 10.0 * 35.0 + 8.0 * 9.0 * 12.0, written: 420.0 + 8.0 * 35.0 }
        );
    }

    #[test]
    fn both_ways_agree_in_f64() {
        for (clusters, per, rank, rows, columns) in [(1, 5, 2, 40, 3), (3, 4, 5, 7, 33), (2, 1, 1, 17, 5000)]
        {
            let wave = |n: usize| (0..n).map(|i| ((i * i) as f32 * 0.37).sin()).collect::<Vec<_>>();
            let experts = clusters * per;
            let base = wave(clusters * rows * columns);
            let (a, b) = (wave(experts * rank * columns), wave(experts * rows * rank));
            let form = Form {
                base: View::new(&base, [clusters, rows, columns]).unwrap(),
                a: View::new(&a, [clusters, per, rank, columns]).unwrap(),
                b: View::new(&b, [clusters, per, rows, rank]).unwrap(),
            };
            let mut grams = [0, 1].map(|_| vec![0.5; experts * (experts + 1) / 2]);
            form.add_closed(&mut grams[0]);
            form.add_written(&mut grams[1]);
            let norm = (0..experts).map(|i| grams[1][i * (i + 3) / 2]).fold(0.0, f64::max);
            for (closed, written) in grams[0].iter().zip(&grams[1]) {
                assert!((closed - written).abs() <= 1e-13 * norm, "{closed} {written}");
            }
        }
    }
}
