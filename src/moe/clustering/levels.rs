//! A first stage for a router that has one.

use super::grouping::Grouping;
use crate::cpu::gemm::{self, Mat, Product};
use crate::error::{Result, ensure};
use crate::view::{View, ViewMut};

/// Rounds of the fit.
const ROUNDS: usize = 200;
/// Weight of staying near the start, as a share of the mean curvature.
const RIDGE: f64 = 1e-3;

/// Rows of the clusters for a flat router whose experts become clusters (**ours**).
///
/// Two-stage routing weighs a token's experts with the probability `p_g` of their cluster. The rows are those for which
/// `p_g` is closest, in cross-entropy over the tokens `x`, to the share of the flat layer's weights that lies in cluster
/// `g`: for a token whose chosen experts share a cluster the two layers then agree.
#[derive(Clone, Copy, Debug)]
pub struct FitLevels<'a> {
    /// `[tokens, hidden]`: what the layer was given.
    pub x: View<'a, f32, 2>,
    /// `[experts, hidden]`: the flat router.
    pub router: View<'a, f32, 2>,
    /// Divides the logits, of both routers.
    pub temperature: f32,
    /// Experts of a token.
    pub topk: usize,
    /// The cluster of each expert.
    pub grouping: &'a Grouping,
}

impl FitLevels<'_> {
    /// The rows, `[clusters, hidden]`.
    ///
    /// Multinomial logistic regression from the mean rows of the members, by steps that the bound of its curvature by half
    /// of `x^T x` (Boehning 1992) makes safe: no line search, one factorisation. Cost: `O(tokens hidden^2)`, and 200 times
    /// `O(tokens hidden clusters + hidden^2 clusters)`.
    pub fn run(&self) -> Result<Vec<f32>> {
        let ([tokens, hidden], [experts, width]) = (self.x.shape(), self.router.shape());
        ensure!("FitLevels", hidden == width, x = self.x.shape(), router = self.router.shape());
        ensure!("FitLevels", tokens >= 1, x = self.x.shape());
        let grouped = self.grouping.experts();
        ensure!("FitLevels", experts == grouped, router = self.router.shape(), grouped = grouped);
        ensure!("FitLevels", (1..=experts).contains(&self.topk), topk = self.topk, experts = experts);
        let usable = self.temperature > 0.0 && self.temperature.is_finite();
        ensure!("FitLevels", usable, temperature = self.temperature);

        let clusters = self.grouping.clusters();
        let shares = self.shares()?;
        let start = self.means();
        let scale = 1.0 / (tokens as f64 * f64::from(self.temperature));
        let mut curvature = self.curvature(0.5 * scale / f64::from(self.temperature));
        let ridge = RIDGE * (0..hidden).map(|i| curvature[i * hidden + i]).sum::<f64>() / hidden as f64;
        (0..hidden).for_each(|i| curvature[i * hidden + i] += ridge.max(f64::MIN_POSITIVE));
        let factor = cholesky(curvature, hidden);
        let mut rows = start.clone();
        let mut p = vec![0f32; tokens * clusters];
        let mut slope = vec![0f32; clusters * hidden];
        for _ in 0..ROUNDS {
            let u: Vec<f32> = rows.iter().map(|&u| u as f32).collect();
            self.product(&mut p, &u, clusters);
            for (p, share) in p.chunks_exact_mut(clusters).zip(shares.chunks_exact(clusters)) {
                softmax(p, self.temperature);
                p.iter_mut().zip(share).for_each(|(p, s)| *p -= s);
            }
            let away = Mat::t(View::front(&p, [tokens, clusters]));
            let c = ViewMut::front(&mut slope, [clusters, hidden]);
            gemm::run(vec![Product { c, a: away, b: self.x.into() }], false);
            for (g, slope) in slope.chunks_exact(hidden).enumerate() {
                let row = &mut rows[g * hidden..(g + 1) * hidden];
                let mut step: Vec<f64> = slope.iter().map(|&s| scale * f64::from(s)).collect();
                let from = start[g * hidden..].iter().zip(&*row);
                step.iter_mut().zip(from).for_each(|(s, (start, u))| *s += ridge * (u - start));
                solve(&factor, &mut step);
                row.iter_mut().zip(step).for_each(|(u, s)| *u -= s);
            }
        }
        Ok(rows.into_iter().map(|u| u as f32).collect())
    }

    /// `to = x rows^T`, `[tokens, count]`.
    fn product(&self, to: &mut [f32], rows: &[f32], count: usize) {
        let [tokens, hidden] = self.x.shape();
        let c = ViewMut::front(to, [tokens, count]);
        gemm::run(
            vec![Product { c, a: self.x.into(), b: Mat::t(View::front(rows, [count, hidden])) }],
            false,
        );
    }

    /// Share of a token's weights in each cluster, `[tokens, clusters]`.
    fn shares(&self) -> Result<Vec<f32>> {
        let (tokens, experts, clusters) = (self.x.dim(0), self.router.dim(0), self.grouping.clusters());
        let mut logits = vec![0f32; tokens * experts];
        let c = ViewMut::front(&mut logits, [tokens, experts]);
        gemm::run(vec![Product { c, a: self.x.into(), b: Mat::t(self.router) }], false);
        let finite = logits.iter().all(|l| l.is_finite());
        ensure!("FitLevels", finite);
        let mut shares = vec![0f32; tokens * clusters];
        for (logits, share) in logits.chunks_exact_mut(experts).zip(shares.chunks_exact_mut(clusters)) {
            softmax(logits, self.temperature);
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let kept: f32 = order[..self.topk].iter().map(|&e| logits[e]).sum();
            for &e in &order[..self.topk] {
                share[self.grouping.labels()[e]] += logits[e] / kept;
            }
        }
        Ok(shares)
    }

    /// The mean row of each cluster's members.
    fn means(&self) -> Vec<f64> {
        let (hidden, per) = (self.router.dim(1), self.grouping.per() as f64);
        let mut means = vec![0f64; self.grouping.clusters() * hidden];
        for (e, &g) in self.grouping.labels().iter().enumerate() {
            let mean = &mut means[g * hidden..(g + 1) * hidden];
            mean.iter_mut().zip(self.router.row(e)).for_each(|(m, &v)| *m += f64::from(v) / per);
        }
        means
    }

    /// `scale x^T x`.
    fn curvature(&self, scale: f64) -> Vec<f64> {
        let hidden = self.x.dim(1);
        let mut squares = vec![0f32; hidden * hidden];
        let c = ViewMut::front(&mut squares, [hidden, hidden]);
        gemm::run(vec![Product { c, a: Mat::t(self.x), b: self.x.into() }], false);
        squares.into_iter().map(|s| scale * f64::from(s)).collect()
    }
}

fn softmax(logits: &mut [f32], temperature: f32) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|l| *l = ((*l - most) / temperature).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|l| *l /= sum);
}

/// The lower factor of a symmetric matrix, `a = l l^T`.
fn cholesky(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for i in 0..n {
        for j in 0..=i {
            let (row, other) = (&a[i * n..i * n + j], &a[j * n..j * n + j]);
            let rest = a[i * n + j] - row.iter().zip(other).map(|(x, y)| x * y).sum::<f64>();
            a[i * n + j] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / a[j * n + j] };
        }
    }
    a
}

/// `v <- (l l^T)^-1 v`.
fn solve(l: &[f64], v: &mut [f64]) {
    let n = v.len();
    for i in 0..n {
        let done: f64 = l[i * n..i * n + i].iter().zip(&*v).map(|(l, v)| l * v).sum();
        v[i] = (v[i] - done) / l[i * n + i];
    }
    for i in (0..n).rev() {
        v[i] /= l[i * n + i];
        let value = v[i];
        let (head, row) = (&mut v[..i], &l[i * n..i * n + i]);
        head.iter_mut().zip(row).for_each(|(v, l)| *v -= l * value);
    }
}
