//! Routing, products of segments, what clustered experts do beside them, and how alike experts are.

use trimoe::ops::*;
use trimoe::{Device, Elem, Plan, Segments, Tensor};

use crate::common::cases::{Routed, routed};
use crate::common::coverage::run;
use crate::common::{Guarded, plan_on};
use crate::packed::{packed_batches_hold, packed_hold};
use crate::replay::{bytes, holds, normal, repeats};

/// Products of segments and what clustered experts do beside them; 16-byte rows at `hidden` 16 and `rank` 16.
pub fn experts_hold<T: Elem>(d: &Device, hidden: usize, rank: usize) {
    for case in &routed(64)[..4] {
        let mut plan = case.plan();
        plan_on(&mut plan, d);
        let plan = &plan;
        let (tokens, experts, clusters) = (case.tokens, plan.experts(), plan.clusters());
        let (segments, inner) = (plan.by_cluster().segments(), hidden + 16);
        let m = |seed, columns| normal::<T, 2>(seed, [tokens, columns]);
        let w = || normal::<T, 3>(2, [clusters, inner, hidden]);
        holds!(d; x = m(1, hidden), w = w(), y = m(3, inner);
            GroupedGemm { x: x.view_on(d), w: w.view_on(d), segments, y: y.view_mut_on(d), accumulate: true });
        holds!(d; dy = m(1, inner), w = w(), dx = Guarded::<T, 2>::nan([tokens, hidden]);
            GroupedGemmDgrad { dy: dy.view_on(d), w: w.view_on(d), segments, dx: dx.view_mut_on(d),
                accumulate: false });
        holds!(d; dy = m(1, inner), x = m(2, hidden), dw = normal::<f32, 3>(3, [clusters, inner, hidden]);
            GroupedGemmWgrad { dy: dy.view_on(d), x: x.view_on(d), segments, dw: dw.view_mut_on(d),
                accumulate: true });
        clustered_hold::<T>(d, case, hidden, rank);
        holds!(d; x = m(1, hidden), mu = normal::<f32, 2>(2, [experts, hidden]);
            CentroidEma { x: x.view_on(d), order: plan.by_expert(), beta: 0.1, mu: mu.view_mut_on(d) });
    }
}

/// The part of every slot.
fn clustered_hold<T: Elem>(d: &Device, case: &Routed, hidden: usize, rank: usize) {
    let mut plan = case.plan();
    plan_on(&mut plan, d);
    let plan = &plan;
    let (tokens, experts, clusters) = (case.tokens, plan.experts(), plan.clusters());
    let m = |seed, columns| normal::<T, 2>(seed, [tokens, columns]);
    let factors = experts / clusters * rank;
    let (b, a2) =
        (|| normal::<T, 3>(5, [experts, 2 * hidden, rank]), || normal::<T, 3>(6, [experts, rank, hidden]));
    let weight = || normal::<f32, 2>(7, [tokens, plan.topk()]);
    packed_hold::<T>(d, case, hidden, rank);
    holds!(d; bp = m(4, 2 * (hidden + factors)), b = b(), a2 = a2(), weight = weight(),
        hq = Guarded::<T, 2>::nan([tokens, hidden + factors]);
        Expand { bp: bp.view_on(d), b: b.view_on(d), a2: a2.view_on(d), plan, weight: weight.view_on(d),
            hq: hq.view_mut_on(d) });
    holds!(d; bp = m(4, 2 * (hidden + factors)), b = b(), a2 = a2(), weight = weight(),
        dhq = m(8, hidden + factors), db = normal::<f32, 3>(9, [experts, 2 * hidden, rank]),
        da2 = normal::<f32, 3>(10, [experts, rank, hidden]),
        dweight = Guarded::<f32, 2>::nan([tokens, plan.topk()]),
        workspace = Guarded::<f32, 1>::nan(
            [ExpandBackward::<T>::workspace_len(tokens, experts, clusters, hidden, rank)]);
        ExpandBackward { bp: bp.view_mut_on(d), b: b.view_on(d), a2: a2.view_on(d), plan,
            weight: weight.view_on(d), dhq: dhq.view_on(d), db: db.view_mut_on(d), da2: da2.view_mut_on(d),
            dweight: dweight.view_mut_on(d), workspace: workspace.view_mut_on(d), accumulate: true });
}

/// Of kernels for many rows, those with whole vectors.
pub fn batches_hold<T: Elem>(d: &Device) {
    // 128 tiles of 128 columns, and more than 64 rows.
    let (rows, wide) = (65, 128 * 128);
    let (m, segments) = (|seed, columns| normal::<T, 2>(seed, [rows, columns]), Segments::Whole(65));
    holds!(d; x = m(1, 16), w = normal::<T, 3>(2, [1, wide, 16]), y = Guarded::<T, 2>::nan([rows, wide]);
        GroupedGemm { x: x.view_on(d), w: w.view_on(d), segments, y: y.view_mut_on(d), accumulate: false });
    holds!(d; dy = m(1, 16), w = normal::<T, 3>(2, [1, 16, wide]), dx = Guarded::<T, 2>::nan([rows, wide]);
        GroupedGemmDgrad { dy: dy.view_on(d), w: w.view_on(d), segments, dx: dx.view_mut_on(d), accumulate: false });
    packed_batches_hold::<T>(d);
    let few = &routed(4096)[10];
    clustered_hold::<T>(d, few, 16, 16);
}

/// Causal attention.
pub fn squares_hold<T: Elem>(d: &Device, seq: usize, head_dim: usize) {
    const HEADS: usize = 2;
    let hidden = HEADS * head_dim;
    let rows = 2 * seq;
    let (heads, lse) = (HEADS, || normal::<f32, 2>(2, [HEADS, rows]));
    let m = |seed, columns| normal::<T, 2>(seed, [rows, columns]);
    holds!(d; qkv = m(1, 3 * hidden), out = Guarded::<T, 2>::nan([rows, hidden]),
        lse = Guarded::<f32, 2>::nan([HEADS, rows]);
        Attention { qkv: qkv.view_on(d), heads, seq, out: out.view_mut_on(d), lse: lse.view_mut_on(d) });
    holds!(d; dout = m(3, hidden), out = m(4, hidden), qkv = m(1, 3 * hidden), lse = lse(),
        dqkv = Guarded::<T, 2>::nan([rows, 3 * hidden]),
        workspace = Guarded::<f32, 1>::nan([AttentionBackward::<T>::workspace_len(rows, HEADS)]);
        AttentionBackward { dout: dout.view_on(d), out: out.view_on(d), qkv: qkv.view_on(d), lse: lse.view_on(d),
            heads, seq, dqkv: dqkv.view_mut_on(d), workspace: workspace.view_mut_on(d) });
    let ids = |of: [u32; 2]| Guarded::ids(&of);
    holds!(d; qkv = normal::<T, 2>(1, [2, 3 * hidden]), kv = normal::<T, 3>(5, [3, seq, 2 * hidden]),
        sequence = ids([2, 0]), position = ids([seq as u32 - 1, 0]), out = Guarded::<T, 2>::nan([2, hidden]);
        AttentionStep { qkv: qkv.view_on(d), heads, theta: 1e4, kv: kv.view_mut_on(d), sequence: sequence.view_on(d),
            position: position.view_on(d), out: out.view_mut_on(d) });
}

/// How alike experts are: a small tile's worth of them, or more.
pub fn alike_hold<T: Elem>(d: &Device, hidden: usize) {
    for experts in [9, 66] {
        let shape = [experts, 3, hidden];
        let square = || Guarded::square_of(&vec![0.5; experts * experts], experts);
        holds!(d; x = normal::<T, 3>(1, shape), gram = square(),
            workspace = Guarded::room(Gram::<T>::workspace_len(shape));
            Gram { x: x.view_on(d), gram: gram.view_mut_on(d), workspace: workspace.view_mut_on(d),
                accumulate: true });
        holds!(d; param = square(), act = square(), s = Guarded::square(experts);
            Similarity { param: param.view_on(d), act: act.view_on(d), alpha: 0.7, s: s.view_mut_on(d) });
    }
    let (experts, clusters, rank, inner) = (12, 2, 3, hidden + 8);
    let factors = experts / clusters * rank;
    holds!(d; w13 = normal::<T, 3>(1, [clusters, 2 * (inner + factors), hidden]),
        w2 = normal::<T, 3>(2, [clusters, hidden, inner + factors]),
        b = normal::<T, 3>(3, [experts, 2 * inner, rank]), a2 = normal::<T, 3>(4, [experts, rank, inner]),
        gram = Guarded::square(experts),
        workspace = Guarded::room(ResidualGram::<T>::workspace_len(experts, hidden, inner, 5));
        ResidualGram { w13: w13.view_on(d), w2: w2.view_on(d), b: b.view_on(d), a2: a2.view_on(d),
            gram: gram.view_mut_on(d), workspace: workspace.view_mut_on(d) });
}

/// Routing, and the plan of what was routed: all on the device, without a look at it from the host.
pub fn routes_hold<T: Elem>(d: &Device, tokens: usize, [experts, clusters, topk]: [usize; 3]) {
    const HIDDEN: usize = 24;
    let logits = experts + if clusters > 1 { clusters } else { 0 };
    let (x, w) = (normal::<T, 2>(1, [tokens, HIDDEN]), normal::<T, 2>(2, [logits, HIDDEN]));
    let dweight = normal::<f32, 2>(3, [tokens, topk]);
    let routing = Routing::new(d, tokens, topk, experts, clusters).unwrap();
    let plan = Plan::on(d, tokens, topk, experts, clusters).unwrap();
    let len = Route::<T>::workspace_len(tokens, experts, clusters);
    let len = len.max(RouteBackward::<T>::workspace_len(tokens, logits, HIDDEN));
    let room: Tensor<f32, 1> = d.zeros([len]).unwrap();
    let dlogits: Tensor<f32, 2> = d.zeros([tokens, logits]).unwrap();
    let (dx, dw): (Tensor<T, 2>, Tensor<f32, 2>) =
        (d.zeros([tokens, HIDDEN]).unwrap(), d.zeros([logits, HIDDEN]).unwrap());
    let heat = Guarded::<f32, 1>::of(&[0.9], [1]);
    let work = |d: &Device, (routing, plan, room, dlogits, dx, dw): &mut (Routing, Plan, _, _, _, _)| {
        let (x, w, temperature, mode) =
            (x.view_on(d), w.view_on(d), Scalar::At(heat.view_on(d)), RouteMode::TwoStage);
        let workspace = Tensor::view_mut(room);
        run(d, Route { x, w, bias: None, temperature, mode, routing, workspace }).unwrap();
        let (cluster, expert) = (routing.cluster.view(), routing.expert.view());
        run(d, BuildPlan { cluster, expert, plan }).unwrap();
        let dlogits = Tensor::view_mut(dlogits);
        // The gradient is added to dx: start it anew.
        run(d, Copy { x, y: Tensor::view_mut(dx) }).unwrap();
        let (dx, dw) = (Tensor::view_mut(dx), Tensor::view_mut(dw));
        let (loss, dweight) = (RouteLoss { balance: 0.1, z: 0.01 }, dweight.view_on(d));
        let (routing, workspace) = (&*routing, Tensor::view_mut(room));
        run(
            d,
            RouteBackward {
                x,
                w,
                temperature,
                mode,
                routing,
                dweight,
                loss,
                dlogits,
                dx,
                dw,
                workspace,
                accumulate: false,
            },
        )
        .unwrap();
    };
    repeats(d, (routing, plan, room, dlogits, dx, dw), work, |(routing, plan, _, dlogits, dx, dw)| {
        plan.status().unwrap();
        let order = plan.by_expert().to_vecs().unwrap().concat();
        vec![
            bytes(&routing.expert),
            bytes(&routing.weight),
            bytes(&routing.sums.cluster_prob),
            bytemuck::cast_slice(&order).to_vec(),
            bytes(dlogits),
            bytes(dx),
            bytes(dw),
        ]
    });
}
