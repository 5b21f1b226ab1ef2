//! The rows on a GPU: by events of its stream, each run with a cold cache.

mod clock;
mod cublas;

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;

use comfy_table::{Table, presets};
use criterion::Criterion;
use trimoe::{Device, bf16};

use crate::cases::{self, Case};
use crate::group::{Group, only_runs};
use crate::lab::{Cost, Lab, Work};
use crate::shapes::Shape;
use clock::{Clock, Peaks};
use cublas::{Cublas, Product};

/// A row that was timed.
struct Row {
    name: String,
    shape: &'static str,
    cost: Cost,
    /// Median of all runs, in seconds.
    seconds: f64,
    /// That of cuBLAS for the same product.
    cublas: Option<f64>,
}

/// Times every row, or runs it once; says so in a line if there is nothing to time.
pub fn on_the_gpu(criterion: Option<&mut Criterion>, shapes: &[Shape]) -> Result<(), Box<dyn Error>> {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(why)
            if ["TRIMOE_REQUIRE_GPU", "TRIMOE_REQUIRE_CUDA"]
                .iter()
                .any(|v| std::env::var_os(v).is_some()) =>
        {
            return Err(why.into());
        }
        Err(why) => {
            println!("SKIPPED: rows on a GPU: {why}");
            return Ok(());
        }
    };
    let cuda = device.as_cuda().ok_or("a CUDA device has a CUDA side")?.clone();
    let gpu = cuda.name()?;
    if gpu.starts_with("softgpu") && !only_runs() {
        println!(
            "SKIPPED: rows on a GPU: {gpu} is software, whose times mean nothing; \
             cargo test --features cuda --bench ops runs every row on it once"
        );
        return Ok(());
    }
    let cublas = match Cublas::load(cuda.stream()) {
        Ok(cublas) => Some(Rc::new(cublas)),
        Err(why) => {
            println!("SKIPPED: rows of cuBLAS: {why}");
            None
        }
    };
    let lab = Lab::new(device);
    let clock = RefCell::new(Clock::new(&cuda)?);
    let peaks = if only_runs() { None } else { Some(Peaks::measure(&lab, &clock, cublas.as_ref())?) };
    if let Some(peaks) = &peaks {
        println!("{gpu}: {peaks}");
    }
    // The cache is emptied before each run, which takes longer than most runs.
    let mut group = Group::new(criterion, "ops_cuda", 0.1);
    let mut rows = Vec::new();
    for s in shapes {
        for case in cases::all::<bf16>() {
            rows.push(row(&mut group, &lab, &clock, cublas.as_ref(), case, s)?);
        }
    }
    if let Some(peaks) = &peaks {
        println!("{}", table(&rows, peaks));
    }
    Ok(())
}

fn row(
    group: &mut Group<'_>,
    lab: &Lab,
    clock: &RefCell<Clock>,
    cublas: Option<&Rc<Cublas>>,
    case: Case,
    s: &Shape,
) -> Result<Row, Box<dyn Error>> {
    let mut works = vec![case(lab, s)?];
    let cost = works[0].first(lab)?;
    // Operands of several places take turns, so that no run finds those of the last.
    while works.len() < clock.borrow().rotation(cost.bytes) {
        works.push(case(lab, s)?);
    }
    let (name, whole) = (works[0].name(&cost), works[0].variant == cases::WHOLE);
    let seconds = timed(group, lab, clock, (&name, s.name, &cost), works);
    let product = Product::of(cost.op, s).filter(|_| whole);
    let cublas = match (cublas, product) {
        (Some(cublas), Some(product)) => {
            let works = (0..clock.borrow().rotation(cost.bytes))
                .map(|_| cublas.work(lab, product))
                .collect::<Result<_, _>>()?;
            Some(timed(group, lab, clock, (&format!("{name}-cublas"), s.name, &cost), works))
        }
        _ => None,
    };
    Ok(Row { name, shape: s.name, cost, seconds, cublas })
}

/// The median time of a run.
fn timed(
    group: &mut Group<'_>,
    lab: &Lab,
    clock: &RefCell<Clock>,
    (name, shape, cost): (&str, &str, &Cost),
    mut works: Vec<Work>,
) -> f64 {
    clock.borrow_mut().forget();
    group.row(name, shape, cost, |runs| {
        clock.borrow_mut().time(lab, &mut works, runs).expect("it ran before")
    });
    clock.borrow_mut().median()
}

/// How far every row is from what the GPU could do.
fn table(rows: &[Row], peaks: &Peaks) -> Table {
    let mut table = Table::new();
    let header = ["op", "shape", "median us", "TFLOP/s", "GB/s", "of roofline", "cuBLAS us", "of cuBLAS"];
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for Row { name, shape, cost, seconds, cublas } in rows.iter().filter(|row| row.seconds > 0.0) {
        let rate = |work: u64, unit: f64| work as f64 / seconds / unit;
        let or_none = |text: Option<String>| text.unwrap_or("-".into());
        table.add_row([
            name.clone(),
            shape.to_string(),
            format!("{:.2}", 1e6 * seconds),
            or_none((cost.flops > 0).then(|| format!("{:.2}", rate(cost.flops, 1e12)))),
            format!("{:.1}", rate(cost.bytes, 1e9)),
            format!("{:.0} %", 100.0 * peaks.bound(cost) / seconds),
            or_none(cublas.map(|seconds| format!("{:.2}", 1e6 * seconds))),
            or_none(cublas.map(|cublas| format!("{:.0} %", 100.0 * cublas / seconds))),
        ]);
    }
    table
}
