//! The similarity of experts. The formulas for requests are those of kernels/similarity.h and kernels/residual.cu.

use trimoe::ops::{Gram, ResidualGram, Similarity};
use trimoe::{Result, bf16};

use super::Case;
use crate::lab::{Lab, Need, Row, Sectors, words};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[gram, residual_gram, similarity];

/// Pairs `(i, j)` with `j <= i`.
fn pairs(experts: usize) -> u64 {
    (experts * (experts + 1) / 2) as u64
}

/// Rows of a tile, of as many experts.
fn side(experts: usize) -> usize {
    if experts <= 64 { 64 } else { 128 }
}

/// Requests of `Gram`: `x` is the sectors of the matrices, `spans` the parts they are cut into.
fn requested_by_gram(experts: usize, x: u64, spans: u64) -> u64 {
    let partial = pairs(experts).div_ceil(4);
    let written = if side(experts) == 64 {
        (0..experts).map(|i| ((i + 1).div_ceil(4) + usize::from(i % 4 != 3)) as u64).sum::<u64>()
    } else {
        3 * partial
    };
    let summed = spans * (partial + pairs(experts).div_ceil(32)) + partial + experts as u64 + pairs(experts);
    experts.div_ceil(side(experts)) as u64 * x + spans * written + summed
}

fn gram(lab: &Lab, s: &Shape) -> Result<Row> {
    // Fewer rows of each expert where there are many experts.
    let shape = [s.experts, (512 / s.experts).min(64), s.hidden];
    let x = lab.filled::<bf16, 3>(shape)?;
    let mut gram = lab.zeros::<f64, 2>([s.experts, s.experts])?;
    let mut workspace = lab.zeros::<f64, 1>([Gram::<bf16>::workspace_len(shape)])?;
    // Partial sums are written by one kernel and read by the next.
    let floor = x.sectors() + gram.sectors() + 2 * workspace.sectors();
    let spans = Gram::<bf16>::workspace_len(shape) as u64 / pairs(s.experts);
    let again = requested_by_gram(s.experts, x.sectors(), spans).saturating_sub(floor);
    let op = Gram { x: x.view(), gram: gram.view_mut(), workspace: workspace.view_mut(), accumulate: false };
    lab.measure(s, Need { floor, again, ..Need::default() }, op)
}

fn residual_gram(lab: &Lab, s: &Shape) -> Result<Row> {
    // Wide experts are cut to a strip, and hidden columns with it.
    let (inner, hidden, rank) = (32, s.hidden.min(512), s.rank);
    let factors = s.experts / s.clusters * rank;
    let w13 = lab.filled::<bf16, 3>([s.clusters, 2 * inner + 2 * factors, hidden])?;
    let w2 = lab.filled::<bf16, 3>([s.clusters, hidden, inner + factors])?;
    let b = lab.filled::<bf16, 3>([s.experts, 2 * inner, rank])?;
    let a2 = lab.filled::<bf16, 3>([s.experts, rank, inner])?;
    let mut gram = lab.zeros::<f64, 2>([s.experts, s.experts])?;
    let room = ResidualGram::<bf16>::workspace_len(s.experts, hidden, inner, hidden.max(inner));
    let mut workspace = lab.zeros::<f64, 1>([room])?;
    // Three matrices, each written out in f32 and read by the products; gram is read again by two of them.
    let written = (s.experts * inner * hidden * 4 / 32) as u64;
    let spans =
        |rows, columns| Gram::<f32>::workspace_len([s.experts, rows, columns]) as u64 / pairs(s.experts);
    let matrices = [[inner, hidden], [inner, hidden], [hidden, inner]];
    let partial: u64 = matrices.map(|[r, c]| spans(r, c)).iter().sum::<u64>() * pairs(s.experts).div_ceil(4);
    let inputs = w13.sectors() + w2.sectors() + b.sectors() + a2.sectors();
    let floor = inputs + 6 * written + 2 * partial + 3 * gram.sectors() + 2 * pairs(s.experts).div_ceil(4);
    let requested: u64 = matrices
        .iter()
        .map(|&[rows, columns]| {
            // Four rows a warp: they read each vector of the factor once, and their own elements for each vector.
            let (base, vectors) = ((rows * columns * 2 / 32) as u64, columns.div_ceil(256) as u64);
            let a = (rows.div_ceil(4) * rank * (columns * 2).div_ceil(32)) as u64;
            let written_out =
                base + a + (rows * rank) as u64 * vectors + 2 * (rows * columns * 4 / 32) as u64;
            s.experts as u64 * written_out + requested_by_gram(s.experts, written, spans(rows, columns))
        })
        .sum();
    let again = (requested + 2 * pairs(s.experts)).saturating_sub(floor);
    let op = ResidualGram {
        w13: w13.view(),
        w2: w2.view(),
        b: b.view(),
        a2: a2.view(),
        gram: gram.view_mut(),
        workspace: workspace.view_mut(),
    };
    lab.measure(s, Need { floor, again, ..Need::default() }, op)
}

fn similarity(lab: &Lab, s: &Shape) -> Result<Row> {
    // Dot products of experts that are alike: the diagonal is largest.
    let values: Vec<f64> =
        (0..s.experts * s.experts).map(|at| if at % (s.experts + 1) == 0 { 2.0 } else { 1.0 }).collect();
    let [param, act] =
        [lab.given(&values, [s.experts, s.experts])?, lab.given(&values, [s.experts, s.experts])?];
    let mut out = lab.zeros::<f64, 2>([s.experts, s.experts])?;
    let lower: u64 = (0..s.experts).map(|i| words(2 * (i + 1))).sum();
    // Of 32 pairs, mostly of one row: their dot products, the norm of the row, those of the columns; and two results.
    let warps = pairs(s.experts).div_ceil(32);
    let requested = 2 * (lower + 2 * warps + pairs(s.experts)) + lower + warps + pairs(s.experts);
    let floor = 2 * lower + out.sectors();
    let need = Need { floor, again: requested.saturating_sub(floor), ..Need::default() };
    let op = Similarity { param: param.view(), act: act.view(), alpha: 0.5, s: out.view_mut() };
    lab.measure(s, need, op)
}
