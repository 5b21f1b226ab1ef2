//! The rules of products of row segments, whatever their weights are stored as.

use crate::error::{Result, ensure};
use crate::plan::Segments;

/// Rules of `y[p] = x[p] w_g^T`: `x` is `[sources, in]`, `w` `[groups, out, in]`, `y` `[rows, out]`.
pub(super) fn check_product(
    op: &'static str,
    segments: Segments<'_>,
    w: [usize; 3],
    [x, y]: [[usize; 2]; 2],
) -> Result<()> {
    let (groups, sources, rows) = (segments.groups(), segments.sources(), segments.rows());
    ensure!(op, w[0] == groups, w = w, groups = groups);
    ensure!(op, x[0] == sources, x = x, sources = sources);
    ensure!(op, y == [rows, w[1]], y = y, rows = rows, w = w);
    ensure!(op, x[1] == w[2], x = x, w = w);
    check_sizes(op, rows, w)
}

/// Rules of `dx[p] = dy[p] w_g`: `dy` is `[rows, out]`, `w` `[groups, out, in]`, `dx` `[rows, in]`.
pub(super) fn check_dgrad(
    op: &'static str,
    segments: Segments<'_>,
    w: [usize; 3],
    [dy, dx]: [[usize; 2]; 2],
) -> Result<()> {
    let (groups, rows) = (segments.groups(), segments.rows());
    ensure!(op, w[0] == groups, w = w, groups = groups);
    ensure!(op, dy[0] == rows, dy = dy, rows = rows);
    ensure!(op, dx == [rows, w[2]], dx = dx, rows = rows, w = w);
    ensure!(op, dy[1] == w[1], dy = dy, w = w);
    ensure!(op, segments.gather().is_none(), segments = "gathered");
    check_sizes(op, rows, w)
}

/// Kernels count rows and columns in 32 bits.
pub(super) fn check_sizes(op: &'static str, rows: usize, w: [usize; 3]) -> Result<()> {
    let most = w.into_iter().fold(rows, usize::max);
    ensure!(op, u32::try_from(most).is_ok(), rows = rows, w = w);
    Ok(())
}
