//! Shared by the tests of operations: seeded values, guarded tensors, the comparer, routing cases.
//!
//! Oracles are plain f64 loops written from the definition, in `oracle` or beside the test of an operation;
//! they share nothing with the library.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

pub mod cases;
pub mod compare;
pub mod coverage;
pub mod guarded;
pub mod int4;
pub mod oracle;
pub mod rng;
pub mod routing;
pub mod training;

#[allow(unused_imports, reason = "not every test uses every helper")]
pub use compare::{Bound, assert_within, close, identical, near, near_with, norm_wise};
#[allow(unused_imports, reason = "not every test uses every helper")]
pub use guarded::Guarded;
pub use rng::Rng;

/// Devices every case runs on.
pub fn devices() -> Vec<trimoe::Device> {
    vec![trimoe::Device::cpu_with_threads(2).unwrap()]
}

/// [`devices`] and the CUDA device, for operations that have kernels. Without a device it is skipped, loudly; with
/// `TRIMOE_REQUIRE_GPU=1` or `TRIMOE_REQUIRE_CUDA=1` that is a failure.
pub fn all_devices() -> Vec<trimoe::Device> {
    #[allow(unused_mut, reason = "without the feature there is nothing to add")]
    let mut devices = devices();
    #[cfg(feature = "cuda")]
    match trimoe::Device::cuda(0) {
        Ok(device) => devices.push(device),
        Err(why) => {
            let required =
                ["TRIMOE_REQUIRE_GPU", "TRIMOE_REQUIRE_CUDA"].iter().any(|v| std::env::var_os(v).is_some());
            assert!(!required, "{why}");
            eprintln!("SKIPPED: CUDA: {why}");
        }
    }
    devices
}

/// Makes a plan usable on a device.
pub fn plan_on(plan: &mut trimoe::Plan, device: &trimoe::Device) {
    #[cfg(feature = "cuda")]
    if let Some(cuda) = device.as_cuda() {
        plan.upload(cuda).unwrap();
    }
    let _ = (plan, device);
}

/// Runs `work` with one, two and three threads and asserts that the results are the same to the bit.
pub fn same_bits_on_any_threads<R: PartialEq + std::fmt::Debug>(work: impl Fn(&trimoe::Device) -> R) {
    let results: Vec<R> =
        [1, 2, 3].map(|n| work(&trimoe::Device::cpu_with_threads(n).unwrap())).into_iter().collect();
    assert_eq!(results[0], results[1], "1 and 2 threads");
    assert_eq!(results[0], results[2], "1 and 3 threads");
}

/// Asserts that `result` is a rule error that names this rule.
pub fn assert_breaks(result: trimoe::Result<()>, rule: &str) {
    match result {
        Err(trimoe::Error::Rule { rule: broken, .. }) => {
            assert!(broken.contains(rule), "broke `{broken}`, not `{rule}`")
        }
        other => panic!("expected a broken rule `{rule}`, got {other:?}"),
    }
}
