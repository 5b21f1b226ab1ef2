//! From tokens to sorted choices: routing, plans, centroids. The formulas for requests are those of the kernels' headers.

use std::collections::BTreeSet;

use trimoe::ops::{BuildPlan, CentroidEma, Route, RouteBackward, RouteLoss, RouteMode, Routing};
use trimoe::{Plan, Result, Tensor, bf16};

use super::Case;
use crate::lab::{Lab, Need, Row, Sectors, words};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[route, route_backward, plan_by_one_block, plan_by_three_kernels, centroid_ema];

/// Operands of routing.
struct Router {
    x: Tensor<bf16, 2>,
    w: Tensor<bf16, 2>,
    routing: Routing,
    workspace: Tensor<f32, 1>,
}

impl Router {
    fn new(lab: &Lab, s: &Shape) -> Result<Self> {
        Ok(Router {
            x: lab.filled([s.tokens, s.hidden])?,
            w: lab.filled([logits(s), s.hidden])?,
            routing: Routing::new(&lab.device, s.tokens, s.topk, s.experts, s.clusters)?,
            workspace: lab.zeros([Route::<bf16>::workspace_len(s.tokens, s.experts, s.clusters)])?,
        })
    }

    fn op(&mut self) -> Route<'_, bf16> {
        Route {
            x: self.x.view(),
            w: self.w.view(),
            bias: None,
            temperature: 1.0.into(),
            mode: RouteMode::TwoStage,
            routing: &mut self.routing,
            workspace: self.workspace.view_mut(),
        }
    }

    /// Sectors of what is decided for each token.
    fn decisions(&self) -> u64 {
        let r = &self.routing;
        r.cluster.sectors()
            + r.expert.sectors()
            + r.prob_cluster.sectors()
            + r.prob_expert.sectors()
            + r.lse.sectors()
    }
}

fn logits(s: &Shape) -> usize {
    s.experts + if s.clusters > 1 { s.clusters } else { 0 }
}

/// kernels/route.h: tokens of a block, by the logits there are.
fn tokens_of_a_block(s: &Shape) -> usize {
    if logits(s) <= 384 { 32 } else { 16 }
}

fn route(lab: &Lab, s: &Shape) -> Result<Row> {
    let mut router = Router::new(lab, s)?;
    let (blocks, columns) = (s.tokens.div_ceil(tokens_of_a_block(s)) as u64, s.experts + s.clusters);
    let sums = words(2 * s.clusters) + words(2 * s.experts) + words(s.clusters) + words(s.experts) + 2;
    let partial = words((2 * columns + 2) * blocks as usize);
    let of_token = 2 + 2 * words(s.topk) + words(s.clusters) + words(s.experts / s.clusters);
    let of_partial = 2 * (words(columns) + columns.div_ceil(32) as u64) + 2;
    let once = router.x.sectors() + router.decisions() + router.routing.weight.sectors();
    let need = Need {
        floor: once + router.w.sectors() + 2 * partial + sums,
        again: (blocks - 1) * router.w.sectors() + s.tokens as u64 * of_token
            - router.decisions()
            - router.routing.weight.sectors()
            + 2 * (blocks * of_partial - partial),
        ..Need::default()
    };
    lab.measure(s, need, router.op())
}

fn route_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let mut router = Router::new(lab, s)?;
    lab.device.run(router.op())?;
    let (logits, per) = (logits(s), s.experts / s.clusters);
    let dweight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let mut dlogits = lab.zeros::<f32, 2>([s.tokens, logits])?;
    let mut dx = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut dw = lab.zeros::<f32, 2>([logits, s.hidden])?;
    let room = RouteBackward::<bf16>::workspace_len(s.tokens, logits, s.hidden);
    let mut workspace = lab.zeros::<f32, 1>([room])?;
    // Sums of splits of the tokens, where there are several, are written by one kernel and read by the next.
    let partial = words(room.saturating_sub(3));
    let of_token = 5
        + 3 * words(s.topk)
        + 5 * words(per)
        + 4 * words(s.clusters)
        + words(per)
        + words(s.experts)
        + words(s.clusters);
    // Chunks of 16 bytes come element by element where rows of dlogits are not made of whole ones.
    let [f32_reads, bf16_reads] = if logits.is_multiple_of(4) { [1, 1] } else { [4, 8] };
    let (columns, rows) = (s.hidden.div_ceil(64) as u64, [s.tokens, logits].map(|n| n.div_ceil(64) as u64));
    let parts: u64 = (0..s.tokens).map(|t| parts_of_a_row(t, logits)).sum();
    let (x, w) = (router.x.sectors(), router.w.sectors());
    let requested = s.tokens as u64 * of_token
        + columns * 2 * parts * f32_reads
        + (rows[0] * w + rows[1] * x) * bf16_reads
        + 2 * dx.sectors()
        + 2 * partial
        + dw.sectors();
    // Logits are written once and read by two products.
    let floor = router.decisions()
        + dweight.sectors()
        + words(s.clusters)
        + words(s.experts)
        + 3 * dlogits.sectors()
        + w
        + x
        + 2 * dx.sectors()
        + 2 * partial
        + dw.sectors();
    let need = Need { floor, again: requested.saturating_sub(floor), ..Need::default() };
    let op = RouteBackward {
        x: router.x.view(),
        w: router.w.view(),
        temperature: 1.0.into(),
        mode: RouteMode::TwoStage,
        routing: &router.routing,
        dweight: dweight.view(),
        loss: RouteLoss { balance: 0.01, z: 0.001 },
        dlogits: dlogits.view_mut(),
        dx: dx.view_mut(),
        dw: dw.view_mut(),
        workspace: workspace.view_mut(),
        accumulate: false,
    };
    lab.measure(s, need, op)
}

/// Sectors in which the parts of 32 words of a row lie, rows without gaps between them.
fn parts_of_a_row(row: usize, columns: usize) -> u64 {
    let part = |begin: usize| {
        let (first, last) = (row * columns + begin, row * columns + (begin + 32).min(columns) - 1);
        (last / 8 - first / 8 + 1) as u64
    };
    (0..columns).step_by(32).map(part).sum()
}

fn plan_by_one_block(lab: &Lab, s: &Shape) -> Result<Row> {
    build_plan(lab, s)
}

fn plan_by_three_kernels(lab: &Lab, s: &Shape) -> Result<Row> {
    build_plan(lab, &Shape { tokens: 2048, ..*s })
}

fn build_plan(lab: &Lab, s: &Shape) -> Result<Row> {
    let (clusters, experts) = (s.clusters_of_tokens(), s.experts_of_slots());
    let scattered = scattered(&clusters, s.clusters) + scattered(&experts, s.experts);
    let cluster = lab.given(&clusters, [s.tokens])?;
    let expert = lab.given(&experts, [s.tokens, s.topk])?;
    let mut plan = Plan::on(&lab.device, s.tokens, s.topk, s.experts, s.clusters)?;
    let (ids, groups) = (cluster.sectors() + expert.sectors(), s.clusters + s.experts);
    let offsets = words(s.clusters + 1) + words(s.experts + 1);
    let lanes = (s.clusters.div_ceil(32) + s.experts.div_ceil(32)) as u64;
    let op = BuildPlan { cluster: cluster.view(), expert: expert.view(), plan: &mut plan };
    lab.measure_tiled(
        s,
        |kernels| {
            // One block has eight warps; else a warp has 128 tokens, and counts lie in memory between the kernels.
            let three = kernels.len() > 1;
            let units = if three { s.tokens.div_ceil(128) } else { 8 };
            let counts = if three { words(units * (groups + 1)) } else { 0 };
            let rows_of_counts = if three { units as u64 * (words(groups) + 2 * lanes) } else { 0 };
            let floor = (if three { 4 } else { 3 }) * ids + 2 * offsets + 1 + 4 * counts;
            let reads_of_offsets = units as u64 * (offsets + lanes);
            let requested = 3 * ids + scattered + offsets + 1 + reads_of_offsets + 4 * rows_of_counts;
            Need {
                floor,
                again: requested.saturating_sub(floor),
                spare_wavefronts: 2 * meetings(&experts, s.clusters),
                ..Need::default()
            }
        },
        op,
    )
}

/// Wavefronts that the counters of 32 choices in a row cost beyond the first, summed up: those of groups that are a multiple
/// of 32 apart share a bank, and which groups are chosen together is the data's.
fn meetings(ids: &[u32], first: usize) -> u64 {
    let of_step = |step: &[u32]| {
        let mut banks = [0u64; 32];
        BTreeSet::from_iter(step).iter().for_each(|&&id| banks[(first + id as usize) % 32] += 1);
        banks.iter().max().map_or(0, |most| most - 1)
    };
    ids.chunks(32).map(of_step).sum()
}

/// Sectors that 32 choices in a row have to write their numbers to, summed up: their rows in the order of groups.
fn scattered(ids: &[u32], groups: usize) -> u64 {
    let mut next = vec![0; groups];
    for &id in ids {
        next[id as usize] += 1;
    }
    let mut sum = 0;
    next.iter_mut().for_each(|n| (*n, sum) = (sum, sum + *n));
    let of_step = |step: &[u32]| {
        let mut sectors: Vec<usize> = step
            .iter()
            .map(|&id| {
                next[id as usize] += 1;
                (next[id as usize] - 1) / 8
            })
            .collect();
        sectors.sort_unstable();
        sectors.dedup();
        sectors.len() as u64
    };
    ids.chunks(32).map(of_step).sum()
}

fn centroid_ema(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut mu = lab.zeros::<f32, 2>([s.experts, s.hidden])?;
    let (rows, tiles) = (s.tokens * s.topk, s.hidden.div_ceil(256));
    let floor = x.sectors() + 2 * mu.sectors() + words(rows) + words(s.experts + 1);
    let requested = s.topk as u64 * x.sectors() + (tiles * (rows + 32 * s.experts)) as u64 + 2 * mu.sectors();
    let need = Need { floor, again: requested - floor, ..Need::default() };
    lab.measure(s, need, CentroidEma { x: x.view(), order: plan.by_expert(), beta: 0.05, mu: mu.view_mut() })
}
