//! What clustered experts do besides products: routing, plans, residuals, centroids. Wide experts are cut to a strip.

use trimoe::ops::{BuildPlan, CentroidEma, Expand, ExpandBackward, Route, RouteMode, Routing};
use trimoe::{Plan, Result, bf16};

use super::{Case, floor};
use crate::lab::{Lab, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[route, build_plan, centroid_ema, expand, expand_backward];

/// Most inner columns of an expert.
const STRIP: usize = 512;

fn route(lab: &Lab, s: &Shape) -> Result<Row> {
    let logits = s.experts + if s.clusters > 1 { s.clusters } else { 0 };
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let w = lab.filled::<bf16, 2>([logits, s.hidden])?;
    let mut routing = Routing::new(&lab.device, s.tokens, s.topk, s.experts, s.clusters)?;
    let mut workspace =
        lab.zeros::<f32, 1>([Route::<bf16>::workspace_len(s.tokens, s.experts, s.clusters)])?;
    let results = routing.cluster.sectors()
        + routing.expert.sectors()
        + routing.weight.sectors()
        + routing.prob_cluster.sectors()
        + routing.prob_expert.sectors()
        + routing.lse.sectors();
    // Partial sums of the blocks are written and read.
    let need = floor(x.sectors() + w.sectors() + results + 2 * workspace.sectors());
    let op = Route {
        x: x.view(),
        w: w.view(),
        bias: None,
        temperature: 1.0,
        mode: RouteMode::TwoStage,
        routing: &mut routing,
        workspace: workspace.view_mut(),
    };
    lab.measure(s, need, op)
}

fn build_plan(lab: &Lab, s: &Shape) -> Result<Row> {
    let cluster: Vec<u32> = (0..s.tokens).map(|t| (t % s.clusters) as u32).collect();
    let cluster = lab.given(&cluster, [s.tokens])?;
    let expert = lab.given(&lab.experts(s), [s.tokens, s.topk])?;
    let mut plan = Plan::on(&lab.device, s.tokens, s.topk, s.experts, s.clusters)?;
    let offsets = ((s.clusters + 1) * 4).div_ceil(32) + ((s.experts + 1) * 4).div_ceil(32);
    let need = floor(3 * (cluster.sectors() + expert.sectors()) + offsets as u64 + 1);
    lab.measure(s, need, BuildPlan { cluster: cluster.view(), expert: expert.view(), plan: &mut plan })
}

fn centroid_ema(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut mu = lab.zeros::<f32, 2>([s.experts, s.hidden])?;
    let sources = ((s.tokens * s.topk + s.experts + 1) * 4).div_ceil(32) as u64;
    let need = floor(x.sectors() + 2 * mu.sectors() + sources);
    lab.measure(s, need, CentroidEma { x: x.view(), order: plan.by_expert(), beta: 0.05, mu: mu.view_mut() })
}

fn expand(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let (inner, factors) = (s.inner.min(STRIP), s.experts / s.clusters * s.rank);
    let bp = lab.filled::<bf16, 2>([s.tokens, 2 * (inner + factors)])?;
    let b = lab.filled::<bf16, 3>([s.experts, 2 * inner, s.rank])?;
    let a2 = lab.filled::<bf16, 3>([s.experts, s.rank, inner])?;
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let mut hq = lab.zeros::<bf16, 2>([s.tokens, inner + factors])?;
    let orders = (s.tokens * (1 + s.topk) + s.clusters + s.experts + 2) * 4 / 32;
    let need =
        floor(bp.sectors() + b.sectors() + a2.sectors() + weight.sectors() + hq.sectors() + orders as u64);
    let (bp, b, a2, weight) = (bp.view(), b.view(), a2.view(), weight.view());
    lab.measure(s, need, Expand { bp, b, a2, plan: &plan, weight, hq: hq.view_mut() })
}

fn expand_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let (inner, factors) = (s.inner.min(STRIP), s.experts / s.clusters * s.rank);
    let mut bp = lab.filled::<bf16, 2>([s.tokens, 2 * (inner + factors)])?;
    let b = lab.filled::<bf16, 3>([s.experts, 2 * inner, s.rank])?;
    let a2 = lab.filled::<bf16, 3>([s.experts, s.rank, inner])?;
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let dhq = lab.filled::<bf16, 2>([s.tokens, inner + factors])?;
    let mut db = lab.zeros::<f32, 3>([s.experts, 2 * inner, s.rank])?;
    let mut da2 = lab.zeros::<f32, 3>([s.experts, s.rank, inner])?;
    let mut dweight = lab.zeros::<f32, 2>([s.tokens, s.topk])?;
    let room = ExpandBackward::<bf16>::workspace_len(s.tokens, s.experts, s.clusters, inner, s.rank);
    let mut workspace = lab.zeros::<f32, 1>([room])?;
    let orders = ((s.tokens * (1 + s.topk) + s.clusters + s.experts + 2) * 4 / 32) as u64;
    let inputs = bp.sectors() + b.sectors() + a2.sectors() + weight.sectors() + dhq.sectors() + orders;
    // Two kernels read all inputs: that of the factors' gradients, and that of the rest.
    let need = floor(2 * inputs + bp.sectors() + db.sectors() + da2.sectors() + dweight.sectors());
    let op = ExpandBackward {
        bp: bp.view_mut(),
        b: b.view(),
        a2: a2.view(),
        plan: &plan,
        weight: weight.view(),
        dhq: dhq.view(),
        db: db.view_mut(),
        da2: da2.view_mut(),
        dweight: dweight.view_mut(),
        workspace: workspace.view_mut(),
        accumulate: false,
    };
    lab.measure(s, need, op)
}
