//! `ResidualGram` against the products of matrices that are written out, and against `Gram` of them.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, same_bits_on_any_threads,
};
use trimoe::ops::{Gram, ResidualGram};
use trimoe::{Device, Elem, Place, bf16, f16};

#[derive(Clone, Copy, Debug)]
struct Sizes {
    experts: usize,
    clusters: usize,
    rank: usize,
    inner: usize,
    hidden: usize,
}

struct Weights<T> {
    w13: Guarded<T, 3>,
    w2: Guarded<T, 3>,
    b: Guarded<T, 3>,
    a2: Guarded<T, 3>,
}

impl<T: Elem> Weights<T> {
    fn normal(s: Sizes, seed: u64) -> Self {
        let (rng, factors) = (&mut Rng::new(seed), s.experts / s.clusters * s.rank);
        Weights {
            w13: Guarded::normal(rng, [s.clusters, 2 * s.inner + 2 * factors, s.hidden], 1.0),
            w2: Guarded::normal(rng, [s.clusters, s.hidden, s.inner + factors], 1.0),
            b: Guarded::normal(rng, [s.experts, 2 * s.inner, s.rank], 0.3),
            a2: Guarded::normal(rng, [s.experts, s.rank, s.inner], 0.3),
        }
    }

    /// Gate, up and down of expert `e`, element by element from the layout's definition.
    fn written(&self, s: Sizes, e: usize) -> Vec<f64> {
        let (per, factors) = (s.experts / s.clusters, s.experts / s.clusters * s.rank);
        let (g, k) = (e / per, e % per);
        let [w13, w2, b, a2] = [&self.w13, &self.w2, &self.b, &self.a2].map(Guarded::values);
        let at13 = |row: usize, h: usize| w13[(g * (2 * s.inner + 2 * factors) + row) * s.hidden + h];
        let at2 = |h: usize, column: usize| w2[(g * s.hidden + h) * (s.inner + factors) + column];
        let mut out = vec![];
        for (half, n, h) in
            (0..2).flat_map(|half| (0..s.inner).flat_map(move |n| (0..s.hidden).map(move |h| (half, n, h))))
        {
            let mut w = at13(half * s.inner + n, h);
            for q in 0..s.rank {
                let a = at13(2 * s.inner + (2 * k + half) * s.rank + q, h);
                w += b[((e * 2 + half) * s.inner + n) * s.rank + q] * a;
            }
            out.push(w);
        }
        for (h, n) in (0..s.hidden).flat_map(|h| (0..s.inner).map(move |n| (h, n))) {
            let mut w = at2(h, n);
            for q in 0..s.rank {
                w += at2(h, s.inner + k * s.rank + q) * a2[(e * s.rank + q) * s.inner + n];
            }
            out.push(w);
        }
        out
    }
}

fn run<T: Elem>(device: &Device, w: &Weights<T>, s: Sizes, rows: usize) -> Vec<f64> {
    let mut gram = Guarded::square(s.experts);
    let room = if device.place() == Place::Host {
        0
    } else {
        ResidualGram::<T>::workspace_len(s.experts, s.hidden, s.inner, rows)
    };
    let mut room = Guarded::room(room);
    let op = ResidualGram {
        w13: w.w13.view_on(device),
        w2: w.w2.view_on(device),
        b: w.b.view_on(device),
        a2: w.a2.view_on(device),
        gram: gram.view_mut_on(device),
        workspace: room.view_mut_on(device),
    };
    device.run(op).unwrap();
    room.written_f64();
    gram.written_f64()
}

fn run_case<T: Elem>(devices: &[Device], s: Sizes, rows: usize) {
    let name = format!("{:?} {s:?}", T::DTYPE);
    let w = Weights::<T>::normal(s, 7);
    let written: Vec<_> = (0..s.experts).map(|e| w.written(s, e)).collect();
    let mut want = vec![];
    for (i, j) in (0..s.experts).flat_map(|i| (0..s.experts).map(move |j| (i, j))) {
        let mut bound = Bound::default();
        written[i].iter().zip(&written[j]).for_each(|(a, b)| bound.add(a * b));
        // Every element of a matrix is a sum of rank + 1 terms in f32; and see tests/gram.rs.
        bound.slack = (s.rank + 2) as f64 * 2f64.powi(-23) * bound.magnitude
            + bound.terms as f64 * 2f64.powi(-24) * bound.value.abs();
        want.push(bound);
    }
    for device in devices {
        let got = run(device, &w, s, rows);
        assert_within::<f32>(&name, &got, &want);
        for (i, j) in (0..s.experts).flat_map(|i| (0..i).map(move |j| (i, j))) {
            assert_eq!(got[i * s.experts + j].to_bits(), got[j * s.experts + i].to_bits(), "{name}");
        }
        if device.place() == Place::Host {
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want.value).abs() <= 1e-12 * want.magnitude, "{name}: not in f64");
            }
        }
    }
}

const CASES: [Sizes; 6] = [
    Sizes { experts: 4, clusters: 2, rank: 3, inner: 10, hidden: 7 },
    Sizes { experts: 1, clusters: 1, rank: 1, inner: 1, hidden: 1 },
    // Cheaper in closed form on the CPU.
    Sizes { experts: 12, clusters: 2, rank: 1, inner: 33, hidden: 17 },
    // Vectors of 16 bytes on CUDA devices, and more rows than a block has.
    Sizes { experts: 6, clusters: 3, rank: 4, inner: 48, hidden: 32 },
    Sizes { experts: 5, clusters: 1, rank: 2, inner: 35, hidden: 40 },
    // A large tile; no cluster has more than one expert.
    Sizes { experts: 66, clusters: 66, rank: 2, inner: 3, hidden: 5 },
];

#[test]
fn products_of_matrices_that_are_not_written_out() {
    let devices = all_devices();
    for s in CASES {
        run_case::<f32>(&devices, s, s.inner.max(s.hidden));
        run_case::<bf16>(&devices, s, 4);
        run_case::<f16>(&devices, s, 1);
    }
}

#[test]
fn equal_to_the_gram_of_the_matrices() {
    let s = Sizes { experts: 12, clusters: 3, rank: 2, inner: 40, hidden: 20 };
    let w = Weights::<f32>::normal(s, 3);
    // f32 rounds what is written out: each weight to 2^-24.
    let written: Vec<f64> = (0..s.experts).flat_map(|e| w.written(s, e)).collect();
    let x = Guarded::<f32, 3>::of(&written, [s.experts, 1, 3 * s.inner * s.hidden]);
    for device in all_devices() {
        let (mut gram, len) = (Guarded::square(s.experts), Gram::<f32>::workspace_len(x.view().shape()));
        let (mut room, accumulate) = (Guarded::room(len), false);
        let (x, workspace) = (x.view_on(&device), room.view_mut_on(&device));
        device.run(Gram { x, gram: gram.view_mut_on(&device), workspace, accumulate }).unwrap();
        let (got, want) = (run(&device, &w, s, 100), gram.written_f64());
        let norm = (0..s.experts).map(|e| want[e * s.experts + e]).fold(0.0, f64::max);
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() <= 1e-6 * norm, "{at}: {got}, {want}");
        }
    }
}

#[test]
fn the_same_on_any_threads() {
    for s in [CASES[2], CASES[3]] {
        let w = Weights::<f32>::normal(s, 5);
        same_bits_on_any_threads(|device| {
            run(device, &w, s, 1).into_iter().map(f64::to_bits).collect::<Vec<_>>()
        });
    }
}

#[test]
fn every_rule_is_checked() {
    // Fits: 4 experts in 2 clusters, rank 3, inner 10, hidden 7.
    type Shapes = ([usize; 3], [usize; 3], [usize; 3], [usize; 3], [usize; 2]);
    let good: Shapes = ([2, 32, 7], [2, 7, 16], [4, 20, 3], [4, 3, 10], [4, 4]);
    let run_on = |device: &Device, (w13, w2, b, a2, gram): Shapes, room: usize| {
        let [w13, w2, b, a2] = [w13, w2, b, a2].map(|shape| device.zeros::<f32, 3>(shape).unwrap());
        let (mut gram, mut room) = (device.zeros(gram).unwrap(), device.zeros([room]).unwrap());
        let (w13, w2, b, a2) = (w13.view(), w2.view(), b.view(), a2.view());
        device.run(ResidualGram { w13, w2, b, a2, gram: gram.view_mut(), workspace: room.view_mut() })
    };
    let run = |shapes| run_on(&devices()[0], shapes, 0);
    run(good).unwrap();
    let (w13, w2, b, a2, gram) = good;
    assert_breaks(run((w13, w2, b, a2, [4, 5])), "self.gram.shape() == [experts; 2]");
    assert_breaks(run(([0, 32, 7], w2, b, a2, gram)), "clusters >= 1");
    assert_breaks(run(([3, 32, 7], w2, b, a2, gram)), "experts.is_multiple_of(clusters)");
    assert_breaks(run((w13, w2, b, [4, 0, 10], gram)), "rank >= 1 && inner >= 1 && hidden >= 1");
    assert_breaks(run((w13, w2, b, [4, 3, 0], gram)), "rank >= 1 && inner >= 1 && hidden >= 1");
    assert_breaks(run(([2, 32, 0], w2, b, a2, gram)), "rank >= 1 && inner >= 1 && hidden >= 1");
    assert_breaks(run(([2, 31, 7], w2, b, a2, gram)), "w13[1] == 2 * inner + 2 * factors");
    assert_breaks(run((w13, [2, 7, 15], b, a2, gram)), "w2 == [clusters, hidden, inner + factors]");
    assert_breaks(run((w13, w2, [4, 19, 3], a2, gram)), "b == [experts, 2 * inner, rank]");
    let wide = ([1, 2, 1 << 16], w2, b, [1, 1, 1 << 16], [1, 1]);
    assert_breaks(run(wide), "inner.saturating_mul(hidden) <= i32::MAX as usize");
    assert_breaks(run((w13, w2, b, [1 << 16, 1, 1], gram)), "experts <= u16::MAX as usize");
    let one_row = ResidualGram::<f32>::workspace_len(4, 7, 10, 1);
    for device in all_devices().iter().filter(|device| device.place() != Place::Host) {
        run_on(device, good, one_row).unwrap();
        assert_breaks(run_on(device, good, one_row - 1), "room");
    }
}
