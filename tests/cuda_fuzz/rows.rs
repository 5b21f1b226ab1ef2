//! Operations on rows, in a plan's order too.

use trimoe::ops::*;
use trimoe::{Device, Elem};

use crate::common::coverage::run;
use crate::common::{Guarded, Rng};
use crate::{columns, ids, nan, normal, plan, rows};

pub fn add<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let shape = [rows(rng), columns(rng)];
    let (x, mut y) = (normal::<T, 2>(rng, shape), normal::<T, 2>(rng, shape));
    run(device, Add { x: x.view_on(device), y: y.view_mut_on(device) }).unwrap();
    vec![y.written()]
}

pub fn adamw<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let len = [rows(rng) * columns(rng)];
    let (mut weight, grad) = (normal::<f32, 1>(rng, len), normal::<f32, 1>(rng, len));
    let (mut m, mut v) = (normal::<f32, 1>(rng, len), Guarded::of(&vec![0.5; len[0]], len));
    let (mut stored, norm) = (nan::<T, 1>(rng, len), Guarded::<f32, 1>::of(&[2.0], [1]));
    let stores = rng.below(2) == 0;
    let op = AdamW {
        weight: weight.view_mut_on(device),
        grad: grad.view_on(device),
        m: m.view_mut_on(device),
        v: v.view_mut_on(device),
        stored: stores.then(|| stored.view_mut_on(device)),
        rates: Rates::Step { lr: 0.1, step: 3 },
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        norm: norm.view_on(device),
        max_norm: 1.0,
    };
    run(device, op).unwrap();
    let stored = if stores { stored.written() } else { vec![] };
    vec![weight.written(), m.written(), v.written(), stored]
}

pub fn attention<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (heads, head_dim, seq) = (1 + rng.below(3), 1 + rng.below(40), 1 + rng.below(70));
    let (rows, hidden) = (rng.below(3) * seq, heads * head_dim);
    let (qkv, dout) = (normal::<T, 2>(rng, [rows, 3 * hidden]), normal::<T, 2>(rng, [rows, hidden]));
    let (mut out, mut lse) = (nan::<T, 2>(rng, [rows, hidden]), nan::<f32, 2>(rng, [heads, rows]));
    let mut dqkv = nan::<T, 2>(rng, [rows, 3 * hidden]);
    let mut room = nan::<f32, 1>(rng, [AttentionBackward::<T>::workspace_len(rows, heads)]);
    let qkv = qkv.view_on(device);
    let (o, l) = (out.view_mut_on(device), lse.view_mut_on(device));
    run(device, Attention { qkv, heads, seq, out: o, lse: l }).unwrap();
    let op = AttentionBackward {
        dout: dout.view_on(device),
        out: out.view_on(device),
        qkv,
        lse: lse.view_on(device),
        heads,
        seq,
        dqkv: dqkv.view_mut_on(device),
        workspace: room.view_mut_on(device),
    };
    run(device, op).unwrap();
    vec![out.written(), lse.written(), dqkv.written()]
}

pub fn attention_step<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (heads, head_dim, seq) = (1 + rng.below(3), 2 + 2 * rng.below(40), 1 + rng.below(70));
    let (rows, hidden) = (rng.below(5), heads * head_dim);
    let sequences = rows + rng.below(3);
    let qkv = normal::<T, 2>(rng, [rows, 3 * hidden]);
    let (mut kv, mut out) =
        (normal::<T, 3>(rng, [sequences, seq, 2 * hidden]), nan::<T, 2>(rng, [rows, hidden]));
    let first = rng.below(sequences.max(1));
    let sequence: Vec<u32> = (0..rows).map(|row| ((first + row) % sequences) as u32).collect();
    let (sequence, position) = (Guarded::ids(&sequence).moved(rng.below(5), 0), ids(rng, rows, seq));
    let op = AttentionStep {
        qkv: qkv.view_on(device),
        heads,
        theta: 100.0,
        kv: kv.view_mut_on(device),
        sequence: sequence.view_on(device),
        position: position.view_on(device),
        out: out.view_mut_on(device),
    };
    run(device, op).unwrap();
    vec![kv.written(), out.written()]
}

pub fn centroid_ema<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, hidden) = (plan(device, rng), columns(rng));
    let x = normal::<T, 2>(rng, [plan.tokens(), hidden]);
    let mut mu = normal::<f32, 2>(rng, [plan.experts(), hidden]);
    let (order, view) = (plan.by_expert(), mu.view_mut_on(device));
    run(device, CentroidEma { x: x.view_on(device), order, beta: 0.25, mu: view }).unwrap();
    vec![mu.written()]
}

pub fn combine<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, hidden) = (plan(device, rng), columns(rng));
    let order = if rng.below(2) == 0 { plan.by_cluster() } else { plan.by_expert() };
    let (wide, narrow) = ([order.rows(), hidden], [order.tokens(), hidden]);
    let slots = [order.tokens(), order.fan()];
    let (x, dy, weight) =
        (normal::<T, 2>(rng, wide), normal::<T, 2>(rng, narrow), normal::<f32, 2>(rng, slots));
    let (mut y, mut dx, mut dweight) =
        (normal::<T, 2>(rng, narrow), nan::<T, 2>(rng, wide), nan::<f32, 2>(rng, slots));
    let (weighted, accumulate) = (rng.below(2) == 0, rng.below(2) == 0);
    let (x, weight) = (x.view_on(device), weight.view_on(device));
    let given = weighted.then_some(weight);
    run(device, Combine { x, order, weight: given, y: y.view_mut_on(device), accumulate }).unwrap();
    let op = CombineBackward {
        dy: dy.view_on(device),
        x,
        order,
        weight,
        dx: dx.view_mut_on(device),
        dweight: dweight.view_mut_on(device),
    };
    run(device, op).unwrap();
    vec![y.written(), dx.written(), dweight.written()]
}

pub fn copy<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let shape = [rows(rng), columns(rng)];
    let (x, mut y) = (normal::<T, 2>(rng, shape), nan::<T, 2>(rng, shape));
    run(device, Copy { x: x.view_on(device), y: y.view_mut_on(device) }).unwrap();
    vec![y.written()]
}

pub fn cross_entropy<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (rows, vocab) = (rows(rng), columns(rng));
    let (mut logits, targets) = (normal::<T, 2>(rng, [rows, vocab]), ids(rng, rows, vocab));
    let mut loss = nan::<f32, 1>(rng, [rows]);
    let (logits_view, loss_view) = (logits.view_mut_on(device), loss.view_mut_on(device));
    let targets = targets.view_on(device);
    run(device, CrossEntropy { logits: logits_view, targets, scale: 0.5, loss: loss_view }).unwrap();
    vec![logits.written(), loss.written()]
}

pub fn embedding<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (rows, vocab, hidden) = (rows(rng), 1 + rng.below(50), columns(rng));
    let (places, table) = (ids(rng, rows, vocab), normal::<T, 2>(rng, [vocab, hidden]));
    let (mut y, dy) = (nan::<T, 2>(rng, [rows, hidden]), normal::<T, 2>(rng, [rows, hidden]));
    let mut dtable = normal::<f32, 2>(rng, [vocab, hidden]);
    let (ids, scale) = (places.view_on(device), 0.5);
    run(device, Embedding { ids, table: table.view_on(device), scale, y: y.view_mut_on(device) }).unwrap();
    let (dy, to) = (dy.view_on(device), dtable.view_mut_on(device));
    run(device, EmbeddingBackward { ids, dy, scale, dtable: to }).unwrap();
    vec![y.written(), dtable.written()]
}

#[allow(
    clippy::extra_unused_type_parameters,
    reason = "gradients are f32 whatever T is, and the table names T"
)]
pub fn global_norm<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let lens: Vec<usize> = (0..rng.below(4)).map(|_| rows(rng) * columns(rng)).collect();
    let grads: Vec<_> = lens.iter().map(|&len| normal::<f32, 1>(rng, [len])).collect();
    let (mut norm, mut room) =
        (nan::<f32, 1>(rng, [1]), Guarded::room(GlobalNorm::workspace_len(lens.iter().copied())));
    let grads = grads.iter().map(|g| g.view_on(device)).collect();
    let workspace = room.view_mut_on(device);
    run(device, GlobalNorm { grads, norm: norm.view_mut_on(device), workspace }).unwrap();
    vec![norm.written()]
}

pub fn nll<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (rows, vocab) = (rows(rng), columns(rng));
    let (logits, targets) = (normal::<T, 2>(rng, [rows, vocab]), ids(rng, rows, vocab));
    let mut loss = nan::<f32, 1>(rng, [rows]);
    let (logits, targets) = (logits.view_on(device), targets.view_on(device));
    run(device, NegLogLikelihood { logits, targets, loss: loss.view_mut_on(device) }).unwrap();
    vec![loss.written()]
}

pub fn permute<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, hidden) = (plan(device, rng), columns(rng));
    let order = if rng.below(2) == 0 { plan.by_cluster() } else { plan.by_expert() };
    let (x, mut y) =
        (normal::<T, 2>(rng, [order.tokens(), hidden]), nan::<T, 2>(rng, [order.rows(), hidden]));
    run(device, Permute { x: x.view_on(device), order, y: y.view_mut_on(device) }).unwrap();
    vec![y.written()]
}

pub fn rms_norm<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (rows, hidden) = (rows(rng), columns(rng));
    let shape = [rows, hidden];
    let (x, dy, gain) =
        (normal::<T, 2>(rng, shape), normal::<T, 2>(rng, shape), normal::<T, 1>(rng, [hidden]));
    let (mut y, mut inv_rms) = (nan::<T, 2>(rng, shape), nan::<f32, 1>(rng, [rows]));
    let (mut dx, mut dgain) = (normal::<T, 2>(rng, shape), normal::<f32, 1>(rng, [hidden]));
    let mut room = nan::<f32, 1>(rng, [RmsNormBackward::<T>::workspace_len(rows, hidden)]);
    let (accumulate_dx, accumulate) = (rng.below(2) == 0, rng.below(2) == 0);
    let (x, gain) = (x.view_on(device), gain.view_on(device));
    let (to, inv) = (y.view_mut_on(device), inv_rms.view_mut_on(device));
    run(device, RmsNorm { x, gain, eps: 1e-5, y: to, inv_rms: inv }).unwrap();
    let op = RmsNormBackward {
        dy: dy.view_on(device),
        x,
        gain,
        inv_rms: inv_rms.view_on(device),
        dx: dx.view_mut_on(device),
        accumulate_dx,
        dgain: dgain.view_mut_on(device),
        accumulate,
        workspace: room.view_mut_on(device),
    };
    run(device, op).unwrap();
    vec![y.written(), inv_rms.written(), dx.written(), dgain.written()]
}

pub fn rope<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (heads, half, seq) = (1 + rng.below(4), 1 + rng.below(20), 1 + rng.below(20));
    let rows = rng.below(4) * seq;
    let mut x = normal::<T, 2>(rng, [rows, heads * 2 * half]);
    let inverse = rng.below(2) == 0;
    run(device, Rope { x: x.view_mut_on(device), heads, seq, theta: 1e4, inverse }).unwrap();
    vec![x.written()]
}

pub fn swiglu<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, inner) = (plan(device, rng), columns(rng));
    let order = plan.by_expert();
    let (rows, slots) = (order.rows(), [order.tokens(), order.fan()]);
    let weight = normal::<f32, 2>(rng, slots);
    let (mut z, mut dh) = (normal::<T, 2>(rng, [rows, 2 * inner]), normal::<T, 2>(rng, [rows, inner]));
    let (mut h, mut dweight) = (nan::<T, 2>(rng, [rows, inner]), nan::<f32, 2>(rng, slots));
    let weighted = rng.below(2) == 0;
    let weights = || weighted.then(|| SlotWeights { weight: weight.view_on(device), order });
    run(device, SwiGlu { z: z.view_on(device), weights: weights(), h: h.view_mut_on(device) }).unwrap();
    let op = SwiGluBackward {
        z: z.view_mut_on(device),
        dh: dh.view_mut_on(device),
        weights: weights(),
        dweight: weighted.then(|| dweight.view_mut_on(device)),
    };
    run(device, op).unwrap();
    let dweight = if weighted { dweight.written() } else { vec![] };
    vec![h.written(), z.written(), dh.written(), dweight]
}
