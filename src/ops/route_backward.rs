//! Gradient of routing, and of the router's losses.

use rayon::prelude::*;

use super::Op;
#[cfg(feature = "cuda")]
use super::int4_gemm_form::REDUCE;
use super::route::check_shapes;
#[cfg(feature = "cuda")]
use super::route::{MOST_SLOTS, rule};
use super::route_select::TINY;
use super::route_stats::{RouteLoss, RouteSums, is_skipped};
use super::routing::{RouteMode, Routing, Score};
use super::scalar::Scalar;
use crate::cpu::bounds;
use crate::cpu::gemm::{self, Mat, Product};
#[cfg(feature = "cuda")]
use crate::cuda::{
    Cuda, Int4GemmReduceParams, Kernel, ONLY, RouteDlogitsParams, RouteDwParams, RouteDxParams, countable,
    images,
};
#[cfg(feature = "cuda")]
use crate::elem::DType;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Tokens per task.
const ROWS: usize = 64;

#[cfg(feature = "cuda")]
const DLOGITS: Kernel =
    Kernel { image: &images::ROUTE, name: "route_dlogits", tile: "moe_route_dlogits_launch" };
#[cfg(feature = "cuda")]
const DX: Kernel = Kernel { image: &images::ROUTE, name: "route_dx", tile: "moe_route_product_launch" };
#[cfg(feature = "cuda")]
const DW: Kernel = Kernel { name: "route_dw", ..DX };

/// Gradient of [`Route`](super::Route) and of the router's losses with respect to `x` and `w`.
///
/// The CPU refuses a routing whose experts are not in their token's cluster. CUDA devices cannot wait to look: the
/// gradients of such tokens are arbitrary.
#[derive(Debug)]
pub struct RouteBackward<'a, T> {
    /// `[tokens, hidden]`.
    pub x: View<'a, T, 2>,
    /// As in the forward.
    pub w: View<'a, T, 2>,
    /// As in the forward.
    pub temperature: Scalar<'a>,
    /// As in the forward.
    pub mode: RouteMode,
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
    /// [`RouteBackward::workspace_len`] elements or more on a CUDA device; the CPU needs none.
    pub workspace: ViewMut<'a, f32, 1>,
    /// Add to `dw` instead of overwriting it.
    pub accumulate: bool,
}

/// Sides of a tile of `dw`: `ProductTile` of the kernels.
const TILE: usize = 64;
/// Tiles that keep the multiprocessors of a large device busy.
const BUSY: usize = 256;
/// Fewest tokens of a split.
const FEW: usize = 512;

/// Tokens of a part for `dw`: a router has few weights, and all tokens speak for each. A function of the sizes alone, as
/// the order of the sums is then.
fn span(tokens: usize, logits: usize, hidden: usize) -> usize {
    let tiles = logits.div_ceil(TILE) * hidden.div_ceil(TILE);
    let splits = (BUSY / tiles.max(1)).min(tokens / FEW).max(1);
    tokens.div_ceil(splits).next_multiple_of(32).max(32)
}

/// Into how many parts the tokens are split.
fn splits(tokens: usize, logits: usize, hidden: usize) -> usize {
    tokens.div_ceil(span(tokens, logits, hidden)).max(1)
}

/// Elements of a row of partial sums: whole 16 bytes.
fn width(hidden: usize) -> usize {
    hidden.next_multiple_of(4)
}

impl<T> RouteBackward<'_, T> {
    /// Elements of workspace on a CUDA device: a partial sum of `dw` for each of up to 256 splits of the tokens.
    pub fn workspace_len(tokens: usize, logits: usize, hidden: usize) -> usize {
        match splits(tokens, logits, hidden) {
            1 => 0,
            splits => splits * logits * width(hidden) + 3,
        }
    }
}

impl<T: Elem> Op for RouteBackward<'_, T> {
    const NAME: &'static str = "route_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w, temperature, routing, dweight, dlogits, dx, dw, workspace);
    }

    fn check(&self) -> Result<()> {
        let (x, w) = (self.x.shape(), self.w.shape());
        check_shapes(Self::NAME, x, w, (self.temperature, self.mode), self.routing)?;
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
        let (len, need) = (self.workspace.dim(0), Self::workspace_len(x[0], w[0], w[1]));
        let room = self.workspace.place() == Place::Host || len >= need;
        ensure!(Self::NAME, room, workspace = len, need = need);
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
        let terms = LossTerms::new(&self.routing.sums, self.routing.topk(), self.loss)?;
        let (routing, mode, dweight) = (self.routing, self.mode, self.dweight);
        let temperature = self.temperature.seen().unwrap_or(1.0); // on the CPU it is there
        let bands = self.dlogits.reborrow().cut(0, &rows).into_par_iter().zip(rows.par_windows(2));
        bands.for_each_part(|(mut band, rows)| {
            for t in rows[0]..rows[1] {
                let out = band.row_mut(t - rows[0]);
                out.fill(0.0);
                logit_gradient(routing, mode, &terms, t, dweight.row(t), out);
                out.iter_mut().for_each(|d| *d /= temperature);
            }
        });
        let dlogits = self.dlogits.as_view();
        gemm::run(vec![Product { c: self.dx, a: dlogits.into(), b: self.w.into() }], true);
        gemm::run(vec![Product { c: self.dw, a: Mat::t(dlogits), b: self.x.into() }], self.accumulate);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let RouteBackward { x, w, routing, dweight, dlogits, dx, dw, workspace, .. } = self;
        let ([tokens, hidden], logits) = (x.shape(), w.dim(0));
        ensure!(Self::NAME, routing.topk() <= MOST_SLOTS, topk = routing.topk());
        countable(Self::NAME, &[tokens, hidden, logits], i32::MAX as usize)?;
        if tokens > 0 {
            let params = RouteDlogitsParams {
                dweight: dweight.address(),
                cluster: routing.cluster.view().address(),
                expert: routing.expert.view().address(),
                prob_cluster: routing.prob_cluster.view().address(),
                prob_expert: routing.prob_expert.view().address(),
                lse: routing.lse.view().address(),
                cluster_tokens: routing.sums.cluster_tokens.view().address(),
                expert_slots: routing.sums.expert_slots.view().address(),
                dlogits: dlogits.address(),
                dweight_stride: dweight.stride(0),
                dlogits_stride: dlogits.stride(0),
                tokens: tokens as u32,
                balance: self.loss.balance,
                z: self.loss.z,
                unused: 0,
                rule: rule(routing, self.temperature, self.mode),
            };
            let blocks = tokens.div_ceil(device.tile(DLOGITS)?.rows.max(1) as usize);
            // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`), the tensors of the
            // routing too; the kernel looks at ids before it follows them.
            unsafe { device.launch(DLOGITS, ONLY, [blocks, 1, 1], &params)? }
            let params = RouteDxParams {
                dlogits: dlogits.address(),
                w: w.address(),
                dx: dx.address(),
                dlogits_stride: dlogits.stride(0),
                w_stride: w.stride(0),
                dx_stride: dx.stride(0),
                tokens: tokens as u32,
                logits: logits as u32,
                hidden: hidden as u32,
                unused: 0,
            };
            // SAFETY: as above.
            unsafe { device.over_rows(DX, T::DTYPE, [tokens, hidden], &params)? }
        }
        let (splits, width) = (splits(tokens, logits, hidden), width(hidden));
        let partial = workspace.address().next_multiple_of(16);
        let (to, stride, accumulate) = match splits {
            1 => (dw.address(), dw.stride(0), self.accumulate),
            _ => (partial, width as u64, false),
        };
        let params = RouteDwParams {
            dlogits: dlogits.address(),
            x: x.address(),
            dw: to,
            dlogits_stride: dlogits.stride(0),
            x_stride: x.stride(0),
            dw_stride: stride,
            tokens: tokens as u32,
            logits: logits as u32,
            hidden: hidden as u32,
            span: span(tokens, logits, hidden) as u32,
            accumulate: u32::from(accumulate),
            unused: 0,
        };
        let tile = device.tile(DW)?;
        let tiles = [logits.div_ceil(tile.rows as usize), hidden.div_ceil(tile.columns as usize).min(65535)];
        // SAFETY: as above; the workspace has room for the sums of every split (`check`).
        unsafe { device.launch(DW, T::DTYPE.variant(), [tiles[0], tiles[1], splits], &params)? }
        if splits == 1 {
            return Ok(());
        }
        let params = Int4GemmReduceParams {
            partial,
            y: dw.address(),
            y_stride: dw.stride(0),
            rows: logits as u32,
            outputs: hidden as u32,
            width: width as u32,
            splits: splits as u32,
            accumulate: u32::from(self.accumulate),
            unused: 0,
        };
        // SAFETY: as above; the sums were just written.
        unsafe { device.over_rows(REDUCE, DType::F32, [logits, hidden], &params) }
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
    fn new(sums: &RouteSums, topk: usize, loss: RouteLoss) -> Result<Self> {
        let (members, slots) = (sums.cluster_tokens.host()?, sums.expert_slots.host()?);
        let tokens = members.iter().sum::<u32>().max(1) as f32;
        let (clusters, per) = (members.len(), slots.len() / members.len());
        let levels = if clusters > 1 { clusters } else { 0 };
        let across = |&n: &u32| loss.balance * clusters as f32 * n as f32 / (tokens * tokens);
        let inside = |(i, &slots): (usize, &u32)| {
            let members = members[i / per].max(1) as f32;
            let share = slots as f32 / (topk as f32 * members);
            loss.balance * per as f32 / clusters as f32 * share / members
        };
        Ok(LossTerms {
            cluster: members[..levels].iter().map(across).collect(),
            expert: slots.iter().enumerate().map(inside).collect(),
            z: 2.0 * loss.z / tokens,
        })
    }
}

/// Writes the gradient of token `t`'s scaled logits, `[levels + experts]`; untouched entries are zero.
fn logit_gradient(
    routing: &Routing,
    mode: RouteMode,
    terms: &LossTerms,
    t: usize,
    dweight: &[f32],
    out: &mut [f32],
) {
    let (per, levels) = (routing.per(), routing.levels());
    let g = routing.cluster.view().as_slice()[t] as usize;
    let (expert, prob_cluster) = (routing.expert.view(), routing.prob_cluster.view());
    let (prob_expert, lse) = (routing.prob_expert.view(), routing.lse.view());
    let (chosen, first, second, lse) = (expert.row(t), prob_cluster.row(t), prob_expert.row(t), lse.row(t));
    if is_skipped(second) {
        return;
    }
    let local = |e: u32| e as usize - g * per;
    let single = chosen.len() == 1;
    let mass: f32 = chosen.iter().map(|&e| second[local(e)]).sum();
    let kept = if single { 1.0 } else { mass + TINY };

    // w_j = a q_j with a = p_g scale and q_j = s_j / kept, so da = <dw, q>, and ds_j = a (dw_j - <dw, q>) / kept;
    // without the division (topk 1), ds_j = a dw_j.
    let (d_first, d_second) = out.split_at_mut(levels);
    let d_second = &mut d_second[g * per..(g + 1) * per];
    let mean: f32 = chosen.iter().zip(dweight).map(|(&e, d)| d * second[local(e)]).sum::<f32>() / kept;
    let centre = if single { 0.0 } else { mean };
    let factor = first[g] * mode.scale() / kept;
    for (&e, d) in chosen.iter().zip(dweight) {
        d_second[local(e)] = factor * (d - centre);
    }
    let expert_terms = &terms.expert[g * per..(g + 1) * per];
    match mode.score() {
        Score::Softmax => {
            d_second.iter_mut().zip(expert_terms).for_each(|(d, term)| *d += term);
            softmax_backward(second, terms.z * lse[1], d_second);
        }
        Score::Sigmoid => sigmoid_backward(second, expert_terms, d_second),
    }
    if levels > 0 {
        d_first.copy_from_slice(&terms.cluster);
        d_first[g] += mean * mode.scale();
        softmax_backward(first, terms.z * lse[0], d_first);
    }
}

/// Turns the gradient of `p = softmax(l)` into that of `l`, in place, adding `of_lse` for the log-denominator.
fn softmax_backward(p: &[f32], of_lse: f32, d: &mut [f32]) {
    let mean: f32 = p.iter().zip(&*d).map(|(p, d)| p * d).sum();
    d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean + of_lse));
}

/// Turns the gradient of `s = sigmoid(l)` into that of `l`, in place; `terms` is that of `s / sum(s)`.
fn sigmoid_backward(s: &[f32], terms: &[f32], d: &mut [f32]) {
    let mass: f32 = s.iter().sum();
    let mean = s.iter().zip(terms).map(|(s, term)| s * term).sum::<f32>() / mass;
    for ((d, s), term) in d.iter_mut().zip(s).zip(terms) {
        *d = (*d + (term - mean) / mass) * s * (1.0 - s);
    }
}

#[test]
fn tokens_are_split_where_a_router_has_few_weights() {
    for ([tokens, logits, hidden], want) in [
        ([8192, 36, 768], 16), // method.md's
        ([65536, 36, 768], 21),
        ([8192, 144, 4096], 1),
        ([1023, 8, 64], 1),
        ([1024, 8, 64], 2),
        ([0, 0, 0], 1),
    ] {
        assert_eq!(splits(tokens, logits, hidden), want, "{tokens} {logits} {hidden}");
    }
    assert_eq!(RouteBackward::<f32>::workspace_len(1023, 8, 63), 0);
    assert_eq!(RouteBackward::<f32>::workspace_len(1024, 8, 63), 2 * 8 * 64 + 3);
}
