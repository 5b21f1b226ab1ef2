//! Matrix products of row segments, each with its own weight; one segment is an ordinary product.

use super::Op;
use crate::cpu::gemm::{self, Mat, Product};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, misplaced};
use crate::plan::Segments;
use crate::view::{View, ViewMut};

/// `y[p] = x[p] w_g^T` for every row `p` of group `g`.
#[derive(Debug)]
pub struct GroupedGemm<'a, T> {
    /// `[rows, in]`, sorted by group.
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
    /// Which rows belong to which group.
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
    /// `[rows, in]`, sorted by group.
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

/// Bytes of the three operands: `rows x (in + out)` activations and the weights of element size `w_size`.
fn bytes<T: Elem>(rows: usize, w: [usize; 3], w_size: usize) -> u64 {
    (rows * (w[1] + w[2]) * T::DTYPE.size() + w.iter().product::<usize>() * w_size) as u64
}

impl<T: Elem> Op for GroupedGemm<'_, T> {
    const NAME: &'static str = "grouped_gemm";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: x, w, segments, y)
    }

    fn check(&self) -> Result<()> {
        let [x, w, y] = [self.x.shape(), [self.w.dim(1), self.w.dim(2)], self.y.shape()];
        ensure!(
            Self::NAME,
            self.w.dim(0) == self.segments.groups(),
            w = self.w.shape(),
            groups = self.segments.groups()
        );
        ensure!(Self::NAME, x[0] == self.segments.rows(), x = x, rows = self.segments.rows());
        ensure!(Self::NAME, y == [x[0], w[0]], y = y, x = x, w = self.w.shape());
        ensure!(Self::NAME, x[1] == w[1], x = x, w = self.w.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.x.dim(0), self.w.shape())
    }

    fn bytes(&self) -> u64 {
        bytes::<T>(self.x.dim(0), self.w.shape(), T::DTYPE.size())
    }

    fn cpu(self) -> Result<()> {
        let bounds = self.segments.bounds()?;
        let groups = self.y.cut(0, &bounds).into_iter().zip(bounds.windows(2)).enumerate();
        let product = |(g, (c, rows)): (usize, (_, &[usize]))| Product {
            c,
            a: self.x.narrow(0, rows[0]..rows[1]).into(),
            b: Mat::t(self.w.matrix(g)),
        };
        gemm::run(groups.map(product).collect(), self.accumulate);
        Ok(())
    }
}

impl<T: Elem> Op for GroupedGemmDgrad<'_, T> {
    const NAME: &'static str = "grouped_gemm_dgrad";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: dy, w, segments, dx)
    }

    fn check(&self) -> Result<()> {
        let [dy, w, dx] = [self.dy.shape(), [self.w.dim(1), self.w.dim(2)], self.dx.shape()];
        ensure!(
            Self::NAME,
            self.w.dim(0) == self.segments.groups(),
            w = self.w.shape(),
            groups = self.segments.groups()
        );
        ensure!(Self::NAME, dy[0] == self.segments.rows(), dy = dy, rows = self.segments.rows());
        ensure!(Self::NAME, dx == [dy[0], w[1]], dx = dx, dy = dy, w = self.w.shape());
        ensure!(Self::NAME, dy[1] == w[0], dy = dy, w = self.w.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dx.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.dy.dim(0), self.w.shape())
    }

    fn bytes(&self) -> u64 {
        bytes::<T>(self.dy.dim(0), self.w.shape(), T::DTYPE.size())
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
}

impl<T: Elem> Op for GroupedGemmWgrad<'_, T> {
    const NAME: &'static str = "grouped_gemm_wgrad";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: dy, x, segments, dw)
    }

    fn check(&self) -> Result<()> {
        let [dy, dw, x] = [self.dy.shape(), [self.dw.dim(1), self.dw.dim(2)], self.x.shape()];
        let groups = self.segments.groups();
        ensure!(Self::NAME, self.dw.dim(0) == groups, dw = self.dw.shape(), groups = groups);
        ensure!(Self::NAME, dy[0] == self.segments.rows(), dy = dy, rows = self.segments.rows());
        ensure!(Self::NAME, x[0] == dy[0], x = x, dy = dy);
        ensure!(Self::NAME, dw == [dy[1], x[1]], dw = self.dw.shape(), dy = dy, x = x);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dw.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        flops(self.dy.dim(0), self.dw.shape())
    }

    fn bytes(&self) -> u64 {
        bytes::<T>(self.dy.dim(0), self.dw.shape(), size_of::<f32>())
    }

    fn cpu(self) -> Result<()> {
        let bounds = self.segments.bounds()?;
        let groups = self.dw.into_matrices().into_iter().zip(bounds.windows(2));
        let product = |(c, rows): (_, &[usize])| Product {
            c,
            a: Mat::t(self.dy.narrow(0, rows[0]..rows[1])),
            b: self.x.narrow(0, rows[0]..rows[1]).into(),
        };
        gemm::run(groups.map(product).collect(), self.accumulate);
        Ok(())
    }
}
