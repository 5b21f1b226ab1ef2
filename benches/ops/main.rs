//! Microbenchmarks of the operations, forward and backward, over named shapes: `cargo bench --bench ops`, and with
//! `--features cuda` on the GPU too.
//!
//! One table of (operation, shape), the same on every device: f32 on the CPU, bf16 on a GPU. Criterion prints the time; the
//! throughput of what computes more than four times a byte is in FLOP ("elem" is one floating-point operation), that of
//! everything else in bytes, both as operations count them. Under `cargo test` every row only runs, at a tiny shape, on softgpu
//! too. An operation of the library without a row is an error.

mod cases;
#[path = "../../tests/common/coverage.rs"]
mod coverage;
#[cfg(feature = "cuda")]
mod cuda;
mod group;
mod lab;
mod shapes;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::Criterion;
use trimoe::Device;

use group::{Group, only_runs};
use lab::{Lab, Work};
use shapes::{Shape, TIMED, TINY};

fn main() -> ExitCode {
    let mut criterion = (!only_runs()).then(|| Criterion::default().configure_from_args());
    if let Err(why) = tables(&mut criterion) {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    if let Some(criterion) = &criterion {
        criterion.final_summary();
    }
    ExitCode::SUCCESS
}

fn tables(criterion: &mut Option<Criterion>) -> Result<(), Box<dyn Error>> {
    let shapes: &[Shape] = if criterion.is_none() { &[TINY] } else { &TIMED };
    on_the_cpu(criterion.as_mut(), shapes)?;
    #[cfg(feature = "cuda")]
    cuda::on_the_gpu(criterion.as_mut(), shapes)?;
    let missing = coverage::missing(coverage::every_op(), &coverage::ran());
    if missing.is_empty() { Ok(()) } else { Err(format!("operations without a row: {missing:?}").into()) }
}

fn on_the_cpu(criterion: Option<&mut Criterion>, shapes: &[Shape]) -> Result<(), Box<dyn Error>> {
    let (lab, mut group) = (Lab::new(Device::cpu()), Group::new(criterion, "ops", 3.0));
    for s in shapes {
        for case in cases::all::<f32>() {
            let mut work = case(&lab, s)?;
            let cost = work.first(&lab)?;
            let name = work.name(&cost);
            group.row(&name, s.name, &cost, |runs| time(&lab, &mut work, runs));
        }
    }
    Ok(())
}

fn time(lab: &Lab, work: &mut Work, runs: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..runs {
        work.reset(lab).expect("it did before");
        let start = Instant::now();
        work.run(lab).expect("it ran before");
        total += start.elapsed();
    }
    total
}
