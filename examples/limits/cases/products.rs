//! Grouped products. Wide results are cut to a strip of columns: the counts are linear in them.

use trimoe::ops::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad};
use trimoe::{Result, Segments, bf16};

use super::Case;
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[dense, forward, dgrad, wgrad];

/// Most columns of a result.
const STRIP: usize = 512;

/// Rows and columns of the tile that a variant is compiled for.
fn tile(kernels: &[&str]) -> [usize; 2] {
    match kernels.first().and_then(|k| k.rsplit('_').next()) {
        Some("LARGE") => [128, 128],
        Some("MEDIUM") => [64, 128],
        Some("SMALL") => [16, 128],
        _ => [64, 64],
    }
}

/// Products of `groups` equal groups into `[m, n]` matrices along `k`, in 16-bit elements, results of `size` bytes: each
/// tile reads its rows of both operands once (kernels/grouped_gemm.h).
fn need(groups: usize, [m, n, k]: [usize; 3], size: usize, floor: u64, kernels: &[&str]) -> Need {
    let [rows, columns] = tile(kernels);
    let (row_tiles, column_tiles) = (m.div_ceil(rows), n.div_ceil(columns));
    let operands = (column_tiles * m + row_tiles * n) * k * 2;
    let tiles = groups * row_tiles * column_tiles;
    // Four warps of a block read the offsets of up to 32 groups at a time, and three words a tile of a gradient.
    let offsets = tiles * 4 * (8 * groups.div_ceil(32) + 3);
    let requested = (groups * (operands + m * n * size) / 32 + offsets) as u64;
    // Work on tensor cores is held against the ideal where tiles are whole.
    let whole = m.is_multiple_of(rows) && n.is_multiple_of(columns);
    let tensor_flops = if whole { 2 * (groups * m * n * k) as u64 } else { 0 };
    Need { floor, again: requested.saturating_sub(floor), tensor_flops, ..Need::default() }
}

/// One group: the product that attention's projections use.
fn dense(lab: &Lab, s: &Shape) -> Result<Row> {
    let (rows, out) = (s.tokens, s.hidden.min(STRIP));
    let x = lab.filled::<bf16, 2>([rows, s.hidden])?;
    let w = lab.filled::<bf16, 3>([1, out, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([rows, out])?;
    let floor = x.sectors() + w.sectors() + y.sectors();
    let segments = Segments::Whole(rows);
    let op = GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false };
    lab.measure_tiled(s, |kernels| need(1, [rows, out, s.hidden], 2, floor, kernels), op)
}

/// `[gate | up | P] = x [W | A]^T` by cluster.
fn forward(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let (rows, out) = (s.tokens, STRIP.min(2 * s.inner));
    let x = lab.filled::<bf16, 2>([rows, s.hidden])?;
    let w = lab.filled::<bf16, 3>([s.clusters, out, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([rows, out])?;
    let floor = x.sectors() + w.sectors() + y.sectors() + 1;
    let sizes = [rows / s.clusters, out, s.hidden];
    let segments = plan.by_cluster().segments();
    let op = GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false };
    lab.measure_tiled(s, |kernels| need(s.clusters, sizes, 2, floor, kernels), op)
}

fn dgrad(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let (rows, out) = (s.tokens, STRIP.min(2 * s.inner));
    let dy = lab.filled::<bf16, 2>([rows, out])?;
    let w = lab.filled::<bf16, 3>([s.clusters, out, s.hidden])?;
    let mut dx = lab.zeros::<bf16, 2>([rows, s.hidden])?;
    let floor = dy.sectors() + w.sectors() + dx.sectors() + 1;
    let sizes = [rows / s.clusters, s.hidden, out];
    let segments = plan.by_cluster().segments();
    let op = GroupedGemmDgrad { dy: dy.view(), w: w.view(), segments, dx: dx.view_mut(), accumulate: false };
    lab.measure_tiled(s, |kernels| need(s.clusters, sizes, 2, floor, kernels), op)
}

fn wgrad(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let (rows, out) = (s.tokens, STRIP.min(2 * s.inner));
    let dy = lab.filled::<bf16, 2>([rows, out])?;
    let x = lab.filled::<bf16, 2>([rows, s.hidden])?;
    let mut dw = lab.zeros::<f32, 3>([s.clusters, out, s.hidden])?;
    let floor = dy.sectors() + x.sectors() + dw.sectors() + 1;
    let sizes = [out, s.hidden, rows / s.clusters];
    let segments = plan.by_cluster().segments();
    let op = GroupedGemmWgrad { dy: dy.view(), x: x.view(), segments, dw: dw.view_mut(), accumulate: false };
    lab.measure_tiled(s, |kernels| need(s.clusters, sizes, 4, floor, kernels), op)
}
