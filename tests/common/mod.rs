//! Shared by the tests of operations: seeded values, guarded tensors, the comparer, routing cases.
//!
//! Oracles are plain f64 loops written from the definition, in `oracle` or beside the test of an operation;
//! they share nothing with the library.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

pub mod cases;
pub mod compare;
pub mod guarded;
pub mod oracle;
pub mod rng;

#[allow(unused_imports, reason = "not every test uses every helper")]
pub use compare::{Bound, assert_within, close, near, norm_wise};
#[allow(unused_imports, reason = "not every test uses every helper")]
pub use guarded::Guarded;
pub use rng::Rng;

/// Devices every case runs on.
pub fn devices() -> Vec<trimoe::Device> {
    vec![trimoe::Device::cpu_with_threads(2).unwrap()]
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
