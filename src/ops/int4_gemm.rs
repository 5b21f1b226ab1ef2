//! Matrix products with INT4 weights.

use rayon::prelude::*;

use super::Op;
#[cfg(feature = "cuda")]
use super::grouped_gemm_launch::SegmentAddresses;
#[cfg(feature = "cuda")]
use super::int4::weights_of;
use super::int4_gemm_form::{Form, dequantised_len, form};
#[cfg(feature = "cuda")]
use super::int4_gemm_form::{LAUNCH, REDUCE, padded, row_tiles};
use super::segment_rules::{check_dgrad, check_product};
#[cfg(feature = "cuda")]
use super::{DequantizeInt4, GroupedGemm, GroupedGemmDgrad};
use crate::cpu::gemm::{Mat, multiply};
use crate::cpu::int4::unpack;
use crate::cpu::math::vectorize;
use crate::cpu::scratch;
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Int4GemmParams, Int4GemmReduceParams, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::int4::{Int4View, PANEL};
use crate::place::{Place, Visit, operands};
use crate::plan::Segments;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// `y[p] = x[p] w_g^T` for every row `p` of group `g`, the weights in INT4: the matrix product of one group, or that of
/// many experts.
///
/// The weights count as `scale (q - zero)`, not rounded. On a CUDA device they are dequantised on their way to the tensor
/// cores; from a mean of 256 rows a group on it is done once, into the workspace, and they count as what
/// [`DequantizeInt4`](super::DequantizeInt4) writes in `T`.
#[derive(Debug)]
pub struct Int4Gemm<'a, T> {
    /// `[rows, in]`, sorted by group; `[tokens, in]` if the segments gather it.
    pub x: View<'a, T, 2>,
    /// `[groups, out, in]`.
    pub w: Int4View<'a>,
    /// Which rows belong to which group, and of which row of `x` they are made.
    pub segments: Segments<'a>,
    /// `[rows, out]`.
    pub y: ViewMut<'a, T, 2>,
    /// [`Int4Gemm::workspace_len`] elements or more on a CUDA device; the CPU needs none.
    pub workspace: ViewMut<'a, f32, 1>,
    /// Add to `y` instead of overwriting it.
    pub accumulate: bool,
}

/// Gradient of [`Int4Gemm`] with respect to its input: `dx[p] = dy[p] w_g`. Weights in INT4 have no gradient, and count as
/// what [`DequantizeInt4`](super::DequantizeInt4) writes in `T`.
#[derive(Debug)]
pub struct Int4GemmDgrad<'a, T> {
    /// `[rows, out]`, sorted by group.
    pub dy: View<'a, T, 2>,
    /// `[groups, out, in]`.
    pub w: Int4View<'a>,
    /// Which rows belong to which group.
    pub segments: Segments<'a>,
    /// `[rows, in]`.
    pub dx: ViewMut<'a, T, 2>,
    /// [`Int4GemmDgrad::workspace_len`] elements or more on a CUDA device; the CPU needs none.
    pub workspace: ViewMut<'a, f32, 1>,
    /// Add to `dx` instead of overwriting it.
    pub accumulate: bool,
}

/// Columns of `y`, or of `dx`, of one task on the CPU: whole strips, whole steps.
const BAND: usize = 64;
impl<T: Elem> Int4Gemm<'_, T> {
    /// Elements of workspace for `rows` rows and weights `[groups, out, in]` on a CUDA device.
    pub fn workspace_len(rows: usize, w: [usize; 3]) -> usize {
        match form(rows, w) {
            Form::Fused { splits: 1, .. } => 0,
            Form::Fused { splits, .. } => splits * rows * w[1].next_multiple_of(PANEL) + 3,
            Form::Once => dequantised_len::<T>(w),
        }
    }

    /// The product on the CPU, with weights as they count in a product of `V`.
    pub(super) fn with_weights_in<V: Elem>(self) -> Result<()> {
        let (input, steps) = (self.x.dim(1), 0..self.w.layout().steps());
        for_bands(self.y, self.segments, |group, rows, band, y| {
            scratch::with([band.len() * input], |[w]| {
                vectorize!(|| unpack::<V, f32>(&self.w, group, band.clone(), steps.clone(), w, input));
                let w = View::front(w, [band.len(), input]);
                multiply(y, self.accumulate, Mat::rows_of(self.x, self.segments, rows), Mat::t(w));
            });
        })
    }
}

impl<T: Elem> Int4GemmDgrad<'_, T> {
    /// Elements of workspace for weights `[groups, out, in]` on a CUDA device.
    pub fn workspace_len(w: [usize; 3]) -> usize {
        dequantised_len::<T>(w)
    }
}

/// The CPU needs no workspace.
fn check_workspace(op: &'static str, workspace: &ViewMut<'_, f32, 1>, need: usize) -> Result<()> {
    let room = workspace.place() == Place::Host || workspace.dim(0) >= need;
    ensure!(op, room, workspace = workspace.dim(0), need = need);
    Ok(())
}

/// Runs `work` for every group's rows of `c` and every band of its columns, in parallel.
fn for_bands<T: Elem>(
    c: ViewMut<'_, T, 2>,
    segments: Segments<'_>,
    work: impl Fn(usize, std::ops::Range<usize>, std::ops::Range<usize>, ViewMut<'_, T, 2>) + Sync,
) -> Result<()> {
    let rows = segments.bounds()?;
    let columns: Vec<usize> = (0..=c.dim(1).div_ceil(BAND)).map(|i| c.dim(1).min(i * BAND)).collect();
    let mut bands = Vec::new();
    for (group, c) in c.cut(0, &rows).into_iter().enumerate().filter(|(_, c)| c.dim(0) > 0) {
        for (band, c) in columns.windows(2).zip(c.cut(1, &columns)) {
            bands.push((group, band[0]..band[1], c));
        }
    }
    bands.into_par_iter().with_max_len(1).for_each_part(|(group, band, c)| {
        work(group, rows[group]..rows[group + 1], band, c);
    });
    Ok(())
}

impl<T: Elem> Op for Int4Gemm<'_, T> {
    const NAME: &'static str = "int4_gemm";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x, w, segments, y, workspace);
    }

    fn check(&self) -> Result<()> {
        let (w, rows) = (self.w.shape(), self.segments.rows());
        check_product(Self::NAME, self.segments, w, [self.x.shape(), self.y.shape()])?;
        check_workspace(Self::NAME, &self.workspace, Self::workspace_len(rows, w))
    }

    fn is_empty(&self) -> bool {
        self.y.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        2 * (self.y.dim(0) * self.y.dim(1) * self.x.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        (self.y.dim(0) * (self.y.dim(1) + self.x.dim(1)) * T::DTYPE.size()) as u64 + self.w.layout().bytes()
    }

    fn cpu(self) -> Result<()> {
        self.with_weights_in::<f32>() // which holds all of them
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let shape = self.w.shape();
        let Form::Fused { tile, splits } = form(self.y.dim(0), shape) else {
            let Int4Gemm { x, segments, y, accumulate, .. } = self;
            let w = dequantised::<T>(device, self.w, &self.workspace)?;
            return GroupedGemm { x, w, segments, y, accumulate }.cuda(device);
        };
        let ([rows, outputs], at) = (self.y.shape(), SegmentAddresses::on(device, self.segments)?);
        let partial = self.workspace.address().next_multiple_of(16);
        let params = Int4GemmParams {
            w: weights_of(&self.w),
            x: self.x.address(),
            y: self.y.address(),
            offsets: at.offsets,
            source: at.source,
            partial,
            x_stride: self.x.stride(0),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            splits: splits as u32,
            fan: at.fan,
            accumulate: u32::from(self.accumulate),
        };
        let facts = LAUNCH[T::DTYPE as usize][tile.ilog2() as usize - 4];
        let variant = &facts["moe_int4_gemm_launch_".len()..];
        let kernel = Kernel { image: &images::INT4_GEMM, name: Self::NAME, tile: facts };
        let columns = device.tile(kernel)?.columns as usize;
        let tiles = row_tiles(rows, shape[0], tile) * outputs.div_ceil(columns);
        let blocks = tiles.min(device.resident(kernel, variant)?);
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`), as is the workspace.
        unsafe { device.launch(kernel, variant, [blocks, splits, 1], &params) }?;
        if splits == 1 {
            return Ok(());
        }
        let params = Int4GemmReduceParams {
            partial,
            y: self.y.address(),
            y_stride: self.y.stride(0),
            rows: rows as u32,
            outputs: outputs as u32,
            width: outputs.next_multiple_of(PANEL) as u32,
            splits: splits as u32,
            accumulate: u32::from(self.accumulate),
            unused: 0,
        };
        // SAFETY: as above.
        unsafe { device.over_rows(REDUCE, T::DTYPE, [rows, outputs], &params) }
    }
}

impl<T: Elem> Op for Int4GemmDgrad<'_, T> {
    const NAME: &'static str = "int4_gemm_dgrad";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: dy, w, segments, dx, workspace);
    }

    fn check(&self) -> Result<()> {
        let w = self.w.shape();
        check_dgrad(Self::NAME, self.segments, w, [self.dy.shape(), self.dx.shape()])?;
        check_workspace(Self::NAME, &self.workspace, Self::workspace_len(w))
    }

    fn is_empty(&self) -> bool {
        self.dx.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        2 * (self.dy.dim(0) * self.dy.dim(1) * self.dx.dim(1)) as u64
    }

    fn bytes(&self) -> u64 {
        (self.dy.dim(0) * (self.dy.dim(1) + self.dx.dim(1)) * T::DTYPE.size()) as u64
            + self.w.layout().bytes()
    }

    fn cpu(self) -> Result<()> {
        let out = self.dy.dim(1);
        for_bands(self.dx, self.segments, |group, rows, band, dx| {
            scratch::with([out * band.len()], |[w]| {
                let steps = band.start / PANEL..band.end.div_ceil(PANEL);
                vectorize!(|| unpack::<T, f32>(&self.w, group, 0..out, steps.clone(), w, band.len()));
                let w = View::front(w, [out, band.len()]);
                multiply(dx, self.accumulate, self.dy.narrow(0, rows), w);
            });
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let Int4GemmDgrad { dy, segments, dx, accumulate, .. } = self;
        let w = dequantised::<T>(device, self.w, &self.workspace)?;
        GroupedGemmDgrad { dy, w, segments, dx, accumulate }.cuda(device)
    }
}

/// The weights in `T`, in a workspace of `dequantised_len` elements.
#[cfg(feature = "cuda")]
fn dequantised<'a, T: Elem>(
    device: &Cuda,
    w: Int4View<'_>,
    workspace: &ViewMut<'a, f32, 1>,
) -> Result<View<'a, T, 3>> {
    let [groups, out, input] = w.shape();
    let strides = [out * padded::<T>(input), padded::<T>(input), 1];
    let Place::Cuda(ordinal) = device.place() else { unreachable!("a CUDA device works in its own memory") };
    let part = (workspace.address().next_multiple_of(16), groups * strides[0]);
    // SAFETY: `check` saw that the workspace, which belongs to the operation, has room for as many from the next multiple
    // of 16 bytes on.
    let y = unsafe { ViewMut::<T, 3>::on_device(part, w.shape(), strides, ordinal) }?;
    if !w.shape().contains(&0) {
        DequantizeInt4 { w, y: y.into() }.cuda(device)?;
    }
    // SAFETY: as above; what reads them is enqueued after what wrote them.
    unsafe { View::on_device(part, w.shape(), strides, ordinal) }
}
