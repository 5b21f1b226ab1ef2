//! Kernels whose lanes work together: how they are run, and their references.

use crate::common::lab::Arg;
use crate::{Base, Bench, Verdict, integers, numbers};

pub static TOPK: Base = Base { file: "topk.cu", flags: &[], shapes: 3, run: topk };
pub static SORT: Base = Base { file: "sort.cu", flags: &[], shapes: 3, run: sort };
pub static TILES: Base = Base { file: "tiles.cu", flags: &[], shapes: 2, run: tiles };

/// All of them.
pub const BASES: &[&Base] = &[&TOPK, &SORT, &TILES];

fn topk(b: &Bench, shape: usize) -> Verdict {
    let (rows, e, k) = [(13usize, 100usize, 6usize), (8, 128, 8), (5, 7, 2)][shape];
    // Few distinct values: ties everywhere.
    let x: Vec<f32> = integers(rows * e, 9, 11).into_iter().map(|v| v as f32 / 2.0).collect();
    let (weights, indices) = (b.lab.blank(rows * k * 4), b.lab.blank(rows * k * 4));
    let args = [
        Arg::Ptr(weights),
        Arg::Ptr(indices),
        b.input(&x),
        Arg::U32(rows as u32),
        Arg::U32(e as u32),
        Arg::U32(k as u32),
    ];
    let outcome = b.launch([rows.div_ceil(4) as u32, 1, 1], [128, 1, 1], 0, &args);
    let (mut order, mut expected) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(e) {
        let mut by: Vec<usize> = (0..e).collect();
        by.sort_by(|i, j| row[*j].total_cmp(&row[*i]).then(i.cmp(j)));
        let power: Vec<f64> = by[..k].iter().map(|i| f64::from(row[*i] - row[by[0]]).exp()).collect();
        let sum: f64 = power.iter().sum();
        expected.extend(power.iter().map(|p| p / sum));
        order.extend(by[..k].iter().map(|i| *i as i32));
    }
    let chosen = Verdict::integers(outcome.clone(), &b.lab.get(indices, rows * k), &order);
    if chosen.wrong.is_some() {
        return chosen;
    }
    Verdict::values(outcome, &b.lab.get(weights, rows * k), &expected, 1e-6)
}

fn sort(b: &Bench, shape: usize) -> Verdict {
    let n = [1000usize, 128, 45][shape];
    let experts = integers(n, 32, 12);
    let (order, starts) = (b.lab.blank(n * 4), b.lab.blank(32 * 4));
    let args = [Arg::Ptr(order), Arg::Ptr(starts), b.input(&experts), Arg::U32(n as u32)];
    let outcome = b.launch([1, 1, 1], [128, 1, 1], 0, &args);
    let mut expected: Vec<i32> = (0..n as i32).collect();
    expected.sort_by_key(|i| experts[*i as usize]);
    expected.extend((0..32).map(|e| experts.iter().filter(|x| **x < e).count() as i32));
    let got = [b.lab.get(order, n), b.lab.get(starts, 32)].concat();
    Verdict::integers(outcome, &got, &expected)
}

fn tiles(b: &Bench, shape: usize) -> Verdict {
    let n = [408usize, 256][shape];
    let x = numbers(n, 13);
    let (sums, reversed) = (b.lab.blank(n / 8 * 4), b.lab.blank(n * 4));
    let args = [Arg::Ptr(sums), Arg::Ptr(reversed), b.input(&x), Arg::U32(n as u32)];
    let outcome = b.launch([2, 1, 1], [128, 1, 1], 0, &args);
    let mut expected: Vec<f64> = x.chunks_exact(8).map(|c| c.iter().map(|v| f64::from(*v)).sum()).collect();
    expected.extend((0..n).map(|i| f64::from(x[i ^ 7])));
    let got = [b.lab.get(sums, n / 8), b.lab.get(reversed, n)].concat();
    Verdict::values(outcome, &got, &expected, 1e-6)
}
