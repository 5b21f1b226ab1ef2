//! `Add` against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, same_bits_on_any_threads,
};
use trimoe::ops::Add;
use trimoe::{Elem, bf16, f16};

fn run_case<T: Elem>(shape: [usize; 2]) {
    let mut rng = Rng::new(1);
    let x = Guarded::<T, 2>::normal(&mut rng, shape, 1.0);
    for device in all_devices() {
        let mut y = Guarded::<T, 2>::normal(&mut rng, shape, 1.0);
        let mut want = vec![Bound::default(); shape[0] * shape[1]];
        for (bound, (x, y)) in want.iter_mut().zip(x.values().into_iter().zip(y.values())) {
            bound.add(x);
            bound.add(y);
        }
        device.run(Add { x: x.view_on(&device), y: y.view_mut_on(&device) }).unwrap();
        assert_within::<T>(&format!("{:?} {shape:?}", T::DTYPE), &y.written(), &want);
    }
}

#[test]
fn sums_of_every_shape() {
    for shape in [[0, 3], [2, 0], [1, 1], [127, 3], [128, 16], [129, 17], [300, 33]] {
        run_case::<f32>(shape);
        run_case::<bf16>(shape);
        run_case::<f16>(shape);
    }
}

#[test]
fn the_same_on_any_threads() {
    let x = Guarded::<f32, 2>::normal(&mut Rng::new(2), [500, 9], 1.0);
    same_bits_on_any_threads(|device| {
        let mut y = device.zeros::<f32, 2>([500, 9]).unwrap();
        device.run(Add { x: x.view(), y: y.view_mut() }).unwrap();
        common::guarded::bits(&y)
    });
}

#[test]
fn every_rule_is_checked() {
    let x = Guarded::<f32, 2>::of(&[0.0; 6], [2, 3]);
    let mut y = Guarded::<f32, 2>::of(&[0.0; 6], [3, 2]);
    assert_breaks(devices()[0].run(Add { x: x.view(), y: y.view_mut() }), "self.x.shape() == self.y.shape()");
}
