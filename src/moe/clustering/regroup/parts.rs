//! Where the matrices of an expert lie in the tensors of a layer.

use super::{Factors, Product, Result, Shape, Tensors, View, ViewMut, ensure, gemm};

/// A matrix of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Gate,
    Up,
    Down,
}

/// All of them.
pub(super) const PARTS: [Part; 3] = [Part::Gate, Part::Up, Part::Down];

/// The tensors of a layer, checked against its shape.
pub(super) struct Parts<'a> {
    shape: Shape,
    tensors: &'a Tensors,
}

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
        self.rows().flat_map(|row| &from[row]).copied().collect()
    }

    fn write(self, to: &mut [f32], values: &[f32]) {
        for (row, values) in self.rows().zip(values.chunks_exact(self.size[1])) {
            to[row].copy_from_slice(values);
        }
    }
}

impl<'a> Parts<'a> {
    pub(super) fn new(shape: Shape, tensors: &'a Tensors) -> Result<Self> {
        let Shape { hidden, inner, experts, clusters, rank, .. } = shape;
        let lens = [&tensors.router, &tensors.w13, &tensors.w2, &tensors.b, &tensors.a2].map(|t| t.len());
        let factors = shape.factors();
        let want = [
            shape.logits() * hidden,
            clusters * 2 * (inner + factors) * hidden,
            clusters * hidden * (inner + factors),
            experts * 2 * inner * rank,
            experts * rank * inner,
        ];
        ensure!("Regroup", lens == want, tensors = lens, want = want);
        Ok(Parts { shape, tensors })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// `[out, in]` of a matrix.
    pub(super) fn size(&self, part: Part) -> [usize; 2] {
        let Shape { hidden, inner, .. } = self.shape;
        if part == Part::Down { [hidden, inner] } else { [inner, hidden] }
    }

    pub(super) fn cluster_of(&self, expert: usize) -> usize {
        expert / (self.shape.experts / self.shape.clusters)
    }

    /// The base of a cluster: in `w13`, or, down, in `w2`.
    fn base_block(&self, part: Part, cluster: usize) -> Block {
        let Shape { hidden, inner, .. } = self.shape;
        let factors = self.shape.factors();
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
    fn left_block(&self, part: Part, place: usize) -> Block {
        let Shape { hidden, inner, rank, .. } = self.shape;
        let size = [self.size(part)[0], rank];
        match part {
            Part::Down => {
                let (stride, cluster) = (inner + self.shape.factors(), self.cluster_of(place));
                let column = inner + self.local(place) * rank;
                Block { start: cluster * hidden * stride + column, stride, size }
            }
            _ => Block { start: (2 * place + part as usize) * inner * rank, stride: rank, size },
        }
    }

    /// `[rank, in]` of the expert at a place: in `w13`, or, down, in `a2`.
    fn right_block(&self, part: Part, place: usize) -> Block {
        let Shape { hidden, inner, rank, .. } = self.shape;
        let size = [rank, self.size(part)[1]];
        match part {
            Part::Down => Block { start: place * rank * inner, stride: inner, size },
            _ => {
                let of_cluster = self.cluster_of(place) * 2 * (inner + self.shape.factors());
                let row = of_cluster + 2 * inner + (2 * self.local(place) + part as usize) * rank;
                Block { start: row * hidden, stride: hidden, size }
            }
        }
    }

    /// Number of a place inside its cluster.
    fn local(&self, place: usize) -> usize {
        place % (self.shape.experts / self.shape.clusters)
    }

    fn left_of<'t>(&self, part: Part, tensors: &'t Tensors) -> &'t [f32] {
        if part == Part::Down { &tensors.w2 } else { &tensors.b }
    }

    fn right_of<'t>(&self, part: Part, tensors: &'t Tensors) -> &'t [f32] {
        if part == Part::Down { &tensors.a2 } else { &tensors.w13 }
    }

    pub(super) fn base(&self, part: Part, cluster: usize) -> Vec<f32> {
        let tensor = if part == Part::Down { &self.tensors.w2 } else { &self.tensors.w13 };
        self.base_block(part, cluster).read(tensor)
    }

    /// The factors of an expert as they are.
    pub(super) fn factors(&self, part: Part, expert: usize) -> Factors {
        let left = self.left_block(part, expert).read(self.left_of(part, self.tensors));
        let right = self.right_block(part, expert).read(self.right_of(part, self.tensors));
        Factors { left, right, values: vec![0.0; self.shape.rank], lost: 0.0 }
    }

    /// The matrix of an expert: its base and its residual.
    pub(super) fn whole(&self, part: Part, expert: usize) -> Vec<f32> {
        let ([out, inner], rank) = (self.size(part), self.shape.rank);
        let mut matrix = self.base(part, self.cluster_of(expert));
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
        let hidden = self.shape.hidden;
        let first = self.shape.logits() - self.shape.experts;
        for (place, &expert) in order.iter().enumerate().filter(|&(place, &expert)| place != expert) {
            let [to, from] = [place, expert].map(|e| (first + e) * hidden..(first + e + 1) * hidden);
            next.router[to].copy_from_slice(&self.tensors.router[from]);
            for part in PARTS {
                let Factors { left, right, .. } = self.factors(part, expert);
                self.write_factors(&mut next, part, place, &left, &right);
            }
        }
        next
    }

    fn write_factors(&self, next: &mut Tensors, part: Part, place: usize, left: &[f32], right: &[f32]) {
        let (left_block, right_block) = (self.left_block(part, place), self.right_block(part, place));
        let Tensors { w13, w2, b, a2, .. } = next;
        let (left_tensor, right_tensor) = if part == Part::Down { (w2, a2) } else { (b, w13) };
        left_block.write(left_tensor, left);
        right_block.write(right_tensor, right);
    }

    /// Writes a base, and the factors of the members of its cluster in the order of their places.
    pub(super) fn write(
        &self,
        next: &mut Tensors,
        part: Part,
        cluster: usize,
        base: &[f32],
        factors: &[Factors],
    ) {
        let tensor = if part == Part::Down { &mut next.w2 } else { &mut next.w13 };
        self.base_block(part, cluster).write(tensor, base);
        for (i, f) in factors.iter().enumerate() {
            self.write_factors(next, part, cluster * factors.len() + i, &f.left, &f.right);
        }
    }

    /// Turns a cluster's row of the router toward the mean row of its members, at its old norm.
    pub(super) fn steer(&self, next: &mut Tensors, cluster: usize, members: &[usize]) {
        let (hidden, levels) = (self.shape.hidden, self.shape.logits() - self.shape.experts);
        if levels == 0 {
            return;
        }
        let row = |r: usize| &self.tensors.router[r * hidden..(r + 1) * hidden];
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let old: Vec<f64> = row(cluster).iter().map(|&u| f64::from(u)).collect();
        let mut turned: Vec<f64> = old.iter().map(|u| 0.5 * u).collect();
        for &e in members {
            let share = 0.5 / members.len() as f64;
            turned.iter_mut().zip(row(levels + e)).for_each(|(t, &v)| *t += share * f64::from(v));
        }
        let factor = if norm(&turned) > 0.0 { norm(&old) / norm(&turned) } else { 0.0 };
        let to = &mut next.router[cluster * hidden..(cluster + 1) * hidden];
        to.iter_mut().zip(turned).for_each(|(u, t)| *u = (factor * t) as f32);
    }
}
