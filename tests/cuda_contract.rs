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
use trimoe::{Device, Elem, Error, bf16, f16};

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
    }
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
