//! The tensors of a clustered layer, and where the matrices of an expert lie in them.

use super::svd::Factors;
use crate::cpu::gemm::{self, Product};
use crate::error::{Result, ensure};
use crate::moe::Shape;
use crate::view::{View, ViewMut};

/// The tensors of a clustered layer in f32, shaped and ordered as [`Weights`](crate::moe::clustered::Weights): weights, or an
/// optimiser's moments of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// `[clusters + experts, hidden]`; `[experts, hidden]` with one cluster.
    pub router: Vec<f32>,
    /// `[clusters, 2 inner + 2 K rank, hidden]`.
    pub w13: Vec<f32>,
    /// `[clusters, hidden, inner + K rank]`.
    pub w2: Vec<f32>,
    /// `[experts, 2 inner, rank]`.
    pub b: Vec<f32>,
    /// `[experts, rank, inner]`.
    pub a2: Vec<f32>,
}

impl Tensors {
    /// Zeros.
    pub fn zeros(shape: Shape) -> Self {
        let [router, w13, w2, b, a2] = Self::lens(shape).map(|len| vec![0.0; len]);
        Tensors { router, w13, w2, b, a2 }
    }

    /// Multiplies what the experts of each cluster give by its factor.
    pub fn scale_outputs(&mut self, shape: Shape, gains: &[f64]) -> Result<()> {
        Parts::new(shape, self)?;
        ensure!("Tensors", gains.len() == shape.clusters, gains = gains, clusters = shape.clusters);
        let usable = gains.iter().all(|g| g.is_finite() && *g > 0.0);
        ensure!("Tensors", usable, gains = gains);
        let of_cluster = shape.hidden * (shape.inner + shape.factors());
        for (w2, gain) in self.w2.chunks_exact_mut(of_cluster).zip(gains) {
            w2.iter_mut().for_each(|w| *w = (f64::from(*w) * gain) as f32);
        }
        Ok(())
    }

    /// Elements of each.
    fn lens(shape: Shape) -> [usize; 5] {
        let Shape { hidden, inner, experts, clusters, rank, .. } = shape;
        let factors = shape.factors();
        [
            shape.logits() * hidden,
            clusters * 2 * (inner + factors) * hidden,
            clusters * hidden * (inner + factors),
            experts * 2 * inner * rank,
            experts * rank * inner,
        ]
    }
}

/// A matrix of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Gate,
    Up,
    Down,
}

/// All of them.
pub(super) const PARTS: [Part; 3] = [Part::Gate, Part::Up, Part::Down];

/// A matrix inside a tensor: where it starts, the distance of its rows, its size.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    stride: usize,
    size: [usize; 2],
}

impl Block {
    fn rows(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.size[0]).map(move |r| {
            let start = self.start + r * self.stride;
            start..start + self.size[1]
        })
    }

    fn read(self, from: &[f32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.size[0] * self.size[1]);
        self.rows().for_each(|row| values.extend_from_slice(&from[row]));
        values
    }

    fn write(self, to: &mut [f32], values: &[f32]) {
        for (row, values) in self.rows().zip(values.chunks_exact(self.size[1])) {
            to[row].copy_from_slice(values);
        }
    }
}

/// Where the matrices lie in the tensors of a layer of this shape.
#[derive(Clone, Copy)]
pub(super) struct Places(pub(super) Shape);

impl Places {
    /// `[out, in]` of a matrix.
    pub(super) fn size(self, part: Part) -> [usize; 2] {
        let Shape { hidden, inner, .. } = self.0;
        if part == Part::Down { [hidden, inner] } else { [inner, hidden] }
    }

    pub(super) fn cluster_of(self, place: usize) -> usize {
        place / (self.0.experts / self.0.clusters)
    }

    /// Number of a place inside its cluster.
    fn local(self, place: usize) -> usize {
        place % (self.0.experts / self.0.clusters)
    }

    /// Elements of a row of the router; clusters come first.
    pub(super) fn router_row(self, row: usize) -> std::ops::Range<usize> {
        row * self.0.hidden..(row + 1) * self.0.hidden
    }

    /// Rows of the router that are clusters'.
    pub(super) fn levels(self) -> usize {
        self.0.logits() - self.0.experts
    }

    /// The base of a cluster: in `w13`, or, down, in `w2`.
    fn base_block(self, part: Part, cluster: usize) -> Block {
        let Shape { hidden, inner, .. } = self.0;
        let factors = self.0.factors();
        let size = self.size(part);
        match part {
            Part::Down => {
                let stride = inner + factors;
                Block { start: cluster * hidden * stride, stride, size }
            }
            _ => {
                let row = cluster * 2 * (inner + factors) + part as usize * inner;
                Block { start: row * hidden, stride: hidden, size }
            }
        }
    }

    /// `[out, rank]` of the expert at a place: in `b`, or, down, in `w2`.
    fn left_block(self, part: Part, place: usize) -> Block {
        let Shape { hidden, inner, rank, .. } = self.0;
        let size = [self.size(part)[0], rank];
        match part {
            Part::Down => {
                let (stride, cluster) = (inner + self.0.factors(), self.cluster_of(place));
                let column = inner + self.local(place) * rank;
                Block { start: cluster * hidden * stride + column, stride, size }
            }
            _ => Block { start: (2 * place + part as usize) * inner * rank, stride: rank, size },
        }
    }

    /// `[rank, in]` of the expert at a place: in `w13`, or, down, in `a2`.
    fn right_block(self, part: Part, place: usize) -> Block {
        let Shape { hidden, inner, rank, .. } = self.0;
        let size = [rank, self.size(part)[1]];
        match part {
            Part::Down => Block { start: place * rank * inner, stride: inner, size },
            _ => {
                let of_cluster = self.cluster_of(place) * 2 * (inner + self.0.factors());
                let row = of_cluster + 2 * inner + (2 * self.local(place) + part as usize) * rank;
                Block { start: row * hidden, stride: hidden, size }
            }
        }
    }

    pub(super) fn write_base(self, to: &mut Tensors, part: Part, cluster: usize, base: &[f32]) {
        let tensor = if part == Part::Down { &mut to.w2 } else { &mut to.w13 };
        self.base_block(part, cluster).write(tensor, base);
    }

    /// Writes the factors of the expert at a place.
    pub(super) fn write_factors(self, to: &mut Tensors, part: Part, place: usize, factors: &Factors) {
        let (left_block, right_block) = (self.left_block(part, place), self.right_block(part, place));
        let Tensors { w13, w2, b, a2, .. } = to;
        let (left, right) = if part == Part::Down { (w2, a2) } else { (b, w13) };
        left_block.write(left, &factors.left);
        right_block.write(right, &factors.right);
    }
}

/// The tensors of a layer, checked against its shape.
pub(super) struct Parts<'a> {
    places: Places,
    tensors: &'a Tensors,
}

impl<'a> Parts<'a> {
    pub(super) fn new(shape: Shape, tensors: &'a Tensors) -> Result<Self> {
        let lens = [&tensors.router, &tensors.w13, &tensors.w2, &tensors.b, &tensors.a2].map(|t| t.len());
        let want = Tensors::lens(shape);
        ensure!("Regroup", lens == want, tensors = lens, want = want);
        Ok(Parts { places: Places(shape), tensors })
    }

    pub(super) fn places(&self) -> Places {
        self.places
    }

    pub(super) fn base(&self, part: Part, cluster: usize) -> Vec<f32> {
        let tensor = if part == Part::Down { &self.tensors.w2 } else { &self.tensors.w13 };
        self.places.base_block(part, cluster).read(tensor)
    }

    /// The factors of an expert as they are.
    pub(super) fn factors(&self, part: Part, expert: usize) -> Factors {
        let Tensors { w13, w2, b, a2, .. } = self.tensors;
        let (left, right) = if part == Part::Down { (w2, a2) } else { (b, w13) };
        let left = self.places.left_block(part, expert).read(left);
        let right = self.places.right_block(part, expert).read(right);
        Factors { left, right, values: vec![0.0; self.places.0.rank], lost: 0.0 }
    }

    /// The matrix of an expert: its base and its residual.
    pub(super) fn whole(&self, part: Part, expert: usize) -> Vec<f32> {
        let ([out, inner], rank) = (self.places.size(part), self.places.0.rank);
        let mut matrix = self.base(part, self.places.cluster_of(expert));
        let Factors { left, right, .. } = self.factors(part, expert);
        let c = ViewMut::front(&mut matrix, [out, inner]);
        let [a, b] = [View::front(&left, [out, rank]), View::front(&right, [rank, inner])];
        gemm::run(vec![Product { c, a: a.into(), b: b.into() }], true);
        matrix
    }

    /// The tensors with each place holding the expert `order` names: its row of the router and its factors. Bases and rows
    /// of clusters stay.
    pub(super) fn moved(&self, order: &[usize]) -> Tensors {
        let mut next = self.tensors.clone();
        let first = self.places.levels();
        for (place, &expert) in order.iter().enumerate().filter(|&(place, &expert)| place != expert) {
            let [to, from] = [place, expert].map(|e| self.places.router_row(first + e));
            next.router[to].copy_from_slice(&self.tensors.router[from]);
            for part in PARTS {
                self.places.write_factors(&mut next, part, place, &self.factors(part, expert));
            }
        }
        next
    }

    /// Turns a cluster's row of the router toward its members' rows.
    pub(super) fn steer(&self, next: &mut Tensors, cluster: usize, members: &[usize]) {
        let levels = self.places.levels();
        if levels == 0 {
            return;
        }
        let row = |r: usize| &self.tensors.router[self.places.router_row(r)];
        let members: Vec<&[f32]> = members.iter().map(|&e| row(levels + e)).collect();
        let to = self.places.router_row(cluster);
        next.router[to].copy_from_slice(&steered(row(cluster), &members));
    }
}

/// A cluster's row of the router turned half way to the mean row of its members, at its old norm (method.md, "Clustering").
pub fn steered(row: &[f32], members: &[&[f32]]) -> Vec<f32> {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let old: Vec<f64> = row.iter().map(|&u| f64::from(u)).collect();
    let mut turned: Vec<f64> = old.iter().map(|u| 0.5 * u).collect();
    for member in members {
        let share = 0.5 / members.len() as f64;
        turned.iter_mut().zip(*member).for_each(|(t, &v)| *t += share * f64::from(v));
    }
    let factor = if norm(&turned) > 0.0 { norm(&old) / norm(&turned) } else { 0.0 };
    turned.into_iter().map(|t| (factor * t) as f32).collect()
}
