//! `SwiGlu` and its backward against the definition.

mod common;

use common::cases::{Routed, routed};
use common::oracle::{differences, silu, silu_slope};
use common::{Guarded, Rng, all_devices, assert_breaks, devices, near, plan_on, same_bits_on_any_threads};
use trimoe::ops::{SlotWeights, SwiGlu, SwiGluBackward};
use trimoe::{Elem, Plan, bf16, f16};

/// `h = w silu(gate) up` of rows `z = (gate | up)` with one weight each.
fn forward(z: &[f64], weight: &[f64], inner: usize) -> Vec<f64> {
    let rows = z.chunks_exact(2 * inner).zip(weight);
    rows.flat_map(|(z, w)| (0..inner).map(move |j| w * silu(z[j]) * z[inner + j])).collect()
}

/// Gradients of `<dh, forward>` with respect to `z` and the weights.
fn backward(z: &[f64], weight: &[f64], dh: &[f64], inner: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut dz, mut dweight) = (vec![0.0; z.len()], vec![0.0; weight.len()]);
    for (row, w) in weight.iter().enumerate() {
        for j in 0..inner {
            let (at, d) = (row * 2 * inner + j, dh[row * inner + j]);
            let (gate, up) = (z[at], z[at + inner]);
            dz[at] = d * w * silu_slope(gate) * up;
            dz[at + inner] = d * w * silu(gate);
            dweight[row] += d * silu(gate) * up;
        }
    }
    (dz, dweight)
}

#[test]
fn the_oracle_agrees_with_finite_differences() {
    let (rows, inner, mut rng) = (4, 5, Rng::new(1));
    let (z, weight, dh) = (rng.normals(rows * 2 * inner), rng.normals(rows), rng.normals(rows * inner));
    let loss = |z: &[f64], w: &[f64]| common::oracle::dot(&dh, &forward(z, w, inner));
    let (dz, dweight) = backward(&z, &weight, &dh, inner);
    common::norm_wise("dz", &dz, &differences(&z, |z| loss(z, &weight)), 1e-8);
    common::norm_wise("dweight", &dweight, &differences(&weight, |w| loss(&z, w)), 1e-8);
}

fn run_case<T: Elem>(case: &Routed, inner: usize, weighted: bool) {
    let (mut plan, mut rng) = (case.plan(), Rng::new(4));
    let name = &case.name;
    let order = plan.by_expert();
    let (rows, fan) = (order.rows(), order.fan());
    let weight = Guarded::<f32, 2>::normal(&mut rng, [case.tokens, fan], 1.0);
    let z = Guarded::<T, 2>::normal(&mut rng, [rows, 2 * inner], 2.0);
    let dh = Guarded::<T, 2>::normal(&mut rng, [rows, inner], 1.0);
    let of_row = |&choice: &u32| if weighted { weight.values()[choice as usize] } else { 1.0 };
    let by_row: Vec<f64> = order.host().unwrap().source.iter().map(of_row).collect();
    let want_h = forward(&z.values(), &by_row, inner);
    let (want_dz, by_row) = backward(&z.values(), &by_row, &dh.values(), inner);
    let want_dweight: Vec<f64> =
        order.host().unwrap().place.iter().map(|&row| by_row[row as usize]).collect();
    for device in all_devices() {
        plan_on(&mut plan, &device);
        let order = plan.by_expert();
        let weights = weighted.then(|| SlotWeights { weight: weight.view_on(&device), order });
        let mut h = Guarded::<T, 2>::nan([rows, inner]);
        device.run(SwiGlu { z: z.view_on(&device), weights, h: h.view_mut_on(&device) }).unwrap();
        near::<T>(&format!("{name} h"), &h.written(), &want_h, 8.0);

        let mut z = Guarded::<T, 2>::of(&z.values(), [rows, 2 * inner]);
        let mut dh = Guarded::<T, 2>::of(&dh.values(), [rows, inner]);
        let mut dweight = Guarded::<f32, 2>::nan([case.tokens, fan]);
        let into = weighted.then(|| dweight.view_mut_on(&device));
        device
            .run(SwiGluBackward {
                z: z.view_mut_on(&device),
                dh: dh.view_mut_on(&device),
                weights,
                dweight: into,
            })
            .unwrap();
        near::<T>(&format!("{name} dz"), &z.written(), &want_dz, 8.0);
        assert_eq!(dh.written(), h.written(), "{name}: the backward returns the forward's h to the bit");
        if weighted {
            near::<f32>(&format!("{name} dweight"), &dweight.written(), &want_dweight, 16.0);
        } else {
            assert!(dweight.written().iter().all(|d| d.is_nan()));
        }
    }
}

#[test]
fn activates_as_defined() {
    for case in routed(64) {
        for (inner, weighted) in [(19, false), (19, true), (1, true), (64, true)] {
            run_case::<f32>(&case, inner, weighted);
            run_case::<bf16>(&case, inner, weighted);
            run_case::<f16>(&case, inner, weighted);
        }
    }
}

#[test]
fn extreme_gates_are_finite() {
    let device = &devices()[0];
    let gates = [-1e30, -200.0, -90.0, -1e-30, 0.0, 90.0, 200.0, 1e30];
    let z: Vec<f64> = gates.iter().flat_map(|&g| [g, 1.0]).collect();
    let mut z = Guarded::<f32, 2>::of(&z, [gates.len(), 2]);
    let mut h = Guarded::<f32, 2>::nan([gates.len(), 1]);
    device.run(SwiGlu { z: z.view(), weights: None, h: h.view_mut() }).unwrap();
    let want: Vec<f64> = gates.iter().map(|&g| silu(g)).collect();
    common::close("h", &h.written(), &want, 1e-6, 1e-30);
    let mut dh = Guarded::<f32, 2>::of(&[1.0; 8], [gates.len(), 1]);
    device.run(SwiGluBackward { z: z.view_mut(), dh: dh.view_mut(), weights: None, dweight: None }).unwrap();
    let want: Vec<f64> = gates.iter().flat_map(|&g| [silu_slope(g), silu(g)]).collect();
    common::close("dz", &z.written(), &want, 1e-6, 1e-30);
}

#[test]
fn weights_of_no_columns_get_zero_gradient() {
    let plan = Plan::new(3, 2, 4, 1).unwrap();
    let order = plan.by_expert();
    let weight = Guarded::<f32, 2>::of(&[1.0; 6], [3, 2]);
    let mut dweight = Guarded::<f32, 2>::nan([3, 2]);
    let (mut z, mut dh) = (Guarded::<f32, 2>::nan([6, 0]), Guarded::<f32, 2>::nan([6, 0]));
    let op = SwiGluBackward {
        z: z.view_mut(),
        dh: dh.view_mut(),
        weights: Some(SlotWeights { weight: weight.view(), order }),
        dweight: Some(dweight.view_mut()),
    };
    devices()[0].run(op).unwrap();
    assert_eq!(dweight.written(), [0.0; 6]);
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(512)[11];
    let (plan, mut rng) = (case.plan(), Rng::new(2));
    let order = plan.by_expert();
    let z = rng.normals(order.rows() * 66);
    let dh = Guarded::<f32, 2>::normal(&mut rng, [order.rows(), 33], 1.0);
    let weight = Guarded::<f32, 2>::normal(&mut rng, [case.tokens, case.topk], 1.0);
    let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
    same_bits_on_any_threads(|device| {
        let mut z = Guarded::<f32, 2>::of(&z, [order.rows(), 66]);
        let mut dh = Guarded::<f32, 2>::of(&dh.values(), [order.rows(), 33]);
        let mut dweight = Guarded::<f32, 2>::nan([case.tokens, case.topk]);
        let op = SwiGluBackward {
            z: z.view_mut(),
            dh: dh.view_mut(),
            weights: Some(SlotWeights { weight: weight.view(), order }),
            dweight: Some(dweight.view_mut()),
        };
        device.run(op).unwrap();
        [bits(z.written()), bits(dh.written()), bits(dweight.written())]
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let plan = Plan::new(3, 2, 4, 1).unwrap();
    let order = plan.by_expert();
    let t = |shape: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; shape[0] * shape[1]], shape);
    let forward = |z, w, h| {
        let (z, w, mut h) = (t(z), t(w), t(h));
        let weights = Some(SlotWeights { weight: w.view(), order });
        device.run(SwiGlu { z: z.view(), weights, h: h.view_mut() })
    };
    forward([6, 10], [3, 2], [6, 5]).unwrap();
    assert_breaks(forward([6, 9], [3, 2], [6, 5]), "z == [h[0], 2 * h[1]]");
    assert_breaks(forward([5, 10], [3, 2], [6, 5]), "z == [h[0], 2 * h[1]]");
    assert_breaks(forward([5, 10], [3, 2], [5, 5]), "w.fits(h[0])");
    assert_breaks(forward([6, 10], [3, 1], [6, 5]), "w.fits(h[0])");
    assert_breaks(forward([6, 10], [2, 2], [6, 5]), "w.fits(h[0])");
    let backward = |z, dh, w: Option<[usize; 2]>, dw: Option<[usize; 2]>| {
        let (mut z, mut dh, w, mut dw) = (t(z), t(dh), w.map(t), dw.map(t));
        device.run(SwiGluBackward {
            z: z.view_mut(),
            dh: dh.view_mut(),
            weights: w.as_ref().map(|w| SlotWeights { weight: w.view(), order }),
            dweight: dw.as_mut().map(|d| d.view_mut()),
        })
    };
    let w = Some([3, 2]);
    backward([6, 10], [6, 5], w, w).unwrap();
    assert_breaks(backward([6, 10], [6, 4], w, w), "z == [dh[0], 2 * dh[1]]");
    assert_breaks(backward([6, 10], [6, 5], Some([2, 3]), Some([2, 3])), "w.fits(dh[0])");
    assert_breaks(backward([6, 10], [6, 5], w, Some([2, 3])), "weight == dweight");
    assert_breaks(backward([6, 10], [6, 5], w, None), "weight == dweight");
    assert_breaks(backward([6, 10], [6, 5], None, w), "weight == dweight");
}
