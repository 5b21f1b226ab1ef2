//! Causal attention, by the definition.

use trimoe::{DType, Device, Elem, Place};

use crate::common::Bound;

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub head_dim: usize,
}

/// How operands of a second product are rounded: relative to their size, and at least.
#[derive(Clone, Copy, Default)]
pub struct Rounding {
    relative: f64,
    least: f64,
}

impl Rounding {
    /// On CUDA devices tensor cores take probabilities and their gradients as `T`, by contract of the operations.
    /// f16 is subnormal below 2^-14, its values 2^-24 apart.
    pub fn of<T: Elem>(device: &Device) -> Self {
        match T::DTYPE {
            _ if device.place() == Place::Host => Rounding::default(),
            DType::F32 => Rounding::default(),
            DType::Bf16 => Rounding { relative: T::EPS as f64, least: 0.0 },
            DType::F16 => Rounding { relative: T::EPS as f64, least: 2f64.powi(-25) },
        }
    }

    /// What rounding `left` moves its product with `right` by, at most; `unit` is what 1 stands for in `left` where it
    /// is rounded.
    fn of_product(self, left: f64, right: f64, unit: f64) -> f64 {
        (left.abs() * self.relative).max(self.least * unit) * right.abs()
    }
}

/// The definition on f64 matrices; bounds carry the magnitudes of the terms.
impl Case {
    pub fn rows(&self) -> usize {
        self.batch * self.seq
    }

    pub fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Position in a matrix of `parts * hidden` columns of row `p`, part `part`, head `h`, element `e`.
    fn at(&self, parts: usize, p: usize, part: usize, h: usize, e: usize) -> usize {
        (p * parts + part) * self.hidden() + h * self.head_dim + e
    }

    /// Every head and query row, with the first row of its sequence.
    fn queries(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (rows, seq) = (self.rows(), self.seq);
        (0..self.heads).flat_map(move |h| (0..rows).map(move |i| (h, i, i / seq * seq)))
    }

    /// Scaled score of query `i` and key `j`, and the sum of the magnitudes of its terms.
    fn score(&self, qkv: &[f64], h: usize, i: usize, j: usize) -> (f64, f64) {
        let mut bound = Bound::default();
        for e in 0..self.head_dim {
            bound.add(qkv[self.at(3, i, 0, h, e)] * qkv[self.at(3, j, 1, h, e)] * self.scale());
        }
        (bound.value, bound.magnitude)
    }

    /// A probability computed in f32 is off by a relative error that grows with the scores' magnitude.
    fn amplify(&self, qkv: &[f64], h: usize, i: usize, first: usize) -> f64 {
        2.0 + 2.0 * (first..=i).map(|j| self.score(qkv, h, i, j).1).fold(0.0, f64::max)
    }

    /// `(out, lse)`.
    pub fn forward(&self, qkv: &[f64], rounding: Rounding) -> (Vec<Bound>, Vec<Bound>) {
        let mut out = vec![Bound::default(); self.rows() * self.hidden()];
        let mut lse = vec![Bound::default(); self.heads * self.rows()];
        for (h, i, first) in self.queries() {
            let scores: Vec<f64> = (first..=i).map(|j| self.score(qkv, h, i, j).0).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let amplify = self.amplify(qkv, h, i, first);
            let terms = self.seq + self.head_dim;
            let value = top + sum.ln();
            lse[h * self.rows() + i] = Bound { value, magnitude: amplify + value.abs(), terms, slack: 0.0 };
            for e in 0..self.head_dim {
                let bound = &mut out[self.at(1, i, 0, h, e)];
                for (j, s) in (first..=i).zip(&scores) {
                    let (p, v) = ((s - value).exp(), qkv[self.at(3, j, 2, h, e)]);
                    bound.add(p * v);
                    bound.slack += rounding.of_product(p, v, 1.0);
                }
                *bound = Bound { magnitude: bound.magnitude * amplify, terms, ..*bound };
            }
        }
        (out, lse)
    }

    /// The gradient of `qkv`, from what the forward stored.
    pub fn backward(
        &self,
        qkv: &[f64],
        out: &[f64],
        lse: &[f64],
        dout: &[f64],
        rounding: Rounding,
    ) -> Vec<Bound> {
        let mut dqkv = vec![Bound::default(); qkv.len()];
        let mut add = |at: usize, value: f64, magnitude: f64, slack: f64| {
            dqkv[at].value += value;
            dqkv[at].magnitude += magnitude;
            dqkv[at].slack += slack;
            dqkv[at].terms = self.seq + self.head_dim;
        };
        for (h, i, first) in self.queries() {
            let lse = lse[h * self.rows() + i];
            let amplify = self.amplify(qkv, h, i, first) + lse.abs();
            let heads = 0..self.head_dim;
            let at = |part: usize, row: usize, e: usize| self.at(3, row, part, h, e);
            let mut mean = Bound::default();
            heads.clone().for_each(|e| mean.add(dout[self.at(1, i, 0, h, e)] * out[self.at(1, i, 0, h, e)]));
            for j in first..=i {
                let p = (self.score(qkv, h, i, j).0 - lse).exp();
                let mut dp = Bound::default();
                heads.clone().for_each(|e| dp.add(dout[self.at(1, i, 0, h, e)] * qkv[at(2, j, e)]));
                let ds = p * (dp.value - mean.value) * self.scale();
                let ds_size = p * (dp.magnitude + mean.magnitude) * self.scale() * amplify;
                for e in heads.clone() {
                    let (q, k, d) = (qkv[at(0, i, e)], qkv[at(1, j, e)], dout[self.at(1, i, 0, h, e)]);
                    let rounded = |left, right, unit| rounding.of_product(left, right, unit);
                    add(at(0, i, e), ds * k, ds_size * k.abs(), rounded(ds, k, self.scale()));
                    add(at(1, j, e), ds * q, ds_size * q.abs(), rounded(ds, q, self.scale()));
                    add(at(2, j, e), p * d, p * d.abs() * amplify, rounded(p, d, 1.0));
                }
            }
        }
        dqkv
    }
}
