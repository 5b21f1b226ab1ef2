//! Online clustering: what a run remembers about each layer's experts, and the attempts to regroup them.

use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{BaseWeights, ModelConfig, Parts, TrainConfig};
use super::model::Model;
use super::param::{Buffer, Param, ParamState, Piece};
use super::seen::Seen;
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::clustering::{
    Grouping, Limits, Outcome, Regroup, Tensors, carried, fused_similarity, propose,
};
use crate::moe::{FfnKind, Shape};
use crate::ops::ResidualGram;
use crate::profile::Span;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Positions among a clustered layer's weights of the two that hold factors of single experts.
const EXPERT_FACTORS: [usize; 2] = [3, 4];
/// Rows of every expert that [`ResidualGram`] may write at a time on a CUDA device.
const GRAM_ROWS: usize = 8;

/// What a run remembers about the experts of one layer; all of it but what it saw in a step is part of a checkpoint.
#[derive(Debug)]
pub(super) struct Experts {
    /// `[1, experts, hidden]`: moving mean of what each expert was sent.
    centroid: Buffer,
    /// `[1, 1, experts]`: moving mean of the slots of a step.
    load: Buffer,
    /// `[1, 1, experts]`: the expert of the start that each place holds now.
    origin: Buffer,
    /// `[1, 1, 1]`: 1 if the router skips the next optimiser step.
    hold: Buffer,
    /// Of the micro-batches of a step so far: nothing the run remembers before the step counts.
    seen: Seen,
}

/// An attempt to regroup the experts of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The layer.
    pub layer: usize,
    /// What came of it.
    pub result: EventResult,
    /// Mean similarity of the pairs of experts that shared a cluster before.
    pub similarity: f64,
    /// How much the proposal would raise it.
    pub gain: f64,
    /// Largest relative error of an expert, where the proposal came that far.
    pub error: Option<f64>,
    /// Jaccard index of the pairs that shared a cluster before and in the proposal.
    pub jaccard: f64,
    /// The cluster of each expert after it, by the expert's number at the start of the run.
    pub clusters: Vec<usize>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// `[experts, experts]`: the similarity that it started from, experts by place. Not part of a metrics line: most would
    /// be the size of a weight.
    #[serde(skip)]
    pub similarities: Vec<f32>,
}

impl Event {
    /// Says in a trace what came of it.
    pub(super) fn note(&self, span: &mut Span) {
        span.note("layer", self.layer);
        span.note("result", json!(self.result));
        span.note("similarity", self.similarity);
        span.note("gain", self.gain);
        span.note("error", self.error);
        span.note("jaccard", self.jaccard);
    }
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventResult {
    /// The experts were regrouped.
    Accepted,
    /// The similarity inside clusters would rise too little, or nothing would change.
    SmallGain,
    /// An expert would change too much.
    LargeError,
    /// Full experts were grouped and factorised ([`Mode::Convert`](super::config::Mode)).
    Converted,
}

/// The memory of all layers of a clustered model; of no layer for any other.
#[derive(Debug)]
pub struct Clustering {
    pub(super) layers: Vec<Experts>,
}

impl Clustering {
    /// Nothing seen yet, every expert in its place. It lives in host memory: the host alone changes it, after a step.
    pub fn new(model: &ModelConfig) -> Result<Self> {
        if model.ffn != FfnKind::Clustered {
            return Ok(Clustering { layers: Vec::new() });
        }
        let (experts, hidden, device) = (model.experts, model.hidden, &Device::cpu());
        let layer = |l: usize| {
            let name = |part: &str| format!("model.layers.{l}.mlp.experts.{part}");
            let vector = |part: &str, len: usize| {
                Buffer::zeros(device, [1, 1, len], vec![Piece::vector(name(part), 0..len)])
            };
            let centroid = vec![Piece::matrix(name("centroid"), 0, 0..experts, 0..hidden)];
            let mut origin = vector("origin", experts)?;
            origin.tensor.copy_from(&(0..experts).map(|e| e as f32).collect::<Vec<_>>())?;
            Ok(Experts {
                centroid: Buffer::zeros(device, [1, experts, hidden], centroid)?,
                load: vector("load", experts)?,
                origin,
                hold: vector("hold", 1)?,
                seen: Seen::new(experts, hidden),
            })
        };
        Ok(Clustering { layers: (0..model.layers).map(layer).collect::<Result<_>>()? })
    }

    /// What a checkpoint holds of it.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.layers.iter().flat_map(|l| [&l.centroid, &l.load, &l.origin, &l.hold])
    }

    /// The buffers, to load into.
    pub fn buffers_mut(&mut self) -> impl Iterator<Item = &mut Buffer> {
        self.layers.iter_mut().flat_map(|l| [&mut l.centroid, &mut l.load, &mut l.origin, &mut l.hold])
    }

    /// Puts the experts of a clustered model that no step has seen into clusters at random, another grouping in each layer.
    ///
    /// The bases are alike then, so that the experts stay what they are.
    pub(super) fn start_grouping<T: Elem>(&mut self, model: &mut Model<T>, seed: u64) -> Result<()> {
        if model.layer.kind != FfnKind::Clustered {
            return Ok(());
        }
        let shape = model.layer.shape;
        for (l, experts) in self.layers.iter_mut().enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(l as u64);
            let mut order: Vec<usize> = (0..shape.experts).collect();
            order.shuffle(&mut rng);
            let params = model.ffn_mut(l);
            let weights = carried(shape, &order, &tensors(params.iter().map(Param::values))?)?;
            set_values(params, weights)?;
            follow(&mut experts.origin.tensor, 0, &order)?;
        }
        Ok(())
    }

    /// Forgets what was seen since the last step that counted: a step starts.
    pub fn start_step(&mut self) {
        self.layers.iter_mut().for_each(|experts| experts.seen.forget());
    }

    /// Looks at a micro-batch, which sent each expert rows of these means, `[experts, hidden]`, layer by layer. `slots`,
    /// `[layers][experts]`, are those of the step so far. What it saw counts once the step does, in [`track`](Self::track).
    pub(super) fn see<'m>(&mut self, means: impl Iterator<Item = &'m [f32]>, slots: &[Vec<u64>]) {
        for ((experts, mean), slots) in self.layers.iter_mut().zip(means).zip(slots) {
            experts.seen.add(mean, slots);
        }
    }

    /// Moves centroids and loads towards those of the step that was seen, all of its micro-batches at once.
    pub fn track(&mut self, rate: f32) -> Result<()> {
        for Experts { centroid, load, seen, .. } in &mut self.layers {
            let (mut means, mut loads) = (centroid.tensor.to_vec()?, load.tensor.to_vec()?);
            seen.move_towards(&mut means, &mut loads, rate);
            centroid.tensor.copy_from(&means)?;
            load.tensor.copy_from(&loads)?;
        }
        Ok(())
    }

    /// The layers whose routers skip the next step.
    pub(super) fn held(&self) -> Result<Vec<usize>> {
        let held = |(l, experts): (usize, &Experts)| match experts.hold.tensor.host() {
            Ok(hold) => (hold != [0.0]).then_some(Ok(l)),
            Err(e) => Some(Err(e)),
        };
        self.layers.iter().enumerate().filter_map(held).collect()
    }

    /// A step is done: no router skips the next one.
    pub(super) fn release(&mut self) -> Result<()> {
        self.layers.iter_mut().try_for_each(|experts| experts.hold.tensor.copy_from(&[0.0]))
    }

    /// Attempts to regroup the experts of every layer, after the optimiser's update of `step`.
    pub fn regroup<T: Elem>(
        &mut self,
        model: &mut Model<T>,
        config: &TrainConfig,
        step: u64,
    ) -> Result<Vec<Event>> {
        if model.layer.kind != FfnKind::Clustered || model.config.parts != Parts::Both {
            return Ok(Vec::new());
        }
        let layers = self.layers.len();
        let attempt = |l| {
            let mut span = model.device.span("regroup");
            model.bring(l)?;
            let event = self.regroup_layer(l, model, config, step)?;
            model.put(l)?;
            event.note(&mut span);
            Ok(event)
        };
        (0..layers).map(attempt).collect()
    }

    fn regroup_layer<T: Elem>(
        &mut self,
        l: usize,
        model: &mut Model<T>,
        config: &TrainConfig,
        step: u64,
    ) -> Result<Event> {
        let start = Instant::now();
        let shape = model.layer.shape;
        let experts = &mut self.layers[l];
        let device = model.device.clone();
        let params = model.ffn_mut(l);
        let similarities = experts.similarity(&device, params, shape, config.cluster_alpha)?;
        let similarity = View::new(&similarities, [shape.experts; 2])?;
        let current = Grouping::contiguous(shape.experts, shape.clusters)?;
        let seed = seed_of(config, step, l);
        let proposal = propose(&current, similarity, f64::from(config.cluster_tau), seed)?;
        let means = experts.means(params, shape, config.base_weights)?;
        let limits = Limits { gain: f64::from(config.cluster_gain), error: f64::from(config.cluster_error) };
        let regroup = Regroup { shape, similarity, proposal: &proposal, means: &means, limits, seed };
        let outcome = regroup.apply(|| tensors(params.iter().map(Param::values)))?;
        let (result, gain, error) = match outcome {
            Outcome::SmallGain { gain } => (EventResult::SmallGain, gain, None),
            Outcome::LargeError { gain, error } => (EventResult::LargeError, gain, Some(error)),
            Outcome::Accepted { gain, error, order, weights, .. } => {
                carry(params, shape, &order, weights)?;
                experts.carry(&order)?;
                carry_bias(&mut model.bias[l], shape, &order)?;
                (EventResult::Accepted, gain, Some(error))
            }
        };
        Ok(Event {
            layer: l,
            result,
            similarity: current.mean_similarity(similarity),
            gain,
            error,
            jaccard: current.jaccard(&proposal),
            clusters: experts.clusters(shape)?,
            seconds: start.elapsed().as_secs_f64(),
            similarities: similarities.iter().map(|&s| s as f32).collect(),
        })
    }
}

impl Experts {
    /// `[experts, experts]`: fused similarity of weights and of mean tokens (method.md, "Clustering").
    fn similarity<T: Elem>(
        &self,
        device: &Device,
        params: &[Param<T>],
        shape: Shape,
        alpha: f32,
    ) -> Result<Vec<f64>> {
        let mut param = device.zeros([shape.experts; 2])?;
        let masters: Option<Vec<_>> =
            params.iter().map(|p| Some(p.state.as_ref()?.master.as_ref()?.view())).collect();
        match masters {
            Some(masters) => weights_gram(device, &masters, shape, &mut param)?,
            None => {
                let weights: Vec<_> = params.iter().map(|p| p.weight.view()).collect();
                weights_gram(device, &weights, shape, &mut param)?;
            }
        }
        self.fused(device, &param, alpha)
    }

    /// The same from dot products of weights.
    pub(super) fn fused(&self, device: &Device, param: &Tensor<f64, 2>, alpha: f32) -> Result<Vec<f64>> {
        let mut centroids: Tensor<f32, 3> = device.zeros(self.centroid.tensor.shape())?;
        centroids.copy_from(self.centroid.tensor.host()?)?;
        fused_similarity(device, param.view(), Some(centroids.view().matrix(0)), f64::from(alpha))
    }

    /// The weighted means that a base may become: by load, by Fisher information, of which Adam's second moments are an
    /// estimate.
    fn means<T: Elem>(&self, params: &[Param<T>], shape: Shape, which: BaseWeights) -> Result<Vec<Vec<f64>>> {
        let mut means = Vec::new();
        if matches!(which, BaseWeights::Best | BaseWeights::Load) {
            means.push(self.load.tensor.to_vec()?.into_iter().map(f64::from).collect());
        }
        if matches!(which, BaseWeights::Best | BaseWeights::Fisher) {
            let mut fisher = vec![0.0; shape.experts];
            for factor in EXPERT_FACTORS {
                let Some(state) = params.get(factor).and_then(|p| p.state.as_ref()) else { continue };
                let (v, per) = (state.v.to_vec()?, state.v.len() / shape.experts);
                for (sum, v) in fisher.iter_mut().zip(v.chunks_exact(per)) {
                    *sum += v.iter().map(|&v| f64::from(v)).sum::<f64>();
                }
            }
            means.push(fisher);
        }
        Ok(means)
    }

    /// Weight of each expert in the mean that the first base of its cluster is: Adam knows nothing of its factors yet.
    pub(super) fn weights(&self, which: BaseWeights) -> Result<Vec<f64>> {
        let load = self.load.tensor.to_vec()?;
        let by_load = which == BaseWeights::Load;
        Ok(load.into_iter().map(|n| if by_load { f64::from(n) } else { 1.0 }).collect())
    }

    /// Follows the experts to their new places.
    pub(super) fn carry(&mut self, order: &[usize]) -> Result<()> {
        for buffer in [&mut self.centroid, &mut self.load, &mut self.origin] {
            follow(&mut buffer.tensor, 0, order)?;
        }
        self.hold.tensor.copy_from(&[1.0])
    }

    /// The cluster of each expert, by its number at the start of the run.
    pub(super) fn clusters(&self, shape: Shape) -> Result<Vec<usize>> {
        let mut clusters = vec![0; shape.experts];
        let per = shape.experts / shape.clusters;
        for (place, origin) in self.origin.tensor.to_vec()?.into_iter().enumerate() {
            let slot = clusters.get_mut(origin as usize);
            let slot = slot.ok_or_else(|| Error::Rule {
                op: "Clustering",
                rule: "origins are experts",
                values: format!("origin = {origin}, experts = {}", shape.experts),
            })?;
            *slot = place / per;
        }
        Ok(clusters)
    }
}

/// Dot products between all experts of a layer, from its weights as stored.
fn weights_gram<T: Elem>(
    device: &Device,
    weights: &[View<'_, T, 3>],
    shape: Shape,
    gram: &mut Tensor<f64, 2>,
) -> Result<()> {
    let &[_, w13, w2, b, a2] = weights else { return Err(not_clustered(weights.len())) };
    let Shape { experts, hidden, inner, .. } = shape;
    let room = ResidualGram::<T>::workspace_len(experts, hidden, inner, GRAM_ROWS);
    let mut workspace: Tensor<f64, 1> = device.zeros([room])?;
    let (gram, workspace): (ViewMut<'_, f64, 2>, _) = (gram.view_mut(), workspace.view_mut());
    device.run(ResidualGram { w13, w2, b, a2, gram, workspace })
}

fn set_values<T: Elem>(params: &mut [Param<T>], weights: Tensors) -> Result<()> {
    let Tensors { router, w13, w2, b, a2 } = weights;
    let values = [router, w13, w2, b, a2];
    params.iter_mut().zip(values).try_for_each(|(param, values)| param.set_values(&values))
}

/// Writes regrouped weights back, and the moments after them, one at a time.
fn carry<T: Elem>(params: &mut [Param<T>], shape: Shape, order: &[usize], weights: Tensors) -> Result<()> {
    set_values(params, weights)?;
    type Moment = fn(&mut ParamState) -> &mut Tensor<f32, 3>;
    let moments: [Moment; 2] = [|s| &mut s.m, |s| &mut s.v];
    for moment in moments {
        let read = |p: &mut Param<T>| p.state.as_mut().map_or(Ok(Vec::new()), |s| moment(s).to_vec());
        let Tensors { router, w13, w2, b, a2 } =
            carried(shape, order, &tensors(params.iter_mut().map(read))?)?;
        for (param, values) in params.iter_mut().zip([router, w13, w2, b, a2]) {
            if let Some(state) = &mut param.state {
                moment(state).copy_from(&values)?;
            }
        }
    }
    Ok(())
}

/// The biases of experts follow them; those of clusters stay.
pub(super) fn carry_bias(bias: &mut Buffer, shape: Shape, order: &[usize]) -> Result<()> {
    follow(&mut bias.tensor, shape.logits() - shape.experts, order)
}

/// Puts what a tensor holds of each expert in `order`, behind what it holds of `levels` clusters, which stays.
pub(super) fn follow(tensor: &mut Tensor<f32, 3>, levels: usize, order: &[usize]) -> Result<()> {
    let old = tensor.to_vec()?;
    let per = old.len() / (levels + order.len());
    let places = (0..levels).chain(order.iter().map(|e| levels + e));
    let moved: Vec<f32> = places.flat_map(|at| &old[at * per..(at + 1) * per]).copied().collect();
    tensor.copy_from(&moved)
}

/// Seed of what is random in an attempt: another one for each, or a bad start of k-means would come again and again.
pub(super) fn seed_of(config: &TrainConfig, step: u64, layer: usize) -> u64 {
    config.seed ^ (step << 20) ^ layer as u64
}

/// The five tensors of a layer.
fn tensors(values: impl Iterator<Item = Result<Vec<f32>>>) -> Result<Tensors> {
    let values = values.collect::<Result<Vec<_>>>()?;
    let count = values.len();
    let [router, w13, w2, b, a2] = values.try_into().map_err(|_| not_clustered(count))?;
    Ok(Tensors { router, w13, w2, b, a2 })
}

fn not_clustered(count: usize) -> Error {
    Error::Rule {
        op: "Clustering",
        rule: "a clustered layer has 5 weights",
        values: format!("weights = {count}"),
    }
}
