//! `RmsNorm` and its backward against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, close, devices, same_bits_on_any_threads,
};
use trimoe::ops::{RmsNorm, RmsNormBackward};
use trimoe::{Elem, bf16, f16};

const EPS: f32 = 1e-5;

/// `1 / rms` of every row.
fn inverse(x: &[f64], hidden: usize) -> Vec<f64> {
    let mean = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>() / hidden as f64;
    x.chunks(hidden).map(|row| 1.0 / (mean(row) + EPS as f64).sqrt()).collect()
}

fn forward(x: &[f64], gain: &[f64]) -> Vec<f64> {
    let (hidden, inv) = (gain.len(), inverse(x, gain.len()));
    x.iter().enumerate().map(|(i, v)| v * inv[i / hidden] * gain[i % hidden]).collect()
}

/// `(dx, dgain)` from the inverse the forward stored.
fn backward(dy: &[f64], x: &[f64], gain: &[f64], inv: &[f64]) -> (Vec<Bound>, Vec<Bound>) {
    let hidden = gain.len();
    let (mut dx, mut dgain) = (vec![Bound::default(); x.len()], vec![Bound::default(); hidden]);
    for (p, &inv) in inv.iter().enumerate() {
        let mut dot = Bound::default();
        (p * hidden..(p + 1) * hidden).for_each(|k| dot.add(dy[k] * gain[k % hidden] * x[k]));
        for h in 0..hidden {
            let (at, n) = (p * hidden + h, x[p * hidden + h] * inv);
            let factor = -n * inv * inv / hidden as f64;
            dx[at] = Bound { value: factor * dot.value, magnitude: factor.abs() * dot.magnitude, ..dot };
            dx[at].add(inv * dy[at] * gain[h]);
            dgain[h].add(dy[at] * n);
        }
    }
    (dx, dgain)
}

/// Of the least size that the backward takes.
fn workspace(rows: usize, hidden: usize) -> Guarded<f32, 1> {
    Guarded::nan([RmsNormBackward::<f32>::workspace_len(rows, hidden)])
}

fn run_case<T: Elem>(rows: usize, hidden: usize) {
    let name = format!("{:?} rows {rows} hidden {hidden}", T::DTYPE);
    let mut rng = Rng::new(1);
    let x = Guarded::<T, 2>::normal(&mut rng, [rows, hidden], 2.0);
    let gain = Guarded::<T, 1>::normal(&mut rng, [hidden], 1.0);
    let dy = Guarded::<T, 2>::normal(&mut rng, [rows, hidden], 1.0);
    // A sum of squares in 16 lanes has no cancellation: each addition costs one rounding.
    let relative = (hidden as f64 / 16.0 + 24.0) * 2f64.powi(-24);
    for device in all_devices() {
        let mut y = Guarded::<T, 2>::nan([rows, hidden]);
        let mut inv_rms = Guarded::<f32, 1>::nan([rows]);
        let op = RmsNorm {
            x: x.view_on(&device),
            gain: gain.view_on(&device),
            eps: EPS,
            y: y.view_mut_on(&device),
            inv_rms: inv_rms.view_mut_on(&device),
        };
        device.run(op).unwrap();
        close(&name, &inv_rms.written(), &inverse(&x.values(), hidden), relative, 0.0);
        let floor = if T::DTYPE == trimoe::DType::F16 { 1e-4 } else { 0.0 };
        let want = forward(&x.values(), &gain.values());
        close(&name, &y.written(), &want, relative + T::EPS as f64, floor);

        for (accumulate_dx, accumulate) in [(false, true), (true, false)] {
            let mut dx = Guarded::<T, 2>::normal(&mut rng, [rows, hidden], 1.0);
            let mut dgain = Guarded::<f32, 1>::normal(&mut rng, [hidden], 1.0);
            let (mut want_dx, mut want_dgain) =
                backward(&dy.values(), &x.values(), &gain.values(), &inv_rms.written());
            if accumulate_dx {
                want_dx.iter_mut().zip(dx.values()).for_each(|(b, v)| b.add(v));
            }
            if accumulate {
                want_dgain.iter_mut().zip(dgain.values()).for_each(|(b, v)| b.add(v));
            }
            let mut room = workspace(rows, hidden);
            let op = RmsNormBackward {
                dy: dy.view_on(&device),
                x: x.view_on(&device),
                gain: gain.view_on(&device),
                inv_rms: inv_rms.view_on(&device),
                dx: dx.view_mut_on(&device),
                accumulate_dx,
                dgain: dgain.view_mut_on(&device),
                accumulate,
                workspace: room.view_mut_on(&device),
            };
            device.run(op).unwrap();
            assert_within::<T>(&format!("{name} dx"), &dx.written(), &want_dx);
            assert_within::<f32>(&format!("{name} dgain"), &dgain.written(), &want_dgain);
            room.written();
        }
    }
}

#[test]
fn rows_are_normalised_and_differentiated() {
    for (rows, hidden) in [(0, 5), (1, 1), (3, 15), (31, 16), (32, 17), (33, 33), (127, 8), (257, 8)] {
        run_case::<f32>(rows, hidden);
        run_case::<bf16>(rows, hidden);
        run_case::<f16>(rows, hidden);
    }
    // Longer than what kernels keep in registers, in vectors and one by one.
    for (rows, hidden) in [(33, 1040), (34, 1041)] {
        run_case::<f32>(rows, hidden);
    }
    run_case::<bf16>(2, 8208);
}

#[test]
fn the_oracle_is_the_derivative() {
    let (rows, hidden, step) = (2, 5, 1e-5);
    let mut rng = Rng::new(2);
    let (x, gain, dy) = (rng.normals(rows * hidden), rng.normals(hidden), rng.normals(rows * hidden));
    let loss =
        |x: &[f64], gain: &[f64]| -> f64 { forward(x, gain).iter().zip(&dy).map(|(y, d)| y * d).sum() };
    let moved = |v: &[f64], i: usize, by: f64| {
        let mut v = v.to_vec();
        v[i] += by;
        v
    };
    let slope = |f: &dyn Fn(f64) -> f64| (f(step) - f(-step)) / (2.0 * step);
    let (dx, dgain) = backward(&dy, &x, &gain, &inverse(&x, hidden));
    for (i, d) in dx.iter().enumerate() {
        close("dx", &[d.value], &[slope(&|by| loss(&moved(&x, i, by), &gain))], 1e-8, 1.0);
    }
    for (i, d) in dgain.iter().enumerate() {
        close("dgain", &[d.value], &[slope(&|by| loss(&x, &moved(&gain, i, by)))], 1e-8, 1.0);
    }
}

#[test]
fn the_same_on_any_threads() {
    let (rows, hidden) = (700, 40);
    let mut rng = Rng::new(3);
    let x = Guarded::<f32, 2>::normal(&mut rng, [rows, hidden], 1.0);
    let gain = Guarded::<f32, 1>::normal(&mut rng, [hidden], 1.0);
    same_bits_on_any_threads(|device| {
        let (mut y, mut dx) = (
            device.zeros::<f32, 2>([rows, hidden]).unwrap(),
            device.zeros::<f32, 2>([rows, hidden]).unwrap(),
        );
        let (mut inv, mut dgain) =
            (device.zeros::<f32, 1>([rows]).unwrap(), device.zeros::<f32, 1>([hidden]).unwrap());
        let (x, gain) = (x.view(), gain.view());
        device.run(RmsNorm { x, gain, eps: EPS, y: y.view_mut(), inv_rms: inv.view_mut() }).unwrap();
        let mut room = workspace(rows, hidden);
        let op = RmsNormBackward {
            dy: y.view(),
            x,
            gain,
            inv_rms: inv.view(),
            dx: dx.view_mut(),
            accumulate_dx: false,
            dgain: dgain.view_mut(),
            accumulate: false,
            workspace: room.view_mut(),
        };
        device.run(op).unwrap();
        [common::guarded::bits(&y), common::guarded::bits(&dx), common::guarded::bits(&dgain)]
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![1.0; s[0] * s[1]], s);
    let one = |n: usize| Guarded::<f32, 1>::of(&vec![1.0; n], [n]);
    let forward = |x, gain, eps, y, inv| {
        let (x, gain, mut y, mut inv) = (two(x), one(gain), two(y), one(inv));
        let op = RmsNorm { x: x.view(), gain: gain.view(), eps, y: y.view_mut(), inv_rms: inv.view_mut() };
        device.run(op)
    };
    assert!(forward([2, 3], 3, EPS, [2, 3], 2).is_ok());
    assert_breaks(forward([2, 0], 0, EPS, [2, 0], 2), "x[1] >= 1");
    assert_breaks(forward([2, 3], 3, EPS, [2, 4], 2), "y == x");
    assert_breaks(forward([2, 3], 4, EPS, [2, 3], 2), "gain == [x[1]]");
    assert_breaks(forward([2, 3], 3, EPS, [2, 3], 3), "self.inv_rms.shape() == [x[0]]");
    assert_breaks(forward([2, 3], 3, 0.0, [2, 3], 2), "self.eps > 0.0");
    assert_breaks(forward([2, 3], 3, f32::NAN, [2, 3], 2), "self.eps > 0.0");
    let backward = |dy, x, gain, inv, dx, dgain, room| {
        let (dy, x, gain, inv) = (two(dy), two(x), one(gain), one(inv));
        let (mut dx, mut dgain, mut room) = (two(dx), one(dgain), one(room));
        device.run(RmsNormBackward {
            dy: dy.view(),
            x: x.view(),
            gain: gain.view(),
            inv_rms: inv.view(),
            dx: dx.view_mut(),
            accumulate_dx: false,
            dgain: dgain.view_mut(),
            accumulate: false,
            workspace: room.view_mut(),
        })
    };
    assert!(backward([2, 3], [2, 3], 3, 2, [2, 3], 3, 3).is_ok());
    assert_breaks(backward([2, 0], [2, 0], 0, 2, [2, 0], 0, 3), "x[1] >= 1");
    assert_breaks(backward([1, 3], [2, 3], 3, 2, [2, 3], 3, 3), "dy == x");
    assert_breaks(backward([2, 3], [2, 3], 3, 2, [2, 2], 3, 3), "dx == x");
    assert_breaks(backward([2, 3], [2, 3], 2, 2, [2, 3], 3, 3), "gain == [x[1]]");
    assert_breaks(backward([2, 3], [2, 3], 3, 2, [2, 3], 4, 3), "self.dgain.shape() == gain");
    assert_breaks(backward([2, 3], [2, 3], 3, 1, [2, 3], 3, 3), "self.inv_rms.shape() == [x[0]]");
    assert_breaks(backward([33, 3], [33, 3], 3, 33, [33, 3], 3, 5), "workspace >= need");
    let (many, row) = ([u32::MAX as usize + 1, 1], [1.0f32]);
    let x = trimoe::View::strided(&row, many, [0, 1]).unwrap();
    let (inv, gain, mut dx, mut dgain, mut room) = (one(1), one(1), two([1, 1]), one(1), one(1));
    let op = RmsNormBackward {
        dy: x,
        x,
        gain: gain.view(),
        inv_rms: inv.view(),
        dx: dx.view_mut(),
        accumulate_dx: false,
        dgain: dgain.view_mut(),
        accumulate: false,
        workspace: room.view_mut(),
    };
    assert_breaks(device.run(op), "x[0].max(x[1]) <= u32::MAX as usize");
}
