//! Routing: scores, choices and weights of tokens.

use rayon::prelude::*;

use super::Op;
use super::route_select::{TINY, choose};
use super::route_stats::RouteStats;
use super::routing::{RouteMode, Routing};
use super::scalar::Scalar;
use crate::cpu::gemm::{Mat, multiply};
use crate::cpu::{bounds, scratch};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Kernel, ONLY, RouteParams, RouteRule, RouteSumsParams, countable, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Tokens per task.
const ROWS: usize = 64;
/// Fewest tokens that a block of the kernels sums up.
const TILE: usize = 16;

/// Most experts a token may have on CUDA devices: a lane each.
#[cfg(feature = "cuda")]
pub(super) const MOST_SLOTS: usize = 32;
/// The kernels of a launch tile each, by falling number of tokens and rising number of logits.
#[cfg(feature = "cuda")]
const ROUTE: [Kernel; 2] = [
    Kernel { image: &images::ROUTE, name: "route", tile: "moe_route_launch" },
    Kernel { image: &images::ROUTE, name: "route_many", tile: "moe_route_many_launch" },
];
#[cfg(feature = "cuda")]
const SUMS: Kernel = Kernel { image: &images::ROUTE, name: "route_sums", tile: "moe_route_sums_launch" };

/// Chooses one cluster and `topk` of its experts for every token.
///
/// With logits `l = x w^T / temperature`, `p_g` is the softmax over clusters and `p_i|g` over the experts of
/// the likeliest cluster; the weights are `p_g p_i|g / sum of the kept p_i|g` (method.md, "Two-stage
/// routing"). With `topk` 1 there is no division, and with one cluster `p_g` is 1: neither factor may cancel,
/// or its logits would get no gradient. [`RouteMode::Grouped`] limits the choice among experts without clusters.
///
/// A token goes to one cluster, never to several (method.md's `top-g1`): its experts share one base, so that the base is
/// multiplied once a token, rows are as many as tokens, and a token is sent to one rank. With two clusters each of these
/// is paid twice, as is the base of the down projection, whose sum over experts ends at the cluster: half of what
/// clustering saves. `topk` is how a token gets more experts.
///
/// Ties go to the lower id. A NaN logit counts as -infinity, so ids are always distinct and in range; a token
/// whose logits give no distribution at either level gets weights 0 and counts in [`RouteStats::skipped`].
///
/// CUDA devices take up to 1,280 logits and `topk` up to 32. Their logits are sums in another order than the CPU's:
/// choices may differ where two are within rounding of each other.
#[derive(Debug)]
pub struct Route<'a, T> {
    /// `[tokens, hidden]`.
    pub x: View<'a, T, 2>,
    /// `[clusters + experts, hidden]`, clusters first; `[experts, hidden]` with one cluster.
    pub w: View<'a, T, 2>,
    /// `[rows of w]`: added to the scores (probabilities or sigmoids) of both levels for the choice alone; weights and
    /// gradients know nothing of it (loss-free balancing, arXiv 2408.15664).
    pub bias: Option<View<'a, f32, 1>>,
    /// Divides the logits; positive.
    pub temperature: Scalar<'a>,
    /// How experts are chosen.
    pub mode: RouteMode,
    /// Overwritten.
    pub routing: &'a mut Routing,
    /// Partial sums: [`Route::workspace_len`] elements or more.
    pub workspace: ViewMut<'a, f32, 1>,
}

impl<T> Route<'_, T> {
    /// Elements of workspace that suffice for any routing: sums for every 16 tokens.
    pub fn workspace_len(tokens: usize, experts: usize, clusters: usize) -> usize {
        tokens.div_ceil(TILE) * sums_len(experts, clusters)
    }
}

/// Sums over a batch: of probabilities and counts by cluster and by expert, squares, and skipped tokens.
fn sums_len(experts: usize, clusters: usize) -> usize {
    2 * (clusters + experts) + 2
}

/// The rules that forward and backward share.
pub(super) fn check_shapes(
    op: &'static str,
    x: [usize; 2],
    w: [usize; 2],
    (temperature, mode): (Scalar<'_>, RouteMode),
    routing: &Routing,
) -> Result<()> {
    let (clusters, per, topk) = (routing.clusters(), routing.per(), routing.topk());
    let logits = routing.levels() + clusters * per;
    ensure!(op, clusters >= 1 && per >= 1, clusters = clusters, experts = clusters * per);
    ensure!(op, topk >= 1 && topk <= per, topk = topk, experts_per_cluster = per);
    let parts = [&routing.weight, &routing.prob_cluster, &routing.prob_expert, &routing.lse];
    ensure!(op, routing.is_whole(), expert = routing.expert.shape(), floats = parts.map(|p| p.shape()));
    ensure!(op, x[0] == routing.tokens(), x = x, tokens = routing.tokens());
    ensure!(op, w == [logits, x[1]], w = w, x = x, logits = logits);
    temperature.check(op)?;
    if let Some(temperature) = temperature.seen() {
        ensure!(op, temperature > 0.0 && temperature.is_finite(), temperature = temperature);
    }
    if let RouteMode::Grouped { groups, top_groups, scale, .. } = mode {
        let most = RouteMode::MOST_GROUPS;
        ensure!(op, clusters == 1, clusters = clusters, mode = mode);
        ensure!(
            op,
            (1..=most).contains(&groups) && per.is_multiple_of(groups),
            groups = groups,
            experts = per
        );
        let kept = top_groups.saturating_mul(per / groups);
        ensure!(op, (1..=groups).contains(&top_groups), top_groups = top_groups, groups = groups);
        ensure!(op, topk <= kept, topk = topk, kept = kept);
        ensure!(op, scale > 0.0 && scale.is_finite(), scale = scale);
    }
    Ok(())
}

impl<T: Elem> Op for Route<'_, T> {
    const NAME: &'static str = "route";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w, bias, temperature, routing, workspace);
    }

    fn check(&self) -> Result<()> {
        let (x, w) = (self.x.shape(), self.w.shape());
        check_shapes(Self::NAME, x, w, (self.temperature, self.mode), self.routing)?;
        let bias = self.bias.map(|b| b.dim(0));
        ensure!(Self::NAME, bias.is_none_or(|len| len == w[0]), bias = bias, w = w);
        let (clusters, per) = (self.routing.clusters(), self.routing.per());
        let need = Self::workspace_len(x[0], clusters * per, clusters);
        ensure!(Self::NAME, self.workspace.dim(0) >= need, workspace = self.workspace.dim(0), need = need);
        Ok(())
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
        let Route { x, w, bias, temperature, mode, routing, .. } = self;
        let (levels, per, logits) = (routing.levels(), routing.per(), w.dim(0));
        let temperature = temperature.seen().unwrap_or(1.0); // on the CPU it is there
        let rows = bounds(x.dim(0), ROWS);
        let experts = routing.expert.view_mut().cut(0, &rows).into_par_iter();
        let weights = routing.weight.view_mut().cut(0, &rows);
        let clusters = routing.cluster.view_mut().cut(0, &rows);
        let p_clusters = routing.prob_cluster.view_mut().cut(0, &rows);
        let p_experts = routing.prob_expert.view_mut().cut(0, &rows);
        let lse = routing.lse.view_mut().cut(0, &rows);
        let bands = experts.zip(weights).zip(clusters).zip(p_clusters).zip(p_experts).zip(lse);
        let bias = bias.as_ref().map(|b| b.as_slice());
        let part = |range: std::ops::Range<usize>| bias.map(|b| &b[range]);
        bands.zip(rows.par_windows(2)).for_each_part(|(band, rows)| {
            let (((((mut expert, mut weight), mut cluster), mut p_cluster), mut p_expert), mut lse) = band;
            let count = rows[1] - rows[0];
            scratch::with([count * logits], |[logit]| {
                if let Ok(out) = ViewMut::new(&mut *logit, [count, logits]) {
                    multiply(out, false, x.narrow(0, rows[0]..rows[1]), Mat::t(w));
                }
                logit.iter_mut().for_each(|l| *l /= temperature);
                for (i, logit) in logit.chunks_exact(logits).enumerate() {
                    let (p_first, p_second) = (p_cluster.row_mut(i), p_expert.row_mut(i));
                    let mut g = [0];
                    let across = if levels > 0 {
                        choose(&logit[..levels], part(0..levels), RouteMode::TwoStage, p_first, &mut g)
                    } else {
                        p_first.fill(1.0); // the softmax over a missing level: certainty
                        Some(0.0)
                    };
                    let (g, chosen) = (g[0] as usize, expert.row_mut(i));
                    let own = levels + g * per..levels + (g + 1) * per;
                    let inside = choose(&logit[own.clone()], part(own), mode, p_second, chosen);
                    cluster.as_slice_mut()[i] = g as u32;
                    let (weight, lse) = (weight.row_mut(i), lse.row_mut(i));
                    if let (Some(across), Some(inside)) = (across, inside) {
                        lse.copy_from_slice(&[across, inside]);
                        let scale = p_first[g] * mode.scale() / kept_mass(chosen, p_second);
                        weight.iter_mut().zip(&*chosen).for_each(|(w, &e)| *w = scale * p_second[e as usize]);
                    } else {
                        for part in [p_first, p_second, lse, weight] {
                            part.fill(0.0);
                        }
                    }
                    chosen.iter_mut().for_each(|e| *e += (g * per) as u32);
                }
            });
        });
        let stats = RouteStats::gather(routing, mode)?;
        routing.sums.write(&stats)
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let Route { x, w, bias, temperature, mode, routing, workspace } = self;
        let (tokens, logits) = (x.dim(0), w.dim(0));
        let (clusters, experts) = (routing.clusters(), routing.clusters() * routing.per());
        ensure!(Self::NAME, routing.topk() <= MOST_SLOTS, topk = routing.topk());
        countable(Self::NAME, &x.shape(), i32::MAX as usize)?;
        let mut partials = 0;
        if tokens > 0 {
            let kernel = kernel(logits, device.tile(ROUTE[0])?.columns as usize);
            let tile = device.tile(kernel)?;
            ensure!(Self::NAME, logits <= tile.columns as usize, logits = logits, most = tile.columns);
            partials = tokens.div_ceil(tile.rows as usize);
            let params = RouteParams {
                x: x.address(),
                w: w.address(),
                bias: bias.map_or(0, |b| b.address()),
                cluster: routing.cluster.view_mut().address(),
                expert: routing.expert.view_mut().address(),
                weight: routing.weight.view_mut().address(),
                prob_cluster: routing.prob_cluster.view_mut().address(),
                prob_expert: routing.prob_expert.view_mut().address(),
                lse: routing.lse.view_mut().address(),
                partial: workspace.address(),
                x_stride: x.stride(0),
                w_stride: w.stride(0),
                tokens: tokens as u32,
                hidden: x.dim(1) as u32,
                rule: rule(routing, temperature, mode),
            };
            // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`), the tensors of the
            // routing too; the workspace has a row of sums for each block.
            unsafe { device.launch(kernel, T::DTYPE.variant(), [partials, 1, 1], &params)? }
        }
        let sums = &mut routing.sums;
        let params = RouteSumsParams {
            partial: workspace.address(),
            cluster_tokens: sums.cluster_tokens.view_mut().address(),
            expert_slots: sums.expert_slots.view_mut().address(),
            cluster_prob: sums.cluster_prob.view_mut().address(),
            expert_prob: sums.expert_prob.view_mut().address(),
            lse_squared: sums.lse_squared.view_mut().address(),
            skipped: sums.skipped.view_mut().address(),
            partials: partials as u32,
            experts: experts as u32,
            clusters: clusters as u32,
            unused: 0,
        };
        let columns = device.tile(SUMS)?.columns as usize;
        let blocks = sums_len(experts, clusters).div_ceil(columns);
        // SAFETY: as above; the kernel before wrote `partials` rows of sums.
        unsafe { device.launch(SUMS, ONLY, [blocks, 1, 1], &params) }
    }
}

/// What the chosen scores (by local id) are divided by: their sum, or 1 for a single one.
fn kept_mass(chosen: &[u32], scores: &[f32]) -> f32 {
    match chosen {
        [_] => 1.0,
        _ => chosen.iter().map(|&e| scores[e as usize]).sum::<f32>() + TINY,
    }
}

/// The kernel for so many logits, given how many the first one takes.
#[cfg(feature = "cuda")]
fn kernel(logits: usize, few: usize) -> Kernel {
    ROUTE[usize::from(logits > few)]
}

/// The rule of a routing, as kernels take it.
#[cfg(feature = "cuda")]
pub(super) fn rule(routing: &Routing, temperature: Scalar<'_>, mode: RouteMode) -> RouteRule {
    let (temperature, temperature_at) = temperature.on_device();
    let (groups, top_groups) = match mode {
        RouteMode::TwoStage => (0, 0),
        RouteMode::Grouped { groups, top_groups, .. } => (groups, top_groups),
    };
    RouteRule {
        temperature_at,
        temperature,
        scale: mode.scale(),
        experts: (routing.clusters() * routing.per()) as u32,
        clusters: routing.clusters() as u32,
        topk: routing.topk() as u32,
        groups: groups as u32,
        top_groups: top_groups as u32,
        sigmoid: u32::from(mode.score() == super::routing::Score::Sigmoid),
    }
}

#[cfg(feature = "cuda")]
#[test]
fn many_logits_take_smaller_tiles_of_tokens() {
    assert_eq!(
        [1, 384, 385, 1280].map(|n| kernel(n, 384).name),
        ["route", "route", "route_many", "route_many"]
    );
}
