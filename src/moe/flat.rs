//! Softmax top-k over full experts (Switch, Mixtral): the baseline.
//!
//! Rows are (token, slot) pairs sorted by expert. The router's weight is folded in before the down
//! projection, so a token's output is the plain sum of its slots.

use super::workspace::Buffers;
use super::{Backward, Forward};
use crate::elem::Elem;
use crate::error::Result;
use crate::ops::{
    BuildPlan, Combine, GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad, Permute, Route, RouteBackward,
    RouteMode, Routing, SlotWeights, SwiGlu, SwiGluBackward,
};
use crate::plan::Plan;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Weights.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a, T> {
    /// `[1, experts, hidden]`.
    pub router: View<'a, T, 3>,
    /// `[experts, 2 inner, hidden]`: gate rows, then up rows.
    pub w13: View<'a, T, 3>,
    /// `[experts, hidden, inner]`.
    pub w2: View<'a, T, 3>,
}

/// Gradients, shaped as the weights.
#[derive(Debug)]
pub struct Grads<'a> {
    /// Of the router.
    pub router: ViewMut<'a, f32, 3>,
    /// Of `w13`.
    pub w13: ViewMut<'a, f32, 3>,
    /// Of `w2`.
    pub w2: ViewMut<'a, f32, 3>,
}

/// Activations kept for the backward.
#[derive(Debug)]
pub struct Saved<T> {
    /// The router's choices.
    pub routing: Routing,
    /// Their order.
    pub plan: Plan,
    /// `[slots, 2 inner]`: gate and up, sorted by expert.
    pub z: Tensor<T, 2>,
}

pub(super) fn forward<T: Elem>(
    pass: Forward<'_, T>,
    w: Weights<'_, T>,
    saved: &mut Saved<T>,
    ws: Buffers<'_, T>,
) -> Result<()> {
    let Forward { device, router, bias, x, y } = pass;
    let Saved { routing, plan, z } = saved;
    routing.resize(x.dim(0))?;
    device.run(Route {
        x,
        w: w.router.matrix(0),
        bias,
        temperature: router.temperature,
        mode: RouteMode::TwoStage,
        routing,
        workspace: ws.route,
    })?;
    plan.resize(x.dim(0))?;
    device.run(BuildPlan { cluster: routing.cluster.view(), expert: routing.expert.view(), plan })?;
    let (order, segments) = (plan.by_expert(), plan.by_expert().segments());
    let weights = Some(SlotWeights { weight: routing.weight.view(), order });
    let (mut ys, mut h) = (ws.rows, ws.wide);
    let mut z = z.front_mut([order.rows(), w.w13.dim(1)]);
    let gathered = order.gathered();
    device.run(GroupedGemm { x, w: w.w13, segments: gathered, y: z.reborrow(), accumulate: false })?;
    device.run(SwiGlu { z: z.as_view(), weights, h: h.reborrow() })?;
    device.run(GroupedGemm { x: h.as_view(), w: w.w2, segments, y: ys.reborrow(), accumulate: false })?;
    device.run(Combine { x: ys.as_view(), order, weight: None, y, accumulate: true })
}

pub(super) fn backward<T: Elem>(
    pass: Backward<'_, T>,
    w: Weights<'_, T>,
    grads: Grads<'_>,
    saved: &mut Saved<T>,
    ws: Buffers<'_, T>,
) -> Result<()> {
    let Backward { device, router, x, dy, mut dx, accumulate } = pass;
    let Saved { routing, plan, z } = saved;
    let (order, segments) = (plan.by_expert(), plan.by_expert().segments());
    let weights = Some(SlotWeights { weight: routing.weight.view(), order });
    let Buffers { rows: mut dys, wide: mut h, route, dlogits, mut dweight, .. } = ws;
    let mut z = z.front_mut([order.rows(), w.w13.dim(1)]);
    device.run(Permute { x: dy, order, y: dys.reborrow() })?;
    device.run(GroupedGemmDgrad {
        dy: dys.as_view(),
        w: w.w2,
        segments,
        dx: h.reborrow(),
        accumulate: false,
    })?;
    let dweights = Some(dweight.reborrow());
    device.run(SwiGluBackward { z: z.reborrow(), dh: h.reborrow(), weights, dweight: dweights })?;
    let (dz, h) = (z.as_view(), h.as_view());
    device.run(GroupedGemmWgrad { dy: dys.as_view(), x: h, segments, dw: grads.w2, accumulate })?;
    device.run(GroupedGemmWgrad { dy: dz, x, segments: order.gathered(), dw: grads.w13, accumulate })?;
    let mut dxs = dys; // its last reader was the gradient of w2
    device.run(GroupedGemmDgrad { dy: dz, w: w.w13, segments, dx: dxs.reborrow(), accumulate: false })?;
    device.run(Combine { x: dxs.as_view(), order, weight: None, y: dx.reborrow(), accumulate: false })?;
    device.run(RouteBackward {
        x,
        w: w.router.matrix(0),
        temperature: router.temperature,
        mode: RouteMode::TwoStage,
        routing,
        dweight: dweight.as_view(),
        loss: router.loss,
        dlogits,
        dx,
        dw: grads.router.into_matrix(),
        workspace: route,
        accumulate,
    })
}
