//! `Expand` and its backward against the definition, slot by slot.

mod common;

use common::cases::{Routed, routed};
use common::oracle::experts::Experts;
use common::oracle::{differences, dot};
use common::{
    Guarded, Rng, all_devices, assert_breaks, devices, near, near_with, norm_wise, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::{Expand, ExpandBackward};
use trimoe::{Device, Elem, Place, Plan, Result, bf16, f16};

const INNER: usize = 19;
const RANK: usize = 3;

/// Inputs of the op; `bp` and `dhq` have rows in cluster order.
struct Inputs<T> {
    aligned: bool,
    bp: Guarded<T, 2>,
    b: Guarded<T, 3>,
    a2: Guarded<T, 3>,
    weight: Guarded<f32, 2>,
    dhq: Guarded<T, 2>,
}

/// What the backward writes.
struct Gradient<T> {
    bp: Guarded<T, 2>,
    b: Guarded<f32, 3>,
    a2: Guarded<f32, 3>,
    weight: Guarded<f32, 2>,
}

fn experts(case: &Routed, inner: usize, rank: usize) -> Experts<'_> {
    Experts { case, hidden: 1, inner, rank }
}

impl<T: Elem> Inputs<T> {
    fn normal(of: &Experts, seed: u64) -> Self {
        let (case, rng) = (of.case, &mut Rng::new(seed));
        Inputs {
            aligned: false,
            bp: Guarded::normal(rng, [case.tokens, of.bp()], 1.0),
            b: Guarded::normal(rng, [case.experts, 2 * of.inner, of.rank], 0.5),
            a2: Guarded::normal(rng, [case.experts, of.rank, of.inner], 0.5),
            weight: Guarded::normal(rng, [case.tokens, case.topk], 1.0),
            dhq: Guarded::normal(rng, [case.tokens, of.hq()], 1.0),
        }
    }

    /// The same, at addresses and strides that are multiples of 16 bytes.
    fn aligned(self) -> Self {
        let Inputs { bp, b, a2, weight, dhq, .. } = self;
        let (b, a2, dhq) = (b.aligned(), a2.aligned(), dhq.aligned());
        Inputs { aligned: true, bp: bp.aligned(), b, a2, weight, dhq }
    }

    /// An output, laid out as the inputs are.
    fn output<E: Elem, const N: usize>(&self, of: Guarded<E, N>) -> Guarded<E, N> {
        if self.aligned { of.aligned() } else { of }
    }

    fn forward(&self, device: &Device, plan: &Plan) -> Guarded<T, 2> {
        self.try_forward(device, plan).unwrap()
    }

    fn try_forward(&self, device: &Device, plan: &Plan) -> Result<Guarded<T, 2>> {
        let mut hq = self.output(Guarded::nan(self.dhq.view().shape()));
        let (bp, b, a2) = (self.bp.view_on(device), self.b.view_on(device), self.a2.view_on(device));
        let weight = self.weight.view_on(device);
        device.run(Expand { bp, b, a2, plan, weight, hq: hq.view_mut_on(device) })?;
        Ok(hq)
    }

    /// Runs the backward with exactly the workspace it asks for, full of NaN; `db` and `da2` start as `start`.
    fn backward(&self, device: &Device, plan: &Plan, start: f64, accumulate: bool) -> Gradient<T> {
        self.try_backward(device, plan, start, accumulate).unwrap()
    }

    fn try_backward(
        &self,
        device: &Device,
        plan: &Plan,
        start: f64,
        accumulate: bool,
    ) -> Result<Gradient<T>> {
        let [experts, rank, inner] = self.a2.view().shape();
        let full = |like: [usize; 3]| Guarded::of(&vec![start; like.iter().product()], like);
        let mut out = Gradient {
            bp: self.output(Guarded::of(&self.bp.values(), self.bp.view().shape())),
            b: full([experts, 2 * inner, rank]),
            a2: full([experts, rank, inner]),
            weight: Guarded::nan(self.weight.view().shape()),
        };
        let need = ExpandBackward::<T>::workspace_len(plan.tokens(), experts, plan.clusters(), inner, rank);
        let mut workspace = Guarded::<f32, 1>::nan([need]);
        let op = ExpandBackward {
            bp: out.bp.view_mut_on(device),
            b: self.b.view_on(device),
            a2: self.a2.view_on(device),
            plan,
            weight: self.weight.view_on(device),
            dhq: self.dhq.view_on(device),
            db: out.b.view_mut_on(device),
            da2: out.a2.view_mut_on(device),
            dweight: out.weight.view_mut_on(device),
            workspace: workspace.view_mut_on(device),
            accumulate,
        };
        device.run(op)?;
        Ok(out)
    }
}

#[test]
fn the_oracle_agrees_with_finite_differences() {
    for case in [&routed(8)[6], &routed(8)[8]] {
        let of = experts(case, 3, 2);
        let i = Inputs::<f32>::normal(&of, 1);
        let [bp, b, a2, weight, dhq] =
            [i.bp.values(), i.b.values(), i.a2.values(), i.weight.values(), i.dhq.values()];
        let d = of.expand_backward(&bp, &b, &a2, &weight, &dhq);
        let loss = |bp: &[f64], b: &[f64], a2: &[f64], w: &[f64]| dot(&dhq, &of.expand(bp, b, a2, w));
        norm_wise("dbp", &d.bp, &differences(&bp, |v| loss(v, &b, &a2, &weight)), 1e-8);
        norm_wise("db", &d.b, &differences(&b, |v| loss(&bp, v, &a2, &weight)), 1e-8);
        norm_wise("da2", &d.a2, &differences(&a2, |v| loss(&bp, &b, v, &weight)), 1e-8);
        norm_wise("dweight", &d.weight, &differences(&weight, |v| loss(&bp, &b, &a2, v)), 1e-8);
    }
}

/// How the inputs of a case lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Odd,
    Aligned,
}
use Layout::{Aligned, Odd};

fn run_case<T: Elem>(case: &Routed, inner: usize, rank: usize, layout: Layout) {
    let (of, mut plan) = (experts(case, inner, rank), case.plan());
    let i = Inputs::<T>::normal(&of, 6);
    let i = if layout == Aligned { i.aligned() } else { i };
    let [bp, b, a2] = [i.bp.values(), i.b.values(), i.a2.values()];
    let [weight, dhq] = [i.weight.values(), i.dhq.values()];
    let want_hq = of.expand(&bp, &b, &a2, &weight);
    let want = of.expand_backward(&bp, &b, &a2, &weight, &dhq);
    let (spread_hq, spread) = of.spread(&bp, &b, &a2, &weight, &dhq);
    let name = format!("{} inner {inner} rank {rank} {layout:?} {:?}", case.name, T::DTYPE);
    for device in all_devices() {
        plan_on(&mut plan, &device);
        // A GPU rounds h and dz to T before it multiplies them by factors; three times the spread of independent errors
        // of at most EPS is more than seven standard deviations.
        let rounding = if device.place() == Place::Host { 0.0 } else { 3.0 * T::EPS as f64 };
        let more = |spread: &[f64]| spread.iter().map(|s| s * rounding).collect::<Vec<_>>();
        let hq = i.forward(&device, &plan).written();
        near_with::<T>(&format!("{name} hq"), &hq, &want_hq, 64.0, &more(&spread_hq));
        zeros_stay_zeros(&of, &hq, of.hq(), inner, 1);
        for (start, accumulate) in [(f64::NAN, false), (0.5, true)] {
            let got = i.backward(&device, &plan, start, accumulate);
            let before = if accumulate { start } else { 0.0 };
            let sum = |d: &[f64]| d.iter().map(|d| before + d).collect::<Vec<_>>();
            let dbp = got.bp.written();
            near_with::<T>(&format!("{name} dbp"), &dbp, &want.bp, 64.0, &more(&spread.bp));
            zeros_stay_zeros(&of, &dbp, of.bp(), 2 * inner, 2);
            let (db, da2) = (got.b.written(), got.a2.written());
            near_with::<f32>(&format!("{name} db"), &db, &sum(&want.b), 64.0, &more(&spread.b));
            near_with::<f32>(&format!("{name} da2"), &da2, &sum(&want.a2), 64.0, &more(&spread.a2));
            near::<f32>(&format!("{name} dweight"), &got.weight.written(), &want.weight, 64.0);
        }
    }
}

/// The columns of experts that a token did not choose are zero: `factors` ranks each, from column `from`.
fn zeros_stay_zeros(of: &Experts, rows: &[f64], width: usize, from: usize, factors: usize) {
    for (row, t) in rows.chunks_exact(width.max(1)).zip(of.rows()) {
        let chosen = &of.case.expert[t * of.case.topk..(t + 1) * of.case.topk];
        for (local, columns) in row[from..].chunks_exact(factors * of.rank).enumerate() {
            let e = of.case.cluster[t] * of.per() as u32 + local as u32;
            assert!(chosen.contains(&e) || columns.iter().all(|&c| c == 0.0), "token {t}, expert {e}");
        }
    }
}

#[test]
fn expands_every_routing_case() {
    for case in routed(128) {
        run_case::<f32>(&case, INNER, RANK, Odd);
        run_case::<bf16>(&case, INNER, RANK, Odd);
    }
    run_case::<f16>(&routed(128)[2], INNER, RANK, Odd);
    for (inner, rank) in [(1, 1), (16, 16), (5, 8), (33, 17)] {
        run_case::<f32>(&routed(128)[2], inner, rank, Odd);
    }
}

#[test]
fn expands_every_routing_case_in_vectors() {
    for case in routed(64) {
        run_case::<bf16>(&case, 40, 16, Aligned);
        run_case::<f16>(&case, 24, 8, Aligned);
    }
    for case in [2, 8, 11] {
        run_case::<f32>(&routed(64)[case], 40, 16, Aligned);
    }
    // A part of a strip, several chunks of ranks, more of them than a block of several warps has room for.
    for (inner, rank) in [(8, 8), (136, 16), (32, 24), (32, 64), (16, 80)] {
        run_case::<bf16>(&routed(16)[2], inner, rank, Aligned);
    }
    run_case::<f32>(&routed(16)[3], 40, 40, Aligned);
}

#[test]
fn many_tokens_go_in_blocks_of_64_rows() {
    let mut rng = Rng::new(3);
    // The second of three clusters is empty.
    let case = Routed::new("many", [4101, 2, 24, 3], &mut rng, |t, _| t % 5 / 3 * 2, true);
    run_case::<bf16>(&case, 8, 8, Aligned);
    run_case::<f16>(&routed(4200)[9], 8, 8, Aligned);
    run_case::<f32>(&routed(4200)[11], 8, 8, Aligned);
}

#[test]
fn clusters_of_several_chunks() {
    // Chunks of the backward have 512 rows, on a CUDA device 1,024 slots: just below, at and above one, and more than
    // two of a cluster.
    for tokens in [512, 1025] {
        routed(tokens)[9..].iter().for_each(|case| run_case::<f32>(case, 5, 2, Odd));
    }
    run_case::<bf16>(&routed(1025)[10], 8, 8, Aligned);
    run_case::<bf16>(&routed(1025)[11], 5, 2, Odd);
}

#[test]
fn experts_without_tokens_get_zeros() {
    let case = routed(128).swap_remove(8);
    let mut plan = case.plan();
    for device in all_devices() {
        plan_on(&mut plan, &device);
        let inputs = Inputs::<f32>::normal(&experts(&case, INNER, RANK), 6);
        let got = inputs.backward(&device, &plan, 7.0, false);
        let len = 3 * INNER * RANK;
        let (db, da2) = (got.b.written(), got.a2.written());
        for e in 0..case.experts {
            let parts = db[e * len / 3 * 2..][..len / 3 * 2].iter().chain(&da2[e * len / 3..][..len / 3]);
            let idle = !case.expert.contains(&(e as u32));
            assert_eq!(parts.copied().all(|d| d == 0.0), idle, "expert {e}");
        }
    }
}

/// The bits of everything that forward and backward write.
fn all_bits<T: Elem>(inputs: &Inputs<T>, device: &Device, plan: &Plan) -> Vec<u64> {
    let d = inputs.backward(device, plan, 0.0, false);
    let parts = [d.bp.written(), d.b.written(), d.a2.written(), d.weight.written()];
    let all = parts.into_iter().chain([inputs.forward(device, plan).written()]);
    all.flat_map(|part| part.into_iter().map(f64::to_bits)).collect()
}

#[test]
fn the_same_every_time() {
    let case = &routed(128)[11];
    let mut plan = case.plan();
    for device in all_devices() {
        plan_on(&mut plan, &device);
        let odd = Inputs::<bf16>::normal(&experts(case, INNER, RANK), 6);
        assert_eq!(all_bits(&odd, &device, &plan), all_bits(&odd, &device, &plan));
        let aligned = Inputs::<bf16>::normal(&experts(case, 72, 16), 6).aligned();
        assert_eq!(all_bits(&aligned, &device, &plan), all_bits(&aligned, &device, &plan));
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(1025)[11];
    let plan = case.plan();
    let inputs = Inputs::<f32>::normal(&experts(case, INNER, RANK), 6);
    same_bits_on_any_threads(|device| all_bits(&inputs, device, &plan));
}

fn two(shape: [usize; 2]) -> Guarded<f32, 2> {
    Guarded::of(&vec![0.0; shape.iter().product()], shape)
}

fn three(shape: [usize; 3]) -> Guarded<f32, 3> {
    Guarded::of(&vec![0.0; shape.iter().product()], shape)
}

/// Shapes of the backward's arguments; the first five, in this order, are those of the forward.
#[derive(Clone)]
struct Shapes {
    bp: [usize; 2],
    hq: [usize; 2],
    weight: [usize; 2],
    b: [usize; 3],
    a2: [usize; 3],
    db: [usize; 3],
    da2: [usize; 3],
    dweight: [usize; 2],
    workspace: usize,
}

/// For 3 tokens, top-2 of 4 experts in 2 clusters, inner 5, rank 3.
const GOOD: Shapes = Shapes {
    bp: [3, 22],
    hq: [3, 11],
    weight: [3, 2],
    b: [4, 10, 3],
    a2: [4, 3, 5],
    db: [4, 10, 3],
    da2: [4, 3, 5],
    dweight: [3, 2],
    workspace: 2 * 2 * 45,
};

impl Shapes {
    fn plan() -> Plan {
        let mut plan = Plan::new(3, 2, 4, 2).unwrap();
        plan.build(&[0, 0, 1], &[0, 1, 1, 0, 2, 3]).unwrap();
        plan
    }

    fn forward(&self) -> Result<()> {
        devices()[0].run(Expand {
            bp: two(self.bp).view(),
            b: three(self.b).view(),
            a2: three(self.a2).view(),
            plan: &Self::plan(),
            weight: two(self.weight).view(),
            hq: two(self.hq).view_mut(),
        })
    }

    fn backward(&self) -> Result<()> {
        devices()[0].run(ExpandBackward {
            bp: two(self.bp).view_mut(),
            b: three(self.b).view(),
            a2: three(self.a2).view(),
            plan: &Self::plan(),
            weight: two(self.weight).view(),
            dhq: two(self.hq).view(),
            db: three(self.db).view_mut(),
            da2: three(self.da2).view_mut(),
            dweight: two(self.dweight).view_mut(),
            workspace: Guarded::<f32, 1>::nan([self.workspace]).view_mut(),
            accumulate: false,
        })
    }
}

#[test]
fn every_rule_is_checked() {
    GOOD.forward().unwrap();
    GOOD.backward().unwrap();
    let shared: [(Shapes, &str); 10] = [
        (Shapes { a2: [4, 0, 5], ..GOOD }, "rank >= 1 && inner >= 1"),
        (Shapes { a2: [4, 3, 0], ..GOOD }, "rank >= 1 && inner >= 1"),
        (Shapes { a2: [3, 3, 5], ..GOOD }, "a2[0] == experts"),
        (Shapes { b: [3, 10, 3], ..GOOD }, "b == [experts, 2 * inner, rank]"),
        (Shapes { b: [4, 10, 2], ..GOOD }, "b == [experts, 2 * inner, rank]"),
        (Shapes { bp: [2, 22], ..GOOD }, "bp == [tokens, 2 * inner + 2 * factors]"),
        (Shapes { bp: [3, 21], ..GOOD }, "bp == [tokens, 2 * inner + 2 * factors]"),
        (Shapes { hq: [3, 10], ..GOOD }, "hq == [tokens, inner + factors]"),
        (Shapes { hq: [4, 11], ..GOOD }, "hq == [tokens, inner + factors]"),
        (Shapes { weight: [3, 1], ..GOOD }, "weight == [tokens, plan.topk()]"),
    ];
    for (shapes, rule) in shared {
        assert_breaks(shapes.forward(), rule);
        assert_breaks(shapes.backward(), rule);
    }
    assert_breaks(Shapes { db: [4, 10, 2], ..GOOD }.backward(), "db == self.b.shape()");
    assert_breaks(Shapes { da2: [4, 3, 4], ..GOOD }.backward(), "da2 == self.a2.shape()");
    assert_breaks(Shapes { dweight: [3, 1], ..GOOD }.backward(), "dweight == self.weight.shape()");
    assert_breaks(Shapes { workspace: 179, ..GOOD }.backward(), "self.workspace.dim(0) >= need");
}

/// Of CUDA devices: slots of a token, and slots of so many ranks.
#[test]
fn every_limit_of_kernels_is_checked() {
    let run = |device: &Device, topk: usize, rank: usize| {
        let (case, inner) = (&Routed::new("", [3, topk, topk, 1], &mut Rng::new(1), |_, _| 0, false), 2);
        let (of, mut plan) = (experts(case, inner, rank), case.plan());
        plan_on(&mut plan, device);
        let inputs = Inputs::<f32>::normal(&of, 1);
        [
            inputs.try_forward(device, &plan).map(drop),
            inputs.try_backward(device, &plan, 0.0, false).map(drop),
        ]
    };
    for device in all_devices().iter().filter(|device| device.place() != Place::Host) {
        run(device, 16, 17).into_iter().chain(run(device, 2, 256)).for_each(Result::unwrap);
        for result in run(device, 17, 1) {
            assert_breaks(result, "topk <= MOST_SLOTS");
        }
        for result in run(device, 16, 33).into_iter().chain(run(device, 1, 513)) {
            assert_breaks(result, "shape.is_some()");
        }
    }
}
