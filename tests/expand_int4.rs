//! `ExpandInt4` against the definition with the dequantised factors, and against `Expand` with them.

mod common;

use common::cases::{Routed, routed};
use common::int4::{dequantised, formats, parts, quantise};
use common::oracle::experts::Experts;
use common::{
    Guarded, Rng, all_devices, assert_breaks, devices, identical, near_with, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::{Expand, ExpandInt4};
use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Place, Plan, Result, bf16, f16};

const COLUMNS_32: Int4Format = Int4Format { symmetric: false, block: Int4Block::Columns32 };

/// Inputs of the op; `bp` has rows in cluster order, with the columns of `Expand` in `plain`.
struct Inputs<T> {
    bp: Guarded<T, 2>,
    plain: Guarded<T, 2>,
    factors: [Guarded<T, 3>; 3],
    weight: Guarded<f32, 2>,
    format: Int4Format,
    aligned: bool,
}

impl<T: Elem> Inputs<T> {
    fn new(of: &Experts, format: Int4Format, aligned: bool) -> Self {
        let (case, rng) = (of.case, &mut Rng::new(6));
        let (inner, rank, factors) = (of.inner, of.rank, of.per() * of.rank);
        let plain = Guarded::<T, 2>::normal(rng, [case.tokens, of.bp()], 1.0);
        let mut values = plain.values();
        for (to, from) in values.chunks_exact_mut(of.bp()).zip(plain.values().chunks_exact(of.bp())) {
            for (i, half) in (0..of.per()).flat_map(|i| [(i, 0), (i, 1)]) {
                let begin = 2 * inner + half * factors + i * rank;
                to[begin..begin + rank].copy_from_slice(&from[2 * inner + (2 * i + half) * rank..][..rank]);
            }
        }
        let laid = |of: Guarded<T, 2>| if aligned { of.aligned() } else { of };
        let bp = laid(Guarded::of(&values, [case.tokens, of.bp()]));
        let factors = [(); 3].map(|()| Guarded::normal(rng, [case.clusters, factors, inner], 0.5));
        let weight = Guarded::normal(rng, [case.tokens, case.topk], 1.0);
        Inputs { bp, plain: laid(plain), factors, weight, format, aligned }
    }

    fn packed(&self, device: &Device) -> [Int4Tensor; 3] {
        self.factors
            .each_ref()
            .map(|f| quantise(device, f, Int4Layout::new(f.view().shape(), self.format).unwrap()))
    }

    fn output(&self, of: &Experts) -> Guarded<T, 2> {
        let hq = Guarded::nan([of.case.tokens, of.hq()]);
        if self.aligned { hq.aligned() } else { hq }
    }

    fn run(&self, of: &Experts, device: &Device, plan: &Plan, packed: &[Int4Tensor; 3]) -> Guarded<T, 2> {
        let mut hq = self.output(of);
        let [gate, up, down] = packed.each_ref().map(Int4Tensor::view);
        let (bp, weight) = (self.bp.view_on(device), self.weight.view_on(device));
        device.run(ExpandInt4 { bp, gate, up, down, plan, weight, hq: hq.view_mut_on(device) }).unwrap();
        hq
    }
}

/// The factors of `Expand`: B of gate and up, and A2.
fn plain_factors(of: &Experts, [gate, up, down]: [Vec<f64>; 3]) -> [Vec<f64>; 2] {
    let (inner, rank) = (of.inner, of.rank);
    let mut b = Vec::new();
    for (e, half) in (0..of.case.experts).flat_map(|e| [(e, &gate), (e, &up)]) {
        let at = |j: usize, r: usize| half[(e * rank + r) * inner + j];
        b.extend((0..inner).flat_map(|j| (0..rank).map(move |r| at(j, r))));
    }
    [b, down]
}

fn run_case<T: Elem>(case: &Routed, inner: usize, rank: usize, format: Int4Format, aligned: bool) {
    let (of, mut plan) = (Experts { case, hidden: 1, inner, rank }, case.plan());
    let i = Inputs::<T>::new(&of, format, aligned);
    let name = format!("{} inner {inner} rank {rank} {format:?} {aligned} {:?}", case.name, T::DTYPE);
    for device in all_devices() {
        plan_on(&mut plan, &device);
        let packed = i.packed(&device);
        let values = packed.each_ref().map(|w| dequantised::<T>(w.layout(), &parts(w)));
        let [b, a2] = plain_factors(&of, values);
        let (plain, weight) = (i.plain.values(), i.weight.values());
        let want = of.expand(&plain, &b, &a2, &weight);
        let (spread, _) = of.spread(&plain, &b, &a2, &weight, &vec![0.0; want.len()]);
        // A GPU rounds h to T before it multiplies it by A2: see tests/expand.rs.
        let rounding = if device.place() == Place::Host { 0.0 } else { 3.0 * T::EPS as f64 };
        let more: Vec<f64> = spread.iter().map(|s| s * rounding).collect();
        let got = i.run(&of, &device, &plan, &packed).written();
        near_with::<T>(&name, &got, &want, 64.0, &more);

        // The same products in the same order.
        if device.place() != Place::Host && aligned {
            let b = Guarded::<T, 3>::of(&b, [case.experts, 2 * inner, rank]).aligned();
            let a2 = Guarded::<T, 3>::of(&a2, [case.experts, rank, inner]).aligned();
            let (bp, b, a2) = (i.plain.view_on(&device), b.view_on(&device), a2.view_on(&device));
            let (mut hq, weight, plan) = (i.output(&of), i.weight.view_on(&device), &plan);
            device.run(Expand { bp, b, a2, plan, weight, hq: hq.view_mut_on(&device) }).unwrap();
            identical(&format!("{name} of Expand"), &got, &hq.written());
        }
    }
}

#[test]
fn expands_every_routing_case() {
    for (i, case) in routed(40).iter().enumerate() {
        run_case::<bf16>(case, 40, 16, COLUMNS_32, true);
        match i % 3 {
            0 => run_case::<f32>(case, 19, 3, COLUMNS_32, false),
            1 => run_case::<f16>(case, 24, 8, COLUMNS_32, true),
            _ => run_case::<bf16>(case, 19, 3, COLUMNS_32, false),
        }
    }
}

#[test]
fn every_format_dtype_and_rank() {
    let case = &routed(16)[2];
    for (i, format) in formats().enumerate() {
        run_case::<bf16>(case, 136, 8, format, true);
        match i % 3 {
            0 => run_case::<f16>(case, 72, 16, format, true),
            1 => run_case::<f32>(case, 40, 8, format, true),
            _ => run_case::<bf16>(case, 70, 5, format, false),
        }
    }
    for rank in [1, 8, 16, 17, 24, 64] {
        run_case::<bf16>(case, 48, rank, COLUMNS_32, rank % 8 == 0);
        if rank < 24 {
            run_case::<f16>(case, 33, rank, COLUMNS_32, false);
            run_case::<f32>(case, 32, rank, COLUMNS_32, rank % 8 == 0);
        }
    }
}

#[test]
fn many_tokens_go_in_blocks_of_64_rows() {
    // The second of three clusters is empty.
    let case = Routed::new("many", [4101, 2, 24, 3], &mut Rng::new(3), |t, _| t % 5 / 3 * 2, true);
    run_case::<bf16>(&case, 8, 8, COLUMNS_32, true);
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(300)[11];
    let (of, plan) = (Experts { case, hidden: 1, inner: 600, rank: 3 }, case.plan());
    let inputs = Inputs::<bf16>::new(&of, COLUMNS_32, false);
    same_bits_on_any_threads(|device| {
        let values = inputs.run(&of, device, &plan, &inputs.packed(device)).written();
        values.into_iter().map(f64::to_bits).collect::<Vec<_>>()
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let mut plan = Plan::new(3, 2, 4, 2).unwrap();
    plan.build(&[0, 0, 1], &[0, 1, 1, 0, 2, 3]).unwrap();
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let factor = |s| Int4Tensor::new(device, Int4Layout::new(s, COLUMNS_32).unwrap()).unwrap();
    // For 3 tokens, top-2 of 4 experts in 2 clusters, inner 5, rank 3.
    let run = |bp, hq, weight, gate, up, down| -> Result<()> {
        let (bp, mut hq, weight) = (two(bp), two(hq), two(weight));
        let (gate, up, down) = (factor(gate), factor(up), factor(down));
        device.run(ExpandInt4 {
            bp: bp.view(),
            gate: gate.view(),
            up: up.view(),
            down: down.view(),
            plan: &plan,
            weight: weight.view(),
            hq: hq.view_mut(),
        })
    };
    let f = [2, 6, 5];
    run([3, 22], [3, 11], [3, 2], f, f, f).unwrap();
    assert_breaks(run([3, 22], [3, 11], [3, 2], f, f, [2, 5, 5]), "whole && inner >= 1");
    assert_breaks(run([3, 22], [3, 11], [3, 2], f, f, [2, 0, 5]), "whole && inner >= 1");
    assert_breaks(run([3, 22], [3, 11], [3, 2], f, f, [2, 6, 0]), "whole && inner >= 1");
    assert_breaks(run([3, 22], [3, 11], [3, 2], f, f, [1, 6, 5]), "clusters == plan.clusters()");
    assert_breaks(run([3, 22], [3, 11], [3, 2], [2, 6, 6], f, f), "others == ");
    assert_breaks(run([3, 22], [3, 11], [3, 2], f, [2, 4, 5], f), "others == ");
    assert_breaks(run([3, 21], [3, 11], [3, 2], f, f, f), "bp == ");
    assert_breaks(run([3, 22], [2, 11], [3, 2], f, f, f), "hq == ");
    assert_breaks(run([3, 22], [3, 11], [3, 1], f, f, f), "weight == ");
}
