//! `moe::Layer` as a caller uses it: each form against its definition, its rules, a profiled device.

mod common;

use common::oracle::{product, silu};
use common::{Rng, assert_breaks, close};
use trimoe::moe::{Backward, FfnKind, Forward, Layer, Router, Shape, Workspace};
use trimoe::ops::{RouteLoss, Scalar};
use trimoe::{Device, Tensor, View};

const TEMPERATURE: f32 = 0.8;
const ROUTER: Router =
    Router { temperature: Scalar::Value(TEMPERATURE), loss: RouteLoss { balance: 0.0, z: 0.0 } };

/// Weights and inputs of a layer, row-major.
struct Inputs {
    layer: Layer,
    tokens: usize,
    weights: Vec<Vec<f64>>,
    x: Vec<f64>,
}

impl Inputs {
    fn new(kind: FfnKind, tokens: usize) -> Self {
        let shape = match kind {
            FfnKind::Dense => Shape { hidden: 6, inner: 10, experts: 1, clusters: 1, topk: 1, rank: 0 },
            FfnKind::Flat => Shape { hidden: 6, inner: 10, experts: 5, clusters: 1, topk: 2, rank: 0 },
            FfnKind::Full => Shape { hidden: 6, inner: 10, experts: 6, clusters: 2, topk: 2, rank: 0 },
            FfnKind::Clustered => Shape { hidden: 6, inner: 10, experts: 6, clusters: 2, topk: 2, rank: 3 },
        };
        let layer = Layer { kind, shape };
        let mut rng = Rng::new(4);
        // Through f32, so that both sides see the same numbers.
        let mut draw =
            |n: usize| rng.normals(n).iter().map(|&v| f64::from(v as f32 * 0.5)).collect::<Vec<f64>>();
        let weights = layer.weight_shapes().iter().map(|s| draw(s.iter().product())).collect();
        Inputs { layer, tokens, weights, x: draw(tokens * shape.hidden) }
    }

    /// The layer's output added to `y`.
    fn forward(&self, device: &Device, y: f32) -> Vec<f64> {
        let hidden = self.layer.shape.hidden;
        let narrow = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let memory: Vec<Vec<f32>> = self.weights.iter().map(|w| narrow(w)).collect();
        let shapes = self.layer.weight_shapes();
        let weights: Vec<_> = memory.iter().zip(shapes).map(|(m, s)| View::new(m, s).unwrap()).collect();
        let x = narrow(&self.x);
        let mut out = device.zeros::<f32, 2>([self.tokens, hidden]).unwrap();
        out.host_mut().unwrap().fill(y);
        let mut saved = self.layer.saved(device, self.tokens).unwrap();
        let mut ws = Workspace::new(device, &self.layer, self.tokens, false, 0).unwrap();
        let x = View::new(&x, [self.tokens, hidden]).unwrap();
        let pass = Forward { device, router: ROUTER, bias: None, x, y: out.view_mut() };
        self.layer.forward(pass, &weights, &mut saved, &mut ws).unwrap();
        assert_eq!(saved.stats().unwrap().is_none(), self.layer.kind == FfnKind::Dense);
        out.host().unwrap().iter().map(|&v| f64::from(v)).collect()
    }
}

/// `(silu(W1 x) * (W3 x)) W2` with `w13 = [W1; W3]`.
fn swiglu_ffn(w13: &[f64], w2: &[f64], x: &[f64]) -> Vec<f64> {
    let z = product(w13, x);
    let (gate, up) = z.split_at(z.len() / 2);
    let h: Vec<f64> = gate.iter().zip(up).map(|(&g, u)| silu(g) * u).collect();
    product(w2, &h)
}

#[test]
fn dense_is_one_swiglu() {
    let inputs = Inputs::new(FfnKind::Dense, 7);
    let [w13, w2] = &inputs.weights[..] else { panic!("two weights") };
    let want: Vec<f64> = inputs.x.chunks(6).flat_map(|x| swiglu_ffn(w13, w2, x)).map(|v| v + 0.25).collect();
    close("dense", &inputs.forward(&Device::cpu(), 0.25), &want, 1e-5, 1.0);
}

#[test]
fn flat_is_a_weighted_sum_of_the_likeliest_experts() {
    let inputs = Inputs::new(FfnKind::Flat, 9);
    let [router, w13, w2] = &inputs.weights[..] else { panic!("three weights") };
    let mut want = Vec::new();
    for x in inputs.x.chunks(6) {
        let p: Vec<f64> = product(router, x).iter().map(|l| (l / f64::from(TEMPERATURE)).exp()).collect();
        let mut ids: Vec<usize> = (0..5).collect();
        ids.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let kept = p[ids[0]] + p[ids[1]];
        let expert = |e: usize| swiglu_ffn(&w13[e * 120..][..120], &w2[e * 60..][..60], x);
        let outputs = [expert(ids[0]), expert(ids[1])];
        want.extend((0..6).map(|h| (p[ids[0]] * outputs[0][h] + p[ids[1]] * outputs[1][h]) / kept));
    }
    close("flat", &inputs.forward(&Device::cpu(), 0.0), &want, 1e-5, 1.0);
}

#[test]
fn every_rule_is_checked() {
    let device = Device::cpu();
    let layer = Inputs::new(FfnKind::Clustered, 4).layer;
    let tensors: Vec<Tensor<f32, 3>> =
        layer.weight_shapes().into_iter().map(|s| device.zeros(s).unwrap()).collect();
    let weights: Vec<_> = tensors.iter().map(|t| t.view()).collect();
    let forward = |tokens: usize, weights: &[View<'_, f32, 3>], saved_tokens, ws_tokens| {
        let x = device.zeros::<f32, 2>([tokens, 6]).unwrap();
        let mut y = device.zeros::<f32, 2>([tokens, 6]).unwrap();
        let mut saved = layer.saved(&device, saved_tokens).unwrap();
        let mut ws = Workspace::new(&device, &layer, ws_tokens, true, 0).unwrap();
        let pass = Forward { device: &device, router: ROUTER, bias: None, x: x.view(), y: y.view_mut() };
        layer.forward(pass, weights, &mut saved, &mut ws)
    };
    forward(4, &weights, 4, 4).unwrap();
    forward(0, &weights, 4, 4).unwrap();
    forward(3, &weights, 4, 5).unwrap();
    assert_breaks(forward(4, &weights[..4], 4, 4), "shapes == self.weight_shapes()");
    assert_breaks(
        forward(4, &[weights[0], weights[2], weights[1], weights[3], weights[4]], 4, 4),
        "shapes == ",
    );
    assert_breaks(forward(5, &weights, 4, 5), "tokens <= saved");
    assert_breaks(forward(5, &weights, 5, 4), "tokens <= workspace");

    // Saved activations of another form, and gradients that do not match the weights.
    let dense = Inputs::new(FfnKind::Dense, 4).layer;
    let x = device.zeros::<f32, 2>([4, 6]).unwrap();
    let (mut y, mut ws) =
        (device.zeros::<f32, 2>([4, 6]).unwrap(), Workspace::new(&device, &layer, 4, true, 0).unwrap());
    let mut other = dense.saved(&device, 4).unwrap();
    let pass = Forward { device: &device, router: ROUTER, bias: None, x: x.view(), y: y.view_mut() };
    assert_breaks(layer.forward(pass, &weights, &mut other, &mut ws), "of the layer's kind");
    let mut saved = layer.saved(&device, 4).unwrap();
    let (dx, dy) = (&mut y, x.view());
    let pass =
        Backward { device: &device, router: ROUTER, x: x.view(), dy, dx: dx.view_mut(), accumulate: false };
    assert_breaks(layer.backward(pass, &weights, vec![], &mut saved, &mut ws), "of the layer's kind");
}

#[test]
fn a_profiled_device_counts_what_ran() {
    let device = Device::cpu_with_threads(2).unwrap().profiled();
    assert_eq!(device.threads(), 2);
    let inputs = Inputs::new(FfnKind::Dense, 7);
    inputs.forward(&device, 0.0);
    let costs = device.take_profile();
    let names: Vec<&str> = costs.iter().map(|c| c.name).collect();
    assert!(costs.windows(2).all(|c| c[0].seconds >= c[1].seconds), "{costs:?}");
    assert_eq!((names.len(), names.contains(&"grouped_gemm"), names.contains(&"swiglu")), (2, true, true));
    let gemm = costs.iter().find(|c| c.name == "grouped_gemm").unwrap();
    assert_eq!((gemm.calls, gemm.flops), (2, 2 * 7 * 6 * (20 + 10)));
    assert!(device.take_profile().is_empty());
    assert!(Device::cpu().take_profile().is_empty());
}
