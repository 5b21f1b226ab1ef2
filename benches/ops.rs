//! Microbenchmarks of the operations, forward and backward, over named shapes: `cargo bench --bench ops`.
//!
//! One table of (operation, shape). Criterion prints the time; the throughput of products is in FLOP ("elem"
//! is one floating-point operation), that of everything else in bytes.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trimoe::ops::{
    Attention, CentroidEma, Combine, Expand, Gram, GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad, Permute,
    RmsNorm, Route, RouteMode, Routing, SwiGlu,
};
use trimoe::{Device, Plan, Segments, Tensor};

/// A named layer shape.
struct Shape {
    name: &'static str,
    tokens: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    clusters: usize,
    topk: usize,
    rank: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "small",
        tokens: 2048,
        hidden: 256,
        inner: 768,
        experts: 32,
        clusters: 4,
        topk: 2,
        rank: 16,
    },
    Shape {
        name: "base",
        tokens: 1024,
        hidden: 768,
        inner: 3072,
        experts: 32,
        clusters: 4,
        topk: 2,
        rank: 16,
    },
];

/// Values that are neither equal nor denormal, the same on every run.
fn fill<const N: usize>(device: &Device, shape: [usize; N]) -> Tensor<f32, N> {
    let mut tensor = device.zeros(shape).expect("memory");
    let wave = |(i, v): (usize, &mut f32)| *v = ((i as f32) * 0.7311).sin() * 0.1;
    tensor.host_mut().expect("host memory").iter_mut().enumerate().for_each(wave);
    tensor
}

/// An even, interleaved routing.
fn plan(s: &Shape) -> (Plan, Tensor<f32, 2>) {
    let per = s.experts / s.clusters;
    let cluster: Vec<u32> = (0..s.tokens).map(|t| (t * 7 % s.clusters) as u32).collect();
    let choose =
        |(t, &g): (usize, &u32)| (0..s.topk).map(move |k| g * per as u32 + ((t / 3 + k) % per) as u32);
    let expert: Vec<u32> = cluster.iter().enumerate().flat_map(choose).collect();
    let mut plan = Plan::new(s.tokens, s.topk, s.experts, s.clusters).expect("a valid shape");
    plan.build(&cluster, &expert).expect("valid choices");
    (plan, fill(&Device::cpu(), [s.tokens, s.topk]))
}

/// One row of the table: `run` is timed, `work` is its FLOPs or bytes.
fn row(
    group: &mut BenchmarkGroup<'_, WallTime>,
    op: &str,
    shape: &str,
    work: Throughput,
    mut run: impl FnMut(),
) {
    group.throughput(work);
    group.bench_function(BenchmarkId::new(op, shape), |b| b.iter(&mut run));
}

fn ops(c: &mut Criterion) {
    let device = Device::cpu();
    let mut group = c.benchmark_group("ops");
    group.sample_size(10);
    for s in &SHAPES {
        let (plan, weight) = plan(s);
        let factors = s.experts / s.clusters * s.rank;
        let (order, segments) = (plan.by_cluster(), plan.by_cluster().segments());
        let (wide, narrow) = (2 * s.inner + 2 * factors, s.inner + factors);
        let x = fill(&device, [s.tokens, s.hidden]);
        let mut xs = fill(&device, [s.tokens, s.hidden]);
        let w13 = fill(&device, [s.clusters, wide, s.hidden]);
        let mut dw = fill(&device, [s.clusters, wide, s.hidden]);
        let (b, a2) =
            (fill(&device, [s.experts, 2 * s.inner, s.rank]), fill(&device, [s.experts, s.rank, s.inner]));
        let mut bp = fill(&device, [s.tokens, wide]);
        let mut hq = fill(&device, [s.tokens, narrow]);
        let floats = |n: usize| Throughput::Bytes(4 * n as u64);
        let product = Throughput::Elements(2 * (s.tokens * wide * s.hidden) as u64);
        let rows = 2 * s.tokens * s.hidden;

        row(&mut group, "permute", s.name, floats(rows), || {
            device.run(Permute { x: x.view(), order, y: xs.view_mut() }).expect("permute");
        });
        row(&mut group, "combine", s.name, floats(rows), || {
            let op = Combine { x: x.view(), order, weight: None, y: xs.view_mut(), accumulate: false };
            device.run(op).expect("combine");
        });
        let mut mu = fill(&device, [s.experts, s.hidden]);
        row(&mut group, "centroid_ema", s.name, floats(s.tokens * s.topk * s.hidden), || {
            let (x, order, mu) = (x.view(), plan.by_expert(), mu.view_mut());
            device.run(CentroidEma { x, order, beta: 0.05, mu }).expect("centroid_ema");
        });
        row(&mut group, "grouped_gemm", s.name, product.clone(), || {
            let op =
                GroupedGemm { x: x.view(), w: w13.view(), segments, y: bp.view_mut(), accumulate: false };
            device.run(op).expect("grouped_gemm");
        });
        row(&mut group, "grouped_gemm_dgrad", s.name, product.clone(), || {
            let op = GroupedGemmDgrad {
                dy: bp.view(),
                w: w13.view(),
                segments,
                dx: xs.view_mut(),
                accumulate: false,
            };
            device.run(op).expect("grouped_gemm_dgrad");
        });
        row(&mut group, "grouped_gemm_wgrad", s.name, product.clone(), || {
            let op = GroupedGemmWgrad {
                dy: bp.view(),
                x: x.view(),
                segments,
                dw: dw.view_mut(),
                accumulate: false,
            };
            device.run(op).expect("grouped_gemm_wgrad");
        });
        let residual = Throughput::Elements(2 * (s.tokens * s.topk * 3 * s.rank * s.inner) as u64);
        row(&mut group, "expand", s.name, residual, || {
            let op = Expand {
                bp: bp.view(),
                b: b.view(),
                a2: a2.view(),
                plan: &plan,
                weight: weight.view(),
                hq: hq.view_mut(),
            };
            device.run(op).expect("expand");
        });
        let z = fill(&device, [s.tokens, 2 * s.inner]);
        let mut h = fill(&device, [s.tokens, s.inner]);
        row(&mut group, "swiglu", s.name, floats(3 * s.tokens * s.inner), || {
            device.run(SwiGlu { z: z.view(), weights: None, h: h.view_mut() }).expect("swiglu");
        });
        let router = fill(&device, [s.clusters + s.experts, s.hidden]);
        let mut routing = Routing::new(&device, s.tokens, s.topk, s.experts, s.clusters).expect("memory");
        let logits = Throughput::Elements(2 * (s.tokens * (s.clusters + s.experts) * s.hidden) as u64);
        let room = Route::<f32>::workspace_len(s.tokens, s.experts, s.clusters);
        let mut workspace = device.zeros([room]).expect("memory");
        row(&mut group, "route", s.name, logits, || {
            let op = Route {
                x: x.view(),
                w: router.view(),
                bias: None,
                temperature: 1.0.into(),
                mode: RouteMode::TwoStage,
                routing: &mut routing,
                workspace: workspace.view_mut(),
            };
            device.run(op).expect("route");
        });
        let gain = fill(&device, [s.hidden]);
        let mut inv_rms = fill(&device, [s.tokens]);
        row(&mut group, "rms_norm", s.name, floats(rows), || {
            let (y, inv_rms) = (xs.view_mut(), inv_rms.view_mut());
            device.run(RmsNorm { x: x.view(), gain: gain.view(), eps: 1e-5, y, inv_rms }).expect("rms_norm");
        });
        let (heads, seq) = (s.hidden / 64, 256);
        let qkv = fill(&device, [s.tokens, 3 * s.hidden]);
        let mut lse = fill(&device, [heads, s.tokens]);
        // Half of the square of scores, two products each.
        let causal = Throughput::Elements(2 * (s.tokens * seq * s.hidden) as u64);
        row(&mut group, "attention", s.name, causal, || {
            let op = Attention { qkv: qkv.view(), heads, seq, out: xs.view_mut(), lse: lse.view_mut() };
            device.run(op).expect("attention");
        });
    }
    let (experts, length) = (32, 1 << 18);
    let x = fill(&device, [experts, 1, length]);
    let mut gram = device.zeros([experts, experts]).expect("memory");
    let mut room = device.zeros([Gram::<f32>::workspace_len(x.shape())]).expect("memory");
    row(&mut group, "gram", "32 x 256 Ki", Throughput::Elements((experts * experts * length) as u64), || {
        let (x, gram, workspace) = (x.view(), gram.view_mut(), room.view_mut());
        device.run(Gram { x, gram, workspace, accumulate: false }).expect("gram");
    });
    let (m, n, k) = (1024, 1024, 1024);
    let (x, w, mut y) = (fill(&device, [m, k]), fill(&device, [1, n, k]), fill(&device, [m, n]));
    row(&mut group, "gemm", "1024", Throughput::Elements(2 * (m * n * k) as u64), || {
        let segments = Segments::Whole(m);
        let op = GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false };
        device.run(op).expect("gemm");
    });
    group.finish();
}

criterion_group!(benches, ops);
criterion_main!(benches);
