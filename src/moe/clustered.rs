//! Clusters of experts: a shared base each, a rank-r residual per expert, two-stage routing.
//!
//! Every matrix of an expert is `base_g + A_e B_e^T`. Rows are tokens sorted by cluster, and the base is
//! multiplied once a token whatever `topk` is (method.md, "Base once"): `[gate | up | P] = x [W | A]^T`, then
//! the per-slot work of [`Expand`], then `[hbar | Q] [W2 | B2]^T`. Base and factors of a cluster lie in one
//! matrix, so each of the two products is one call.

use super::workspace::Buffers;
use super::{Backward, Forward};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::Result;
use crate::ops::{
    BuildPlan, Combine, Expand, ExpandBackward, GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad, Permute,
    Route, RouteBackward, RouteMode, Routing,
};
use crate::plan::{Plan, Segments};
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Weights; `K = experts / clusters`.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a, T> {
    /// `[1, clusters + experts, hidden]`, clusters first; `[1, experts, hidden]` with one cluster.
    pub router: View<'a, T, 3>,
    /// `[clusters, 2 inner + 2 K rank, hidden]`: gate and up rows of the base, then each expert's `A^T` of
    /// gate (rank rows) and up (rank rows).
    pub w13: View<'a, T, 3>,
    /// `[clusters, hidden, inner + K rank]`: down columns of the base, then each expert's `B` of down.
    pub w2: View<'a, T, 3>,
    /// `[experts, 2 inner, rank]`: `B` of gate, then of up.
    pub b: View<'a, T, 3>,
    /// `[experts, rank, inner]`: `A^T` of down.
    pub a2: View<'a, T, 3>,
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
    /// Of `b`.
    pub b: ViewMut<'a, f32, 3>,
    /// Of `a2`.
    pub a2: ViewMut<'a, f32, 3>,
}

/// Activations kept for the backward.
#[derive(Debug)]
pub struct Saved<T> {
    /// The router's choices.
    pub routing: Routing,
    /// Their orders.
    pub plan: Plan,
    /// `[tokens, 2 inner + 2 K rank]`: gate, up and `P`, sorted by cluster.
    pub bp: Tensor<T, 2>,
    /// `[tokens, inner + K rank]`: `hbar` and `Q`, sorted by cluster.
    pub hq: Tensor<T, 2>,
}

/// The products of a layer, from weights of one form or another.
pub(super) trait Products<T> {
    /// `[gate | up | P] = x [W | A]^T`.
    fn up(
        &self,
        device: &Device,
        x: View<'_, T, 2>,
        segments: Segments<'_>,
        bp: ViewMut<'_, T, 2>,
    ) -> Result<()>;

    /// `[hbar | Q]` from that.
    fn expand(
        &self,
        device: &Device,
        bp: View<'_, T, 2>,
        plan: &Plan,
        weight: View<'_, f32, 2>,
        hq: ViewMut<'_, T, 2>,
    ) -> Result<()>;

    /// `y = [hbar | Q] [W2 | B2]^T`.
    fn down(
        &self,
        device: &Device,
        hq: View<'_, T, 2>,
        segments: Segments<'_>,
        y: ViewMut<'_, T, 2>,
    ) -> Result<()>;
}

impl<T: Elem> Products<T> for Weights<'_, T> {
    fn up(
        &self,
        device: &Device,
        x: View<'_, T, 2>,
        segments: Segments<'_>,
        y: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        device.run(GroupedGemm { x, w: self.w13, segments, y, accumulate: false })
    }

    fn expand(
        &self,
        device: &Device,
        bp: View<'_, T, 2>,
        plan: &Plan,
        weight: View<'_, f32, 2>,
        hq: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        device.run(Expand { bp, b: self.b, a2: self.a2, plan, weight, hq })
    }

    fn down(
        &self,
        device: &Device,
        x: View<'_, T, 2>,
        segments: Segments<'_>,
        y: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        device.run(GroupedGemm { x, w: self.w2, segments, y, accumulate: false })
    }
}

/// The router's choices and their orders: all that the forward needs to know which clusters compute.
pub(super) fn choose<T: Elem>(
    pass: &Forward<'_, T>,
    router: View<'_, T, 2>,
    saved: &mut Saved<T>,
    ws: Buffers<'_, T>,
) -> Result<()> {
    let (device, x) = (pass.device, pass.x);
    let Saved { routing, plan, .. } = saved;
    routing.resize(x.dim(0))?;
    device.run(Route {
        x,
        w: router,
        bias: pass.bias,
        temperature: pass.router.temperature,
        mode: RouteMode::TwoStage,
        routing,
        workspace: ws.route,
    })?;
    plan.resize(x.dim(0))?;
    device.run(BuildPlan { cluster: routing.cluster.view(), expert: routing.expert.view(), plan })
}

/// The forward after [`choose`].
pub(super) fn compute<T: Elem>(
    pass: Forward<'_, T>,
    w: &impl Products<T>,
    saved: &mut Saved<T>,
    ws: Buffers<'_, T>,
) -> Result<()> {
    let Forward { device, x, y, .. } = pass;
    let Saved { routing, plan, bp, hq } = saved;
    let (order, segments) = (plan.by_cluster(), plan.by_cluster().segments());
    let mut ys = ws.rows;
    let mut bp = bp.front_mut([order.rows(), bp.shape()[1]]);
    let mut hq = hq.front_mut([order.rows(), hq.shape()[1]]);
    w.up(device, x, order.gathered(), bp.reborrow())?;
    w.expand(device, bp.as_view(), plan, routing.weight.view(), hq.reborrow())?;
    w.down(device, hq.as_view(), segments, ys.reborrow())?;
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
    let Saved { routing, plan, bp, hq } = saved;
    let (plan, order, segments) = (&*plan, plan.by_cluster(), plan.by_cluster().segments());
    let Buffers { rows: mut dys, wide: mut dhq, route, dlogits, mut dweight, partial, .. } = ws;
    let mut bp = bp.front_mut([order.rows(), w.w13.dim(1)]);
    let hq = hq.front([order.rows(), w.w2.dim(2)]);
    device.run(Permute { x: dy, order, y: dys.reborrow() })?;
    device.run(GroupedGemmWgrad { dy: dys.as_view(), x: hq, segments, dw: grads.w2, accumulate })?;
    device.run(GroupedGemmDgrad {
        dy: dys.as_view(),
        w: w.w2,
        segments,
        dx: dhq.reborrow(),
        accumulate: false,
    })?;
    device.run(ExpandBackward {
        bp: bp.reborrow(),
        b: w.b,
        a2: w.a2,
        plan,
        weight: routing.weight.view(),
        dhq: dhq.as_view(),
        db: grads.b,
        da2: grads.a2,
        dweight: dweight.reborrow(),
        workspace: partial,
        accumulate,
    })?;
    let dbp = bp.as_view();
    device.run(GroupedGemmWgrad { dy: dbp, x, segments: order.gathered(), dw: grads.w13, accumulate })?;
    let mut dxs = dys; // its last reader was the gradient of [hbar | Q]
    device.run(GroupedGemmDgrad { dy: dbp, w: w.w13, segments, dx: dxs.reborrow(), accumulate: false })?;
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
