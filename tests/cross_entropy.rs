//! `CrossEntropy` and `NegLogLikelihood` against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, close, devices, same_bits_on_any_threads,
};
use trimoe::ops::{CrossEntropy, NegLogLikelihood};
use trimoe::{Device, Elem, View, bf16, f16};

/// Loss of one row.
fn nll(logits: &[f64], target: usize) -> f64 {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
    sum.ln() + top - logits[target]
}

/// Gradient of `scale * nll`, where e^x is 0 below the normal range of f32; the magnitude grows with the rounding of `logit - max`.
fn gradient(logits: &[f64], target: usize, scale: f64) -> Vec<Bound> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let of = |(i, &logit): (usize, &f64)| {
        let p = if logit - top < -87.3 { 0.0 } else { (-nll(logits, i)).exp() };
        let onehot = if i == target { 1.0 } else { 0.0 };
        let magnitude = scale.abs() * (p * (2.0 + (top - logit)) + onehot);
        Bound { value: scale * (p - onehot), magnitude, terms: logits.len(), ..Bound::default() }
    };
    logits.iter().enumerate().map(of).collect()
}

fn run_case<T: Elem>(rows: usize, vocab: usize, size: f64) {
    let name = format!("{:?} rows {rows} vocab {vocab}", T::DTYPE);
    let mut rng = Rng::new(1);
    let targets: Vec<u32> = (0..rows).map(|_| rng.below(vocab) as u32).collect();
    let (places, scale) = (Guarded::ids(&targets), 0.75f32);
    for device in all_devices() {
        let mut logits = Guarded::<T, 2>::normal(&mut rng, [rows, vocab], size);
        let values = logits.values();
        let row = |p: usize| &values[p * vocab..(p + 1) * vocab];
        let want: Vec<f64> = (0..rows).map(|p| nll(row(p), targets[p] as usize)).collect();
        let grad: Vec<Bound> =
            (0..rows).flat_map(|p| gradient(row(p), targets[p] as usize, scale as f64)).collect();
        // ln(sum) and the difference of two logits, each rounded once at the size of the logits; the sum
        // itself in 16 lanes.
        let relative = (8.0 + vocab as f64 / 16.0) * 2f64.powi(-24);
        let floor = 1.0 + values.iter().fold(0f64, |m, v| m.max(v.abs()));
        let mut loss = Guarded::<f32, 1>::nan([rows]);
        let op = NegLogLikelihood {
            logits: logits.view_on(&device),
            targets: places.view_on(&device),
            loss: loss.view_mut_on(&device),
        };
        device.run(op).unwrap();
        close(&name, &loss.written(), &want, relative, floor);
        let mut fused = Guarded::<f32, 1>::nan([rows]);
        let op = CrossEntropy {
            logits: logits.view_mut_on(&device),
            targets: places.view_on(&device),
            scale,
            loss: fused.view_mut_on(&device),
        };
        device.run(op).unwrap();
        assert_eq!(fused.written(), loss.written(), "{name}: the two losses");
        // Probabilities below the normal range of f32 are zero on the CPU, kept by the kernel.
        let tiny = f64::from(f32::MIN_POSITIVE);
        let got: Vec<f64> = logits.written().iter().map(|&g| if g.abs() < tiny { 0.0 } else { g }).collect();
        assert_within::<T>(&name, &got, &grad);
    }
}

#[test]
fn losses_and_gradients_of_every_shape() {
    for (rows, vocab) in
        [(0, 5), (1, 1), (2, 15), (31, 16), (32, 17), (33, 100), (3, 1025), (2, 8208), (2, 2061)]
    {
        run_case::<f32>(rows, vocab, 3.0);
        run_case::<bf16>(rows, vocab, 3.0);
        run_case::<f16>(rows, vocab, 3.0);
    }
    // Spread over hundreds of nats: most probabilities are zero in f32.
    run_case::<f32>(5, 40, 100.0);
}

#[test]
fn the_oracle_is_the_derivative() {
    let (logits, step) = (Rng::new(2).normals(9), 1e-5);
    let loss = |i: usize, by: f64| {
        let mut moved = logits.clone();
        moved[i] += by;
        nll(&moved, 4)
    };
    let slopes: Vec<f64> = (0..9).map(|i| 3.0 * (loss(i, step) - loss(i, -step)) / (2.0 * step)).collect();
    let got: Vec<f64> = gradient(&logits, 4, 3.0).iter().map(|b| b.value).collect();
    close("gradient", &got, &slopes, 1e-8, 1.0);
}

/// Loss and gradient of one row.
fn one_row(device: &Device, logits: &[f64], target: u32) -> (f64, Vec<f64>) {
    let mut x = Guarded::<f32, 2>::of(logits, [1, logits.len()]);
    let (mut loss, target) = (Guarded::<f32, 1>::nan([1]), Guarded::ids(&[target]));
    let op = CrossEntropy {
        logits: x.view_mut_on(device),
        targets: target.view_on(device),
        scale: 1.0,
        loss: loss.view_mut_on(device),
    };
    device.run(op).unwrap();
    (loss.written()[0], x.written())
}

#[test]
fn equal_and_bad_logits() {
    for device in all_devices() {
        let (value, grad) = one_row(&device, &[7.0; 4], 0);
        close("equal", &[value], &[4f64.ln()], 1e-6, 1.0);
        assert_eq!(grad, [-0.75, 0.25, 0.25, 0.25]);
        let inf = f64::INFINITY;
        for bad in [
            [f64::NAN, 0.0, 0.0],
            [0.0, f64::NAN, 0.0],
            [0.0, inf, 0.0],
            [inf, 0.0, 0.0],
            [-inf, 0.0, 0.0],
            [-inf; 3],
        ] {
            let (loss, grad) = one_row(&device, &bad, 0);
            assert!(!loss.is_finite(), "{bad:?} on {}", device.place());
            assert!(grad.iter().any(|g| g.is_nan()), "{bad:?} on {}: {grad:?}", device.place());
        }
        // A logit of minus infinity off the target is a masked choice.
        let (value, grad) = one_row(&device, &[0.0, -inf, 0.0], 0);
        close("masked", &[value], &[2f64.ln()], 1e-6, 1.0);
        assert_eq!(grad, [-0.5, 0.0, 0.5]);
    }
}

/// Where the host cannot read the targets the kernel does.
#[test]
fn a_bad_target_on_a_device_is_seen() {
    for device in all_devices().iter().filter(|d| d.place() != trimoe::Place::Host) {
        for target in [4, u32::MAX] {
            let (loss, grad) = one_row(device, &[7.0; 4], target);
            assert!(loss.is_nan() && grad.iter().all(|g| g.is_nan()), "{loss} {grad:?}");
        }
    }
}

#[test]
fn the_same_on_any_threads() {
    let logits = Rng::new(3).normals(200 * 50);
    let targets = Guarded::ids(&(0..200).map(|p| p % 50).collect::<Vec<u32>>());
    same_bits_on_any_threads(|device| {
        let mut x = Guarded::<f32, 2>::of(&logits, [200, 50]);
        let mut loss = device.zeros::<f32, 1>([200]).unwrap();
        let (logits, targets) = (x.view_mut(), targets.view());
        let op = CrossEntropy { logits, targets, scale: 0.1, loss: loss.view_mut() };
        device.run(op).unwrap();
        (x.values().into_iter().map(f64::to_bits).collect::<Vec<_>>(), common::guarded::bits(&loss))
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let run = |shape: [usize; 2], targets: &[u32], loss: usize| {
        let mut logits = Guarded::<f32, 2>::of(&vec![0.0; shape[0] * shape[1]], shape);
        let mut out = Guarded::<f32, 1>::nan([loss]);
        let targets = View::new(targets, [targets.len()]).unwrap();
        let alone = device.run(NegLogLikelihood { logits: logits.view(), targets, loss: out.view_mut() });
        let fused =
            device.run(CrossEntropy { logits: logits.view_mut(), targets, scale: 1.0, loss: out.view_mut() });
        [alone, fused]
    };
    assert!(run([2, 3], &[0, 2], 2).iter().all(Result::is_ok));
    run([2, 3], &[0], 2).into_iter().for_each(|r| assert_breaks(r, "targets.shape() == [logits[0]]"));
    run([2, 3], &[0, 2], 3).into_iter().for_each(|r| assert_breaks(r, "loss == [logits[0]]"));
    run([2, 3], &[0, 3], 2).into_iter().for_each(|r| assert_breaks(r, "(id as usize) < vocab"));
    run([1, 0], &[0], 1).into_iter().for_each(|r| assert_breaks(r, "(id as usize) < vocab"));
}
