//! Kernels whose threads meet at barriers, tickets and atomics: how they are run, and their references.

use crate::common::lab::Arg;
use crate::{Base, Bench, Verdict, integers, numbers};

pub static REDUCE: Base = Base { file: "reduce.cu", flags: &[], shapes: 2, run: reduce };
pub static HISTOGRAM: Base = Base { file: "histogram.cu", flags: &[], shapes: 2, run: histogram };
pub static TICKET: Base = Base { file: "ticket.cu", flags: &[], shapes: 2, run: ticket };
pub static TRANSPOSE: Base = Base { file: "transpose.cu", flags: &[], shapes: 2, run: transpose };
pub static STENCIL: Base = Base { file: "stencil.cu", flags: &[], shapes: 2, run: stencil };
pub static HANDOVER: Base = Base { file: "handover.cu", flags: &[], shapes: 2, run: handover };

/// All of them.
pub const BASES: &[&Base] = &[&REDUCE, &HISTOGRAM, &TICKET, &TRANSPOSE, &STENCIL, &HANDOVER];

fn total(x: &[f32]) -> [f64; 1] {
    [x.iter().map(|v| f64::from(*v)).sum()]
}

fn reduce(b: &Bench, shape: usize) -> Verdict {
    let (n, blocks) = [(1024usize, 4), (333, 3)][shape];
    let x = numbers(n, 5);
    let out = b.lab.put(&[0f32]);
    let outcome = b.launch([blocks, 1, 1], [128, 1, 1], 0, &[Arg::Ptr(out), b.input(&x), Arg::U32(n as u32)]);
    Verdict::values(outcome, &b.lab.get(out, 1), &total(&x), 1e-6)
}

fn histogram(b: &Bench, shape: usize) -> Verdict {
    let n = [1000usize, 77][shape];
    let mut values = integers(n, 64, 6);
    values[n / 2] = 63;
    let counts = b.lab.put(&[1i32; 64]);
    let outcome =
        b.launch([3, 1, 1], [128, 1, 1], 0, &[Arg::Ptr(counts), b.input(&values), Arg::U32(n as u32)]);
    let mut expected = [1; 64];
    values.iter().for_each(|v| expected[*v as usize] += 1);
    Verdict::integers(outcome, &b.lab.get(counts, 64), &expected)
}

fn ticket(b: &Bench, shape: usize) -> Verdict {
    let (n, blocks) = [(2000usize, 5), (100, 2)][shape];
    let x = numbers(n, 7);
    let (out, count) = (b.lab.blank(4), b.lab.put(&[0i32]));
    let partial = b.lab.blank(blocks * 128 * 4);
    let args = [Arg::Ptr(out), Arg::Ptr(partial), Arg::Ptr(count), b.input(&x), Arg::U32(n as u32)];
    let outcome = b.launch([blocks as u32, 1, 1], [128, 1, 1], 0, &args);
    Verdict::values(outcome, &b.lab.get(out, 1), &total(&x), 1e-6)
}

fn transpose(b: &Bench, shape: usize) -> Verdict {
    let (rows, columns) = [(70usize, 45usize), (32, 96)][shape];
    let x = numbers(rows * columns, 8);
    let y = b.lab.blank(rows * columns * 4);
    let args = [Arg::Ptr(y), b.input(&x), Arg::U32(rows as u32), Arg::U32(columns as u32)];
    let outcome = b.launch([2, 1, 1], [32, 8, 1], 0, &args);
    let at = |i: usize| f64::from(x[i % rows * columns + i / rows]);
    let expected: Vec<f64> = (0..rows * columns).map(at).collect();
    Verdict::values(outcome, &b.lab.get(y, rows * columns), &expected, 0.0)
}

fn stencil(b: &Bench, shape: usize) -> Verdict {
    let (width, rows, steps) = [(100usize, 2usize, 5), (128, 1, 1)][shape];
    let x = numbers(width * rows, 9);
    let y = b.lab.blank(width * rows * 4);
    let args = [Arg::Ptr(y), b.input(&x), Arg::U32(width as u32), Arg::U32(steps)];
    let outcome = b.launch([rows as u32, 1, 1], [128, 1, 1], 2 * (width as u32 + 2) * 4, &args);
    let mut expected: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    for row in expected.chunks_exact_mut(width) {
        for _ in 0..steps {
            let old = row.to_vec();
            let at = |i: usize| old.get(i).copied().unwrap_or(0.0);
            (0..width).for_each(|i| row[i] = (at(i.wrapping_sub(1)) + at(i) + at(i + 1)) / 3.0);
        }
    }
    Verdict::values(outcome, &b.lab.get(y, width * rows), &expected, 1e-6)
}

fn handover(b: &Bench, shape: usize) -> Verdict {
    let n = [64 * 7usize, 64][shape];
    let x = numbers(n, 10);
    let y = b.lab.blank(n * 4);
    let outcome = b.launch([1, 1, 1], [96, 1, 1], 0, &[Arg::Ptr(y), b.input(&x), Arg::U32(n as u32)]);
    let expected: Vec<f64> = x.iter().map(|v| 2.0 * f64::from(*v) + 1.0).collect();
    Verdict::values(outcome, &b.lab.get(y, n), &expected, 0.0)
}
