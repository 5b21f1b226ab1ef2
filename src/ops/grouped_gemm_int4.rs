//! Matrix products of row segments whose weights end in INT4: bases with low-rank factors beside them.
//!
//! With the weights that the packed ones stand for in `T` the results are those of [`GroupedGemm`]; on a CUDA device to the
//! bit if the base's columns are a multiple of 16. Factors are dequantised tile by tile, on the CPU into a buffer of a
//! thread, on a CUDA device into shared memory.

use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::grouped_gemm_launch::{SegmentAddresses, Tile, aligned, launch, row_tiles};
#[cfg(feature = "cuda")]
use super::int4::weights_of;
use super::{GroupedGemm, Int4Gemm, Op};
use crate::cpu::gemm::{Mat, multiply};
use crate::cpu::int4::unpack;
use crate::cpu::math::vectorize;
use crate::cpu::{bounds, rows, scratch};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, GroupedGemmInt4ColumnsParams, GroupedGemmInt4RowsParams, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::int4::{Int4View, PANEL};
use crate::place::{Visit, operands};
use crate::plan::Segments;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// `y[p] = x[p] [w_g ; f_g ; f'_g]^T` for every row `p` of group `g`: the last rows of the weights are packed. With factors A
/// of gate and up below their bases this is `[gate | up | P | P']`.
#[derive(Debug)]
pub struct GroupedGemmInt4Rows<'a, T> {
    /// `[rows, in]`, sorted by group; `[tokens, in]` if the segments gather it.
    pub x: View<'a, T, 2>,
    /// `[groups, out, in]`.
    pub w: View<'a, T, 3>,
    /// Two of `[groups, F, in]`, of one format.
    pub factors: [Int4View<'a>; 2],
    /// Which rows belong to which group.
    pub segments: Segments<'a>,
    /// `[rows, out + 2 F]`.
    pub y: ViewMut<'a, T, 2>,
}

/// `y[p] = x[p] [w_g | f_g^T]^T` for every row `p` of group `g`: the last columns of the weights are packed, transposed. With
/// the factors B of down beside their base this is `[hbar | Q] [W2 | B2]^T`.
#[derive(Debug)]
pub struct GroupedGemmInt4Columns<'a, T> {
    /// `[rows, in + F]`, sorted by group; `[tokens, in + F]` if the segments gather it.
    pub x: View<'a, T, 2>,
    /// `[groups, out, in]`.
    pub w: View<'a, T, 3>,
    /// `[groups, F, out]`.
    pub factor: Int4View<'a>,
    /// Which rows belong to which group.
    pub segments: Segments<'a>,
    /// `[rows, out]`.
    pub y: ViewMut<'a, T, 2>,
}

/// Rows and columns of `y` of one task on the CPU; columns are whole steps.
const TILE: [usize; 2] = [512, 256];

/// Rules of both: `outputs` columns of `y`, `inputs` columns of `x`.
fn check<T>(
    op: &'static str,
    x: &View<'_, T, 2>,
    y: &ViewMut<'_, T, 2>,
    groups: usize,
    segments: &Segments<'_>,
    [outputs, inputs]: [usize; 2],
) -> Result<()> {
    let (x, y, rows) = (x.shape(), y.shape(), segments.rows());
    ensure!(op, groups == segments.groups(), groups = groups, segments = segments.groups());
    ensure!(op, x == [segments.sources(), inputs], x = x, sources = segments.sources(), inputs = inputs);
    ensure!(op, y == [rows, outputs], y = y, rows = rows, outputs = outputs);
    let most = [rows, groups, outputs, inputs].into_iter().fold(0, usize::max);
    // Kernels count in 32 bits, and begin tiles behind the base anew.
    ensure!(op, most <= i32::MAX as usize, rows = rows, groups = groups, outputs = outputs, inputs = inputs);
    Ok(())
}

fn flops([rows, outputs]: [usize; 2], inputs: usize) -> u64 {
    2 * (rows * outputs * inputs) as u64
}

fn bytes<T: Elem>(x: [usize; 2], y: [usize; 2], w: [usize; 3]) -> u64 {
    ((x[0] * x[1] + y[0] * y[1] + w.iter().product::<usize>()) * T::DTYPE.size()) as u64
}

impl<T: Elem> Op for GroupedGemmInt4Rows<'_, T> {
    const NAME: &'static str = "grouped_gemm_int4_rows";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w, factors, segments, y);
    }

    fn check(&self) -> Result<()> {
        let ([groups, out, input], [first, second]) = (self.w.shape(), self.factors.map(|f| *f.layout()));
        ensure!(Self::NAME, first == second, first = first, second = second);
        let first = first.shape();
        ensure!(Self::NAME, [first[0], first[2]] == [groups, input], first = first, w = self.w.shape());
        check(Self::NAME, &self.x, &self.y, groups, &self.segments, [out + 2 * first[1], input])
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.y.shape(), self.x.dim(1))
    }

    fn bytes(&self) -> u64 {
        let factors: u64 = self.factors.iter().map(|f| f.layout().bytes()).sum();
        bytes::<T>(self.x.shape(), self.y.shape(), self.w.shape()) + factors
    }

    fn cpu(self) -> Result<()> {
        let GroupedGemmInt4Rows { x, w, factors, segments, y } = self;
        let (base, p) = y.split(1, w.dim(1));
        let (p, up) = p.split(1, factors[0].shape()[1]);
        GroupedGemm { x, w, segments, y: base, accumulate: false }.cpu()?;
        for (w, y) in factors.into_iter().zip([p, up]) {
            let workspace = ViewMut::new(&mut [], [0])?;
            Int4Gemm { x, w, segments, y, workspace, accumulate: false }.with_weights_in::<T>()?;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [groups, outputs, inputs] = self.w.shape();
        let (rows, columns) = (self.segments.rows(), self.y.dim(1));
        let at = SegmentAddresses::on(device, self.segments)?;
        let params = GroupedGemmInt4RowsParams {
            first: weights_of(&self.factors[0]),
            second: weights_of(&self.factors[1]),
            x: self.x.address(),
            w: self.w.address(),
            y: self.y.address(),
            offsets: at.offsets,
            source: at.source,
            x_stride: self.x.stride(0),
            w_group_stride: self.w.stride(0),
            w_stride: self.w.stride(1),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            groups: groups as u32,
            outputs: outputs as u32,
            inputs: inputs as u32,
            fan: at.fan,
            unused: 0,
        };
        let aligned = aligned::<T>(
            &[params.x, params.w, params.y],
            &[params.x_stride, params.w_group_stride, params.w_stride, params.y_stride],
            &[inputs, outputs],
        );
        let variant = (T::DTYPE, Tile::of_rows(aligned, [rows, groups, columns]));
        // Tiles of the factors begin behind those of the base.
        let tiles = |tile: [usize; 2]| {
            row_tiles([rows, groups, outputs.next_multiple_of(tile[1]) + columns - outputs], tile)
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { launch(device, &images::GROUPED_GEMM_INT4, Self::NAME, variant, tiles, &params) }
    }
}

impl<T: Elem> Op for GroupedGemmInt4Columns<'_, T> {
    const NAME: &'static str = "grouped_gemm_int4_columns";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w, factor, segments, y);
    }

    fn check(&self) -> Result<()> {
        let ([groups, out, input], factor) = (self.w.shape(), self.factor.shape());
        ensure!(Self::NAME, [factor[0], factor[2]] == [groups, out], factor = factor, w = self.w.shape());
        check(Self::NAME, &self.x, &self.y, groups, &self.segments, [out, input + factor[1]])
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.y.shape(), self.x.dim(1))
    }

    fn bytes(&self) -> u64 {
        bytes::<T>(self.x.shape(), self.y.shape(), self.w.shape()) + self.factor.layout().bytes()
    }

    fn cpu(self) -> Result<()> {
        let GroupedGemmInt4Columns { x, w, factor, segments, y } = self;
        let ([_, out, input], [_, ranks, _]) = (w.shape(), factor.shape());
        let (base, tail) = (x.narrow(1, 0..input), x.narrow(1, input..input + ranks));
        let columns: Vec<usize> = (0..=out.div_ceil(TILE[1])).map(|i| out.min(i * TILE[1])).collect();
        let groups = segments.bounds()?;
        let mut tiles = Vec::new();
        // A group without rows has no tiles: its factor is not unpacked.
        for (group, y) in y.cut(0, &groups).into_iter().enumerate().filter(|(_, y)| y.dim(0) > 0) {
            let rows = bounds(y.dim(0), TILE[0]);
            for (y, rows) in y.cut(0, &rows).into_iter().zip(rows.windows(2)) {
                let rows = groups[group] + rows[0]..groups[group] + rows[1];
                let cut = y.cut(1, &columns).into_iter().zip(columns.windows(2));
                tiles.extend(cut.map(|(y, c)| (group, rows.clone(), c[0]..c[1], y)));
            }
        }
        tiles.into_par_iter().with_max_len(1).for_each_part(|(group, range, columns, mut y)| {
            let [m, n] = y.shape();
            scratch::with([m * n, ranks * n], |[sum, f]| {
                let steps = columns.start / PANEL..columns.end.div_ceil(PANEL);
                vectorize!(|| unpack::<T, f32>(&factor, group, 0..ranks, steps.clone(), f, n));
                let (w, f) = (w.matrix(group).narrow(0, columns.clone()), View::front(f, [ranks, n]));
                let a = |x| Mat::rows_of(x, segments, range.clone());
                multiply(ViewMut::front(sum, [m, n]), false, a(base), Mat::t(w));
                multiply(ViewMut::front(sum, [m, n]), true, a(tail), f);
                let sums = sum.chunks_exact(n.max(1)).take(m).enumerate();
                vectorize!(|| sums.for_each(|(i, sum)| rows::narrow(sum, y.row_mut(i))));
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [groups, outputs, inputs] = self.w.shape();
        let (rows, at) = (self.segments.rows(), SegmentAddresses::on(device, self.segments)?);
        let params = GroupedGemmInt4ColumnsParams {
            last: weights_of(&self.factor),
            x: self.x.address(),
            w: self.w.address(),
            y: self.y.address(),
            offsets: at.offsets,
            source: at.source,
            x_stride: self.x.stride(0),
            w_group_stride: self.w.stride(0),
            w_stride: self.w.stride(1),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            groups: groups as u32,
            outputs: outputs as u32,
            inputs: inputs as u32,
            fan: at.fan,
            unused: 0,
        };
        let aligned = aligned::<T>(
            &[params.x, params.w, params.y],
            &[params.x_stride, params.w_group_stride, params.w_stride, params.y_stride],
            &[inputs, self.x.dim(1)],
        );
        let size = [rows, groups, outputs];
        let variant = (T::DTYPE, Tile::of_rows(aligned, size).with_sums_kept(T::DTYPE));
        let tiles = |tile| row_tiles(size, tile);
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { launch(device, &images::GROUPED_GEMM_INT4, Self::NAME, variant, tiles, &params) }
    }
}
