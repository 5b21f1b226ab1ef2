//! One SwiGLU for all tokens: `y = (silu(x W_gate) * (x W_up)) W_down`.

use super::workspace::Buffers;
use super::{Backward, Forward};
use crate::elem::Elem;
use crate::error::Result;
use crate::ops::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad, SwiGlu, SwiGluBackward};
use crate::plan::Segments;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Weights.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a, T> {
    /// `[1, 2 inner, hidden]`: gate rows, then up rows.
    pub w13: View<'a, T, 3>,
    /// `[1, hidden, inner]`.
    pub w2: View<'a, T, 3>,
}

/// Gradients, shaped as the weights.
#[derive(Debug)]
pub struct Grads<'a> {
    /// Of `w13`.
    pub w13: ViewMut<'a, f32, 3>,
    /// Of `w2`.
    pub w2: ViewMut<'a, f32, 3>,
}

/// Activations kept for the backward.
#[derive(Debug)]
pub struct Saved<T> {
    /// `[tokens, 2 inner]`: gate and up.
    pub z: Tensor<T, 2>,
}

pub(super) fn forward<T: Elem>(
    pass: Forward<'_, T>,
    w: Weights<'_, T>,
    saved: &mut Saved<T>,
    ws: Buffers<'_, T>,
) -> Result<()> {
    let Forward { device, x, y, .. } = pass;
    let segments = Segments::Whole(x.dim(0));
    let mut h = ws.wide;
    let mut z = saved.z.front_mut([x.dim(0), w.w13.dim(1)]);
    device.run(GroupedGemm { x, w: w.w13, segments, y: z.reborrow(), accumulate: false })?;
    device.run(SwiGlu { z: z.as_view(), weights: None, h: h.reborrow() })?;
    device.run(GroupedGemm { x: h.as_view(), w: w.w2, segments, y, accumulate: true })
}

pub(super) fn backward<T: Elem>(
    pass: Backward<'_, T>,
    w: Weights<'_, T>,
    grads: Grads<'_>,
    saved: &mut Saved<T>,
    ws: Buffers<'_, T>,
) -> Result<()> {
    let Backward { device, x, dy, dx, accumulate, .. } = pass;
    let segments = Segments::Whole(x.dim(0));
    let mut h = ws.wide;
    let mut z = saved.z.front_mut([x.dim(0), w.w13.dim(1)]);
    device.run(GroupedGemmDgrad { dy, w: w.w2, segments, dx: h.reborrow(), accumulate: false })?;
    device.run(SwiGluBackward { z: z.reborrow(), dh: h.reborrow(), weights: None, dweight: None })?;
    let (dz, h) = (z.as_view(), h.as_view());
    device.run(GroupedGemmWgrad { dy, x: h, segments, dw: grads.w2, accumulate })?;
    device.run(GroupedGemmWgrad { dy: dz, x, segments, dw: grads.w13, accumulate })?;
    device.run(GroupedGemmDgrad { dy: dz, w: w.w13, segments, dx, accumulate: false })
}
