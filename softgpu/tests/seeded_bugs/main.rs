//! Seeded bugs: real kernels in CUDA C++ (`tests/kernels`), correct and with one mistake each (`-DBUG=n`). The
//! correct ones must be right and give no report in every mode; every mistake must be caught, as the table in
//! `mutants.rs` says: by a report of its kind, or by a wrong result.

#[path = "../common/mod.rs"]
mod common;

mod blocks;
mod matrix;
mod mutants;
mod warps;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::Random;
use common::lab::{Arg, Lab, every_schedule};
use common::nvcc::Nvcc;
use mutants::{Caught, Mutant, Seed, table};
use softgpu::machine::grid::Outcome;
use softgpu::options::Options;
use softgpu::program::Program;
use softgpu::sanitizer::report::Report;

/// A kernel: its file, the macros that choose a variant, and what runs it.
pub struct Base {
    /// In `tests/kernels`.
    pub file: &'static str,
    /// More flags of the compiler.
    pub flags: &'static [&'static str],
    /// How many problems `run` knows.
    pub shapes: usize,
    /// Runs one problem.
    pub run: fn(&Bench, usize) -> Verdict,
}

/// What a run gave.
pub struct Verdict {
    /// What the sanitizer said.
    pub reports: Vec<Report>,
    /// The first value that is wrong.
    pub wrong: Option<String>,
}

impl Verdict {
    /// Judges values against references; `tolerance` is relative to the larger of 1 and the reference.
    pub fn values(outcome: Outcome, got: &[f32], expected: &[f64], tolerance: f64) -> Self {
        assert_eq!(got.len(), expected.len());
        let bad = |g: f32, e: f64| {
            let difference = (f64::from(g) - e).abs();
            difference.is_nan() || difference > tolerance * e.abs().max(1.0)
        };
        let first = (0..got.len()).find(|&i| bad(got[i], expected[i]));
        let wrong = first.map(|i| format!("value {i} is {}, expected {}", got[i], expected[i]));
        Verdict { reports: outcome.reports, wrong }
    }

    /// Judges integers, which have to be equal.
    pub fn integers(outcome: Outcome, got: &[i32], expected: &[i32]) -> Self {
        let first = (0..got.len().max(expected.len())).find(|&i| got.get(i) != expected.get(i));
        let wrong = first.map(|i| format!("value {i} is {:?}, expected {:?}", got.get(i), expected.get(i)));
        Verdict { reports: outcome.reports, wrong }
    }
}

/// A device with a program, and a mistake of the host if one is seeded.
pub struct Bench {
    /// Memory and options.
    pub lab: Lab,
    program: Program,
    seed: Seed,
}

impl Bench {
    fn new(ptx: &str, mut options: Options, seed: Seed) -> Self {
        if let Seed::Endless(_) = seed {
            options.max_instructions = 1 << 20;
        }
        let lab = Lab::with(options);
        let program = lab.load(ptx);
        Self { lab, program, seed }
    }

    /// The input of the kernel in which the host's mistakes are seeded.
    pub fn input<T: Copy>(&self, values: &[T]) -> Arg {
        let address = self.lab.put(values);
        Arg::Ptr(match self.seed {
            Seed::Null => 0,
            Seed::Freed => {
                self.lab.memory.free(address).unwrap();
                address
            }
            Seed::Blank => self.lab.blank(size_of_val(values)),
            Seed::Short => self.lab.put(&values[..values.len() - 1]),
            _ => address,
        })
    }

    /// Runs the only kernel of the program.
    pub fn launch(&self, grid: [u32; 3], block: [u32; 3], shared: u32, args: &[Arg]) -> Outcome {
        let shared = if self.seed == Seed::LessShared { shared - 4 } else { shared };
        self.lab.launch(&self.program, &self.program.kernels[0].name, grid, block, shared, args)
    }
}

/// The compiler; `None`, loudly, where there is none.
fn nvcc() -> Option<Nvcc> {
    let found = Nvcc::find().unwrap_or_else(|e| panic!("{e}"));
    if found.is_none() {
        eprintln!("SKIPPED: no nvcc (cargo xtask cuda fetches one; SOFTGPU_NVCC names one)");
    }
    found
}

fn compile(nvcc: &Nvcc, base: &Base, bug: u32) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(base.file);
    let define = format!("-DBUG={bug}");
    let flags = [&["-ptx", "-arch=compute_80", &define], base.flags].concat();
    let ptx = nvcc.compile(&path, &flags).unwrap_or_else(|e| panic!("{e}"));
    String::from_utf8(ptx).unwrap()
}

/// Values between -1 and 1, multiples of 1/64: exact in every type, and so are their products in f32.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| (random.next() % 129) as f32 / 64.0 - 1.0).collect()
}

/// Whole numbers below `limit`.
pub fn integers(count: usize, limit: u64, seed: u64) -> Vec<i32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| (random.next() % limit) as i32).collect()
}

/// Runs `work` for every item on two threads; what it returns are the complaints, in order of the items.
fn complaints<T: Sync>(items: &[T], work: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((i, item)) =
                    Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, items.get(i)?)))
                {
                    found.lock().unwrap().extend(work(item).map(|text| (i, text)));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    found.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn correct_kernels_are_right_and_give_no_report() {
    let Some(nvcc) = nvcc() else { return };
    let bases: Vec<&Base> = [matrix::BASES, blocks::BASES, warps::BASES].concat();
    let bad = complaints(&bases, |base| {
        let ptx = compile(&nvcc, base, 0);
        for (options, shape) in every_schedule().flat_map(|o| (0..base.shapes).map(move |s| (o.clone(), s))) {
            let modes = format!(
                "{} {:?} shape {shape} {:?} {:?}",
                base.file, base.flags, options.schedule, options.copies
            );
            let verdict = (base.run)(&Bench::new(&ptx, options, Seed::Kernel(0)), shape);
            if let Some(report) = verdict.reports.first() {
                return Some(format!("{modes}: {report}"));
            }
            if let Some(wrong) = verdict.wrong {
                return Some(format!("{modes}: {wrong}"));
            }
        }
        None
    });
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_seeded_bug_is_caught() {
    let Some(nvcc) = nvcc() else { return };
    let mutants = table();
    let missed = complaints(&mutants, |mutant| {
        let result = hunt(&nvcc, mutant);
        let (mark, text) = match &result {
            Ok(text) => ("caught", text),
            Err(text) => ("MISSED", text),
        };
        println!("{mark} {} {:?} ({}): {text}", mutant.base.file, mutant.seed, mutant.what);
        result.err().map(|text| format!("{} {:?} ({}): {text}", mutant.base.file, mutant.seed, mutant.what))
    });
    println!("{} of {} caught", mutants.len() - missed.len(), mutants.len());
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

/// Runs a mutant in every mode; says how it was caught, or what happened instead.
fn hunt(nvcc: &Nvcc, mutant: &Mutant) -> Result<String, String> {
    let bug = match mutant.seed {
        Seed::Kernel(n) | Seed::Endless(n) => n,
        _ => 0,
    };
    let ptx = compile(nvcc, mutant.base, bug);
    if bug != 0 && ptx == compile(nvcc, mutant.base, 0) {
        return Err("the compiler made the same of it as of the correct kernel".into());
    }
    let mut how = String::new();
    for options in every_schedule() {
        let mode = format!("{:?} {:?}", options.schedule, options.copies);
        let verdict = (mutant.base.run)(&Bench::new(&ptx, options, mutant.seed), mutant.shape);
        how = match (mutant.caught, verdict.wrong) {
            (Caught::Report(kind), _) => match verdict.reports.iter().find(|r| r.kind == kind) {
                Some(report) => report.to_string(),
                None => return Err(format!("{mode}: no {kind:?}, but {:?}", verdict.reports.first())),
            },
            // Where the result catches it, a report would be a false one.
            (Caught::Result, _) if !verdict.reports.is_empty() => {
                return Err(format!("{mode}: {}", verdict.reports[0]));
            }
            (Caught::Result, Some(wrong)) => wrong,
            (Caught::Result, None) => return Err(format!("{mode}: the result is right")),
        };
    }
    Ok(how)
}
