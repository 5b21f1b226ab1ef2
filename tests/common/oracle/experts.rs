//! Clustered experts twice: with the base computed once per token, and literally, slot by slot.

use super::{dot, product, silu, silu_slope};
use crate::common::cases::Routed;

/// Sizes of the clustered experts of a routed batch.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    pub case: &'a Routed,
    pub hidden: usize,
    pub inner: usize,
    pub rank: usize,
}

/// Gradients of [`Experts::expand`].
pub struct ExpandGradient {
    pub bp: Vec<f64>,
    pub b: Vec<f64>,
    pub a2: Vec<f64>,
    pub weight: Vec<f64>,
}

/// Inputs, or gradients, of a layer of clustered experts, in the layout that shares one product a token.
#[derive(Clone)]
pub struct Layer {
    /// `[tokens, hidden]`
    pub x: Vec<f64>,
    /// `[tokens, topk]`
    pub weight: Vec<f64>,
    /// `[clusters, 2 inner + 2 K rank, hidden]`: base gate, base up, then `A_gate^T`, `A_up^T` of each expert.
    pub w13: Vec<f64>,
    /// `[experts, 2 inner, rank]`: `B_gate`, `B_up`.
    pub b: Vec<f64>,
    /// `[experts, rank, inner]`: `A_down^T`.
    pub a2: Vec<f64>,
    /// `[clusters, hidden, inner + K rank]`: base down, then `B_down` of each expert.
    pub w2: Vec<f64>,
}

/// `w_i = base + b a` of one expert, each `[out, in]`.
struct Matrices {
    gate: Vec<f64>,
    up: Vec<f64>,
    down: Vec<f64>,
}

/// First elements: of gate and up in `w13` (base, factor) and in `b`, of down in `w2` and `a2`.
struct Pieces {
    base: [usize; 2],
    a: [usize; 2],
    b: [usize; 2],
    down_base: usize,
    down_b: usize,
    down_a: usize,
}

impl Experts<'_> {
    /// Experts per cluster.
    pub fn per(&self) -> usize {
        self.case.experts / self.case.clusters
    }

    /// Columns of `[gate | up | P]`.
    pub fn bp(&self) -> usize {
        2 * self.inner + 2 * self.per() * self.rank
    }

    /// Columns of `[hbar | Q]`.
    pub fn hq(&self) -> usize {
        self.inner + self.per() * self.rank
    }

    /// The token of each row in cluster order.
    pub fn rows(&self) -> Vec<usize> {
        (0..self.case.clusters).flat_map(|g| self.case.tokens_of(g)).collect()
    }

    /// Calls `visit(row in cluster order, choice, expert, number in the cluster)` for every slot.
    fn slots(&self, mut visit: impl FnMut(usize, usize, usize, usize)) {
        for (row, t) in self.rows().into_iter().enumerate() {
            for choice in t * self.case.topk..(t + 1) * self.case.topk {
                let expert = self.case.expert[choice] as usize;
                visit(row, choice, expert, expert - self.case.cluster[t] as usize * self.per());
            }
        }
    }

    /// `z = base + P B^T` of one slot: gate, then up.
    fn z(&self, bp: &[f64], b: &[f64], row: usize, expert: usize, local: usize) -> Vec<f64> {
        let (inner, rank) = (self.inner, self.rank);
        let bp = &bp[row * self.bp()..][..self.bp()];
        let p = &bp[2 * inner + 2 * rank * local..][..2 * rank];
        let b = |j: usize| &b[(expert * 2 * inner + j) * rank..][..rank];
        (0..2 * inner).map(|j| bp[j] + dot(&p[j / inner * rank..][..rank], b(j))).collect()
    }

    /// `[hbar | Q]` in cluster order.
    pub fn expand(&self, bp: &[f64], b: &[f64], a2: &[f64], weight: &[f64]) -> Vec<f64> {
        let (inner, rank) = (self.inner, self.rank);
        let mut hq = vec![0.0; self.case.tokens * self.hq()];
        self.slots(|row, choice, e, local| {
            let z = self.z(bp, b, row, e, local);
            let h: Vec<f64> = (0..inner).map(|j| weight[choice] * silu(z[j]) * z[inner + j]).collect();
            let out = &mut hq[row * self.hq()..][..self.hq()];
            (0..inner).for_each(|j| out[j] += h[j]);
            let q = product(&a2[e * rank * inner..][..rank * inner], &h);
            (0..rank).for_each(|r| out[inner + rank * local + r] += q[r]);
        });
        hq
    }

    /// Gradient of `<dhq, expand>`.
    pub fn expand_backward(
        &self,
        bp: &[f64],
        b: &[f64],
        a2: &[f64],
        weight: &[f64],
        dhq: &[f64],
    ) -> ExpandGradient {
        let (inner, rank) = (self.inner, self.rank);
        let zeros = |like: &[f64]| vec![0.0; like.len()];
        let mut d = ExpandGradient { bp: zeros(bp), b: zeros(b), a2: zeros(a2), weight: zeros(weight) };
        self.slots(|row, choice, e, local| {
            let (z, w) = (self.z(bp, b, row, e, local), weight[choice]);
            let (dhq, dbp) = (&dhq[row * self.hq()..], &mut d.bp[row * self.bp()..]);
            for j in 0..inner {
                let (gate, up) = (z[j], z[inner + j]);
                // h enters hbar and, through A2, each column of Q.
                let mut dh = dhq[j];
                for r in 0..rank {
                    let (at, dq) = ((e * rank + r) * inner + j, dhq[inner + rank * local + r]);
                    dh += dq * a2[at];
                    d.a2[at] += dq * w * silu(gate) * up;
                }
                d.weight[choice] += dh * silu(gate) * up;
                for (half, dz) in
                    [dh * w * silu_slope(gate) * up, dh * w * silu(gate)].into_iter().enumerate()
                {
                    dbp[half * inner + j] += dz;
                    for r in 0..rank {
                        let p = 2 * inner + 2 * rank * local + half * rank + r;
                        let at = (e * 2 * inner + half * inner + j) * rank + r;
                        dbp[p] += dz * b[at];
                        d.b[at] += dz * bp[row * self.bp() + p];
                    }
                }
            }
        });
        d
    }

    /// How much the products of h and dz with factors, `Q`, `dP`, `db` and `da2`, move if every h and dz in them is
    /// rounded by a relative error of 1, each in its own direction: the roots of the sums of squares of their terms.
    /// What comes of no such product is 0. Returns that of the forward, and those of the backward.
    pub fn spread(
        &self,
        bp: &[f64],
        b: &[f64],
        a2: &[f64],
        weight: &[f64],
        dhq: &[f64],
    ) -> (Vec<f64>, ExpandGradient) {
        let (inner, rank) = (self.inner, self.rank);
        let zeros = |like: &[f64]| vec![0.0; like.len()];
        let mut hq = zeros(dhq);
        let mut d = ExpandGradient { bp: zeros(bp), b: zeros(b), a2: zeros(a2), weight: zeros(weight) };
        self.slots(|row, choice, e, local| {
            let (z, w) = (self.z(bp, b, row, e, local), weight[choice]);
            let (at_hq, at_bp) = (row * self.hq(), row * self.bp());
            for (j, r) in (0..inner).flat_map(|j| (0..rank).map(move |r| (j, r))) {
                let (gate, up) = (z[j], z[inner + j]);
                let q = at_hq + inner + rank * local;
                let a2_column: Vec<f64> = (0..rank).map(|r| a2[(e * rank + r) * inner + j]).collect();
                let dh = w * (dhq[at_hq + j] + dot(&dhq[q..q + rank], &a2_column));
                let h = w * silu(gate) * up;
                hq[q + r] += (h * a2_column[r]).powi(2);
                d.a2[(e * rank + r) * inner + j] += (dhq[q + r] * h).powi(2);
                for (half, dz) in [dh * silu_slope(gate) * up, dh * silu(gate)].into_iter().enumerate() {
                    let p = at_bp + 2 * inner + 2 * rank * local + half * rank + r;
                    let at = (e * 2 * inner + half * inner + j) * rank + r;
                    d.bp[p] += (dz * b[at]).powi(2);
                    d.b[at] += (dz * bp[p]).powi(2);
                }
            }
        });
        for part in [&mut hq, &mut d.bp, &mut d.b, &mut d.a2] {
            part.iter_mut().for_each(|v| *v = v.sqrt());
        }
        (hq, d)
    }

    /// The base-once form: one product with `w13` a token, expand, one product with `w2`; `[tokens, hidden]`.
    pub fn base_once(&self, layer: &Layer) -> Vec<f64> {
        let token_rows = self.rows();
        let cluster = |t: usize| self.case.cluster[t] as usize;
        let (w13, w2) = (self.bp() * self.hidden, self.hidden * self.hq());
        let x = |t: usize| &layer.x[t * self.hidden..][..self.hidden];
        let bp = |&t: &usize| product(&layer.w13[cluster(t) * w13..][..w13], x(t));
        let bp: Vec<f64> = token_rows.iter().flat_map(bp).collect();
        let hq = self.expand(&bp, &layer.b, &layer.a2, &layer.weight);
        let mut y = vec![0.0; layer.x.len()];
        for (&t, hq) in token_rows.iter().zip(hq.chunks_exact(self.hq())) {
            y[t * self.hidden..][..self.hidden]
                .copy_from_slice(&product(&layer.w2[cluster(t) * w2..][..w2], hq));
        }
        y
    }

    /// Where the pieces of expert `e` lie in the layer's tensors.
    fn at(&self, e: usize) -> Pieces {
        let (g, local) = (e / self.per(), e % self.per());
        let rows = |start: usize| (g * self.bp() + start) * self.hidden;
        let p = 2 * self.inner + 2 * self.rank * local;
        let down = g * self.hidden * self.hq();
        Pieces {
            base: [rows(0), rows(self.inner)],
            a: [rows(p), rows(p + self.rank)],
            b: [0, 1].map(|half| (2 * e + half) * self.inner * self.rank),
            down_base: down,
            down_b: down + self.inner + self.rank * local,
            down_a: e * self.rank * self.inner,
        }
    }

    /// `W = base + A B^T` of expert `e`, formed.
    fn matrices(&self, layer: &Layer, e: usize) -> Matrices {
        let (hidden, inner, rank, at) = (self.hidden, self.inner, self.rank, self.at(e));
        let first = |half: usize| {
            let mut w = layer.w13[at.base[half]..][..inner * hidden].to_vec();
            for (i, w) in w.iter_mut().enumerate() {
                let (j, h) = (i / hidden, i % hidden);
                *w += (0..rank)
                    .map(|r| layer.b[at.b[half] + j * rank + r] * layer.w13[at.a[half] + r * hidden + h])
                    .sum::<f64>();
            }
            w
        };
        let down = |i: usize| {
            let (h, j) = (i / inner, i % inner);
            let a2 = |r: usize| layer.a2[at.down_a + r * inner + j];
            let residual = (0..rank).map(|r| layer.w2[at.down_b + h * self.hq() + r] * a2(r)).sum::<f64>();
            layer.w2[at.down_base + h * self.hq() + j] + residual
        };
        Matrices { gate: first(0), up: first(1), down: (0..hidden * inner).map(down).collect() }
    }

    /// The literal form, `y_t = sum_s w_ts Down_s(silu(Gate_s x) Up_s x)`; `[tokens, hidden]`.
    pub fn per_slot(&self, layer: &Layer) -> Vec<f64> {
        let all: Vec<Matrices> = (0..self.case.experts).map(|e| self.matrices(layer, e)).collect();
        let mut y = vec![0.0; layer.x.len()];
        self.slots(|_, choice, e, _| {
            let rows = choice / self.case.topk * self.hidden;
            let x = &layer.x[rows..][..self.hidden];
            let (gate, up) = (product(&all[e].gate, x), product(&all[e].up, x));
            let h: Vec<f64> = gate.iter().zip(up).map(|(&g, u)| silu(g) * u).collect();
            let out = product(&all[e].down, &h);
            y[rows..].iter_mut().zip(out).for_each(|(y, o)| *y += layer.weight[choice] * o);
        });
        y
    }

    /// Gradient of `<dy, per_slot>`: that of every formed matrix, carried on to its base and its factors.
    pub fn per_slot_backward(&self, layer: &Layer, dy: &[f64]) -> Layer {
        let (hidden, inner, rank) = (self.hidden, self.inner, self.rank);
        let mut d = layer.clone();
        for part in [&mut d.x, &mut d.weight, &mut d.w13, &mut d.b, &mut d.a2, &mut d.w2] {
            part.fill(0.0);
        }
        let all: Vec<Matrices> = (0..self.case.experts).map(|e| self.matrices(layer, e)).collect();
        let zero = || Matrices {
            gate: vec![0.0; inner * hidden],
            up: vec![0.0; inner * hidden],
            down: vec![0.0; hidden * inner],
        };
        let mut formed: Vec<Matrices> = (0..self.case.experts).map(|_| zero()).collect();
        self.slots(|_, choice, e, _| {
            let (rows, w) = (choice / self.case.topk * hidden, layer.weight[choice]);
            let (x, dy) = (&layer.x[rows..][..hidden], &dy[rows..][..hidden]);
            let (gate, up) = (product(&all[e].gate, x), product(&all[e].up, x));
            for j in 0..inner {
                let h = silu(gate[j]) * up[j];
                let mut dh = 0.0; // without the weight
                for (i, dy) in dy.iter().enumerate() {
                    dh += all[e].down[i * inner + j] * dy;
                    formed[e].down[i * inner + j] += w * dy * h;
                }
                d.weight[choice] += dh * h;
                let (dgate, dup) = (w * dh * silu_slope(gate[j]) * up[j], w * dh * silu(gate[j]));
                for (i, x) in x.iter().enumerate() {
                    let at = j * hidden + i;
                    formed[e].gate[at] += dgate * x;
                    formed[e].up[at] += dup * x;
                    d.x[rows + i] += dgate * all[e].gate[at] + dup * all[e].up[at];
                }
            }
        });
        for (e, formed) in formed.iter().enumerate() {
            let at = self.at(e);
            for (half, dw) in [&formed.gate, &formed.up].into_iter().enumerate() {
                for (i, dw) in dw.iter().enumerate() {
                    d.w13[at.base[half] + i] += dw;
                    for r in 0..rank {
                        let b = at.b[half] + i / hidden * rank + r;
                        let a = at.a[half] + r * hidden + i % hidden;
                        d.b[b] += dw * layer.w13[a];
                        d.w13[a] += dw * layer.b[b];
                    }
                }
            }
            for (i, dw) in formed.down.iter().enumerate() {
                let (row, j) = (i / inner * self.hq(), i % inner);
                d.w2[at.down_base + row + j] += dw;
                for r in 0..rank {
                    let (b, a) = (at.down_b + row + r, at.down_a + r * inner + j);
                    d.w2[b] += dw * layer.a2[a];
                    d.a2[a] += dw * layer.w2[b];
                }
            }
        }
        d
    }
}
