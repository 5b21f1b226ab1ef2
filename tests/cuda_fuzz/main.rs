//! Random shapes, strides, offsets and plans through every operation that has a CUDA kernel, against the CPU.
//!
//! Loose where each operation's own test is exact: what is sought here is the combination nobody thought of. On softgpu
//! every access is checked besides.
#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;

mod experts;
mod int4;
mod rows;

use common::coverage::{every_op, missing, ran, run};
use common::{Guarded, Rng, all_devices, norm_wise};
use trimoe::ops::BuildPlan;
use trimoe::{Device, Elem, Plan, bf16, f16};

/// Times that each operation runs in each dtype.
const ROUNDS: u64 = 12;

/// An operation with arguments drawn from the generator; its outputs. The same arguments on every device.
type Case = fn(&Device, &mut Rng) -> Vec<Vec<f64>>;

macro_rules! cases {
    ($($file:ident: $($case:ident)+);+) => {
        [$($((stringify!($case), [$file::$case::<f32> as Case, $file::$case::<bf16>, $file::$case::<f16>])),+),+]
    };
}

#[test]
fn every_kernel_agrees_with_the_cpu_on_anything() {
    let devices = all_devices();
    let [cpu, cuda] = &devices[..] else { return };
    let cases = cases!(
        rows: add adamw attention attention_step centroid_ema combine copy cross_entropy embedding global_norm nll permute rms_norm
            rope swiglu;
        experts: expand grouped_gemm residual_gram route similarity;
        int4: int4 int4_gemm packed_experts
    );
    for seed in 0..ROUNDS {
        for (name, dtypes) in &cases {
            for (dtype, case) in dtypes.iter().enumerate() {
                let seed = 1000 * seed + dtype as u64;
                let want = case(cpu, &mut Rng::new(seed));
                let got = case(cuda, &mut Rng::new(seed));
                assert_eq!(got.len(), want.len());
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    norm_wise(&format!("{name} seed {seed} output {i}"), got, want, 1e-2);
                }
            }
        }
    }
    assert_eq!(missing(every_op(), &ran()), [""; 0], "no operation is forgotten");
}

/// A number of rows: few, or around the sizes that kernels cut at, or none.
fn rows(rng: &mut Rng) -> usize {
    match rng.below(12) {
        0 => 0,
        1..6 => 1 + rng.below(12),
        6..9 => [31, 32, 33, 63, 64, 65][rng.below(6)],
        _ => rng.below(80),
    }
}

/// A number of columns: any, or whole vectors of 16 bytes.
fn columns(rng: &mut Rng) -> usize {
    if rng.below(2) == 0 { 1 + rng.below(70) } else { 8 * (1 + rng.below(20)) }
}

/// Margins around a tensor: any, or whole vectors of 16 bytes.
fn moved<T: Elem, const N: usize>(rng: &mut Rng, tensor: Guarded<T, N>) -> Guarded<T, N> {
    let mut margin = || if rng.below(3) == 0 { rng.below(20) } else { 8 * rng.below(3) };
    tensor.moved(margin(), margin())
}

/// Nothing, of as many bytes as an operation wants.
fn room(rng: &mut Rng, len: usize) -> Guarded<f32, 1> {
    nan(rng, [len])
}

fn normal<T: Elem, const N: usize>(rng: &mut Rng, shape: [usize; N]) -> Guarded<T, N> {
    let values = Guarded::normal(rng, shape, 1.0);
    moved(rng, values)
}

fn nan<T: Elem, const N: usize>(rng: &mut Rng, shape: [usize; N]) -> Guarded<T, N> {
    moved(rng, Guarded::nan(shape))
}

fn ids(rng: &mut Rng, count: usize, below: usize) -> Guarded<u32, 1> {
    let ids: Vec<u32> = (0..count).map(|_| rng.below(below) as u32).collect();
    Guarded::ids(&ids).moved(rng.below(5), 0)
}

/// A plan built on the device; one batch in four goes to one cluster.
fn plan(device: &Device, rng: &mut Rng) -> Plan {
    let (tokens, clusters, per) = (rows(rng), 1 + rng.below(4), 1 + rng.below(6));
    let topk = 1 + rng.below(per.min(4));
    let crowded = rng.below(4) == 0;
    let cluster: Vec<u32> =
        (0..tokens).map(|_| if crowded { 0 } else { rng.below(clusters) as u32 }).collect();
    let mut expert = Vec::new();
    for g in &cluster {
        let start = rng.below(per);
        expert.extend((0..topk).map(|s| g * per as u32 + ((start + s) % per) as u32));
    }
    let mut plan = Plan::on(device, tokens, topk, clusters * per, clusters).unwrap();
    let (mut c, mut e) = (device.zeros([tokens]).unwrap(), device.zeros([tokens, topk]).unwrap());
    c.copy_from(&cluster).unwrap();
    e.copy_from(&expert).unwrap();
    run(device, BuildPlan { cluster: c.view(), expert: e.view(), plan: &mut plan }).unwrap();
    plan.status().unwrap();
    plan
}
