//! What every operation with kernels promises beside its results: the same bits from the same inputs, in a CUDA graph too,
//! and no trouble with no rows. And what an error of a kernel, which comes late, says.
#![cfg(feature = "cuda")]

mod common;

use std::process::Command;

use common::cases::routed;
use common::{Guarded, Rng, all_devices, assert_breaks, plan_on};
use trimoe::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use trimoe::cuda::{Cuda, cudarc};
use trimoe::ops::*;
use trimoe::{
    Device, Elem, Error, Int4Block, Int4Format, Int4Layout, Int4Tensor, Plain, Plan, Segments, Tensor, bf16,
    f16,
};

fn cuda_devices() -> Vec<Device> {
    all_devices().into_iter().filter(|d| d.as_cuda().is_some()).collect()
}

/// What is enqueued by `work`, as a graph. The strictest mode: nothing else of this process may touch the driver.
fn captured(cuda: &Cuda, work: impl FnOnce()) -> cudarc::driver::CudaGraph {
    cuda.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    work();
    cuda.stream().end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap()
}

/// Standard normal values.
fn normal<T: Elem, const N: usize>(seed: u64, shape: [usize; N]) -> Guarded<T, N> {
    Guarded::normal(&mut Rng::new(seed), shape, 1.0)
}

/// `holds!(device; x = .., y = ..; Op { x: x.view_on(device), y: y.view_mut_on(device) })`: runs the operation on these
/// operands, made anew, twice, and then once more and from a graph twice; all bytes must agree.
macro_rules! holds {
    ($device:ident; $($name:ident = $tensor:expr),+; $op:expr) => {{
        #[allow(unused_mut, reason = "some are inputs")]
        let eager = || {
            $(let mut $name = $tensor;)+
            $device.run($op).unwrap();
            vec![$($name.bytes()),+]
        };
        let want = eager();
        assert_eq!(eager(), want, "{} at {}: run again", stringify!($op), line!());

        #[allow(unused_mut, reason = "some are inputs")]
        {
            $(let mut $name = $tensor;)+
            $device.run($op).unwrap();
            $($name.reset();)+
            let before = vec![$($name.bytes()),+];
            let graph = captured($device.as_cuda().unwrap(), || $device.run($op).unwrap());
            assert_eq!(vec![$($name.bytes()),+], before, "{}: ran while captured", line!());
            for _ in 0..2 {
                $($name.reset();)+
                graph.launch().unwrap();
                assert_eq!(vec![$($name.bytes()),+], want, "{} at {}: from a graph", stringify!($op), line!());
            }
        }
    }};
}

/// Operations on rows.
fn rows_hold<T: Elem>(d: &Device, rows: usize, hidden: usize) {
    let (seq, vocab) = (rows.max(1), 7);
    let m = |seed| normal::<T, 2>(seed, [rows, hidden]);
    let ids = || Guarded::ids(&(0..rows as u32).map(|p| p * p % vocab as u32).collect::<Vec<_>>());
    let nan = || Guarded::<T, 2>::nan([rows, hidden]);
    let column = || Guarded::<f32, 1>::nan([rows]);
    let logits = || normal::<T, 2>(1, [rows, vocab]);
    let room = || Guarded::<f32, 1>::nan([RmsNormBackward::<T>::workspace_len(rows, hidden)]);
    holds!(d; x = m(1), y = nan(); Copy { x: x.view_on(d), y: y.view_mut_on(d) });
    holds!(d; x = m(1), y = m(2); Add { x: x.view_on(d), y: y.view_mut_on(d) });
    let heads = hidden / 4;
    holds!(d; x = m(1); Rope { x: x.view_mut_on(d), heads, seq, theta: 1e4, inverse: false });
    holds!(d; x = m(1), gain = normal::<T, 1>(2, [hidden]), y = nan(), inv_rms = column();
        RmsNorm { x: x.view_on(d), gain: gain.view_on(d), eps: 1e-5, y: y.view_mut_on(d),
            inv_rms: inv_rms.view_mut_on(d) });
    holds!(d; dy = m(1), x = m(2), gain = normal::<T, 1>(3, [hidden]), inv_rms = normal::<f32, 1>(4, [rows]),
        dx = m(5), dgain = normal::<f32, 1>(6, [hidden]), workspace = room();
        RmsNormBackward { dy: dy.view_on(d), x: x.view_on(d), gain: gain.view_on(d), inv_rms: inv_rms.view_on(d),
            dx: dx.view_mut_on(d), accumulate_dx: true, dgain: dgain.view_mut_on(d), accumulate: true,
            workspace: workspace.view_mut_on(d) });
    holds!(d; ids = ids(), table = normal::<T, 2>(1, [vocab, hidden]), y = nan();
        Embedding { ids: ids.view_on(d), table: table.view_on(d), scale: 0.3, y: y.view_mut_on(d) });
    holds!(d; ids = ids(), dy = m(1), dtable = normal::<f32, 2>(2, [vocab, hidden]);
        EmbeddingBackward { ids: ids.view_on(d), dy: dy.view_on(d), scale: 0.3, dtable: dtable.view_mut_on(d) });
    holds!(d; logits = logits(), targets = ids(), loss = column();
        NegLogLikelihood { logits: logits.view_on(d), targets: targets.view_on(d), loss: loss.view_mut_on(d) });
    holds!(d; logits = logits(), targets = ids(), loss = column();
        CrossEntropy { logits: logits.view_mut_on(d), targets: targets.view_on(d), scale: 0.3,
            loss: loss.view_mut_on(d) });
}

/// Operations on rows in a plan's order.
fn plans_hold<T: Elem>(d: &Device, hidden: usize) {
    for case in &routed(64)[..4] {
        let mut plan = case.plan();
        plan_on(&mut plan, d);
        let order = plan.by_expert();
        let (tokens, rows, fan) = (case.tokens, order.rows(), order.fan());
        let weight = || normal::<f32, 2>(9, [tokens, fan]);
        let dweight = || Guarded::<f32, 2>::nan([tokens, fan]);
        holds!(d; x = normal::<T, 2>(1, [tokens, hidden]), y = Guarded::<T, 2>::nan([rows, hidden]);
            Permute { x: x.view_on(d), order, y: y.view_mut_on(d) });
        holds!(d; x = normal::<T, 2>(1, [rows, hidden]), weight = weight(), y = normal::<T, 2>(2, [tokens, hidden]);
            Combine { x: x.view_on(d), order, weight: Some(weight.view_on(d)), y: y.view_mut_on(d),
                accumulate: true });
        holds!(d; dy = normal::<T, 2>(1, [tokens, hidden]), x = normal::<T, 2>(2, [rows, hidden]),
            weight = weight(), dx = Guarded::<T, 2>::nan([rows, hidden]), dweight = dweight();
            CombineBackward { dy: dy.view_on(d), x: x.view_on(d), order, weight: weight.view_on(d),
                dx: dx.view_mut_on(d), dweight: dweight.view_mut_on(d) });
        holds!(d; z = normal::<T, 2>(1, [rows, 2 * hidden]), weight = weight(),
            h = Guarded::<T, 2>::nan([rows, hidden]);
            SwiGlu { z: z.view_on(d), weights: Some(SlotWeights { weight: weight.view_on(d), order }),
                h: h.view_mut_on(d) });
        holds!(d; z = normal::<T, 2>(1, [rows, 2 * hidden]), dh = normal::<T, 2>(2, [rows, hidden]),
            weight = weight(), dweight = dweight();
            SwiGluBackward { z: z.view_mut_on(d), dh: dh.view_mut_on(d),
                weights: Some(SlotWeights { weight: weight.view_on(d), order }),
                dweight: Some(dweight.view_mut_on(d)) });
    }
}

/// Products of segments and what clustered experts do beside them; 16-byte rows at `hidden` 16, others at 20.
fn experts_hold<T: Elem>(d: &Device, hidden: usize) {
    const RANK: usize = 4;
    for case in &routed(64)[..4] {
        let mut plan = case.plan();
        plan_on(&mut plan, d);
        let plan = &plan;
        let (tokens, experts, clusters) = (case.tokens, plan.experts(), plan.clusters());
        let (segments, inner) = (plan.by_cluster().segments(), hidden + 8);
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
        let factors = experts / clusters * RANK;
        let (b, a2) = (
            || normal::<T, 3>(5, [experts, 2 * hidden, RANK]),
            || normal::<T, 3>(6, [experts, RANK, hidden]),
        );
        let weight = || normal::<f32, 2>(7, [tokens, plan.topk()]);
        let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
        let mut packed =
            Int4Tensor::new(d, Int4Layout::new([clusters, factors, hidden], format).unwrap()).unwrap();
        let f = normal::<T, 3>(11, [clusters, factors, hidden]);
        d.run(QuantizeInt4 { x: f.view_on(d).into(), w: packed.view_mut() }).unwrap();
        let (gate, up, down) = (packed.view(), packed.view(), packed.view());
        holds!(d; x = m(1, hidden), w = w(), y = Guarded::<T, 2>::nan([tokens, inner + 2 * factors]);
            GroupedGemmInt4Rows { x: x.view_on(d), w: w.view_on(d), factors: [gate, up], segments,
                y: y.view_mut_on(d) });
        holds!(d; x = m(1, inner + factors), w = normal::<T, 3>(2, [clusters, hidden, inner]),
            y = Guarded::<T, 2>::nan([tokens, hidden]);
            GroupedGemmInt4Columns { x: x.view_on(d), w: w.view_on(d), factor: down, segments,
                y: y.view_mut_on(d) });
        holds!(d; bp = m(4, 2 * (hidden + factors)), weight = weight(),
            hq = Guarded::<T, 2>::nan([tokens, hidden + factors]);
            ExpandInt4 { bp: bp.view_on(d), gate, up, down, plan, weight: weight.view_on(d),
                hq: hq.view_mut_on(d) });
        holds!(d; bp = m(4, 2 * (hidden + factors)), b = b(), a2 = a2(), weight = weight(),
            hq = Guarded::<T, 2>::nan([tokens, hidden + factors]);
            Expand { bp: bp.view_on(d), b: b.view_on(d), a2: a2.view_on(d), plan, weight: weight.view_on(d),
                hq: hq.view_mut_on(d) });
        holds!(d; bp = m(4, 2 * (hidden + factors)), b = b(), a2 = a2(), weight = weight(),
            dhq = m(8, hidden + factors), db = normal::<f32, 3>(9, [experts, 2 * hidden, RANK]),
            da2 = normal::<f32, 3>(10, [experts, RANK, hidden]),
            dweight = Guarded::<f32, 2>::nan([tokens, plan.topk()]),
            workspace = Guarded::<f32, 1>::nan(
                [ExpandBackward::<T>::workspace_len(tokens, experts, clusters, hidden, RANK)]);
            ExpandBackward { bp: bp.view_mut_on(d), b: b.view_on(d), a2: a2.view_on(d), plan,
                weight: weight.view_on(d), dhq: dhq.view_on(d), db: db.view_mut_on(d), da2: da2.view_mut_on(d),
                dweight: dweight.view_mut_on(d), workspace: workspace.view_mut_on(d), accumulate: true });
        holds!(d; x = m(1, hidden), mu = normal::<f32, 2>(2, [experts, hidden]);
            CentroidEma { x: x.view_on(d), order: plan.by_expert(), beta: 0.1, mu: mu.view_mut_on(d) });
    }
}

/// Causal attention, and the similarity of experts.
fn squares_hold<T: Elem>(d: &Device, head_dim: usize) {
    const HEADS: usize = 2;
    let (seq, hidden) = (33, HEADS * head_dim);
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
    let shape = [9, 3, head_dim];
    holds!(d; x = normal::<T, 3>(1, shape), gram = Guarded::square_of(&[0.5; 81], 9),
        workspace = Guarded::room(Gram::<T>::workspace_len(shape));
        Gram { x: x.view_on(d), gram: gram.view_mut_on(d), workspace: workspace.view_mut_on(d), accumulate: true });
}

/// Runs `work`, which leaves its results in tensors of its own, twice and from a graph; `read` gives their bytes.
fn repeats<S>(d: &Device, mut state: S, work: impl Fn(&Device, &mut S), read: impl Fn(&S) -> Vec<Vec<u8>>) {
    work(d, &mut state);
    let want = read(&state);
    work(d, &mut state);
    assert_eq!(read(&state), want, "run again");
    let graph = captured(d.as_cuda().unwrap(), || work(d, &mut state));
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_eq!(read(&state), want, "from a graph");
    }
}

fn bytes<E: Plain, const N: usize>(tensor: &Tensor<E, N>) -> Vec<u8> {
    bytemuck::cast_slice(&tensor.to_vec().unwrap()).to_vec()
}

/// Routing, and the plan of what was routed: all on the device, without a look at it from the host.
fn routes_hold<T: Elem>(d: &Device, tokens: usize, [experts, clusters, topk]: [usize; 3]) {
    const HIDDEN: usize = 24;
    let logits = experts + if clusters > 1 { clusters } else { 0 };
    let (x, w) = (normal::<T, 2>(1, [tokens, HIDDEN]), normal::<T, 2>(2, [logits, HIDDEN]));
    let dweight = normal::<f32, 2>(3, [tokens, topk]);
    let routing = Routing::new(d, tokens, topk, experts, clusters).unwrap();
    let plan = Plan::on(d, tokens, topk, experts, clusters).unwrap();
    let room: Tensor<f32, 1> = d.zeros([Route::<T>::workspace_len(tokens, experts, clusters)]).unwrap();
    let dlogits: Tensor<f32, 2> = d.zeros([tokens, logits]).unwrap();
    let (dx, dw): (Tensor<T, 2>, Tensor<f32, 2>) =
        (d.zeros([tokens, HIDDEN]).unwrap(), d.zeros([logits, HIDDEN]).unwrap());
    let work = |d: &Device, (routing, plan, room, dlogits, dx, dw): &mut (Routing, Plan, _, _, _, _)| {
        let (x, w, temperature, mode) = (x.view_on(d), w.view_on(d), 0.9, RouteMode::TwoStage);
        let workspace = Tensor::view_mut(room);
        d.run(Route { x, w, bias: None, temperature, mode, routing, workspace }).unwrap();
        let (cluster, expert) = (routing.cluster.view(), routing.expert.view());
        d.run(BuildPlan { cluster, expert, plan }).unwrap();
        let dlogits = Tensor::view_mut(dlogits);
        // The gradient is added to dx: start it anew.
        d.run(Copy { x, y: Tensor::view_mut(dx) }).unwrap();
        let (dx, dw) = (Tensor::view_mut(dx), Tensor::view_mut(dw));
        let (loss, dweight) = (RouteLoss { balance: 0.1, z: 0.01 }, dweight.view_on(d));
        let routing = &*routing;
        d.run(RouteBackward {
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
            accumulate: false,
        })
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

/// INT4 weights: quantised, written out, multiplied with.
fn int4_holds<T: Elem>(d: &Device, shape: [usize; 3]) {
    let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
    let rows = 5;
    let (x, w) = (normal::<T, 2>(1, [rows, shape[2]]), normal::<T, 3>(2, shape));
    let packed = Int4Tensor::new(d, Int4Layout::new(shape, format).unwrap()).unwrap();
    let (written, y): (Tensor<T, 3>, Tensor<T, 2>) =
        (d.zeros(shape).unwrap(), d.zeros([rows, shape[1]]).unwrap());
    let room: Tensor<f32, 1> = d.zeros([Int4Gemm::<T>::workspace_len(rows, shape)]).unwrap();
    let work = |d: &Device, (packed, written, y, room): &mut (Int4Tensor, _, _, _)| {
        d.run(QuantizeInt4 { x: w.view_on(d).into(), w: packed.view_mut() }).unwrap();
        d.run(DequantizeInt4 { w: packed.view(), y: Tensor::view_mut(written).into() }).unwrap();
        let (x, w, segments, y) = (x.view_on(d), packed.view(), Segments::Whole(rows), Tensor::view_mut(y));
        d.run(Int4Gemm { x, w, segments, y, workspace: Tensor::view_mut(room), accumulate: false }).unwrap();
    };
    repeats(d, (packed, written, y, room), work, |(packed, written, y, _)| {
        let (codes, scale, zero) = packed.parts();
        vec![bytes(codes), bytes(scale), bytes(zero), bytes(written), bytes(y)]
    });
}

/// What an optimiser step does, on tensors without shape.
fn steps_hold<T: Elem>(d: &Device, len: usize) {
    let v = |seed| normal::<f32, 1>(seed, [len]);
    holds!(d; a = v(1), b = v(2), norm = Guarded::<f32, 1>::nan([1]),
        workspace = Guarded::room(GlobalNorm::workspace_len([len, len]));
        GlobalNorm { grads: vec![a.view_on(d), b.view_on(d)], norm: norm.view_mut_on(d),
            workspace: workspace.view_mut_on(d) });
    holds!(d; weight = v(1), grad = v(2), m = v(3), v = Guarded::of(&vec![0.5; len], [len]),
        stored = Guarded::<T, 1>::nan([len]), norm = Guarded::<f32, 1>::of(&[3.0], [1]);
        AdamW { weight: weight.view_mut_on(d), grad: grad.view_on(d), m: m.view_mut_on(d), v: v.view_mut_on(d),
            stored: Some(stored.view_mut_on(d)), lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1,
            step: 3, norm: norm.view_on(d), max_norm: 1.0 });
}

fn all_hold<T: Elem>(d: &Device) {
    for hidden in [16, 20] {
        rows_hold::<T>(d, 0, hidden);
        rows_hold::<T>(d, 37, hidden);
        plans_hold::<T>(d, hidden);
        experts_hold::<T>(d, hidden);
        squares_hold::<T>(d, hidden);
    }
    routes_hold::<T>(d, 37, [12, 3, 2]);
    routes_hold::<T>(d, 1100, [8, 1, 2]); // a plan of more than one block
    int4_holds::<T>(d, [1, 40, 96]);
    [0, 16, 33_001].into_iter().for_each(|len| steps_hold::<T>(d, len));
}

/// In one test: a capture in the strictest mode is alone with the driver. It starts with one on a device that has loaded
/// nothing.
#[test]
fn every_operation_repeats_and_replays_to_the_bit() {
    for device in cuda_devices() {
        let cuda = device.as_cuda().unwrap();
        let (x, mut y) = (normal::<f32, 2>(1, [2, 3]), normal::<f32, 2>(2, [2, 3]));
        let (x, mut y) = (x.view_on(&device), y.view_mut_on(&device));
        captured(cuda, || {
            let result = device.run(Copy { x, y: y.reborrow() });
            assert_breaks(result, "before it is captured");
        });
        device.run(Copy { x, y: y.reborrow() }).unwrap();
        captured(cuda, || device.run(Copy { x, y }).unwrap());

        all_hold::<f32>(&device);
        all_hold::<bf16>(&device);
        all_hold::<f16>(&device);
    }
}

/// Set in the process whose third launch fails.
const CHILD: &str = "TRIMOE_TEST_FAILING_LAUNCH";

/// A fault that softgpu is told to inject: only a process of its own can be told. This one leaves the driver alone, for
/// the sake of the captures beside it.
#[test]
fn an_error_of_a_kernel_names_the_operations_it_may_be_of() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_failing_process", "--nocapture"])
        .envs([("SOFTGPU_FAULT", "launch:3"), ("SOFTGPU_QUIET", "1"), (CHILD, "1")])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// Run by the test above; on a GPU nothing fails.
#[test]
fn the_failing_process() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let software = |d: &Device| d.as_cuda().unwrap().name().unwrap().starts_with("softgpu");
    let Some(device) = cuda_devices().into_iter().find(software) else { return };
    let cuda = device.as_cuda().unwrap();
    let (x, mut y, mut z) = (normal::<f32, 2>(1, [2, 4]), normal(2, [2, 4]), normal::<f32, 2>(3, [2, 4]));
    let (mut norm, mut room) = (Guarded::<f32, 1>::nan([1]), Guarded::room(0));
    let (x, mut y, z) = (x.view_on(&device), y.view_mut_on(&device), z.view_mut_on(&device));
    let (norm, workspace) = (norm.view_mut_on(&device), room.view_mut_on(&device));
    device.run(Add { x, y: y.reborrow() }).unwrap();
    cuda.synchronize().unwrap();
    // Of the next three the second fails; the one before the wait is known not to have.
    device.run(GlobalNorm { grads: vec![], norm, workspace }).unwrap();
    device.run(Copy { x, y }).unwrap();
    let rope = device.run(Rope { x: z, heads: 1, seq: 2, theta: 1e4, inverse: false });
    let error = rope.and_then(|()| cuda.synchronize()).unwrap_err();
    let text = error.to_string();
    let Error::Cuda { after, .. } = error else { panic!("{text}") };
    assert_eq!(after, ["global_norm", "copy", "rope"]);
    assert!(text.ends_with("; enqueued before: global_norm, copy, rope"), "{text}");
}
