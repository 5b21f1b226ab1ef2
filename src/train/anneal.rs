//! Full experts fading out beside the clusters that replace them: `y = c E(x) + (1 - c) E~(x)` with `c` from 1 to 0
//! (method.md, "How compression starts").
//!
//! Both forms compute from one router. Their results are mixed as if they were two experts of a token with the weights `c`
//! and `1 - c`, so that mixing and its gradient are [`Combine`] and [`CombineBackward`].

use super::backward::weights_and_grads;
use super::config::{FfnKind, ModelConfig};
use super::layout;
use super::model::Model;
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

impl<T: Elem> Model<T> {
    /// Lets full experts, zero and still to be loaded, fade out beside the clusters, `share` theirs.
    pub(super) fn start_fading(&mut self, share: f32, train: bool) -> Result<()> {
        self.params.extend(build(&self.config, &self.device, train)?);
        self.fade(share, train)
    }

    /// Whether full experts fade out beside the clusters ([`Mode::Anneal`](super::config::Mode)).
    pub fn is_fading(&self) -> bool {
        self.fading.is_some()
    }

    /// Gives the full experts among the parameters this share.
    pub(super) fn fade(&mut self, share: f32, train: bool) -> Result<()> {
        let fading = match &mut self.fading {
            Some(fading) => fading,
            None => self.fading.insert(Fading::new(&self.config, &self.device, self.acts.batch, train)?),
        };
        fading.set_share(share)
    }

    /// Drops the full experts.
    pub(super) fn end_fading(&mut self) {
        self.fading = None;
        self.params.truncate(self.config.fading_start(0));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::preset::Preset;
    use crate::view::ViewMut;

    const ROWS: usize = 7;

    /// Values that differ from each other and from zero, of this scale.
    fn fill(tensor: &mut Tensor<f32, 3>, scale: f32, salt: usize) {
        let wave = |i: usize| scale * ((i * 7919 + salt * 104_729) as f32 * 0.37).sin();
        tensor.copy_from(&(0..tensor.len()).map(wave).collect::<Vec<_>>()).unwrap();
    }

    fn params(mut params: Vec<Param<f32>>) -> Vec<Param<f32>> {
        // The router, first of both, is the same in both.
        params.iter_mut().enumerate().for_each(|(i, p)| fill(&mut p.weight, 0.3, i));
        params
    }

    fn grads(params: &[Param<f32>]) -> Vec<Vec<f32>> {
        params.iter().map(|p| p.state.as_ref().unwrap().grad.to_vec().unwrap()).collect()
    }

    /// Output and gradient of the input of one form alone; the gradients of its parameters lie with them.
    fn alone(
        layer: Layer,
        router: Router,
        params: &mut [Param<f32>],
        x: &[f32],
        dy: &[f32],
    ) -> [Vec<f32>; 2] {
        let device = Device::cpu();
        let hidden = layer.shape.hidden;
        let shape = [ROWS, hidden];
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let mut saved = layer.saved(&device, ROWS).unwrap();
        let mut ws = Workspace::new(&device, &layer, ROWS, true, 0).unwrap();
        let x = View::new(x, shape).unwrap();
        let weights: Vec<_> = params.iter().map(|p| p.weight.view()).collect();
        let out = ViewMut::new(&mut y, shape).unwrap();
        let pass = Forward { device: &device, router, bias: None, x, y: out };
        layer.forward(pass, &weights, &mut saved, &mut ws).unwrap();
        let (weights, grads) = weights_and_grads(params).unwrap();
        let (dy, out) = (View::new(dy, shape).unwrap(), ViewMut::new(&mut dx, shape).unwrap());
        let pass = Backward { device: &device, router, x, dy, dx: out, accumulate: false };
        layer.backward(pass, &weights, grads, &mut saved, &mut ws).unwrap();
        [y, dx]
    }

    fn router(balance: f32) -> Router<'static> {
        Router { temperature: 0.9.into(), loss: RouteLoss { balance, z: 0.0 } }
    }

    fn near(got: &[f32], want: impl Iterator<Item = f32>, what: &str) {
        let want: Vec<f32> = want.collect();
        assert_eq!(got.len(), want.len(), "{what}");
        let size = want.iter().fold(1e-3f32, |m, w| m.max(w.abs()));
        for (g, w) in got.iter().zip(&want) {
            assert!((g - w).abs() <= 1e-5 * size, "{what}: {g} {w}");
        }
    }

    /// Everything is linear in the result's gradient, so the mix of both forms is the mix of what each gives alone; the loss
    /// of the router, which does not depend on it, counts once.
    #[test]
    fn outputs_and_gradients_are_those_of_both_forms_in_their_shares() {
        const C: f32 = 0.3;
        let device = Device::cpu();
        let preset = Preset::Tiny.model();
        let config = ModelConfig { hidden: 12, inner: 10, heads: 2, rank: 3, layers: 1, seq: ROWS, ..preset };
        let (clustered, full_layer) = (config.layer(), full_config(&config).layer());
        let mut clusters = params(layout::build_ffn(&config, &device, 0).unwrap());
        let mut full = params(layout::build_ffn(&full_config(&config), &device, 0).unwrap());
        let tokens = |salt: usize| -> Vec<f32> {
            (0..ROWS * 12).map(|i| ((i * 31 + salt) as f32 * 0.71).cos()).collect()
        };
        let (x, dy) = (tokens(1), tokens(2));

        let scaled = |by: f32| dy.iter().map(|d| by * d).collect::<Vec<_>>();
        let [y_full, dx_full] = alone(full_layer, router(0.0), &mut full, &x, &scaled(C));
        let want_full = grads(&full);
        let [y_clusters, dx_clusters] = alone(clustered, router(0.3), &mut clusters, &x, &scaled(1.0 - C));
        let want_clusters = grads(&clusters);

        let mut fading = Fading::<f32>::new(&config, &device, 1, true).unwrap();
        fading.set_share(C).unwrap();
        let mut saved = clustered.saved(&device, ROWS).unwrap();
        let mut ws = Workspace::new(&device, &clustered, ROWS, true, 0).unwrap();
        let mut y = vec![1.0; x.len()];
        let mut dx = vec![9.0; x.len()];
        let shape = [ROWS, 12];
        let mut full: Vec<_> = full.into_iter().skip(1).collect();
        for micro in 0..2 {
            y.fill(1.0);
            let views: Vec<_> = clusters.iter().map(|p| p.weight.view()).collect();
            let (x, out) = (View::new(&x, shape).unwrap(), ViewMut::new(&mut y, shape).unwrap());
            let pass = Forward { device: &device, router: router(0.3), bias: None, x, y: out };
            fading.forward(0, &clustered, pass, (&views, &full), &mut saved, &mut ws).unwrap();
            let (dy, out) = (View::new(&dy, shape).unwrap(), ViewMut::new(&mut dx, shape).unwrap());
            let pass =
                Backward { device: &device, router: router(0.3), x, dy, dx: out, accumulate: micro > 0 };
            fading.backward(0, &clustered, pass, (&mut clusters, &mut full), &mut saved, &mut ws).unwrap();
        }
        let mix = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| 1.0 + C * a + (1.0 - C) * b).collect::<Vec<_>>()
        };
        near(&y, mix(&y_full, &y_clusters).into_iter(), "y");
        near(&dx, dx_full.iter().zip(&dx_clusters).map(|(a, b)| a + b), "dx");
        // Two micro-batches that are alike.
        let (got_clusters, got_full) = (grads(&clusters), grads(&full));
        for (i, (got, want)) in got_full.iter().zip(&want_full[1..]).enumerate() {
            near(got, want.iter().map(|w| 2.0 * w), &format!("full {i}"));
        }
        for (i, (got, want)) in got_clusters.iter().zip(&want_clusters).enumerate().skip(1) {
            near(got, want.iter().map(|w| 2.0 * w), &format!("clusters {i}"));
        }
        let routers = want_full[0].iter().zip(&want_clusters[0]);
        near(&got_clusters[0], routers.map(|(a, b)| 2.0 * (a + b)), "router");
    }
}
