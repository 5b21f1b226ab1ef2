//! How the cost of a feed-forward layer grows: `cargo bench --bench scaling`, with `-- --plot FILE.svg` for a plot.
//!
//! Forward and backward of one flat and one clustered layer, and the optimiser's share (global norm and AdamW) apart, in f32,
//! while one size grows and the others stay: experts (8 to a cluster, 16,384 tokens), tokens, hidden (with inner three times
//! as large), threads. The sizes of a sweep take turns; medians of their rounds are printed, with the exponent of the power
//! of the size that fits the time of a whole pass best.

mod case;
mod plot;

use std::path::PathBuf;

use case::Case;
use trimoe::moe::{FfnKind, Layer, Shape};
use trimoe::{Device, Result};

/// Times that every size is measured.
const ROUNDS: usize = 5;
/// Experts of a cluster.
const PER_CLUSTER: usize = 8;
/// Most that a token of the clustered layer may cost with 256 experts, over its cost with 8.
const BOUND: f64 = 1.25;

/// What grows.
#[derive(Clone, Copy, PartialEq)]
enum Size {
    Experts,
    Tokens,
    Hidden,
    Threads,
}

impl Size {
    const ALL: [Size; 4] = [Size::Experts, Size::Tokens, Size::Hidden, Size::Threads];

    fn name(self) -> &'static str {
        match self {
            Size::Experts => "experts",
            Size::Tokens => "tokens",
            Size::Hidden => "hidden",
            Size::Threads => "threads",
        }
    }

    fn values(self) -> Vec<usize> {
        match self {
            Size::Experts => vec![8, 16, 32, 64, 128, 256],
            Size::Tokens => vec![512, 1024, 2048, 4096, 8192, 16_384],
            Size::Hidden => vec![128, 256, 512, 1024],
            Size::Threads => (1..=Device::cpu().threads()).collect(),
        }
    }

    fn case(self, kind: FfnKind, value: usize) -> Result<Case> {
        let [mut experts, mut tokens, mut hidden, mut threads] = [32, 4096, 256, Device::cpu().threads()];
        match self {
            Size::Experts => (experts, tokens) = (value, 16_384),
            Size::Tokens => tokens = value,
            Size::Hidden => hidden = value,
            Size::Threads => threads = value,
        }
        let shape = Shape { hidden, inner: 3 * hidden, experts, clusters: 1, topk: 2, rank: 0 };
        let shape = match kind {
            FfnKind::Clustered => Shape { clusters: experts / PER_CLUSTER, rank: 16, ..shape },
            _ => shape,
        };
        Case::new(Layer { kind, shape }, tokens, &Device::cpu_with_threads(threads)?)
    }
}

/// Seconds of one size.
struct Point {
    value: usize,
    tokens: usize,
    pass: f64,
    optimiser: f64,
}

/// One form while one size grows.
struct Sweep {
    size: Size,
    kind: FfnKind,
    points: Vec<Point>,
}

impl Sweep {
    fn measure(size: Size, kind: FfnKind) -> Result<Self> {
        let values = size.values();
        let mut cases = values.iter().map(|&value| size.case(kind, value)).collect::<Result<Vec<_>>>()?;
        let mut seconds = vec![[Vec::new(), Vec::new()]; cases.len()];
        for round in 0..=ROUNDS {
            for (case, seconds) in cases.iter_mut().zip(&mut seconds) {
                let [pass, optimiser] = case.step()?;
                // The first one warms up.
                if round > 0 {
                    seconds[0].push(pass);
                    seconds[1].push(optimiser);
                }
            }
        }
        let points = values.into_iter().zip(&cases).zip(seconds).map(|((value, case), [pass, optimiser])| {
            Point { value, tokens: case.tokens(), pass: median(pass), optimiser: median(optimiser) }
        });
        Ok(Sweep { size, kind, points: points.collect() })
    }

    /// Slope of the logarithm of the seconds of a pass over that of the size: least squares.
    fn exponent(&self) -> f64 {
        let logs = |of: fn(&Point) -> f64| self.points.iter().map(|p| of(p).ln()).collect::<Vec<_>>();
        let (x, y) = (logs(|p| p.value as f64), logs(|p| p.pass));
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let (at_x, at_y) = (mean(&x), mean(&y));
        let both: f64 = x.iter().zip(&y).map(|(x, y)| (x - at_x) * (y - at_y)).sum();
        both / x.iter().map(|x| (x - at_x).powi(2)).sum::<f64>()
    }

    fn print(&self) {
        let (kind, size) = (self.kind, self.size.name());
        println!("\n{kind}, {size} growing: seconds ~ {size}^{:.2}", self.exponent());
        println!("  {size:>8} {:>14} {:>18}", "us per token", "optimiser, ms");
        for Point { value, tokens, pass, optimiser } in &self.points {
            println!("  {value:>8} {:>14.2} {:>18.2}", 1e6 * pass / *tokens as f64, 1e3 * optimiser);
        }
    }

    /// Seconds of the last size over those of the first.
    fn growth(&self) -> Option<f64> {
        Some(self.points.last()?.pass / self.points.first()?.pass)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only checks that it builds and starts.
    if args.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let plot = args.iter().position(|a| a == "--plot").map(|at| args.get(at + 1).map(PathBuf::from));
    let plot = plot.map(|path| path.ok_or("--plot needs a file")).transpose()?;
    println!("one layer, f32, {} threads; medians of {ROUNDS} rounds", Device::cpu().threads());
    let mut sweeps = Vec::new();
    for size in Size::ALL {
        for kind in [FfnKind::Flat, FfnKind::Clustered] {
            let sweep = Sweep::measure(size, kind)?;
            sweep.print();
            sweeps.push(sweep);
        }
    }
    if let Some(path) = plot {
        std::fs::write(&path, plot::svg(&sweeps)?)?;
        println!("\nplot: {}", path.display());
    }
    let clustered = sweeps.iter().find(|s| s.size == Size::Experts && s.kind == FfnKind::Clustered);
    let growth = clustered.and_then(Sweep::growth).unwrap_or(f64::NAN);
    println!("\nclustered, 8 to 256 experts: {growth:.2} x a token (at most {BOUND})");
    if growth.is_nan() || growth > BOUND {
        return Err(format!("a token costs {growth:.2} x with 256 experts, above {BOUND}").into());
    }
    Ok(())
}
