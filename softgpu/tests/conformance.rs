//! PTX of another compiler: Triton kernels against references. `cargo xtask conformance` makes the PTX and runs
//! this; `SOFTGPU_TRITON` names the folder that `conformance/kernels.py` wrote.

mod common;

use std::path::{Path, PathBuf};

use common::Random;
use common::lab::{Arg, Lab, every_schedule};
use half::{bf16, f16};
use serde_json::Value;
use softgpu::chip::Chip;
use softgpu::options::Options;

/// One compiled kernel.
struct Case {
    name: String,
    ptx: String,
    entry: String,
    shared: u32,
    threads: u32,
    constants: Value,
    chip: &'static Chip,
}

impl Case {
    fn constant(&self, name: &str) -> usize {
        self.constants[name].as_u64().unwrap_or_else(|| panic!("{}: no constant {name}", self.name)) as usize
    }

    /// Runs it; the two pointers that Triton appends (scratch memory) are null.
    fn run(&self, lab: &Lab, grid: [u32; 3], args: &[Arg]) {
        let args = [args, &[Arg::Ptr(0), Arg::Ptr(0)]].concat();
        let program = lab.load(&self.ptx);
        let outcome = lab.launch(&program, &self.entry, grid, [self.threads, 1, 1], self.shared, &args);
        assert_eq!(outcome.reports, [], "{} on {}", self.name, self.chip.arch);
    }
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("SOFTGPU_TRITON").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: SOFTGPU_TRITON is not set (cargo xtask conformance sets it)");
    }
    folder
}

fn cases(folder: &Path) -> Vec<Case> {
    let read =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let table: Value = serde_json::from_str(&read("kernels.json")).unwrap();
    let number = |v: &Value| v.as_u64().unwrap() as u32;
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let case = |v: &Value| Case {
        name: text(&v["kernel"]),
        ptx: read(&text(&v["file"])),
        entry: text(&v["entry"]),
        shared: number(&v["shared"]),
        threads: number(&v["threads"]),
        constants: v["constants"].clone(),
        chip: Chip::named(&format!("sm_{}", number(&v["arch"]))).unwrap(),
    };
    table.as_array().unwrap().iter().map(case).collect()
}

#[test]
fn triton_kernels_agree_with_references() {
    let Some(folder) = folder() else { return };
    let cases = cases(&folder);
    assert!(cases.len() >= 20, "{} kernels in {}", cases.len(), folder.display());
    for case in &cases {
        for options in every_schedule() {
            let lab = Lab::with(Options { chip: case.chip, ..options });
            let worst = check(case, &lab);
            let Options { schedule, copies, .. } = &lab.options;
            println!(
                "{} {} {schedule:?} {copies:?}: {:.0} % of the bound",
                case.name,
                case.chip.arch,
                100.0 * worst
            );
            assert!(worst <= 1.0, "{} on {}: {worst} times the bound", case.name, case.chip.arch);
        }
    }
}

/// Values around 0 of a magnitude of 1.
fn normal(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| (0..4).map(|_| random.next() as u32 as f32 / 4294967296.0 - 0.5).sum()).collect()
}

/// The largest share of `bound(reference)` that an output is off by.
fn worst(got: &[f32], want: &[f64], bound: impl Fn(f64) -> f64) -> f64 {
    assert_eq!(got.len(), want.len());
    let share =
        |(g, w): (&f32, &f64)| if g.is_nan() { f64::INFINITY } else { (f64::from(*g) - w).abs() / bound(*w) };
    got.iter().zip(want).map(share).fold(0.0, f64::max)
}

fn check(case: &Case, lab: &Lab) -> f64 {
    let random = &mut Random::new(7);
    match case.name.as_str() {
        "add_f32" | "add_bf16" => add(case, lab, random),
        "softmax_f32" => softmax(case, lab, random),
        "layer_norm_f16" => layer_norm(case, lab, random),
        "matmul_f16" | "matmul_bf16" | "matmul_tf32" => matmul(case, lab, random),
        "matmul_i8" => matmul_i8(case, lab, random),
        "attention_f16" => attention(case, lab, random),
        "histogram_i32" => histogram(case, lab, random),
        "scan_i32" => scan(case, lab, random),
        "argmax_f32" => argmax(case, lab, random),
        "sort_f32" => sort(case, lab, random),
        other => panic!("no reference for {other}"),
    }
}

fn add(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (n, block) = (3001, case.constant("BLOCK"));
    let (x, y) = (normal(random, n), normal(random, n));
    let grid = [n.div_ceil(block) as u32, 1, 1];
    let narrow = case.name == "add_bf16";
    let run = |x: u64, y: u64, out: u64| {
        case.run(lab, grid, &[Arg::Ptr(x), Arg::Ptr(y), Arg::Ptr(out), Arg::U32(n as u32)])
    };
    if narrow {
        let (x, y): (Vec<bf16>, Vec<bf16>) =
            (x.into_iter().map(bf16::from_f32).collect(), y.into_iter().map(bf16::from_f32).collect());
        let out = lab.blank(2 * n);
        run(lab.put(&x), lab.put(&y), out);
        let got: Vec<f32> = lab.get::<bf16>(out, n).into_iter().map(bf16::to_f32).collect();
        let want: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x.to_f64() + y.to_f64()).collect();
        return worst(&got, &want, |w| w.abs() / 256.0 + 1e-30);
    }
    let out = lab.blank(4 * n);
    run(lab.put(&x), lab.put(&y), out);
    let want: Vec<f64> = x.iter().zip(&y).map(|(x, y)| f64::from(*x) + f64::from(*y)).collect();
    worst(&lab.get::<f32>(out, n), &want, |w| w.abs() * 6e-8 + 1e-30)
}

fn softmax(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (rows, columns) = (5, 777);
    let x = normal(random, rows * columns);
    let out = lab.blank(4 * x.len());
    case.run(lab, [rows as u32, 1, 1], &[Arg::Ptr(lab.put(&x)), Arg::Ptr(out), Arg::U32(columns as u32)]);
    let mut want = Vec::new();
    for row in x.chunks(columns) {
        let e: Vec<f64> = row.iter().map(|v| f64::from(*v).exp()).collect();
        let sum: f64 = e.iter().sum();
        want.extend(e.into_iter().map(|e| e / sum));
    }
    worst(&lab.get::<f32>(out, x.len()), &want, |w| 2e-6 * w)
}

fn layer_norm(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (rows, columns) = (4, 500);
    let x: Vec<f16> = normal(random, rows * columns).into_iter().map(f16::from_f32).collect();
    let (weight, bias) = (normal(random, columns), normal(random, columns));
    let out = lab.blank(2 * x.len());
    let pointers = [lab.put(&x), lab.put(&weight), lab.put(&bias), out].map(Arg::Ptr);
    case.run(lab, [rows as u32, 1, 1], &[&pointers[..], &[Arg::U32(columns as u32)]].concat());
    let mut want = Vec::new();
    for row in x.chunks(columns) {
        let mean = row.iter().map(|v| v.to_f64()).sum::<f64>() / columns as f64;
        let variance = row.iter().map(|v| (v.to_f64() - mean).powi(2)).sum::<f64>() / columns as f64;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        let y =
            |(i, v): (usize, &f16)| (v.to_f64() - mean) * scale * f64::from(weight[i]) + f64::from(bias[i]);
        want.extend(row.iter().enumerate().map(y));
    }
    let got: Vec<f32> = lab.get::<f16>(out, x.len()).into_iter().map(f16::to_f32).collect();
    worst(&got, &want, |w| w.abs() / 2048.0 + 2e-5)
}

fn matmul(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (m, n, k) = (100, 90, 70);
    let (a, b) = (normal(random, m * k), normal(random, k * n));
    // Inputs as the kernel sees them; tf32 keeps 10 bits of the fraction.
    let (pa, pb, a, b, eps): (u64, u64, Vec<f64>, Vec<f64>, f64) = match case.name.as_str() {
        "matmul_f16" => {
            let narrow = |v: &[f32]| v.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
            let wide = |v: &[f16]| v.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
            let (a, b) = (narrow(&a), narrow(&b));
            (lab.put(&a), lab.put(&b), wide(&a), wide(&b), 0.0)
        }
        "matmul_bf16" => {
            let narrow = |v: &[f32]| v.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
            let wide = |v: &[bf16]| v.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
            let (a, b) = (narrow(&a), narrow(&b));
            (lab.put(&a), lab.put(&b), wide(&a), wide(&b), 0.0)
        }
        _ => {
            let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            (lab.put(&a), lab.put(&b), wide(&a), wide(&b), 2.0 / 1024.0)
        }
    };
    let out = lab.blank(4 * m * n);
    let grid = [m.div_ceil(case.constant("BM")) as u32, n.div_ceil(case.constant("BN")) as u32, 1];
    let sizes = [m, n, k].map(|v| Arg::U32(v as u32));
    case.run(lab, grid, &[&[pa, pb, out].map(Arg::Ptr)[..], &sizes].concat());
    let (mut want, mut magnitude) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let product = a[i * k + l] * b[l * n + j];
                want[i * n + j] += product;
                magnitude[i * n + j] += product.abs();
            }
        }
    }
    // Sums of k truncated products, and the rounding of the inputs.
    let got = lab.get::<f32>(out, m * n);
    let share =
        |i: usize| (f64::from(got[i]) - want[i]).abs() / (magnitude[i] * (k as f64 * 6e-8 + eps) + 1e-12);
    (0..m * n).map(share).fold(0.0, f64::max)
}

fn matmul_i8(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (m, n, k) = (70, 66, 130);
    let mut bytes = |count: usize| (0..count).map(|_| random.next() as i8).collect::<Vec<i8>>();
    let (a, b) = (bytes(m * k), bytes(k * n));
    let out = lab.blank(4 * m * n);
    let grid = [m.div_ceil(case.constant("BM")) as u32, n.div_ceil(case.constant("BN")) as u32, 1];
    let sizes = [m, n, k].map(|v| Arg::U32(v as u32));
    case.run(lab, grid, &[&[lab.put(&a), lab.put(&b), out].map(Arg::Ptr)[..], &sizes].concat());
    let dot =
        |i: usize| (0..k).map(|l| i32::from(a[i / n * k + l]) * i32::from(b[l * n + i % n])).sum::<i32>();
    exact(&lab.get::<i32>(out, m * n), &(0..m * n).map(dot).collect::<Vec<_>>())
}

fn exact<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T]) -> f64 {
    assert_eq!(got, want);
    0.0
}

fn attention(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (heads, length, d) = (2, 100, case.constant("D"));
    let mut input =
        || normal(random, heads * length * d).into_iter().map(f16::from_f32).collect::<Vec<f16>>();
    let (q, k, v) = (input(), input(), input());
    let out = lab.blank(4 * q.len());
    let grid = [length.div_ceil(case.constant("BM")) as u32, heads as u32, 1];
    let pointers = [lab.put(&q), lab.put(&k), lab.put(&v), out].map(Arg::Ptr);
    case.run(lab, grid, &[&pointers[..], &[Arg::U32(length as u32)]].concat());
    let mut want = Vec::new();
    for head in 0..heads {
        let row = |t: &[f16], i: usize| {
            t[(head * length + i) * d..][..d].iter().map(|x| x.to_f64()).collect::<Vec<f64>>()
        };
        for i in 0..length {
            let qi = row(&q, i);
            let score =
                |j: usize| row(&k, j).iter().zip(&qi).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt();
            let e: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
            let sum: f64 = e.iter().sum();
            let mut o = vec![0.0; d];
            for (j, e) in e.iter().enumerate() {
                o.iter_mut().zip(row(&v, j)).for_each(|(o, v)| *o += e / sum * v);
            }
            want.extend(o);
        }
    }
    // The weights are rounded to f16 before the second product.
    worst(&lab.get::<f32>(out, q.len()), &want, |_| 2e-3)
}

fn histogram(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (n, buckets) = (2000usize, 37usize);
    let x: Vec<i32> = (0..n).map(|_| (random.next() % buckets as u64) as i32).collect();
    let counts = lab.put(&vec![0i32; buckets]);
    let grid = [n.div_ceil(case.constant("BLOCK")) as u32, 1, 1];
    case.run(lab, grid, &[Arg::Ptr(lab.put(&x)), Arg::Ptr(counts), Arg::U32(n as u32)]);
    let mut want = vec![0; buckets];
    x.iter().for_each(|b| want[*b as usize] += 1);
    exact(&lab.get::<i32>(counts, buckets), &want)
}

fn scan(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (rows, columns) = (3, 1000);
    let x: Vec<i32> = (0..rows * columns).map(|_| random.next() as i32 >> 16).collect();
    let out = lab.blank(4 * x.len());
    case.run(lab, [rows as u32, 1, 1], &[Arg::Ptr(lab.put(&x)), Arg::Ptr(out), Arg::U32(columns as u32)]);
    let sums = |row: &[i32]| {
        row.iter()
            .scan(0, |sum, v| {
                *sum += v;
                Some(*sum)
            })
            .collect::<Vec<i32>>()
    };
    exact(&lab.get::<i32>(out, x.len()), &x.chunks(columns).flat_map(sums).collect::<Vec<_>>())
}

fn argmax(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let (rows, columns) = (6, 900);
    // Few distinct values, so that ties are common: the first wins.
    let x: Vec<f32> = (0..rows * columns).map(|_| (random.next() % 50) as f32).collect();
    let out = lab.blank(4 * rows);
    case.run(lab, [rows as u32, 1, 1], &[Arg::Ptr(lab.put(&x)), Arg::Ptr(out), Arg::U32(columns as u32)]);
    let first =
        |row: &[f32]| (0..columns).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i32;
    exact(&lab.get::<i32>(out, rows), &x.chunks(columns).map(first).collect::<Vec<_>>())
}

fn sort(case: &Case, lab: &Lab, random: &mut Random) -> f64 {
    let block = case.constant("BLOCK");
    let x = normal(random, 3 * block);
    let out = lab.blank(4 * x.len());
    case.run(lab, [3, 1, 1], &[Arg::Ptr(lab.put(&x)), Arg::Ptr(out)]);
    let mut want = x.clone();
    want.chunks_mut(block).for_each(|c| c.sort_by(f32::total_cmp));
    exact(&lab.get::<f32>(out, x.len()), &want)
}
