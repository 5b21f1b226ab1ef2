//! What an error of a kernel, which comes late, says.

use std::process::Command;

use trimoe::ops::*;
use trimoe::{Device, Error};

use crate::common::Guarded;
use crate::cuda_devices;
use crate::replay::normal;

const CHILD: &str = "TRIMOE_TEST_FAILING_LAUNCH";

/// A fault that softgpu is told to inject: only a process of its own can be told. This one leaves the driver alone, for
/// the sake of the captures beside it.
#[test]
fn an_error_of_a_kernel_names_the_operations_it_may_be_of() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "late_errors::the_failing_process", "--nocapture"])
        .envs([("SOFTGPU_FAULT", "launch:3"), ("SOFTGPU_QUIET", "1"), (CHILD, "1")])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// Run by the test above; on a GPU nothing fails.
#[test]
fn the_failing_process() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let software = |d: &Device| d.as_cuda().unwrap().name().unwrap().starts_with("softgpu");
    let Some(device) = cuda_devices().into_iter().find(software) else { return };
    let cuda = device.as_cuda().unwrap();
    let (x, mut y, mut z) = (normal::<f32, 2>(1, [2, 4]), normal(2, [2, 4]), normal::<f32, 2>(3, [2, 4]));
    let (mut norm, mut room) = (Guarded::<f32, 1>::nan([1]), Guarded::room(0));
    let (x, mut y, z) = (x.view_on(&device), y.view_mut_on(&device), z.view_mut_on(&device));
    let (norm, workspace) = (norm.view_mut_on(&device), room.view_mut_on(&device));
    device.run(Add { x, y: y.reborrow() }).unwrap();
    cuda.synchronize().unwrap();
    // Of the next three the second fails; the one before the wait is known not to have.
    device.run(GlobalNorm { grads: vec![], norm, workspace }).unwrap();
    device.run(Copy { x, y }).unwrap();
    let rope = device.run(Rope { x: z, heads: 1, seq: 2, theta: 1e4, inverse: false });
    let error = rope.and_then(|()| cuda.synchronize()).unwrap_err();
    let text = error.to_string();
    let Error::Cuda { after, .. } = error else { panic!("{text}") };
    assert_eq!(after, ["global_norm", "copy", "rope"]);
    assert!(text.ends_with("; enqueued before: global_norm, copy, rope"), "{text}");
}
