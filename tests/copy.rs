//! `Copy` against the definition.

mod common;

use common::{Guarded, Rng, all_devices, assert_breaks, devices};
use trimoe::ops::Copy;
use trimoe::{Elem, bf16, f16};

fn run_case<T: Elem>(shape: [usize; 2]) {
    let x = Guarded::<T, 2>::normal(&mut Rng::new(1), shape, 1.0);
    for device in all_devices() {
        let mut y = Guarded::<T, 2>::nan(shape);
        device.run(Copy { x: x.view_on(&device), y: y.view_mut_on(&device) }).unwrap();
        assert_eq!(y.written(), x.values(), "{:?} {shape:?} on {}", T::DTYPE, device.place());
    }
}

#[test]
fn rows_are_copied_to_the_bit() {
    for shape in [[0, 3], [2, 0], [1, 1], [127, 3], [128, 16], [129, 17], [300, 33]] {
        run_case::<f32>(shape);
        run_case::<bf16>(shape);
        run_case::<f16>(shape);
    }
}

#[test]
fn every_rule_is_checked() {
    let x = Guarded::<f32, 2>::of(&[0.0; 6], [2, 3]);
    let mut y = Guarded::<f32, 2>::of(&[0.0; 6], [3, 2]);
    assert_breaks(
        devices()[0].run(Copy { x: x.view(), y: y.view_mut() }),
        "self.x.shape() == self.y.shape()",
    );
}

/// Memory that is elsewhere is an error, never a read of a wild address.
#[cfg(feature = "cuda")]
#[test]
fn operands_elsewhere_are_refused() {
    let x = Guarded::<f32, 2>::of(&[0.0; 6], [2, 3]);
    for device in all_devices() {
        for other in all_devices().iter().filter(|d| d.place() != device.place()) {
            let mut y = Guarded::<f32, 2>::of(&[0.0; 6], [2, 3]);
            let result = device.run(Copy { x: x.view_on(other), y: y.view_mut_on(&device) });
            assert_breaks(result, "every operand is on the device");
        }
    }
}
