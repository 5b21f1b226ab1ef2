//! What every operation with kernels promises beside its results: the same bits from the same inputs, in a CUDA graph too,
//! and no trouble with no rows. And what an error of a kernel, which comes late, says.
#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;

mod experts;
mod int4;
mod late_errors;
mod packed;
mod replay;
mod rows;

use common::coverage::{every_op, missing, ran};
use common::{all_devices, assert_breaks};
use experts::{alike_hold, batches_hold, experts_hold, routes_hold, squares_hold};
use int4::int4_holds;
use replay::{captured, normal};
use rows::{plans_hold, rows_hold, steps_hold};
use trimoe::ops::Copy;
use trimoe::{DType, Device, Elem, bf16, cuda, f16};

fn cuda_devices() -> Vec<Device> {
    all_devices().into_iter().filter(|d| d.as_cuda().is_some()).collect()
}

fn all_hold<T: Elem>(d: &Device) {
    for (hidden, rank) in [(16, 16), (20, 4)] {
        rows_hold::<T>(d, 0, hidden);
        rows_hold::<T>(d, 37, hidden);
        plans_hold::<T>(d, hidden);
        experts_hold::<T>(d, hidden, rank);
        squares_hold::<T>(d, 33, hidden);
        alike_hold::<T>(d, hidden);
    }
    batches_hold::<T>(d);
    let widest = if T::DTYPE == DType::F32 { 128 } else { 256 };
    [64, 128, widest].into_iter().for_each(|head_dim| squares_hold::<T>(d, 3, head_dim));
    routes_hold::<T>(d, 37, [12, 3, 2]);
    routes_hold::<T>(d, 1100, [8, 1, 2]); // a plan of more than one block
    routes_hold::<T>(d, 3, [400, 1, 2]);
    // Few rows and a split depth, then more of them; dequantised once.
    for (rows, shape) in [(5, [1, 40, 512]), (20, [1, 40, 96]), (40, [1, 40, 96]), (256, [1, 9, 40])] {
        int4_holds::<T>(d, rows, shape);
    }
    [0, 16, 33_001].into_iter().for_each(|len| steps_hold::<T>(d, len));
}

/// In one test: a capture in the strictest mode is alone with the driver. It starts with one on a device that has loaded
/// nothing.
#[test]
fn every_operation_repeats_and_replays_to_the_bit() {
    for device in cuda_devices() {
        let on = device.as_cuda().unwrap();
        let (x, mut y) = (normal::<f32, 2>(1, [2, 3]), normal::<f32, 2>(2, [2, 3]));
        let (x, mut y) = (x.view_on(&device), y.view_mut_on(&device));
        captured(on, || {
            let result = device.run(Copy { x, y: y.reborrow() });
            assert_breaks(result, "before it is captured");
        });
        device.run(Copy { x, y: y.reborrow() }).unwrap();
        captured(on, || device.run(Copy { x, y }).unwrap());

        all_hold::<f32>(&device);
        all_hold::<bf16>(&device);
        all_hold::<f16>(&device);
        assert_eq!(missing(every_op(), &ran()), [""; 0], "no operation is forgotten");
        let loaded = on.loaded().into_iter().collect();
        assert_eq!(missing(cuda::kernels(), &loaded), [""; 0], "no variant of a kernel is forgotten");
    }
}
