//! Routing, products of segments, what clustered experts do beside them, and how alike experts are.

use trimoe::ops::*;
use trimoe::{Device, Elem, Segments};

use crate::common::coverage::run;
use crate::common::{Guarded, Rng};
use crate::{columns, nan, normal, plan, room, rows};

pub fn grouped_gemm<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, out, input, kind) = (plan(device, rng), columns(rng), columns(rng), rng.below(4));
    let order = if kind % 2 == 0 { plan.by_cluster() } else { plan.by_expert() };
    let segments = match kind {
        0 | 1 => order.segments(),
        2 => order.gathered(),
        _ => Segments::Whole(order.rows()),
    };
    let gathered = kind == 2;
    let (count, weights) = (segments.rows(), [segments.groups(), out, input]);
    let sources = if gathered { order.tokens() } else { count };
    let (x, dy) = (normal::<T, 2>(rng, [sources, input]), normal::<T, 2>(rng, [count, out]));
    let w = normal::<T, 3>(rng, weights);
    let (mut y, mut dx) = (normal::<T, 2>(rng, [count, out]), normal::<T, 2>(rng, [count, input]));
    let (mut dw, accumulate) = (normal::<f32, 3>(rng, weights), rng.below(2) == 0);
    let (x, dy, w) = (x.view_on(device), dy.view_on(device), w.view_on(device));
    run(device, GroupedGemm { x, w, segments, y: y.view_mut_on(device), accumulate }).unwrap();
    run(device, GroupedGemmWgrad { dy, x, segments, dw: dw.view_mut_on(device), accumulate }).unwrap();
    let segments = if gathered { order.segments() } else { segments };
    run(device, GroupedGemmDgrad { dy, w, segments, dx: dx.view_mut_on(device), accumulate }).unwrap();
    vec![y.written(), dx.written(), dw.written()]
}

pub fn expand<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, inner) = (plan(device, rng), columns(rng));
    let rank = if rng.below(2) == 0 { 1 + rng.below(20) } else { 8 * (1 + rng.below(3)) };
    let (tokens, experts, slots) = (plan.tokens(), plan.experts(), [plan.tokens(), plan.topk()]);
    let factors = experts / plan.clusters() * rank;
    let mut bp = normal::<T, 2>(rng, [tokens, 2 * (inner + factors)]);
    let dhq = normal::<T, 2>(rng, [tokens, inner + factors]);
    let (b, a2) =
        (normal::<T, 3>(rng, [experts, 2 * inner, rank]), normal::<T, 3>(rng, [experts, rank, inner]));
    let (weight, mut hq) = (normal::<f32, 2>(rng, slots), nan::<T, 2>(rng, [tokens, inner + factors]));
    let (mut db, mut da2) =
        (normal::<f32, 3>(rng, [experts, 2 * inner, rank]), normal::<f32, 3>(rng, [experts, rank, inner]));
    let (mut dweight, accumulate) = (nan::<f32, 2>(rng, slots), rng.below(2) == 0);
    let len = ExpandBackward::<T>::workspace_len(tokens, experts, plan.clusters(), inner, rank);
    let (mut workspace, plan) = (room(rng, len), &plan);
    let (b, a2, weight) = (b.view_on(device), a2.view_on(device), weight.view_on(device));
    let (from, to) = (bp.view_on(device), hq.view_mut_on(device));
    run(device, Expand { bp: from, b, a2, plan, weight, hq: to }).unwrap();
    let op = ExpandBackward {
        bp: bp.view_mut_on(device),
        b,
        a2,
        plan,
        weight,
        dhq: dhq.view_on(device),
        db: db.view_mut_on(device),
        da2: da2.view_mut_on(device),
        dweight: dweight.view_mut_on(device),
        workspace: workspace.view_mut_on(device),
        accumulate,
    };
    run(device, op).unwrap();
    vec![hq.written(), bp.written(), db.written(), da2.written(), dweight.written()]
}

/// A router of any mode, and its backward.
pub fn route<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let many = rng.below(6) == 0; // so many that the kernels split them for dw
    let tokens = if many { 1024 + rng.below(600) } else { rows(rng) };
    let (hidden, two_stage) = (columns(rng), rng.below(2) == 0);
    let groups = if two_stage { 1 } else { [1, 2, 4][rng.below(3)] };
    let (clusters, per) = (if two_stage { 1 + rng.below(6) } else { 1 }, groups * (1 + rng.below(12)));
    let top_groups = 1 + rng.below(groups);
    let topk = 1 + rng.below((per / groups * top_groups).min(8));
    let score = if rng.below(2) == 0 { Score::Sigmoid } else { Score::Softmax };
    let mode = match two_stage {
        true => RouteMode::TwoStage,
        false => RouteMode::Grouped { groups, top_groups, score, scale: 2.5 },
    };
    let logits = clusters * per + if clusters > 1 { clusters } else { 0 };
    let (x, w) = (normal::<T, 2>(rng, [tokens, hidden]), normal::<T, 2>(rng, [logits, hidden]));
    let (bias, biased) = (normal::<f32, 1>(rng, [logits]), rng.below(2) == 0);
    let (dweight, mut dlogits) =
        (normal::<f32, 2>(rng, [tokens, topk]), nan::<f32, 2>(rng, [tokens, logits]));
    let (mut dx, mut dw) = (normal::<T, 2>(rng, [tokens, hidden]), normal::<f32, 2>(rng, [logits, hidden]));
    let accumulate = rng.below(2) == 0;
    let mut workspace = room(rng, Route::<T>::workspace_len(tokens, clusters * per, clusters));
    let mut routing = Routing::new(device, tokens, topk, clusters * per, clusters).unwrap();
    let (x, w, temperature) = (x.view_on(device), w.view_on(device), 4.0.into());
    let op = Route {
        x,
        w,
        bias: biased.then(|| bias.view_on(device)),
        temperature,
        mode,
        routing: &mut routing,
        workspace: workspace.view_mut_on(device),
    };
    run(device, op).unwrap();
    let mut workspace = room(rng, RouteBackward::<T>::workspace_len(tokens, logits, hidden));
    let op = RouteBackward {
        x,
        w,
        temperature,
        mode,
        routing: &routing,
        dweight: dweight.view_on(device),
        loss: RouteLoss { balance: 0.1, z: 0.01 },
        dlogits: dlogits.view_mut_on(device),
        dx: dx.view_mut_on(device),
        dw: dw.view_mut_on(device),
        workspace: workspace.view_mut_on(device),
        accumulate,
    };
    run(device, op).unwrap();
    let ids = |ids: Vec<u32>| ids.into_iter().map(f64::from).collect();
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    vec![
        ids(routing.cluster.to_vec().unwrap()),
        ids(routing.expert.to_vec().unwrap()),
        wide(routing.weight.to_vec().unwrap()),
        wide(routing.prob_cluster.to_vec().unwrap()),
        wide(routing.prob_expert.to_vec().unwrap()),
        dlogits.written(),
        dx.written(),
        dw.written(),
    ]
}

/// Dot products of experts, and of their mean tokens; the similarity that they make.
pub fn similarity<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let experts = [1, 7, 33, 63, 64, 65, 130][rng.below(7)];
    let shapes = [[experts, 1 + rng.below(9), columns(rng)], [experts, 1, columns(rng)]];
    let mut grams = Vec::new();
    for shape in shapes {
        let x = normal::<T, 3>(rng, shape);
        let mut gram =
            Guarded::square_of(&vec![0.5; experts * experts], experts).moved(rng.below(4), rng.below(4));
        let (mut workspace, accumulate) = (Guarded::room(Gram::<T>::workspace_len(shape)), rng.below(2) == 0);
        let (to, workspace) = (gram.view_mut_on(device), workspace.view_mut_on(device));
        run(device, Gram { x: x.view_on(device), gram: to, workspace, accumulate }).unwrap();
        grams.push(gram);
    }
    let (alpha, mut s) = (rng.unit(), Guarded::square(experts).moved(rng.below(4), rng.below(4)));
    let (param, act) = (grams[0].view_on(device), grams[1].view_on(device));
    run(device, Similarity { param, act, alpha, s: s.view_mut_on(device) }).unwrap();
    vec![grams[0].written_f64(), grams[1].written_f64(), s.written_f64()]
}

pub fn residual_gram<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (clusters, per, rank) = (1 + rng.below(4), 1 + rng.below(8), 1 + rng.below(9));
    let (experts, factors, inner, hidden) = (clusters * per, per * rank, columns(rng), columns(rng));
    let w13 = normal::<T, 3>(rng, [clusters, 2 * (inner + factors), hidden]);
    let w2 = normal::<T, 3>(rng, [clusters, hidden, inner + factors]);
    let (b, a2) =
        (normal::<T, 3>(rng, [experts, 2 * inner, rank]), normal::<T, 3>(rng, [experts, rank, inner]));
    let mut gram = Guarded::square(experts).moved(rng.below(4), rng.below(4));
    let len = ResidualGram::<T>::workspace_len(experts, hidden, inner, 1 + rng.below(40));
    let mut workspace = Guarded::room(len).moved(rng.below(3), 0);
    let op = ResidualGram {
        w13: w13.view_on(device),
        w2: w2.view_on(device),
        b: b.view_on(device),
        a2: a2.view_on(device),
        gram: gram.view_mut_on(device),
        workspace: workspace.view_mut_on(device),
    };
    run(device, op).unwrap();
    vec![gram.written_f64()]
}
