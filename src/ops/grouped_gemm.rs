//! Matrix products of row segments, each with its own weight; one segment is an ordinary product.
//!
//! On a CUDA device a row's result does not depend on the other rows: sums run along K in one order whatever tile the
//! kernels take.

use super::Op;
#[cfg(feature = "cuda")]
use super::grouped_gemm_launch::{SegmentAddresses, Tile, aligned, launch, row_tiles};
use super::segment_rules::{check_dgrad, check_product, check_sizes};
use crate::cpu::gemm::{self, Mat, Product};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, GroupedGemmDgradParams, GroupedGemmParams, GroupedGemmWgradParams, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::plan::Segments;
use crate::view::{View, ViewMut};

/// `y[p] = x[p] w_g^T` for every row `p` of group `g`.
#[derive(Debug)]
pub struct GroupedGemm<'a, T> {
    /// `[rows, in]`, sorted by group; `[tokens, in]` with [`Segments::Gathered`].
    pub x: View<'a, T, 2>,
    /// `[groups, out, in]`.
    pub w: View<'a, T, 3>,
    /// Which rows belong to which group.
    pub segments: Segments<'a>,
    /// `[rows, out]`.
    pub y: ViewMut<'a, T, 2>,
    /// Add to `y` instead of overwriting it.
    pub accumulate: bool,
}

/// Gradient of [`GroupedGemm`] with respect to its input: `dx[p] = dy[p] w_g`.
#[derive(Debug)]
pub struct GroupedGemmDgrad<'a, T> {
    /// `[rows, out]`, sorted by group.
    pub dy: View<'a, T, 2>,
    /// `[groups, out, in]`.
    pub w: View<'a, T, 3>,
    /// Which rows belong to which group; not gathered.
    pub segments: Segments<'a>,
    /// `[rows, in]`.
    pub dx: ViewMut<'a, T, 2>,
    /// Add to `dx` instead of overwriting it.
    pub accumulate: bool,
}

/// Gradient of [`GroupedGemm`] with respect to its weights: `dw_g = sum over p in g of dy[p]^T x[p]`.
///
/// An empty group gets zeros (nothing, with `accumulate`).
#[derive(Debug)]
pub struct GroupedGemmWgrad<'a, T> {
    /// `[rows, out]`, sorted by group.
    pub dy: View<'a, T, 2>,
    /// `[rows, in]`, sorted by group; `[tokens, in]` with [`Segments::Gathered`].
    pub x: View<'a, T, 2>,
    /// Which rows belong to which group.
    pub segments: Segments<'a>,
    /// `[groups, out, in]`, f32.
    pub dw: ViewMut<'a, f32, 3>,
    /// Add to `dw` instead of overwriting it.
    pub accumulate: bool,
}

fn flops(rows: usize, w: [usize; 3]) -> u64 {
    2 * (rows * w[1] * w[2]) as u64
}

/// Bytes of activations of these shapes and of weights of element size `w_size`.
fn bytes<T: Elem>(activations: [[usize; 2]; 2], w: [usize; 3], w_size: usize) -> u64 {
    let elements = activations.map(|[rows, columns]| rows * columns);
    ((elements[0] + elements[1]) * T::DTYPE.size() + w.iter().product::<usize>() * w_size) as u64
}

impl<T: Elem> Op for GroupedGemm<'_, T> {
    const NAME: &'static str = "grouped_gemm";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w, segments, y);
    }

    fn check(&self) -> Result<()> {
        check_product(Self::NAME, self.segments, self.w.shape(), [self.x.shape(), self.y.shape()])
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.y.dim(0), self.w.shape())
    }

    fn bytes(&self) -> u64 {
        bytes::<T>([self.x.shape(), self.y.shape()], self.w.shape(), T::DTYPE.size())
    }

    fn cpu(self) -> Result<()> {
        let bounds = self.segments.bounds()?;
        let groups = self.y.cut(0, &bounds).into_iter().zip(bounds.windows(2)).enumerate();
        let product = |(g, (c, rows)): (usize, (_, &[usize]))| Product {
            c,
            a: Mat::rows_of(self.x, self.segments, rows[0]..rows[1]),
            b: Mat::t(self.w.matrix(g)),
        };
        gemm::run(groups.map(product).collect(), self.accumulate);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [groups, outputs, inputs] = self.w.shape();
        let (rows, at) = (self.segments.rows(), SegmentAddresses::on(device, self.segments)?);
        let params = GroupedGemmParams {
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
            accumulate: u32::from(self.accumulate),
        };
        let aligned = aligned::<T>(
            &[params.x, params.w, params.y],
            &[params.x_stride, params.w_group_stride, params.w_stride, params.y_stride],
            &[inputs],
        );
        let size = [rows, groups, outputs];
        let variant = (T::DTYPE, Tile::of_rows(aligned, size));
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe {
            launch(device, &images::GROUPED_GEMM, Self::NAME, variant, |tile| row_tiles(size, tile), &params)
        }
    }
}

impl<T: Elem> Op for GroupedGemmDgrad<'_, T> {
    const NAME: &'static str = "grouped_gemm_dgrad";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: dy, w, segments, dx);
    }

    fn check(&self) -> Result<()> {
        check_dgrad(Self::NAME, self.segments, self.w.shape(), [self.dy.shape(), self.dx.shape()])
    }

    fn is_empty(&self) -> bool {
        self.dx.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.dy.dim(0), self.w.shape())
    }

    fn bytes(&self) -> u64 {
        bytes::<T>([self.dy.shape(), self.dx.shape()], self.w.shape(), T::DTYPE.size())
    }

    fn cpu(self) -> Result<()> {
        let bounds = self.segments.bounds()?;
        let groups = self.dx.cut(0, &bounds).into_iter().zip(bounds.windows(2)).enumerate();
        let product = |(g, (c, rows)): (usize, (_, &[usize]))| Product {
            c,
            a: self.dy.narrow(0, rows[0]..rows[1]).into(),
            b: self.w.matrix(g).into(),
        };
        gemm::run(groups.map(product).collect(), self.accumulate);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [groups, outputs, inputs] = self.w.shape();
        let rows = self.segments.rows();
        let params = GroupedGemmDgradParams {
            dy: self.dy.address(),
            w: self.w.address(),
            dx: self.dx.address(),
            offsets: SegmentAddresses::on(device, self.segments)?.offsets,
            dy_stride: self.dy.stride(0),
            w_group_stride: self.w.stride(0),
            w_stride: self.w.stride(1),
            dx_stride: self.dx.stride(0),
            rows: rows as u32,
            groups: groups as u32,
            outputs: outputs as u32,
            inputs: inputs as u32,
            accumulate: u32::from(self.accumulate),
            unused: 0,
        };
        let aligned = aligned::<T>(
            &[params.dy, params.w, params.dx],
            &[params.dy_stride, params.w_group_stride, params.w_stride, params.dx_stride],
            &[outputs, inputs],
        );
        let size = [rows, groups, inputs];
        let variant = (T::DTYPE, Tile::of_rows(aligned, size));
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe {
            launch(device, &images::GROUPED_GEMM, Self::NAME, variant, |tile| row_tiles(size, tile), &params)
        }
    }
}

impl<T: Elem> Op for GroupedGemmWgrad<'_, T> {
    const NAME: &'static str = "grouped_gemm_wgrad";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: dy, x, segments, dw);
    }

    fn check(&self) -> Result<()> {
        let [dy, dw, x] = [self.dy.shape(), [self.dw.dim(1), self.dw.dim(2)], self.x.shape()];
        let groups = self.segments.groups();
        ensure!(Self::NAME, self.dw.dim(0) == groups, dw = self.dw.shape(), groups = groups);
        ensure!(Self::NAME, dy[0] == self.segments.rows(), dy = dy, rows = self.segments.rows());
        ensure!(Self::NAME, x[0] == self.segments.sources(), x = x, sources = self.segments.sources());
        ensure!(Self::NAME, dw == [dy[1], x[1]], dw = self.dw.shape(), dy = dy, x = x);
        check_sizes(Self::NAME, dy[0], self.dw.shape())
    }

    fn is_empty(&self) -> bool {
        self.dw.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.dy.dim(0), self.dw.shape())
    }

    fn bytes(&self) -> u64 {
        bytes::<T>([self.dy.shape(), self.x.shape()], self.dw.shape(), size_of::<f32>())
    }

    fn cpu(self) -> Result<()> {
        let bounds = self.segments.bounds()?;
        let groups = self.dw.into_matrices().into_iter().zip(bounds.windows(2));
        let product = |(c, rows): (_, &[usize])| Product {
            c,
            a: Mat::t(self.dy.narrow(0, rows[0]..rows[1])),
            b: Mat::rows_of(self.x, self.segments, rows[0]..rows[1]),
        };
        gemm::run(groups.map(product).collect(), self.accumulate);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [groups, outputs, inputs] = self.dw.shape();
        let at = SegmentAddresses::on(device, self.segments)?;
        let params = GroupedGemmWgradParams {
            dy: self.dy.address(),
            x: self.x.address(),
            dw: self.dw.address(),
            offsets: at.offsets,
            source: at.source,
            dy_stride: self.dy.stride(0),
            x_stride: self.x.stride(0),
            dw_group_stride: self.dw.stride(0),
            dw_stride: self.dw.stride(1),
            rows: self.segments.rows() as u32,
            groups: groups as u32,
            outputs: outputs as u32,
            inputs: inputs as u32,
            fan: at.fan,
            accumulate: u32::from(self.accumulate),
        };
        let aligned =
            aligned::<T>(&[params.dy, params.x], &[params.dy_stride, params.x_stride], &[outputs, inputs])
                && aligned::<f32>(&[params.dw], &[params.dw_group_stride, params.dw_stride], &[]);
        let variant = (T::DTYPE, Tile::of_weights(aligned, T::DTYPE));
        let tiles = |[m, n]: [usize; 2]| groups * outputs.div_ceil(m) * inputs.div_ceil(n);
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { launch(device, &images::GROUPED_GEMM, Self::NAME, variant, tiles, &params) }
    }
}
