//! `AdamW` against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, same_bits_on_any_threads,
};
use trimoe::ops::{AdamW, Rates};
use trimoe::{Device, Elem, Result, ViewMut, bf16, f16};

/// The tensors of a step; the norm is given, not computed.
struct State {
    weight: Guarded<f32, 1>,
    grad: Guarded<f32, 1>,
    m: Guarded<f32, 1>,
    v: Guarded<f32, 1>,
    norm: Guarded<f32, 1>,
}

impl State {
    fn random(len: usize, norm: f32) -> Self {
        let mut rng = Rng::new(1);
        let squares: Vec<f64> = rng.normals(len).iter().map(|v| 0.01 * v * v).collect();
        State {
            weight: Guarded::normal(&mut rng, [len], 1.0),
            grad: Guarded::normal(&mut rng, [len], 0.5),
            m: Guarded::normal(&mut rng, [len], 0.1),
            v: Guarded::of(&squares, [len]),
            norm: Guarded::of(&[norm as f64], [1]),
        }
    }

    fn op<'a, T>(
        &'a mut self,
        device: &Device,
        step: u64,
        max_norm: f32,
        stored: Option<ViewMut<'a, T, 1>>,
    ) -> AdamW<'a, T> {
        AdamW {
            weight: self.weight.view_mut_on(device),
            grad: self.grad.view_on(device),
            m: self.m.view_mut_on(device),
            v: self.v.view_mut_on(device),
            stored,
            rates: Rates::Step { lr: 0.01, step },
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            norm: self.norm.view_on(device),
            max_norm,
        }
    }

    fn values(&self) -> [Vec<f64>; 3] {
        [self.weight.written(), self.m.written(), self.v.written()]
    }

    /// The definition: weight, m and v after the step.
    fn oracle(&self, step: u64, max_norm: f64) -> [Vec<Bound>; 3] {
        let [lr, beta1, beta2, eps, decay] = [0.01f32, 0.9, 0.95, 1e-8, 0.1].map(f64::from);
        let clip = (max_norm / self.norm.values()[0]).min(1.0);
        let [w, m, v] = [self.weight.values(), self.m.values(), self.v.values()];
        let mut want = [(); 3].map(|()| vec![Bound::default(); w.len()]);
        for (i, g) in self.grad.values().into_iter().enumerate() {
            let g = g * clip;
            want[1][i].add(beta1 * m[i]);
            want[1][i].add((1.0 - beta1) * g);
            want[2][i].add(beta2 * v[i]);
            want[2][i].add((1.0 - beta2) * g * g);
            let size = lr / (1.0 - beta1.powf(step as f64));
            let denominator = (want[2][i].value / (1.0 - beta2.powf(step as f64))).sqrt() + eps;
            want[0][i].add((1.0 - lr * decay) * w[i]);
            want[0][i].add(-size * beta1 * m[i] / denominator);
            want[0][i].add(-size * (1.0 - beta1) * g / denominator);
        }
        want
    }
}

fn run_case<T: Elem>(len: usize, step: u64, norm: f32, max_norm: f32) {
    for device in all_devices() {
        let mut state = State::random(len, norm);
        let want = state.oracle(step, max_norm as f64);
        let mut stored = Guarded::<T, 1>::nan([len]);
        device.run(state.op(&device, step, max_norm, Some(stored.view_mut_on(&device)))).unwrap();
        for ((name, got), want) in ["weight", "m", "v"].into_iter().zip(state.values()).zip(&want) {
            assert_within::<f32>(&format!("{name} len {len} step {step}"), &got, want);
        }
        let rounded: Vec<f64> =
            state.values()[0].iter().map(|&w| T::from_f32(w as f32).to_f32() as f64).collect();
        assert_eq!(stored.written(), rounded, "the stored copy is the rounded weight");
    }
}

#[test]
fn steps_of_every_size() {
    for len in [0, 1, 17, 32767, 32768, 32769] {
        run_case::<f32>(len, 1, 0.5, 1.0);
        run_case::<bf16>(len, 2, 4.0, 1.0);
        run_case::<f16>(len, 1000, 1e-30, f32::INFINITY);
        run_case::<bf16>(len, u64::MAX, 0.0, 1.0);
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let bad = [f32::NAN, f32::INFINITY];
    for (device, norm) in all_devices().iter().flat_map(|d| bad.map(|norm| (d, norm))) {
        let mut state = State::random(100, norm);
        let before = state.values();
        let mut stored = Guarded::<bf16, 1>::of(&[3.0; 100], [100]);
        device.run(state.op(device, 1, f32::INFINITY, Some(stored.view_mut_on(device)))).unwrap();
        assert_eq!(state.values(), before);
        assert_eq!(stored.written(), [3.0; 100]);
    }
}

/// What a captured graph reads at every replay gives the bits of what is known when it is captured.
#[test]
fn rates_in_memory_are_those_of_the_step() {
    for device in all_devices() {
        let rates = Guarded::<f32, 1>::of(&Rates::values(0.01, 7, [0.9, 0.95]).map(f64::from), [3]);
        let results = [false, true].map(|in_memory| {
            let mut state = State::random(1000, 2.0);
            let mut op = state.op(&device, 7, 1.0, None::<ViewMut<'_, f32, 1>>);
            if in_memory {
                op.rates = Rates::At(rates.view_on(&device));
            }
            device.run(op).unwrap();
            state.values()
        });
        assert_eq!(results[0], results[1], "{}", device.place());
    }
}

#[test]
fn the_same_on_any_threads() {
    same_bits_on_any_threads(|device| {
        let mut state = State::random(100_000, 2.0);
        device.run(state.op(device, 3, 1.0, None::<ViewMut<'_, f32, 1>>)).unwrap();
        state.values().map(|v| v.into_iter().map(f64::to_bits).collect::<Vec<_>>())
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let run = |change: &mut dyn FnMut(&mut AdamW<'_, bf16>)| -> Result<()> {
        let mut state = State::random(4, 1.0);
        let mut op = state.op(device, 1, 1.0, None);
        change(&mut op);
        device.run(op)
    };
    assert!(run(&mut |_| ()).is_ok());
    let three = State::random(3, 1.0);
    let [mut other_m, mut other_v] = [(); 2].map(|()| Guarded::<f32, 1>::nan([3]));
    let mut other_stored = Guarded::<bf16, 1>::nan([3]);
    let mut state = State::random(4, 1.0);
    let mut op = state.op(device, 1, 1.0, None::<ViewMut<'_, bf16, 1>>);
    op.grad = three.grad.view();
    assert_breaks(device.run(op), "self.grad.shape() == len");
    let mut op = state.op(device, 1, 1.0, None::<ViewMut<'_, bf16, 1>>);
    op.m = other_m.view_mut();
    assert_breaks(device.run(op), "self.m.shape() == len");
    let mut op = state.op(device, 1, 1.0, None::<ViewMut<'_, bf16, 1>>);
    op.v = other_v.view_mut();
    assert_breaks(device.run(op), "self.v.shape() == len");
    assert_breaks(
        device.run(state.op(device, 1, 1.0, Some(other_stored.view_mut()))),
        "stored.shape() == len",
    );
    let mut op = state.op(device, 1, 1.0, None::<ViewMut<'_, bf16, 1>>);
    op.norm = three.grad.view();
    assert_breaks(device.run(op), "self.norm.shape() == [1]");
    assert_breaks(run(&mut |op| op.rates = Rates::Step { lr: f32::NAN, step: 1 }), "lr.is_finite()");
    let mut op = state.op(device, 1, 1.0, None::<ViewMut<'_, bf16, 1>>);
    op.rates = Rates::At(three.norm.view());
    assert_breaks(device.run(op), "view.shape() == [3]");
    assert_breaks(run(&mut |op| op.beta1 = 1.0), "contains(&self.beta1)");
    assert_breaks(run(&mut |op| op.beta2 = -0.1), "contains(&self.beta2)");
    assert_breaks(run(&mut |op| op.eps = -1.0), "self.eps >= 0.0");
    assert_breaks(run(&mut |op| op.weight_decay = f32::INFINITY), "self.weight_decay.is_finite()");
    assert_breaks(run(&mut |op| op.rates = Rates::Step { lr: 0.1, step: 0 }), "*step >= 1");
    assert_breaks(run(&mut |op| op.max_norm = 0.0), "self.max_norm > 0.0");
}
