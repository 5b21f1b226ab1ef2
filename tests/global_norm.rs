//! `GlobalNorm` against the definition.

mod common;

use common::{Guarded, Rng, all_devices, assert_breaks, close, devices, same_bits_on_any_threads};
use trimoe::Device;
use trimoe::ops::GlobalNorm;

fn norm(device: &Device, grads: &[Guarded<f32, 1>]) -> f64 {
    let mut norm = Guarded::<f32, 1>::nan([1]);
    let mut room = Guarded::room(GlobalNorm::workspace_len(grads.iter().map(Guarded::len)));
    let grads = grads.iter().map(|g| g.view_on(device)).collect();
    let workspace = room.view_mut_on(device);
    device.run(GlobalNorm { grads, norm: norm.view_mut_on(device), workspace }).unwrap();
    norm.written()[0]
}

#[test]
fn norms_of_any_number_of_tensors() {
    let mut rng = Rng::new(1);
    for (lens, size) in [
        (vec![], 1.0),
        (vec![0], 1.0),
        (vec![1], 1.0),
        (vec![15, 0, 17], 1.0),
        (vec![32767, 3, 32768, 32769], 1.0),
        (vec![70_000], 1e30),
        (vec![100, 70_000], 1e-30),
    ] {
        let grads: Vec<_> = lens.iter().map(|&n| Guarded::<f32, 1>::normal(&mut rng, [n], size)).collect();
        let want = grads.iter().flat_map(Guarded::values).map(|v| v * v).sum::<f64>().sqrt();
        for device in all_devices() {
            // One rounding to f32; the sum is in f64.
            close(&format!("{lens:?}"), &[norm(&device, &grads)], &[want.abs()], 1.01 * 2f64.powi(-24), 0.0);
        }
    }
}

const BAD: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

#[test]
fn bad_numbers_show() {
    for (device, bad) in all_devices().iter().flat_map(|d| BAD.map(|bad| (d, bad))) {
        let mut values = vec![1.0; 40_000];
        values[39_999] = bad;
        let grads = [Guarded::of(&[1.0], [1]), Guarded::of(&values, [40_000])];
        assert!(!norm(device, &grads).is_finite());
    }
}

#[test]
fn the_same_on_any_threads() {
    let grads = [Guarded::<f32, 1>::normal(&mut Rng::new(2), [300_001], 1.0)];
    same_bits_on_any_threads(|device| norm(device, &grads).to_bits());
}

#[test]
fn every_rule_is_checked() {
    let run = |grads: &[Guarded<f32, 1>], norm: usize, room: usize| {
        let (mut norm, mut room) = (Guarded::<f32, 1>::nan([norm]), Guarded::room(room));
        let grads = grads.iter().map(Guarded::view).collect();
        devices()[0].run(GlobalNorm { grads, norm: norm.view_mut(), workspace: room.view_mut() })
    };
    let grads = [1, 32768, 32769, 0].map(|len| Guarded::<f32, 1>::of(&vec![1.0; len], [len]));
    assert!(run(&grads, 1, 4).is_ok());
    assert_breaks(run(&grads, 2, 4), "self.norm.shape() == [1]");
    assert_breaks(run(&grads, 1, 3), "workspace >= need");
}
