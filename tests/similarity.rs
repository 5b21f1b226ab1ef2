//! `Similarity` against the definition.

mod common;

use common::{Guarded, Rng, all_devices, assert_breaks, close, devices};
use trimoe::ops::Similarity;
use trimoe::{Device, View};

fn similarity(device: &Device, param: &[f64], act: &[f64], alpha: f64) -> Vec<f64> {
    let experts = param.len().isqrt();
    let [param, act] = [param, act].map(|g| Guarded::square_of(g, experts));
    let mut s = Guarded::square(experts);
    let op = Similarity {
        param: param.view_on(device),
        act: act.view_on(device),
        alpha,
        s: s.view_mut_on(device),
    };
    device.run(op).unwrap();
    s.written_f64()
}

/// Dot products of `experts` random vectors; those of the experts in `zeros` are zero vectors.
fn gram(rng: &mut Rng, experts: usize, zeros: &[usize]) -> Vec<f64> {
    let length = 3;
    let scale = |e: usize| if zeros.contains(&e) { 0.0 } else { 10f64.powi(e as i32 % 9 - 4) };
    let x: Vec<f64> = (0..experts * length).map(|i| scale(i / length) * rng.normal()).collect();
    let pairs = (0..experts).flat_map(|i| (0..experts).map(move |j| (i, j)));
    pairs.map(|(i, j)| (0..length).map(|c| x[i * length + c] * x[j * length + c]).sum()).collect()
}

/// The definition.
fn cosine(gram: &[f64], i: usize, j: usize) -> f64 {
    let experts = gram.len().isqrt();
    let norm = |e: usize| gram[e * experts + e].sqrt();
    if norm(i) * norm(j) == 0.0 { 0.0 } else { gram[i * experts + j] / (norm(i) * norm(j)) }
}

#[test]
fn both_cosines_are_fused() {
    let mut rng = Rng::new(4);
    for experts in [0, 1, 2, 16, 22, 23, 47, 130] {
        let (param, act) = (gram(&mut rng, experts, &[1, 20]), gram(&mut rng, experts, &[20]));
        for alpha in [0.0, 0.7, 1.0] {
            let mut want = vec![1.0; experts * experts];
            for (i, j) in (0..experts).flat_map(|i| (0..i).map(move |j| (i, j))) {
                let s = alpha * cosine(&param, i, j) + (1.0 - alpha) * cosine(&act, i, j);
                (want[i * experts + j], want[j * experts + i]) = (s, s);
            }
            for device in all_devices() {
                let got = similarity(&device, &param, &act, alpha);
                close(&format!("{experts} {alpha}"), &got, &want, 1e-14, 1.0);
                for (i, j) in (0..experts).flat_map(|i| (0..i).map(move |j| (i, j))) {
                    assert_eq!(got[i * experts + j].to_bits(), got[j * experts + i].to_bits());
                }
                assert!((0..experts).all(|e| got[e * experts + e] == 1.0));
                assert!(got.iter().all(|s| s.abs() <= 1.0));
            }
        }
    }
}

#[test]
fn odd_products_stay_in_bounds() {
    let act = [1.0, 0.0, 0.0, 1.0];
    for device in all_devices() {
        let of = |param: [f64; 4]| similarity(&device, &param, &act, 1.0)[1];
        // Roundings put a product above that of the norms; the upper half is not read.
        assert_eq!(of([1.0, f64::NAN, 1.0 + 1e-9, 1.0]), 1.0);
        assert_eq!(of([1.0, f64::NAN, -1.0 - 1e-9, 1.0]), -1.0);
        // A square of a norm that roundings made negative.
        assert_eq!(of([-1e-20, 0.0, 1.0, 1.0]), 0.0);
        // Norms whose product no f64 holds.
        assert_eq!(of([1e-300, 0.0, 1e-300, 1e-300]), 1.0);
        assert_eq!(of([1e300, 0.0, -1e300, 1e300]), -1.0);
        assert!(of([1.0, 0.0, f64::NAN, 1.0]).is_nan());
        assert!(of([f64::NAN, 0.0, 1.0, 1.0]).is_nan());
    }
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let run = |param: [usize; 2], act: [usize; 2], s: [usize; 2], alpha: f64| {
        let [param, act, mut s] = [param, act, s].map(|shape| device.zeros(shape).unwrap());
        device.run(Similarity { param: param.view(), act: act.view(), alpha, s: s.view_mut() })
    };
    run([3, 3], [3, 3], [3, 3], 0.7).unwrap();
    assert_breaks(run([3, 4], [3, 4], [3, 4], 0.7), "param[0] == param[1]");
    assert_breaks(run([3, 3], [2, 2], [3, 3], 0.7), "act == param");
    assert_breaks(run([3, 3], [3, 3], [3, 2], 0.7), "s == param");
    for alpha in [-0.1, 1.1, f64::NAN] {
        assert_breaks(run([3, 3], [3, 3], [3, 3], alpha), "(0.0..=1.0).contains(&self.alpha)");
    }
    // Rows may overlap where they are only read: a matrix too large for 32-bit pairs in little memory.
    let (side, values) = (1 << 16, vec![0.0; 1 << 16]);
    let param = View::strided(&values, [side, side], [0, 1]).unwrap();
    let (act, mut s) = (device.zeros([3, 3]).unwrap(), device.zeros([3, 3]).unwrap());
    let op = Similarity { param, act: act.view(), alpha: 0.7, s: s.view_mut() };
    assert_breaks(device.run(op), "param[0] <= u16::MAX as usize");
}
