//! What goes to the device for a step, and what the host reads when it is done: nothing in between, so that the host never
//! waits inside a step.

use super::backward::mean;
use super::config::{FfnKind, ModelConfig, TrainConfig};
use super::forward::split_ids;
use super::model::Model;
use crate::device::Device;
use crate::elem::Elem;
use crate::error::Result;
use crate::ops::{Rates, RouteRecord, RouteStats, Scalar};
use crate::staging::Staging;
use crate::tensor::Tensor;

/// What a step is given.
#[derive(Debug)]
pub(super) struct Given {
    /// Of a micro-batch, as they come.
    row_ids: Vec<u32>,
    sequences: usize,
    /// `[accumulate, 2, tokens]`: inputs, then targets, of every micro-batch.
    ids: Moved<u32, 3>,
    /// `[4]`: [`Rates::values`], then the router's temperature.
    numbers: Moved<f32, 1>,
}

/// What it leaves.
#[derive(Debug)]
pub(super) struct Left {
    /// `[accumulate, tokens]`
    loss: Moved<f32, 2>,
    /// `[1]`: the norm of the gradient.
    norm: Moved<f32, 1>,
    /// `[accumulate layers]`, of every layer of a micro-batch in turn; none when dense.
    routes: RouteRecord,
    counts: Staging<u32>,
    probs: Staging<f64>,
    /// `[accumulate layers, experts, hidden]`: the mean of what each expert was sent; none where nobody asks.
    means: Moved<f32, 3>,
    layers: usize,
    clusters: usize,
}

/// A tensor, and host memory for what is copied to it or from it.
#[derive(Debug)]
struct Moved<T, const N: usize> {
    tensor: Tensor<T, N>,
    staging: Staging<T>,
}

impl<T: crate::elem::Plain, const N: usize> Moved<T, N> {
    fn new(device: &Device, shape: [usize; N]) -> Result<Self> {
        Ok(Moved { tensor: device.zeros(shape)?, staging: Staging::new(device, shape.iter().product())? })
    }

    fn send(&mut self) -> Result<()> {
        self.staging.send(&mut self.tensor)
    }

    fn receive(&mut self) -> Result<()> {
        self.staging.receive(&self.tensor)
    }

    /// What was received.
    fn values(&mut self) -> Result<&[T]> {
        let len = self.tensor.len();
        Ok(&self.staging.values()?[..len])
    }
}

impl Given {
    pub fn new(model: &ModelConfig, train: &TrainConfig, device: &Device) -> Result<Self> {
        Ok(Given {
            row_ids: vec![0; train.batch * (model.seq + 1)],
            sequences: train.batch,
            ids: Moved::new(device, [train.accumulate, 2, train.batch * model.seq])?,
            numbers: Moved::new(device, [4])?,
        })
    }

    /// Reads the ids of every micro-batch, `[batch, seq + 1]`, by `fill`.
    pub fn read(&mut self, mut fill: impl FnMut(usize, &mut [u32]) -> Result<()>) -> Result<()> {
        let [micros, _, tokens] = self.ids.tensor.shape();
        for micro in 0..micros {
            fill(micro, &mut self.row_ids)?;
            let (inputs, targets) = split_ids(&self.row_ids, self.sequences)?;
            let staged = &mut self.ids.staging.values()?[2 * micro * tokens..];
            staged[..tokens].copy_from_slice(&inputs);
            staged[tokens..2 * tokens].copy_from_slice(&targets);
        }
        self.ids.send()
    }

    /// The numbers of a step.
    pub fn set(&mut self, config: &TrainConfig, step: u64) -> Result<()> {
        let rates = Rates::values(config.lr_at(step), step, [config.beta1, config.beta2]);
        let values = self.numbers.staging.values()?;
        values[..3].copy_from_slice(&rates);
        values[3] = config.temperature_at(step);
        self.numbers.send()
    }

    /// Makes a micro-batch that was read the model's batch; returns the number of its tokens.
    pub fn load<T: Elem>(&self, micro: usize, model: &mut Model<T>) -> Result<usize> {
        let [_, _, tokens] = self.ids.tensor.shape();
        let first = 2 * micro * tokens;
        model.acts.inputs.take(0, &self.ids.tensor, first..first + tokens)?;
        model.acts.targets.take(0, &self.ids.tensor, first + tokens..first + 2 * tokens)?;
        Ok(tokens)
    }

    pub fn rates(&self) -> Rates<'_> {
        Rates::At(self.numbers.tensor.view().narrow(0, 0..3))
    }

    pub fn temperature(&self) -> Scalar<'_> {
        Scalar::At(self.numbers.tensor.view().narrow(0, 3..4))
    }
}

impl Left {
    pub fn new(model: &ModelConfig, train: &TrainConfig, device: &Device) -> Result<Self> {
        let routed = if model.ffn == FfnKind::Dense { 0 } else { train.accumulate * model.layers };
        let watched = if train.cluster_every > 0 { routed } else { 0 };
        let shape = model.layer().shape;
        let routes = RouteRecord::new(device, routed, shape.experts, shape.clusters)?;
        let (counts, probs) =
            (Staging::new(device, routes.counts.len())?, Staging::new(device, routes.probs.len())?);
        Ok(Left {
            loss: Moved::new(device, [train.accumulate, train.batch * model.seq])?,
            norm: Moved::new(device, [1])?,
            routes,
            counts,
            probs,
            means: Moved::new(device, [watched, shape.experts, model.hidden])?,
            layers: if routed > 0 { model.layers } else { 0 },
            clusters: shape.clusters,
        })
    }

    /// Keeps what the pass over a micro-batch left in the model.
    pub fn keep<T: Elem>(&mut self, micro: usize, model: &Model<T>) -> Result<()> {
        let [_, tokens] = self.loss.tensor.shape();
        self.loss.tensor.take(micro * tokens, &model.acts.loss, 0..tokens)?;
        let [watched, experts, hidden] = self.means.tensor.shape();
        for l in 0..self.layers {
            let at = micro * self.layers + l;
            if let Some(routing) = model.routing(l) {
                self.routes.keep(at, &routing.sums)?;
            }
            if watched > 0 {
                // Means move from what is there, which a step that diverged may have left.
                self.means.tensor.clear(at * experts * hidden, experts * hidden)?;
                let mu = self.means.tensor.view_mut().narrow(0, at..at + 1).into_matrix();
                model.mean_tokens(l, tokens, mu)?;
            }
        }
        Ok(())
    }

    /// Where the norm of the gradient goes.
    pub fn norm_mut(&mut self) -> &mut Tensor<f32, 1> {
        &mut self.norm.tensor
    }

    /// Where it is.
    pub fn norm(&self) -> &Tensor<f32, 1> {
        &self.norm.tensor
    }

    /// Waits for the step, and reads what it left.
    pub fn read(&mut self, device: &Device) -> Result<()> {
        self.loss.receive()?;
        self.norm.receive()?;
        self.counts.receive(&self.routes.counts)?;
        self.probs.receive(&self.routes.probs)?;
        self.means.receive()?;
        device.wait()
    }

    /// Mean loss of a micro-batch in nats per token.
    pub fn loss(&mut self, micro: usize) -> Result<f32> {
        let [_, tokens] = self.loss.tensor.shape();
        Ok(mean(&self.loss.values()?[micro * tokens..(micro + 1) * tokens]))
    }

    /// The norm of the gradient.
    pub fn grad_norm(&mut self) -> Result<f32> {
        Ok(self.norm.values()?[0])
    }

    /// What the routers did with a micro-batch, layer by layer.
    pub fn stats(&mut self, micro: usize) -> Result<Vec<RouteStats>> {
        let [_, width] = self.routes.counts.shape();
        let (counts, probs) = (self.counts.values()?, self.probs.values()?);
        let row = |l: usize| (micro * self.layers + l) * width..(micro * self.layers + l + 1) * width;
        let stats = |l| RouteRecord::stats(&counts[row(l)], &probs[row(l)], self.clusters);
        Ok((0..self.layers).map(stats).collect())
    }

    /// `[experts, hidden]`, layer by layer: the means of a micro-batch; 0 for an expert that was sent nothing.
    pub fn means(&mut self, micro: usize) -> Result<impl Iterator<Item = &[f32]>> {
        let [_, experts, hidden] = self.means.tensor.shape();
        let (layers, len) = (self.layers, experts * hidden);
        let values = self.means.values()?;
        Ok(values.chunks_exact(len.max(1)).skip(micro * layers).take(layers))
    }
}
