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
use crate::int4::{Int4Format, Int4Layout, Int4Tensor, Int4View, Stacked, StackedMut};
use crate::ops::{
    Copy, ExpandInt4, FakeQuantInt4, GroupedGemmInt4Columns, GroupedGemmInt4Rows, QuantizeInt4,
};
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

/// The residuals of a layer that own their memory, as they are kept and stored.
#[derive(Debug)]
pub struct Residuals {
    /// From hidden to inner.
    pub gate: FactorTensors,
    /// From hidden to inner.
    pub up: FactorTensors,
    /// From inner to hidden.
    pub down: FactorTensors,
}

/// [`Weights`] that own their memory.
#[derive(Debug)]
pub struct Packed<T> {
    /// As of [`Weights`].
    pub router: Tensor<T, 3>,
    /// As of [`Weights`].
    pub w13: Tensor<T, 3>,
    /// As of [`Weights`].
    pub w2: Tensor<T, 3>,
    /// As of [`Weights`].
    pub residuals: Residuals,
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

impl Residuals {
    /// Room for those of a clustered layer of this shape; all codes are 0.
    pub fn new(device: &Device, shape: &Shape, format: Int4Format) -> Result<Self> {
        let Shape { hidden, inner, .. } = *shape;
        let factors = |sides| FactorTensors::new(device, shape, format, sides);
        Ok(Residuals {
            gate: factors([hidden, inner])?,
            up: factors([hidden, inner])?,
            down: factors([inner, hidden])?,
        })
    }

    /// Weights to compute with: these residuals on bases, behind a router, of [`Weights`]' shapes.
    pub fn on<'a, T>(&'a self, [router, w13, w2]: [View<'a, T, 3>; 3]) -> Weights<'a, T> {
        let (gate, up, down) = (self.gate.view(), self.up.view(), self.down.view());
        Weights { router, w13, w2, gate, up, down }
    }

    /// A and B of gate, of up, of down.
    pub fn factors(&self) -> [&Int4Tensor; 6] {
        let Residuals { gate, up, down } = self;
        [&gate.a, &gate.b, &up.a, &up.b, &down.a, &down.b]
    }

    /// As [`factors`](Self::factors), to fill.
    pub fn factors_mut(&mut self) -> [&mut Int4Tensor; 6] {
        let Residuals { gate, up, down } = self;
        [&mut gate.a, &mut gate.b, &mut up.a, &mut up.b, &mut down.a, &mut down.b]
    }

    /// Bytes of codes, scales and zero-points.
    pub fn bytes(&self) -> u64 {
        self.factors().iter().map(|f| f.layout().bytes()).sum()
    }
}

/// Which factor: of which of an expert's matrices, A or B.
#[derive(Clone, Copy)]
enum Factor {
    /// A of gate (0) or up (1), in `w13`.
    A(usize),
    /// B of gate or up, in `b`.
    B(usize),
    /// A of down, in `a2`.
    A2,
    /// B of down, in `w2`.
    B2,
}

/// A of gate, B of gate, and so of up and of down.
const FACTORS: [Factor; 6] = [Factor::A(0), Factor::B(0), Factor::A(1), Factor::B(1), Factor::A2, Factor::B2];

/// Where a factor lies in plain weights.
struct Lies {
    /// In which of them.
    weight: usize,
    /// Its part along this dimension.
    axis: usize,
    part: std::ops::Range<usize>,
    shape: [usize; 4],
    strides: [usize; 4],
    transposed: bool,
}

impl Factor {
    /// In a layer of this shape, in a weight of these strides.
    fn lies(self, shape: &Shape, strides: impl Fn(usize) -> [usize; 3]) -> Lies {
        let Shape { hidden, inner, clusters, rank, .. } = *shape;
        let (per, factors) = (shape.experts / clusters, shape.factors());
        let (weight, axis, part) = match self {
            Factor::A(half) => (1, 1, 2 * inner + half * rank..2 * inner + 2 * factors),
            Factor::B2 => (2, 2, inner..inner + factors),
            Factor::B(half) => (3, 1, half * inner..(half + 1) * inner),
            Factor::A2 => (4, 1, 0..rank),
        };
        let [first, row, _] = strides(weight);
        let (shape, strides, transposed) = match self {
            Factor::A(_) => ([clusters, per, rank, hidden], [first, 2 * rank * row, row, 1], false),
            Factor::B2 => ([clusters, 1, hidden, factors], [first, first, row, 1], true),
            Factor::B(_) => ([clusters, per, inner, rank], [per * first, first, row, 1], true),
            Factor::A2 => ([clusters, per, rank, inner], [per * first, first, row, 1], false),
        };
        Lies { weight, axis, part, shape, strides, transposed }
    }

    /// In plain weights, to read.
    fn of<'a, T>(self, shape: &Shape, weights: &[View<'a, T, 3>]) -> Stacked<'a, T> {
        let at = self.lies(shape, |weight| weights[weight].strides());
        let view = weights[at.weight].narrow(at.axis, at.part).reindex(at.shape, at.strides);
        if at.transposed { Stacked::Columns(view) } else { Stacked::Rows(view) }
    }

    /// In plain weights, to write.
    fn of_mut<'a, T>(self, shape: &Shape, weights: &'a mut [ViewMut<'_, T, 3>]) -> StackedMut<'a, T> {
        let at = self.lies(shape, |weight| weights[weight].strides());
        let view = weights[at.weight].reborrow().narrow(at.axis, at.part).reindex(at.shape, at.strides);
        if at.transposed { StackedMut::Columns(view) } else { StackedMut::Rows(view) }
    }
}

/// Makes the residuals of `weights`, in the order of [`Layer::weight_shapes`], what packed ones count as: quantised and
/// dequantised, at their places. Router and bases stay as they are.
///
/// What training with packed residuals multiplies by; gradients pass through unchanged (straight-through). `room` has
/// [`room_len`] elements or more, for the factor at work.
pub fn fake_quantise<T: Elem>(
    device: &Device,
    layer: &Layer,
    weights: &mut [ViewMut<'_, T, 3>],
    format: Int4Format,
    mut room: ViewMut<'_, T, 1>,
) -> Result<()> {
    let shapes: Vec<_> = weights.iter().map(|w| w.shape()).collect();
    let clustered = layer.kind == FfnKind::Clustered && shapes == layer.weight_shapes();
    ensure!("fake_quantise", clustered, weights = shapes, layer = layer);
    let (room_len, need) = (room.dim(0), room_len(&layer.shape));
    ensure!("fake_quantise", room_len >= need, room_len = room_len, need = need);
    for factor in FACTORS {
        let at = factor.lies(&layer.shape, |weight| weights[weight].strides());
        let from = weights[at.weight].as_view().narrow(at.axis, at.part).reindex(at.shape, at.strides);
        let [groups, parts, rows, columns] = at.shape;
        let strides = [parts * rows * columns, rows * columns, columns, 1];
        let mut copy = room.reborrow().narrow(0, 0..groups * strides[0]).reindex(at.shape, strides);
        for (g, p) in (0..groups).flat_map(|g| (0..parts).map(move |p| (g, p))) {
            let x = from.narrow(0, g..g + 1).narrow(1, p..p + 1).into_matrix();
            let y = copy.reborrow().narrow(0, g..g + 1).narrow(1, p..p + 1).into_matrix();
            device.run(Copy { x, y })?;
        }
        let copy = copy.as_view();
        let x = if at.transposed { Stacked::Columns(copy) } else { Stacked::Rows(copy) };
        device.run(FakeQuantInt4 { x, y: factor.of_mut(&layer.shape, weights), format })?;
    }
    Ok(())
}

/// Elements of the room that [`fake_quantise`] takes: those of the largest factor, of all experts.
pub fn room_len(shape: &Shape) -> usize {
    shape.experts * shape.rank * shape.hidden.max(shape.inner)
}

impl<T: Elem> Packed<T> {
    /// Room for the weights of a clustered layer, to be filled by [`quantise`](Self::quantise).
    pub fn new(device: &Device, layer: &Layer, format: Int4Format) -> Result<Self> {
        ensure!("Packed", layer.kind == FfnKind::Clustered, kind = layer.kind);
        let shape = &layer.shape;
        let Shape { hidden, inner, clusters, .. } = *shape;
        Ok(Packed {
            router: device.zeros([1, shape.logits(), hidden])?,
            w13: device.zeros([clusters, 2 * inner, hidden])?,
            w2: device.zeros([clusters, hidden, inner])?,
            residuals: Residuals::new(device, shape, format)?,
            layer: *layer,
        })
    }

    /// Copies router and bases, and quantises the residuals, of weights in the order of [`Layer::weight_shapes`].
    pub fn quantise(&mut self, device: &Device, weights: &[View<'_, T, 3>]) -> Result<()> {
        let shapes: Vec<_> = weights.iter().map(|w| w.shape()).collect();
        ensure!("Packed", shapes == self.layer.weight_shapes(), weights = shapes, layer = self.layer);
        let inner = self.layer.shape.inner;
        let copies = [
            (weights[0], &mut self.router),
            (weights[1].narrow(1, 0..2 * inner), &mut self.w13),
            (weights[2].narrow(2, 0..inner), &mut self.w2),
        ];
        for (from, to) in copies {
            for (i, y) in to.view_mut().into_matrices().into_iter().enumerate() {
                device.run(Copy { x: from.matrix(i), y })?;
            }
        }
        for (factor, to) in FACTORS.into_iter().zip(self.residuals.factors_mut()) {
            let x = factor.of(&self.layer.shape, weights);
            device.run(QuantizeInt4 { x, w: to.view_mut() })?;
        }
        Ok(())
    }

    /// The weights, to compute with.
    pub fn view(&self) -> Weights<'_, T> {
        self.residuals.on([self.router.view(), self.w13.view(), self.w2.view()])
    }

    /// Bytes of everything.
    pub fn bytes(&self) -> u64 {
        self.router.bytes() + self.w13.bytes() + self.w2.bytes() + self.residuals.bytes()
    }
}

impl<T: Elem> Products<T> for Weights<'_, T> {
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
        let Saved::Clustered(saved) = saved else { return Err(self.wrong_operands(9)) };
        let tokens = pass.x.dim(0);
        clustered::choose(&pass, router.matrix(0), saved, ws.buffers(self.kind, &self.shape, tokens))?;
        clustered::compute(pass, &weights, saved, ws.buffers(self.kind, &self.shape, tokens))
    }
}
