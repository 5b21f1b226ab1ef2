//! Two-stage routing: softmax over clusters, then over the experts of the chosen cluster.

use rayon::prelude::*;

use super::Op;
use super::routing::{RouteLoss, RouteStats, Routing};
use crate::cpu::gemm::{self, Mat, Product, multiply};
use crate::cpu::{bounds, math, scratch};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, misplaced};
use crate::view::{View, ViewMut};

/// Tokens per task.
const ROWS: usize = 64;

/// Chooses one cluster and `topk` of its experts for every token.
///
/// With logits `l = x w^T / temperature`, `p_g` is the softmax over clusters and `p_i|g` over the experts of
/// the likeliest cluster; the weights are `p_g p_i|g / sum of the kept p_i|g` (method.md, "Two-stage
/// routing"). With `topk` 1 there is no division, and with one cluster `p_g` is 1: neither factor may cancel,
/// or its logits would get no gradient.
///
/// Ties go to the lower id. A NaN logit counts as -infinity, so ids are always distinct and in range; a token
/// whose logits give no distribution at either level gets weights 0 and counts in [`RouteStats::skipped`].
#[derive(Debug)]
pub struct Route<'a, T> {
    /// `[tokens, hidden]`.
    pub x: View<'a, T, 2>,
    /// `[clusters + experts, hidden]`, clusters first; `[experts, hidden]` with one cluster.
    pub w: View<'a, T, 2>,
    /// Divides the logits; positive.
    pub temperature: f32,
    /// Overwritten.
    pub routing: &'a mut Routing,
}

/// Gradient of [`Route`] and of the router's losses with respect to `x` and `w`.
#[derive(Debug)]
pub struct RouteBackward<'a, T> {
    /// `[tokens, hidden]`.
    pub x: View<'a, T, 2>,
    /// As in the forward.
    pub w: View<'a, T, 2>,
    /// As in the forward.
    pub temperature: f32,
    /// Result of the forward.
    pub routing: &'a Routing,
    /// `[tokens, topk]`: gradient of the combine weights.
    pub dweight: View<'a, f32, 2>,
    /// Coefficients of the router's losses; their gradient is added here.
    pub loss: RouteLoss,
    /// Workspace `[tokens, rows of w]`: gradient of the logits, zero outside the chosen cluster.
    pub dlogits: ViewMut<'a, f32, 2>,
    /// `[tokens, hidden]`: added to.
    pub dx: ViewMut<'a, T, 2>,
    /// Same shape as `w`, f32.
    pub dw: ViewMut<'a, f32, 2>,
    /// Add to `dw` instead of overwriting it.
    pub accumulate: bool,
}

fn check_shapes(
    op: &'static str,
    x: [usize; 2],
    w: [usize; 2],
    temperature: f32,
    routing: &Routing,
) -> Result<()> {
    let (clusters, per, topk) = (routing.clusters(), routing.per(), routing.expert.shape()[1]);
    let logits = routing.levels() + clusters * per;
    ensure!(op, clusters >= 1 && per >= 1, clusters = clusters, experts = clusters * per);
    ensure!(op, topk >= 1 && topk <= per, topk = topk, experts_per_cluster = per);
    let parts = [&routing.weight, &routing.prob_cluster, &routing.prob_expert, &routing.lse];
    ensure!(op, routing.is_whole(), expert = routing.expert.shape(), floats = parts.map(|p| p.shape()));
    ensure!(op, x[0] == routing.tokens(), x = x, tokens = routing.tokens());
    ensure!(op, w == [logits, x[1]], w = w, x = x, logits = logits);
    ensure!(op, temperature > 0.0 && temperature.is_finite(), temperature = temperature);
    Ok(())
}

impl<T: Elem> Op for Route<'_, T> {
    const NAME: &'static str = "route";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: x, w, routing)
    }

    fn check(&self) -> Result<()> {
        check_shapes(Self::NAME, self.x.shape(), self.w.shape(), self.temperature, self.routing)
    }

    fn is_empty(&self) -> bool {
        false // even without tokens the sums are written
    }

    fn flops(&self) -> u64 {
        2 * (self.x.dim(0) * self.x.dim(1) * self.w.dim(0)) as u64
    }

    fn bytes(&self) -> u64 {
        ((self.x.dim(0) + self.w.dim(0)) * self.x.dim(1) * T::DTYPE.size()) as u64 + self.routing.bytes()
    }

    fn cpu(self) -> Result<()> {
        let Route { x, w, temperature, routing } = self;
        let (levels, per, logits) = (routing.levels(), routing.per(), w.dim(0));
        let rows = bounds(x.dim(0), ROWS);
        let experts = routing.expert.view_mut().cut(0, &rows).into_par_iter();
        let weights = routing.weight.view_mut().cut(0, &rows);
        let clusters = routing.cluster.view_mut().cut(0, &rows);
        let p_clusters = routing.prob_cluster.view_mut().cut(0, &rows);
        let p_experts = routing.prob_expert.view_mut().cut(0, &rows);
        let lse = routing.lse.view_mut().cut(0, &rows);
        let bands = experts.zip(weights).zip(clusters).zip(p_clusters).zip(p_experts).zip(lse);
        bands.zip(rows.par_windows(2)).for_each(|(band, rows)| {
            let (((((mut expert, mut weight), mut cluster), mut p_cluster), mut p_expert), mut lse) = band;
            let count = rows[1] - rows[0];
            scratch::with([count * logits], |[logit]| {
                if let Ok(out) = ViewMut::new(&mut *logit, [count, logits]) {
                    multiply(out, false, x.narrow(0, rows[0]..rows[1]), Mat::t(w));
                }
                logit.iter_mut().for_each(|l| *l /= temperature);
                for (i, logit) in logit.chunks_exact(logits).enumerate() {
                    let (first, second) = logit.split_at(levels);
                    let g = if levels > 0 { best(first, |_| false) } else { 0 };
                    let second = &second[g * per..(g + 1) * per];
                    cluster.as_slice_mut()[i] = g as u32;
                    let chosen = expert.row_mut(i);
                    for slot in 0..chosen.len() {
                        let (kept, rest) = chosen.split_at_mut(slot);
                        rest[0] = best(second, |e| kept.contains(&(e as u32))) as u32;
                    }
                    let (p_first, p_second, lse) =
                        (p_cluster.row_mut(i), p_expert.row_mut(i), lse.row_mut(i));
                    let across = if levels > 0 { softmax(first, p_first) } else { one(p_first) };
                    let inside = softmax(second, p_second);
                    let (Some(across), Some(inside)) = (across, inside) else {
                        p_first.fill(0.0);
                        p_second.fill(0.0);
                        lse.fill(0.0);
                        weight.row_mut(i).fill(0.0);
                        chosen.iter_mut().for_each(|e| *e += (g * per) as u32);
                        continue;
                    };
                    lse.copy_from_slice(&[across, inside]);
                    let scale = p_first[g] / kept_mass(chosen, p_second);
                    for (w, e) in weight.row_mut(i).iter_mut().zip(chosen) {
                        *w = scale * p_second[*e as usize];
                        *e += (g * per) as u32;
                    }
                }
            });
        });
        let mut stats = std::mem::take(&mut routing.stats);
        let gathered = stats.gather(routing);
        routing.stats = stats;
        gathered
    }
}

/// The softmax over a missing level: certainty.
fn one(p: &mut [f32]) -> Option<f32> {
    p.fill(1.0);
    Some(0.0)
}

/// Index of the largest value not skipped; NaN counts as -infinity, ties go to the lower index.
fn best(values: &[f32], skip: impl Fn(usize) -> bool) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (i, &v) in values.iter().enumerate().filter(|&(i, _)| !skip(i)) {
        let v = if v.is_nan() { f32::NEG_INFINITY } else { v };
        if best.is_none_or(|(_, top)| v > top) {
            best = Some((i, v));
        }
    }
    best.map_or(0, |(i, _)| i)
}

/// Softmax into `p`; returns the log of the denominator, or `None` if there is no distribution.
fn softmax(logits: &[f32], p: &mut [f32]) -> Option<f32> {
    let top = math::max(logits);
    if !top.is_finite() || logits.iter().any(|l| l.is_nan()) {
        return None;
    }
    p.iter_mut().zip(logits).for_each(|(p, &l)| *p = math::exp(l - top));
    let sum: f32 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    Some(top + sum.ln())
}

/// What the chosen probabilities (by local id) are divided by: their sum, or 1 for a single one.
fn kept_mass(chosen: &[u32], p: &[f32]) -> f32 {
    if chosen.len() == 1 { 1.0 } else { chosen.iter().map(|&e| p[e as usize]).sum() }
}

impl<T: Elem> Op for RouteBackward<'_, T> {
    const NAME: &'static str = "route_backward";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: x, w, routing, dweight, dlogits, dx, dw)
    }

    fn check(&self) -> Result<()> {
        let (x, w) = (self.x.shape(), self.w.shape());
        check_shapes(Self::NAME, x, w, self.temperature, self.routing)?;
        let (dweight, want) = (self.dweight.shape(), self.routing.weight.shape());
        ensure!(Self::NAME, dweight == want, dweight = dweight, want = want);
        ensure!(
            Self::NAME,
            self.dlogits.shape() == [x[0], w[0]],
            dlogits = self.dlogits.shape(),
            x = x,
            w = w
        );
        ensure!(Self::NAME, self.dx.shape() == x, dx = self.dx.shape(), x = x);
        ensure!(Self::NAME, self.dw.shape() == w, dw = self.dw.shape(), w = w);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dw.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        4 * (self.x.dim(0) * self.x.dim(1) * self.w.dim(0)) as u64
    }

    fn bytes(&self) -> u64 {
        let elements = (3 * self.x.dim(0) + self.w.dim(0)) * self.x.dim(1);
        (elements * T::DTYPE.size() + self.w.dim(0) * self.w.dim(1) * 4) as u64 + self.routing.bytes()
    }

    fn cpu(mut self) -> Result<()> {
        // Not in `check`, which must not wait for what a device computes.
        let misplaced = self.routing.misplaced_token()?;
        ensure!(Self::NAME, misplaced.is_none(), token = misplaced);
        let rows = bounds(self.x.dim(0), ROWS);
        let terms = LossTerms::new(&self.routing.stats, self.loss);
        let (routing, dweight, temperature) = (self.routing, self.dweight, self.temperature);
        let bands = self.dlogits.reborrow().cut(0, &rows).into_par_iter().zip(rows.par_windows(2));
        bands.for_each(|(mut band, rows)| {
            for t in rows[0]..rows[1] {
                let out = band.row_mut(t - rows[0]);
                out.fill(0.0);
                logit_gradient(routing, &terms, t, dweight.row(t), out);
                out.iter_mut().for_each(|d| *d /= temperature);
            }
        });
        let dlogits = self.dlogits.as_view();
        gemm::run(vec![Product { c: self.dx, a: dlogits.into(), b: self.w.into() }], true);
        gemm::run(vec![Product { c: self.dw, a: Mat::t(dlogits), b: self.x.into() }], self.accumulate);
        Ok(())
    }
}

/// Gradients of the router's losses with respect to the probabilities: constants of the batch.
struct LossTerms {
    /// `[clusters]`: of `p_g`; empty with one cluster.
    cluster: Vec<f32>,
    /// `[experts]`: of `p_i|g`.
    expert: Vec<f32>,
    /// Factor of `lse p` in the gradient of the z-loss.
    z: f32,
}

impl LossTerms {
    fn new(stats: &RouteStats, loss: RouteLoss) -> Self {
        let tokens = stats.cluster_tokens.iter().sum::<u32>().max(1) as f32;
        let clusters = stats.cluster_tokens.len();
        let per = stats.expert_slots.len() / clusters;
        let levels = if clusters > 1 { clusters } else { 0 };
        let across = |&n: &u32| loss.balance * clusters as f32 * n as f32 / (tokens * tokens);
        let inside = |i: usize| {
            let g = i / per;
            let slots: u32 = stats.expert_slots[g * per..(g + 1) * per].iter().sum();
            let share = stats.expert_slots[i] as f32 / slots.max(1) as f32;
            loss.balance * per as f32 / clusters as f32 * share / stats.cluster_tokens[g].max(1) as f32
        };
        LossTerms {
            cluster: stats.cluster_tokens[..levels].iter().map(across).collect(),
            expert: (0..stats.expert_slots.len()).map(inside).collect(),
            z: 2.0 * loss.z / tokens,
        }
    }
}

/// Writes the gradient of token `t`'s scaled logits, `[levels + experts]`; untouched entries are zero.
fn logit_gradient(routing: &Routing, terms: &LossTerms, t: usize, dweight: &[f32], out: &mut [f32]) {
    let (per, levels) = (routing.per(), routing.levels());
    let g = routing.cluster.view().as_slice()[t] as usize;
    let chosen = routing.expert.view().row(t);
    let (p_first, p_second) = (routing.prob_cluster.view().row(t), routing.prob_expert.view().row(t));
    let lse = routing.lse.view().row(t);
    let local = |e: u32| e as usize - g * per;
    let mass: f32 = chosen.iter().map(|&e| p_second[local(e)]).sum();
    if mass == 0.0 {
        return; // a skipped token
    }
    let kept = if chosen.len() == 1 { 1.0 } else { mass };

    // w_j = p_g q_j with q_j = p_j / kept, so dp_g = <dw, q>, and dp_j = p_g (dw_j - <dw, q>) / kept; without
    // the division (topk 1), dp_j = p_g dw_j.
    let (first, second) = out.split_at_mut(levels);
    let second = &mut second[g * per..(g + 1) * per];
    let mean: f32 = chosen.iter().zip(dweight).map(|(&e, d)| d * p_second[local(e)]).sum::<f32>() / kept;
    let centre = if chosen.len() == 1 { 0.0 } else { mean };
    for (&e, d) in chosen.iter().zip(dweight) {
        second[local(e)] = p_first[g] * (d - centre) / kept;
    }
    second.iter_mut().zip(&terms.expert[g * per..]).for_each(|(d, term)| *d += term);
    softmax_backward(p_second, terms.z * lse[1], second);
    if levels > 0 {
        first.copy_from_slice(&terms.cluster);
        first[g] += mean;
        softmax_backward(p_first, terms.z * lse[0], first);
    }
}

/// Turns the gradient of `p = softmax(l)` into that of `l`, in place, adding `of_lse` for the log-denominator.
fn softmax_backward(p: &[f32], of_lse: f32, d: &mut [f32]) {
    let mean: f32 = p.iter().zip(&*d).map(|(p, d)| p * d).sum();
    d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean + of_lse));
}
