//! Matrix kernels: how they are run, and their references.

use half::{bf16, f16};

use crate::common::lab::Arg;
use crate::{Base, Bench, Verdict, integers, numbers};

pub static GEMM: Base = Base {
    file: "gemm.cu",
    flags: &[],
    shapes: 3,
    run: |b, shape| gemm(b, shape, |x| f16::from_f32(x).to_bits()),
};
pub static GEMM_BF16: Base = Base {
    file: "gemm.cu",
    flags: &["-DBF16"],
    shapes: 3,
    run: |b, shape| gemm(b, shape, |x| bf16::from_f32(x).to_bits()),
};
pub static DEQUANT: Base = Base { file: "dequant.cu", flags: &[], shapes: 2, run: dequant };
pub static SPLITK: Base = Base { file: "splitk.cu", flags: &[], shapes: 2, run: splitk };

/// All of them.
pub const BASES: &[&Base] = &[&GEMM, &GEMM_BF16, &DEQUANT, &SPLITK];

fn gemm(b: &Bench, shape: usize, half: fn(f32) -> u16) -> Verdict {
    let (m, n, k) = [(64, 64, 64), (70, 75, 136), (130, 33, 8)][shape];
    let (x, y) = (numbers(m * k, 1), numbers(n * k, 2));
    let halves = |values: &[f32]| values.iter().map(|v| half(*v)).collect::<Vec<u16>>();
    let c = b.lab.blank(m * n * 4);
    let args = [
        Arg::Ptr(c),
        b.input(&halves(&x)),
        Arg::Ptr(b.lab.put(&halves(&y))),
        Arg::U32(m as u32),
        Arg::U32(n as u32),
        Arg::U32(k as u32),
    ];
    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
    let outcome = b.launch(grid, [128, 1, 1], 0, &args);
    let product =
        |i: usize, j: usize| (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(y[j * k + p])).sum();
    let expected: Vec<f64> = (0..m * n).map(|at| product(at / n, at % n)).collect();
    Verdict::values(outcome, &b.lab.get(c, m * n), &expected, 1e-5)
}

fn dequant(b: &Bench, shape: usize) -> Verdict {
    let groups = [75usize, 512][shape];
    let q: Vec<u8> = integers(groups * 16, 256, 3).into_iter().map(|v| v as u8).collect();
    let scales: Vec<f16> = (0..groups).map(|g| f16::from_f32((g % 31 + 1) as f32 / 64.0)).collect();
    let y = b.lab.blank(groups * 64);
    let args = [Arg::Ptr(y), b.input(&q), Arg::Ptr(b.lab.put(&scales)), Arg::U32(groups as u32)];
    let outcome = b.launch([2, 1, 1], [64, 1, 1], 0, &args);
    let got: Vec<f32> = b.lab.get::<f16>(y, groups * 32).into_iter().map(f32::from).collect();
    let nibble = |i: usize| {
        let word = u32::from_le_bytes(q[i / 8 * 4..i / 8 * 4 + 4].try_into().unwrap());
        // Values 0, 2, 4, 6 are the four lower nibbles, 1, 3, 5, 7 the four upper ones.
        word >> (4 * (i % 8 / 2) + 16 * (i % 2)) & 15
    };
    let value = |i: usize| (f64::from(nibble(i)) - 8.0) * f64::from(f32::from(scales[i / 32]));
    let expected: Vec<f64> = (0..groups * 32).map(value).collect();
    Verdict::values(outcome, &got, &expected, 0.0)
}

fn splitk(b: &Bench, shape: usize) -> Verdict {
    let (width, parts) = [(130usize, 4usize), (64, 2)][shape];
    let x = numbers(width * parts, 4);
    let tiles = width.div_ceil(64);
    let y = b.lab.blank(width * 4);
    let locks = b.lab.put(&vec![0; tiles]);
    let args = [Arg::Ptr(y), Arg::Ptr(locks), b.input(&x), Arg::U32(width as u32)];
    let outcome = b.launch([tiles as u32, parts as u32, 1], [64, 1, 1], 0, &args);
    let sum = |i: usize| (0..parts).map(|z| f64::from(x[z * width + i])).sum();
    Verdict::values(outcome, &b.lab.get(y, width), &(0..width).map(sum).collect::<Vec<f64>>(), 1e-6)
}
