//! Full experts fading out beside the clusters that replace them: `y = c E(x) + (1 - c) E~(x)` with `c` from 1 to 0
//! (method.md, "How compression starts").
//!
//! Both forms compute from one router. Their results are mixed as if they were two experts of a token with the weights `c`
//! and `1 - c`, so that mixing and its gradient are [`Combine`] and [`CombineBackward`].

use super::backward::weights_and_grads;
use super::config::{FfnKind, ModelConfig};
use super::layout;
use super::param::Param;
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::{Backward, Forward, Layer, Router, Saved, Workspace};
use crate::ops::{Add, BuildPlan, Combine, CombineBackward, Copy, RouteLoss};
use crate::plan::Plan;
use crate::tensor::Tensor;
use crate::view::View;

/// Parameters of a layer's full experts beside the router: `w13`, `w2`.
pub(super) const FULL: usize = 2;

/// Buffers of the full experts of a model, and the mix.
#[derive(Debug)]
pub(super) struct Fading<T> {
    layer: Layer,
    /// Activations: one each when training, else one for all layers.
    saved: Vec<Saved<T>>,
    workspace: Workspace<T>,
    /// The full form's results, then the other's.
    both: Tensor<T, 2>, // [2 rows, hidden]
    /// Their gradients.
    dboth: Tensor<T, 2>, // [2 rows, hidden]
    /// Gradient of the input through the full form.
    dx: Tensor<T, 2>, // [rows, hidden]
    /// Gradient of the router through the full form; of one micro-batch, unlike those of the parameters.
    drouter: Tensor<f32, 3>, // [1, logits, hidden]
    /// Never written: [rows, hidden], and as the router's gradient.
    zeros: Tensor<T, 2>,
    no_drouter: Tensor<f32, 3>,
    /// Two forms as two experts of every token, in one cluster.
    plan: Plan,
    cluster: Tensor<u32, 1>, // [rows]
    form: Tensor<u32, 2>,    // [rows, 2]
    weight: Tensor<f32, 2>,  // [rows, 2]
    dweight: Tensor<f32, 2>, // [rows, 2]
}

/// The shape with full experts in the same clusters.
pub(super) fn full_config(config: &ModelConfig) -> ModelConfig {
    ModelConfig { ffn: FfnKind::Full, ..config.clone() }
}

/// The full experts of every layer of a clustered model, zero, to load into: [`FULL`] parameters a layer.
pub(super) fn build<T: Elem>(config: &ModelConfig, device: &Device, train: bool) -> Result<Vec<Param<T>>> {
    let full = full_config(config);
    let mut params = Vec::new();
    for l in 0..config.layers {
        params.extend(layout::build_ffn::<T>(&full, device, l)?.into_iter().skip(1));
    }
    if !train {
        params.iter_mut().for_each(|param| param.state = None);
    }
    Ok(params)
}

impl<T: Elem> Fading<T> {
    /// For batches of up to `batch` sequences.
    pub fn new(config: &ModelConfig, device: &Device, batch: usize, train: bool) -> Result<Self> {
        let (layer, rows, hidden) = (full_config(config).layer(), batch * config.seq, config.hidden);
        let backward = if train { rows } else { 0 };
        let mut form: Tensor<u32, 2> = device.zeros([rows, 2])?;
        form.copy_from(&[0, 1].repeat(rows))?;
        Ok(Fading {
            layer,
            saved: (0..if train { config.layers } else { 1 })
                .map(|_| layer.saved(device, rows))
                .collect::<Result<_>>()?,
            workspace: Workspace::new(device, &layer, rows, train, 0)?,
            both: device.zeros([2 * rows, hidden])?,
            dboth: device.zeros([2 * backward, hidden])?,
            dx: device.zeros([backward, hidden])?,
            drouter: device.zeros([1, layer.shape.logits(), hidden])?,
            zeros: device.zeros([rows, hidden])?,
            no_drouter: device.zeros([1, layer.shape.logits(), hidden])?,
            plan: Plan::on(device, rows, 2, 2, 1)?,
            cluster: device.zeros([rows])?,
            form,
            weight: device.zeros([rows, 2])?,
            dweight: device.zeros([backward, 2])?,
        })
    }

    /// Sets `c`.
    pub fn set_share(&mut self, share: f32) -> Result<()> {
        let rows = self.weight.shape()[0];
        self.weight.copy_from(&[share, 1.0 - share].repeat(rows))
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let rows = [&self.both, &self.dboth, &self.dx, &self.zeros].map(|t| t.bytes());
        let saved: u64 = self.saved.iter().map(Saved::bytes).sum();
        let routers = self.drouter.bytes() + self.no_drouter.bytes();
        let mix = self.plan.bytes() + self.cluster.bytes() + self.form.bytes();
        let weights = self.weight.bytes() + self.dweight.bytes();
        rows.iter().sum::<u64>() + saved + self.workspace.bytes() + routers + mix + weights
    }

    /// [`Layer::forward`] of both forms of layer `l`, mixed: `clusters` are the clustered form's weights, `full` those of the
    /// full experts.
    pub fn forward(
        &mut self,
        l: usize,
        clustered: &Layer,
        pass: Forward<'_, T>,
        (clusters, full): (&[View<'_, T, 3>], &[Param<T>]),
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let Forward { device, router, bias, x, y } = pass;
        let [rows, hidden] = x.shape();
        let &[router_weight, ..] = clusters else { return Err(wrong_parameters(clusters.len())) };
        for half in [0..rows, rows..2 * rows] {
            let y = self.both.view_mut().narrow(0, half);
            device.run(Copy { x: self.zeros.front([rows, hidden]), y })?;
        }
        let [w13, w2] = full else { return Err(wrong_parameters(full.len())) };
        let weights = [router_weight, w13.weight.view(), w2.weight.view()];
        let out = self.both.front_mut([rows, hidden]);
        let at = l % self.saved.len();
        let first = Forward { device, router, bias, x, y: out };
        self.layer.forward(first, &weights, &mut self.saved[at], &mut self.workspace)?;
        let out = self.both.view_mut().narrow(0, rows..2 * rows);
        clustered.forward(Forward { device, router, bias, x, y: out }, clusters, saved, ws)?;
        self.plan.resize(rows)?;
        let (cluster, expert) = (self.cluster.front([rows]), self.form.front([rows, 2]));
        device.run(BuildPlan { cluster, expert, plan: &mut self.plan })?;
        let weight = Some(self.weight.front([rows, 2]));
        let x = self.both.front([2 * rows, hidden]);
        device.run(Combine { x, order: self.plan.by_expert(), weight, y, accumulate: true })
    }

    /// [`Layer::backward`] of both forms: `clusters` are the clustered form's parameters, `full` those of the full experts.
    /// The router's losses count once.
    pub fn backward(
        &mut self,
        l: usize,
        clustered: &Layer,
        pass: Backward<'_, T>,
        (clusters, full): (&mut [Param<T>], &mut [Param<T>]),
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let Backward { device, router, x, dy, mut dx, accumulate } = pass;
        let [rows, hidden] = x.shape();
        let order = self.plan.by_expert();
        // The shares are given, so nobody reads their gradient, and what `x` holds for it is another layer's.
        device.run(CombineBackward {
            dy,
            x: self.both.front([2 * rows, hidden]),
            order,
            weight: self.weight.front([rows, 2]),
            dx: self.dboth.front_mut([2 * rows, hidden]),
            dweight: self.dweight.front_mut([rows, 2]),
        })?;
        let (weights, mut grads) = weights_and_grads(clusters)?;
        let &[router_weight, ..] = weights.as_slice() else { return Err(wrong_parameters(weights.len())) };
        let part = |half| self.dboth.view().narrow(0, half);

        let dy = part(0..rows);
        // Weights gather gradients over micro-batches; the router's is taken over from each.
        let y = self.drouter.view_mut().into_matrix();
        device.run(Copy { x: self.no_drouter.view().matrix(0), y })?;
        let (full_weights, full_grads) = weights_and_grads(full)?;
        let full_weights: Vec<_> = [router_weight].into_iter().chain(full_weights).collect();
        let full_grads = [self.drouter.view_mut()].into_iter().chain(full_grads).collect();
        let silent = Router { loss: RouteLoss { balance: 0.0, z: 0.0 }, ..router };
        let through = self.dx.front_mut([rows, hidden]);
        let operands = Backward { device, router: silent, x, dy, dx: through, accumulate };
        let at = l % self.saved.len();
        self.layer.backward(operands, &full_weights, full_grads, &mut self.saved[at], &mut self.workspace)?;

        let dy = part(rows..2 * rows);
        let own = grads.iter_mut().map(|grad| grad.reborrow()).collect();
        let operands = Backward { device, router, x, dy, dx: dx.reborrow(), accumulate };
        clustered.backward(operands, &weights, own, saved, ws)?;
        device.run(Add { x: self.dx.front([rows, hidden]), y: dx })?;
        let drouter = grads.swap_remove(0).into_matrix();
        device.run(Add { x: self.drouter.view().matrix(0), y: drouter })
    }
}

fn wrong_parameters(count: usize) -> Error {
    Error::Rule {
        op: "Anneal",
        rule: "a layer has a router first, and two weights of full experts",
        values: format!("weights = {count}"),
    }
}
