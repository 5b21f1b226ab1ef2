//! One optimiser step: gradients of the micro-batches, clipping, AdamW.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::backward::Micro;
use super::balance;
use super::clustering::{Clustering, Event};
use super::config::{FfnKind, Granularity, ModelConfig, TrainConfig};
use super::ledger::{Given, Left};
use super::load::LoadCounts;
use super::model::Model;
use super::offload::{self, OffloadCounts, unlocked};
use super::optimiser::Update;
use super::param::Param;
use crate::device::{Device, Repeated};
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::Router;
use crate::ops::{GlobalNorm, RouteLoss};
use crate::tensor::Tensor;
use crate::view::ViewMut;

/// A model in training.
#[derive(Debug)]
pub struct Trainer<T> {
    model: Model<T>,
    config: TrainConfig,
    device: Device,
    step: u64,
    given: Given,
    left: Left,
    /// Workspace of the norm.
    squares: Tensor<f64, 1>,
    /// What a step does on the device, as long as it is the same from step to step.
    repeated: Repeated,
    clustering: Clustering,
    /// The form of the model in the end; see [`TrainConfig::form`].
    form: FfnKind,
    /// The budget of bytes for clusters, and the folder for scratch.
    budget: Option<(u64, PathBuf)>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// Mean cross-entropy in nats per token.
    pub loss: f32,
    /// The router's losses, summed over layers.
    pub balance: f32,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Learning rate.
    pub lr: f32,
    /// Standard deviation over mean of slots per expert in this step, averaged over layers; 0 when dense.
    pub load_cv: f32,
    /// Slots per expert in this step, `[layers][experts]`; empty when dense.
    pub expert_slots: Vec<Vec<u64>>,
    /// Attempts to regroup experts after the step.
    pub clustering: Vec<Event>,
    /// What moving clusters took, where they are offloaded.
    pub offload: Option<OffloadCounts>,
    /// Tokens trained on.
    pub tokens: usize,
    /// Wall-clock time.
    pub seconds: f64,
}

impl<T: Elem> Trainer<T> {
    /// A freshly initialised model, before its first step.
    pub fn new(model: &ModelConfig, config: &TrainConfig, device: &Device) -> Result<Self> {
        config.validate(model.seq)?;
        let clustering = Clustering::new(model)?;
        let form = model.ffn;
        let first = ModelConfig { ffn: config.form(form, 0), ..model.clone() };
        let model = Model::new(&first, device, config.batch, config.seed, true)?;
        let mut trainer = Trainer {
            given: Given::new(&first, config, device)?,
            left: Left::new(&first, config, device)?,
            repeated: Repeated::default(),
            model,
            config: config.clone(),
            device: device.clone(),
            step: 0,
            squares: device.zeros([0])?,
            clustering,
            form,
            budget: None,
        };
        if config.start_grouping > 0 {
            trainer.clustering.start_grouping(&mut trainer.model, config.start_grouping)?;
        }
        trainer.fit_model()?;
        trainer.pack()?;
        Ok(trainer)
    }

    /// Keeps the weights and optimiser state of clusters within `budget` bytes of memory from now on, the rest in a scratch
    /// file in the folder `run`, which is removed with the trainer; see [`offload`]. What is trained is the same to the bit.
    /// A model that is clustered only later is offloaded from then on.
    ///
    /// Errors if the model will not be clustered, if the budget is below [`offload::least_budget`], or without room on the
    /// disk. The tensors of the clusters have no rows from then on.
    pub fn offload(&mut self, budget: u64, run: impl AsRef<Path>) -> Result<()> {
        let clustered = ModelConfig { ffn: self.form, ..self.model.config().clone() };
        offload::check_budget(budget, &clustered, &self.config)?;
        self.budget = Some((budget, run.as_ref().to_owned()));
        self.start_offload()
    }

    /// Moves the clusters to where they are to be, if the model has any.
    fn start_offload(&mut self) -> Result<()> {
        let Some((budget, run)) = &self.budget else { return Ok(()) };
        let clustered = self.model.config().ffn == FfnKind::Clustered && !self.model.is_fading();
        if clustered && self.model.offload.is_none() {
            self.model.start_offload(&self.config, (*budget, run), self.step)?;
        }
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Model<T> {
        &self.model
    }

    /// The model, to load into.
    pub fn model_mut(&mut self) -> &mut Model<T> {
        self.repeated = Repeated::default(); // its tensors may move
        &mut self.model
    }

    /// What it remembers about the experts of a clustered model.
    pub fn clustering(&self) -> &Clustering {
        &self.clustering
    }

    /// What it remembers about the experts, to load into.
    pub fn clustering_mut(&mut self) -> &mut Clustering {
        &mut self.clustering
    }

    /// Steps taken so far.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Goes to the point after `step` steps, where the model has the form it has then; weights and optimiser state are
    /// still to be loaded.
    pub fn go_to(&mut self, step: u64) -> Result<()> {
        self.step = step;
        let form = self.config.form(self.form, step);
        if form != self.model.config().ffn {
            let config = ModelConfig { ffn: form, ..self.model.config().clone() };
            self.model = Model::new(&config, &self.device, self.config.batch, self.config.seed, true)?;
            let share = self.config.fade(step);
            if share > 0.0 {
                self.model.start_fading(share, true)?;
            }
            self.fit_model()?;
            self.start_offload()?;
        }
        if let Some(offload) = &mut self.model.offload {
            unlocked(offload).restart(step);
        }
        Ok(())
    }

    /// What depends on the form of the model: the workspace, and master copies where storage is to differ from them.
    fn fit_model(&mut self) -> Result<()> {
        self.repeated = Repeated::default();
        let len = GlobalNorm::workspace_len(self.model.params().iter().map(|p| p.len()));
        self.squares = self.device.zeros([len])?;
        if self.config.int4_from > 0 && self.model.config().ffn == FfnKind::Clustered {
            for l in 0..self.model.config().layers {
                self.model.ffn_mut(l).iter_mut().try_for_each(|param| param.keep_master(&self.device))?;
            }
        }
        Ok(())
    }

    /// Makes the stored residuals those of INT4 where the next step computes with such ones: after every change of the
    /// weights.
    pub(super) fn pack(&mut self) -> Result<()> {
        if self.config.packs(self.step) {
            self.model.pack_residuals(self.config.int4.format())
        } else {
            Ok(())
        }
    }

    /// How residuals count as packed in INT4 at this point; `None` if they do not.
    pub fn packed(&self) -> Option<Granularity> {
        let packed = self.model.config().ffn == FfnKind::Clustered && self.config.packs(self.step);
        packed.then_some(self.config.int4)
    }

    /// Bytes of weights, gradients and optimiser state, in memory or not.
    pub fn state_bytes(&self) -> u64 {
        let floats = |p: &Param<T>| p.state.as_ref().map_or(0, |s| 3 + usize::from(s.master.is_some()));
        let bytes = |p: &Param<T>| p.len() * (size_of::<T>() + floats(p) * size_of::<f32>());
        self.model.params().iter().map(|p| bytes(p) as u64).sum()
    }

    /// One step. `fill` is called for each micro-batch with its number and `batch * (seq + 1)` ids to write.
    ///
    /// The host gives the device everything a step needs and reads everything it leaves when it is done: on a CUDA device
    /// that is one graph from the second step on, with nothing to wait for inside.
    ///
    /// A loss or gradient norm that is not finite ends in [`Error::Diverged`] and leaves weights, optimiser
    /// state, what is remembered about the experts, and step count as they were.
    pub fn step(&mut self, fill: impl FnMut(usize, &mut [u32]) -> Result<()>) -> Result<StepReport> {
        let start = Instant::now();
        let step = self.step + 1;
        let device = self.device.clone();
        let _span = device.span("step").with("step", step);
        let span = device.span("batch");
        self.given.read(fill)?;
        self.given.set(&self.config, step)?;
        drop(span);
        self.run()?;
        self.left.read(&device)?;

        let (mut load, loss) = (LoadCounts::default(), self.router_loss());
        let (mut cross_entropy, mut balance, scale) = (0.0, 0.0, self.scale());
        self.clustering.start_step();
        for micro in 0..self.config.accumulate {
            cross_entropy += scale * self.left.loss(micro)?;
            let stats = self.left.stats(micro)?;
            balance += scale * stats.iter().map(|stats| stats.loss(loss)).sum::<f64>() as f32;
            stats.iter().enumerate().for_each(|(layer, stats)| load.add(layer, stats));
            if self.config.cluster_every > 0 {
                self.clustering.see(self.left.means(micro)?, load.slots());
            }
        }
        let grad_norm = self.left.grad_norm()?;
        for (what, value) in [("loss", cross_entropy), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(Error::Diverged { step, what, value });
            }
        }
        self.clustering.release()?;
        let packed = self.update_offloaded(step)?;
        let span = device.span("clustering");
        self.adjust_balance(load.slots())?;
        let mut clustering = Vec::new();
        if self.config.form(self.form, step) != self.model.config().ffn {
            clustering = self.clustering.convert(&mut self.model, &self.config, step)?;
            self.step = step;
            self.fit_model()?;
            self.start_offload()?;
        } else if self.config.clusters_at(step) {
            clustering = self.clustering.regroup(&mut self.model, &self.config, step)?;
        }
        drop(span);
        self.fade(step)?;
        self.step = step;
        if !packed {
            self.pack()?;
        }
        Ok(StepReport {
            step,
            loss: cross_entropy,
            balance,
            grad_norm,
            lr: self.config.lr_at(step),
            load_cv: load.cv() as f32,
            expert_slots: load.into_slots(),
            clustering,
            offload: self.model.offload.as_mut().map(|offload| unlocked(offload).take_counts()),
            tokens: self.config.tokens_per_step(self.model.config().seq) as usize,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Coefficients of the router's losses.
    fn router_loss(&self) -> RouteLoss {
        let balance = if self.config.balance.has_loss() { self.config.balance_coefficient } else { 0.0 };
        RouteLoss { balance, z: self.config.z_loss }
    }

    /// Share of a micro-batch in a step.
    fn scale(&self) -> f32 {
        1.0 / self.config.accumulate as f32
    }

    /// What a step does on the device.
    fn run(&mut self) -> Result<()> {
        let held = self.clustering.held()?;
        // What is offloaded moves between the passes, and a step with routers held is like no other.
        if !held.is_empty() || self.model.offload.is_some() {
            return self.enqueue(&held);
        }
        let (device, mut repeated) = (self.device.clone(), std::mem::take(&mut self.repeated));
        let done = device.repeat(&mut repeated, || self.enqueue(&held));
        self.repeated = repeated;
        done
    }

    /// Gradients of the micro-batches, their norm, and the update of what is in memory, from which the routers of some layers
    /// are held.
    fn enqueue(&mut self, held: &[usize]) -> Result<()> {
        let (loss, scale) = (self.router_loss(), self.scale());
        for micro in 0..self.config.accumulate {
            let router = Router { temperature: self.given.temperature(), loss };
            let rows = self.given.load(micro, &mut self.model)?;
            let sequences = self.config.batch;
            self.model.add_gradients(&Micro { rows, sequences, scale, router, accumulate: micro > 0 })?;
            let _span = self.device.span("clustering");
            self.left.keep(micro, &self.model)?;
        }
        let _span = self.device.span("optimiser");
        self.model.drop_missing_gradients()?;
        let grads =
            self.model.params().iter().filter_map(|p| p.state.as_ref()).map(|s| s.grad.flat()).collect();
        let (norm, workspace) = (self.left.norm_mut().view_mut(), self.squares.view_mut());
        self.device.run(GlobalNorm { grads, norm, workspace })?;
        self.update(held)
    }

    /// What follows the tokens and the load of a step: their moving means, and the selection biases.
    fn adjust_balance(&mut self, slots: &[Vec<u64>]) -> Result<()> {
        let config = &self.config;
        if config.cluster_every > 0 {
            self.clustering.track(config.centroid_rate)?;
        }
        if config.balance.has_bias() {
            let clusters = self.model.config().routing_clusters();
            for (bias, slots) in self.model.buffers_mut().iter_mut().zip(slots) {
                let mut values = bias.tensor.to_vec()?;
                balance::adjust(&mut values, slots, clusters, config.bias_rate, config.bias_step);
                bias.tensor.copy_from(&values)?;
            }
        }
        Ok(())
    }

    /// Moves full experts that fade out on to their share after `step`, and drops them in the end.
    fn fade(&mut self, step: u64) -> Result<()> {
        let share = self.config.fade(step);
        if !self.model.is_fading() {
            Ok(())
        } else if share > 0.0 {
            self.model.fade(share, true)
        } else {
            self.model.end_fading();
            self.fit_model()?;
            self.start_offload()
        }
    }

    /// The optimiser's step on what is in memory. A norm that is not finite changes nothing.
    fn update(&mut self, held: &[usize]) -> Result<()> {
        let (config, norm) = (&self.config, self.left.norm().view());
        let held: Vec<usize> =
            self.model.routers().enumerate().filter(|(l, _)| held.contains(l)).map(|(_, at)| at).collect();
        for (i, param) in self.model.params.iter_mut().enumerate() {
            let Some(state) = &mut param.state else { continue };
            if held.contains(&i) || param.weight.is_empty() {
                continue; // An empty one is offloaded.
            }
            let (weight, stored) = match &mut state.master {
                Some(master) => (master.flat_mut(), Some(param.weight.flat_mut())),
                None => (f32_weights(&mut param.weight)?, None),
            };
            let (grad, m, v) = (state.grad.flat(), state.m.flat_mut(), state.v.flat_mut());
            let update = Update { weight, grad, m, v, stored, decay: param.decay };
            self.device.run(update.at(self.given.rates(), config, norm))?;
        }
        Ok(())
    }

    /// The optimiser's step on what is offloaded; tells whether it left residuals packed that are to be.
    fn update_offloaded(&mut self, step: u64) -> Result<bool> {
        let Model { offload, params, config: model, .. } = &mut self.model;
        let Some(offload) = offload else { return Ok(false) };
        let _span = self.device.span("optimiser");
        // Regrouping works on what is not packed yet.
        let packs = self.config.packs(step) && !self.config.clusters_at(step);
        let norm = self.left.grad_norm()?;
        unlocked(offload).update(step, norm, packs, params, |layer| model.owned_by_clusters(layer))?;
        Ok(packs)
    }
}

/// Stored weights that are f32 themselves.
fn f32_weights<T: Elem>(weight: &mut Tensor<T, 3>) -> Result<ViewMut<'_, f32, 1>> {
    weight.flat_mut().of_type().ok_or_else(|| Error::Rule {
        op: "Trainer",
        rule: "half-precision weights have an f32 master copy",
        values: format!("dtype = {:?}", T::DTYPE),
    })
}
