//! Clustered experts with residuals in INT4: the weights as they are stored, and the forward from them.
//!
//! Bases and router stay in `T`; the factors of residuals, which training keeps as fake-quantised `T`, are packed
//! ([`Int4Format`]). A factor is one matrix a cluster, quantised along its long side; no pass makes it whole again. The
//! forward is the one of [`clustered`], from the same activations.

use super::clustered::{self, Products};
use super::layer::{FfnKind, Layer, Saved};
use super::{Forward, Shape, Workspace};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::int4::{Int4Format, Int4Layout, Int4Tensor, Int4View, Stacked};
use crate::ops::{Copy, ExpandInt4, GroupedGemmInt4Columns, GroupedGemmInt4Rows, QuantizeInt4};
use crate::plan::{Plan, Segments};
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// The residuals of one of an expert's matrices, `A B^T`; `K = experts / clusters`.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// A transposed, `[clusters, K rank, in]`.
    pub a: Int4View<'a>,
    /// B transposed, `[clusters, K rank, out]`.
    pub b: Int4View<'a>,
}

/// Weights to compute with.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a, T> {
    /// As of [`clustered::Weights`].
    pub router: View<'a, T, 3>,
    /// `[clusters, 2 inner, hidden]`: gate and up rows of the base.
    pub w13: View<'a, T, 3>,
    /// `[clusters, hidden, inner]`: the base of down.
    pub w2: View<'a, T, 3>,
    /// From hidden to inner.
    pub gate: Factors<'a>,
    /// From hidden to inner.
    pub up: Factors<'a>,
    /// From inner to hidden.
    pub down: Factors<'a>,
}

/// [`Factors`] that own their memory.
#[derive(Debug)]
pub struct FactorTensors {
    /// A transposed.
    pub a: Int4Tensor,
    /// B transposed.
    pub b: Int4Tensor,
}

/// [`Weights`] that own their memory, as they are kept and stored.
#[derive(Debug)]
pub struct Packed<T> {
    /// As of [`Weights`].
    pub router: Tensor<T, 3>,
    /// As of [`Weights`].
    pub w13: Tensor<T, 3>,
    /// As of [`Weights`].
    pub w2: Tensor<T, 3>,
    /// As of [`Weights`].
    pub gate: FactorTensors,
    /// As of [`Weights`].
    pub up: FactorTensors,
    /// As of [`Weights`].
    pub down: FactorTensors,
    layer: Layer,
}

impl FactorTensors {
    fn new(device: &Device, shape: &Shape, format: Int4Format, [input, out]: [usize; 2]) -> Result<Self> {
        let tensor =
            |long| Int4Tensor::new(device, Int4Layout::new([shape.clusters, shape.factors(), long], format)?);
        Ok(FactorTensors { a: tensor(input)?, b: tensor(out)? })
    }

    fn view(&self) -> Factors<'_> {
        Factors { a: self.a.view(), b: self.b.view() }
    }
}

/// The plain weights' factors A and B of gate, of up, and of down, each as [`Factors`] has it.
fn stacked<'a, T>(shape: &Shape, w: clustered::Weights<'a, T>) -> [[Stacked<'a, T>; 2]; 3] {
    let Shape { hidden, inner, clusters, rank, .. } = *shape;
    let (per, factors) = (shape.experts / clusters, shape.factors());
    let [cluster, row, _] = w.w13.strides();
    let a = |half: usize| {
        let from = w.w13.narrow(1, 2 * inner + half * rank..2 * inner + 2 * factors);
        Stacked::Rows(from.reindex([clusters, per, rank, hidden], [cluster, 2 * rank * row, row, 1]))
    };
    let [expert, row, _] = w.b.strides();
    let b = |half: usize| {
        let from = w.b.narrow(1, half * inner..(half + 1) * inner);
        Stacked::Columns(from.reindex([clusters, per, inner, rank], [per * expert, expert, row, 1]))
    };
    let [expert, row, _] = w.a2.strides();
    let a2 = w.a2.reindex([clusters, per, rank, inner], [per * expert, expert, row, 1]);
    let [cluster, row, _] = w.w2.strides();
    let b2 = w.w2.narrow(2, inner..inner + factors);
    let b2 = b2.reindex([clusters, 1, hidden, factors], [cluster, cluster, row, 1]);
    [[a(0), b(0)], [a(1), b(1)], [Stacked::Rows(a2), Stacked::Columns(b2)]]
}

impl<T: Elem> Packed<T> {
    /// Room for the weights of a clustered layer, to be filled by [`quantise`](Self::quantise) or from a file.
    pub fn new(device: &Device, layer: &Layer, format: Int4Format) -> Result<Self> {
        ensure!("Packed", layer.kind == FfnKind::Clustered, kind = layer.kind);
        let shape = &layer.shape;
        let Shape { hidden, inner, clusters, .. } = *shape;
        let factors = |sides| FactorTensors::new(device, shape, format, sides);
        Ok(Packed {
            router: device.zeros([1, shape.logits(), hidden])?,
            w13: device.zeros([clusters, 2 * inner, hidden])?,
            w2: device.zeros([clusters, hidden, inner])?,
            gate: factors([hidden, inner])?,
            up: factors([hidden, inner])?,
            down: factors([inner, hidden])?,
            layer: *layer,
        })
    }

    /// Copies router and bases, and quantises the residuals, of weights in the order of [`Layer::weight_shapes`].
    pub fn quantise(&mut self, device: &Device, weights: &[View<'_, T, 3>]) -> Result<()> {
        let shapes: Vec<_> = weights.iter().map(|w| w.shape()).collect();
        ensure!("Packed", shapes == self.layer.weight_shapes(), weights = shapes, layer = self.layer);
        let &[router, w13, w2, b, a2] = weights else { unreachable!("as many as a clustered layer has") };
        let inner = self.layer.shape.inner;
        let copies = [
            (router, &mut self.router),
            (w13.narrow(1, 0..2 * inner), &mut self.w13),
            (w2.narrow(2, 0..inner), &mut self.w2),
        ];
        for (from, to) in copies {
            for (i, y) in to.view_mut().into_matrices().into_iter().enumerate() {
                device.run(Copy { x: from.matrix(i), y })?;
            }
        }
        let factors = stacked(&self.layer.shape, clustered::Weights { router, w13, w2, b, a2 });
        for ([a, b], to) in factors.into_iter().zip([&mut self.gate, &mut self.up, &mut self.down]) {
            device.run(QuantizeInt4 { x: a, w: to.a.view_mut() })?;
            device.run(QuantizeInt4 { x: b, w: to.b.view_mut() })?;
        }
        Ok(())
    }

    /// The weights, to compute with.
    pub fn view(&self) -> Weights<'_, T> {
        let (router, w13, w2) = (self.router.view(), self.w13.view(), self.w2.view());
        let (gate, up, down) = (self.gate.view(), self.up.view(), self.down.view());
        Weights { router, w13, w2, gate, up, down }
    }

    /// Bytes of everything.
    pub fn bytes(&self) -> u64 {
        let plain = self.router.bytes() + self.w13.bytes() + self.w2.bytes();
        let factors = [&self.gate, &self.up, &self.down].into_iter().flat_map(|f| [&f.a, &f.b]);
        plain + factors.map(|f| f.layout().bytes()).sum::<u64>()
    }
}

impl<T: Elem> Products<T> for Weights<'_, T> {
    fn router(&self) -> View<'_, T, 2> {
        self.router.matrix(0)
    }

    fn up(
        &self,
        device: &Device,
        x: View<'_, T, 2>,
        segments: Segments<'_>,
        bp: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        let factors = [self.gate.a, self.up.a];
        device.run(GroupedGemmInt4Rows { x, w: self.w13, factors, segments, y: bp })
    }

    fn expand(
        &self,
        device: &Device,
        bp: View<'_, T, 2>,
        plan: &Plan,
        weight: View<'_, f32, 2>,
        hq: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        let (gate, up, down) = (self.gate.b, self.up.b, self.down.a);
        device.run(ExpandInt4 { bp, gate, up, down, plan, weight, hq })
    }

    fn down(
        &self,
        device: &Device,
        hq: View<'_, T, 2>,
        segments: Segments<'_>,
        y: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        device.run(GroupedGemmInt4Columns { x: hq, w: self.w2, factor: self.down.b, segments, y })
    }
}

impl Layer {
    /// [`Layer::forward`] of a clustered layer from packed weights. What it saves is of no use to a backward.
    pub fn forward_packed<T: Elem>(
        &self,
        pass: Forward<'_, T>,
        weights: Weights<'_, T>,
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let Weights { router, w13, w2, gate, up, down } = weights;
        let Shape { hidden, inner, clusters, .. } = self.shape;
        let plain = [router, w13, w2].map(|w| w.shape());
        let want =
            [[1, self.shape.logits(), hidden], [clusters, 2 * inner, hidden], [clusters, hidden, inner]];
        ensure!("Layer", self.kind == FfnKind::Clustered && plain == want, kind = self.kind, weights = plain);
        let factors = [gate.a, up.a, down.b, gate.b, up.b, down.a].map(|f| f.shape());
        let along = |long| [[clusters, self.shape.factors(), long]; 3];
        ensure!(
            "Layer",
            factors.concat() == [along(hidden), along(inner)].concat().concat(),
            factors = factors
        );
        self.check_room(pass.x.dim(0), saved, ws)?;
        let buffers = ws.buffers(self.kind, &self.shape, pass.x.dim(0));
        let Saved::Clustered(saved) = saved else { return Err(self.wrong_operands(9)) };
        clustered::forward(pass, &weights, saved, buffers)
    }
}
