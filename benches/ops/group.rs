//! Rows that are timed by criterion, or only run.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};

use crate::lab::Cost;

/// Whether rows only run, to see that they can, and nothing is timed: without `--bench`, as under `cargo test`, and with
/// `--test`, as criterion has it. Other arguments mean nothing then.
pub fn only_runs() -> bool {
    let given = |flag: &str| std::env::args().any(|arg| arg == flag);
    !given("--bench") || given("--test")
}

/// Rows of one device: of criterion, where they are timed.
pub struct Group<'a>(Option<BenchmarkGroup<'a, WallTime>>);

impl<'a> Group<'a> {
    /// `seconds` to measure each in, after a half of them.
    pub fn new(criterion: Option<&'a mut Criterion>, name: &str, seconds: f64) -> Self {
        Group(criterion.map(|criterion| {
            let mut group = criterion.benchmark_group(name);
            let time = Duration::from_secs_f64(seconds);
            group.sample_size(10).warm_up_time(time / 2).measurement_time(time);
            group
        }))
    }

    /// A row: `time` runs it so many times.
    pub fn row(&mut self, name: &str, shape: &str, cost: &Cost, mut time: impl FnMut(u64) -> Duration) {
        let Some(group) = &mut self.0 else {
            time(2);
            return;
        };
        let computes = cost.flops > 4 * cost.bytes;
        group.throughput(if computes {
            Throughput::Elements(cost.flops)
        } else {
            Throughput::Bytes(cost.bytes)
        });
        group.bench_function(BenchmarkId::new(name, shape), |bencher| bencher.iter_custom(&mut time));
    }
}
