//! The reference model: a decoder-only language model with explicit forward and backward.
//!
//! Pre-norm blocks of rotary causal attention and a feed-forward [`Layer`], RMSNorm, output
//! projection tied to the embedding. Nothing here computes: every step is an operation on `device`.

use std::sync::Mutex;

use super::activations::{Activations, Block};
use super::anneal::{FULL, Fading};
use super::config::ModelConfig;
use super::layout::{self, EMBEDDING, FFN, NORM1, NORM2, OUT, QKV};
use super::offload::{Offload, unlocked};
use super::param::{Buffer, Param};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result, ensure};
use crate::int4::Int4Format;
use crate::moe::packed::{Residuals, fake_quantise, room_len};
use crate::moe::{FfnKind, Forward, Layer, Router, Saved};
use crate::ops::{
    Attention, AttentionStep, CentroidEma, Copy, Embedding, GroupedGemm, NegLogLikelihood, RmsNorm, Rope,
    RouteLoss, RouteStats, Routing, Scalar,
};
use crate::place::{Operand, Place};
use crate::plan::Segments;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Most rows of logits that exist at once, `[HEAD_ROWS, vocab]`.
pub(super) const HEAD_ROWS: usize = 384;

/// A decoder-only language model: weights, and the buffers of the batches it was made for.
#[derive(Debug)]
pub struct Model<T> {
    pub(super) config: ModelConfig,
    pub(super) device: Device,
    pub(super) layer: Layer,
    pub(super) params: Vec<Param<T>>,
    /// Selection bias of each layer's router, `[1, 1, logits]`; none when dense.
    pub(super) bias: Vec<Buffer>,
    /// Residuals in INT4, of each layer, in the place of the parameters that are factors; none where those are plain.
    residuals: Vec<Residuals>,
    pub(super) acts: Activations<T>,
    /// Full experts that fade out; their weights are the last of `params`.
    pub(super) fading: Option<Fading<T>>,
    /// Room for the factor that is packed at the moment; empty until one is.
    room: Tensor<T, 1>,
    /// Where clusters are, if they are offloaded; locked, since even reading a weight may move it.
    pub(super) offload: Option<Mutex<Offload>>,
}

/// What the router of a layer did with a batch.
#[derive(Debug)]
pub struct Routed {
    /// Sums over its tokens.
    pub stats: RouteStats,
    /// Chosen experts, `[tokens, topk]`, row-major.
    pub choices: Vec<u32>,
}

/// What the rows of a pass attend to.
#[derive(Debug)]
pub(super) enum Context<'a, T> {
    /// The rows before each in its sequence of so many rows.
    Own(usize),
    /// What is kept of the sequence of each, see [`AttentionStep`].
    Kept { kv: ViewMut<'a, T, 3>, sequence: View<'a, u32, 1>, position: View<'a, u32, 1> },
}

impl<T: Elem> Model<T> {
    /// A freshly initialised model for batches of up to `batch` sequences.
    ///
    /// The weights depend on `seed` and the config alone. With `train` it also holds gradients, optimiser
    /// state and one set of activations per layer; without, one set for all layers.
    pub fn new(config: &ModelConfig, device: &Device, batch: usize, seed: u64, train: bool) -> Result<Self> {
        config.validate()?;
        let params = layout::build(config, device, seed, train)?;
        Self::of(config, device, batch, params, Vec::new(), train)
    }

    /// A clustered model that only evaluates, for batches of up to `batch` sequences, whose residuals are INT4 of this format.
    /// All weights are 0, to load into: factors are no parameters of it but [`residuals`](Self::residuals).
    pub fn packed(config: &ModelConfig, device: &Device, batch: usize, format: Int4Format) -> Result<Self> {
        config.validate()?;
        ensure!("Model", config.ffn == FfnKind::Clustered, ffn = config.ffn);
        let params = layout::build_packed(config, device)?;
        let shape = config.layer().shape;
        let residuals = (0..config.layers).map(|_| Residuals::new(device, &shape, format));
        Self::of(config, device, batch, params, residuals.collect::<Result<_>>()?, false)
    }

    fn of(
        config: &ModelConfig,
        device: &Device,
        batch: usize,
        params: Vec<Param<T>>,
        residuals: Vec<Residuals>,
        train: bool,
    ) -> Result<Self> {
        Ok(Model {
            config: config.clone(),
            device: device.clone(),
            layer: config.layer(),
            params,
            bias: layout::biases(config, device)?,
            residuals,
            acts: Activations::new(config, device, batch, train)?,
            fading: None,
            room: device.zeros([0])?,
            offload: None,
        })
    }

    /// The shape it was made with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters, in a fixed order.
    pub fn params(&self) -> &[Param<T>] {
        &self.params
    }

    /// The parameters, to load into.
    pub fn params_mut(&mut self) -> &mut [Param<T>] {
        &mut self.params
    }

    /// Parameters of a layer's feed-forward part, in the order of [`Layer::weight_shapes`](crate::moe::Layer::weight_shapes).
    pub fn ffn(&self, layer: usize) -> &[Param<T>] {
        &self.params[self.config.layer_start(layer) + FFN..self.config.layer_start(layer + 1)]
    }

    /// The same, to load into.
    pub fn ffn_mut(&mut self, layer: usize) -> &mut [Param<T>] {
        let parts = self.config.layer_start(layer) + FFN..self.config.layer_start(layer + 1);
        &mut self.params[parts]
    }

    /// Residuals in INT4, of each layer of a [`packed`](Self::packed) model; none of any other.
    pub fn residuals(&self) -> &[Residuals] {
        &self.residuals
    }

    /// The residuals, to load into.
    pub fn residuals_mut(&mut self) -> &mut [Residuals] {
        &mut self.residuals
    }

    /// Bytes of all weights as they are stored, without gradients and optimiser state.
    pub fn weight_bytes(&self) -> u64 {
        let plain: u64 = self.params.iter().map(|p| p.weight.bytes()).sum();
        plain + self.residuals.iter().map(Residuals::bytes).sum::<u64>()
    }

    /// What else a checkpoint of the model holds: the selection bias of each layer's router, zero unless
    /// [`Balance`](super::config::Balance) moves it.
    pub fn buffers(&self) -> &[Buffer] {
        &self.bias
    }

    /// The buffers, to load into.
    pub fn buffers_mut(&mut self) -> &mut [Buffer] {
        &mut self.bias
    }

    /// Positions of the routers among the parameters, one a layer; none when dense.
    pub(super) fn routers(&self) -> impl Iterator<Item = usize> + use<T> {
        let layers = if self.layer.kind == FfnKind::Dense { 0 } else { self.config.layers };
        let config = self.config.clone();
        (0..layers).map(move |l| config.layer_start(l) + FFN)
    }

    /// Makes the stored residuals of a clustered model those that INT4 of this format holds; master copies stay.
    pub fn pack_residuals(&mut self, format: Int4Format) -> Result<()> {
        if self.layer.kind != FfnKind::Clustered {
            return Ok(());
        }
        let _span = self.device.span("pack residuals");
        self.room.resize(room_len(&self.layer.shape))?;
        for l in 0..self.config.layers {
            self.bring(l)?;
            let parts = self.config.layer_start(l) + FFN..self.config.layer_start(l + 1);
            let mut weights: Vec<_> = self.params[parts].iter_mut().map(|p| p.weight.view_mut()).collect();
            fake_quantise(&self.device, &self.layer, &mut weights, format, self.room.view_mut())?;
            self.put(l)?;
        }
        Ok(())
    }

    /// Position of the first parameter of a layer's feed-forward part.
    pub(super) fn ffn_start(&self, layer: usize) -> usize {
        self.config.layer_start(layer) + FFN
    }

    /// Bytes of activations kept from forward to backward (of one layer, for a model that only evaluates).
    pub fn activation_bytes(&self) -> u64 {
        self.acts.kept_bytes()
    }

    /// Bytes of buffers that live for one operation or one layer's pass only.
    pub fn workspace_bytes(&self) -> u64 {
        self.acts.workspace_bytes() + self.fading.as_ref().map_or(0, Fading::bytes)
    }

    /// Negative log-likelihood in nats of each id after the first, given all before it; `ids` holds
    /// `sequences` rows of `seq + 1` ids, with `seq` at most the model's and `sequences` at most its batch.
    ///
    /// `visit` is called with what each layer's router did (never when dense).
    pub fn nll(
        &mut self,
        ids: &[u32],
        sequences: usize,
        temperature: f32,
        mut visit: impl FnMut(usize, &Routed),
    ) -> Result<Vec<f32>> {
        let rows = self.load(ids, sequences)?;
        self.forward(rows, sequences, temperature.into(), &mut |l, routing| {
            visit(l, &Routed { stats: routing.stats()?, choices: routing.expert.to_vec()? });
            Ok(())
        })?;
        let head = self.params[EMBEDDING].weight.view();
        let hidden = self.acts.normed.front([rows, self.config.hidden]);
        for start in (0..rows).step_by(HEAD_ROWS) {
            let end = rows.min(start + HEAD_ROWS);
            let segments = Segments::Whole(end - start);
            let mut logits = self.acts.ws.lend().front_mut([end - start, self.config.vocab]);
            let x = hidden.narrow(0, start..end);
            self.device.run(GroupedGemm { x, w: head, segments, y: logits.reborrow(), accumulate: false })?;
            let loss = self.acts.loss.view_mut().narrow(0, start..end);
            let targets = self.acts.targets.view().narrow(0, start..end);
            self.device.run(NegLogLikelihood { logits: logits.as_view(), targets, loss })?;
        }
        self.losses(rows)
    }

    /// Takes over a batch of `sequences` rows of equal length; returns the number of its tokens.
    pub(super) fn load(&mut self, ids: &[u32], sequences: usize) -> Result<usize> {
        let (inputs, targets) = split_ids(ids, sequences)?;
        self.check_batch(inputs.len(), sequences)?;
        self.acts.inputs.write(0, &inputs)?;
        self.acts.targets.write(0, &targets)?;
        Ok(inputs.len())
    }

    /// The loss of each token of the last batch.
    pub(super) fn losses(&self, rows: usize) -> Result<Vec<f32>> {
        let mut loss = vec![0f32; rows];
        self.acts.loss.read(0, &mut loss)?;
        Ok(loss)
    }

    /// Runs all blocks and the final norm on the batch, of `sequences` rows of equal length, keeping the activations.
    pub(super) fn forward(
        &mut self,
        rows: usize,
        sequences: usize,
        temperature: Scalar<'_>,
        visit: &mut dyn FnMut(usize, &Routing) -> Result<()>,
    ) -> Result<()> {
        self.embed_batch(rows, sequences)?;
        for l in 0..self.config.layers {
            self.block(l, rows, Context::Own(rows / sequences), temperature)?;
            if let Some(routing) = self.acts.block(l).ffn.routing() {
                visit(l, routing)?;
            }
        }
        self.final_norm(rows)
    }

    /// The last stream, normed.
    pub(super) fn final_norm(&mut self, rows: usize) -> Result<()> {
        let (last, hidden) = (self.config.layers, self.config.hidden);
        let gain = gain(&self.params[self.config.layer_start(last)]);
        let Activations { normed, inv_rms, streams, .. } = &mut self.acts;
        let (y, inv_rms) = (normed.front_mut([rows, hidden]), inv_rms.front_mut([rows]));
        let x = streams[last % streams.len()].front([rows, hidden]);
        self.device.run(RmsNorm { x, gain, eps: self.config.norm_eps, y, inv_rms })
    }

    /// Starts a pass without targets: writes stream 0.
    pub(super) fn embed(&mut self, inputs: &[u32], sequences: usize) -> Result<()> {
        self.check_batch(inputs.len(), sequences)?;
        self.acts.inputs.write(0, inputs)?;
        self.embed_batch(inputs.len(), sequences)
    }

    /// Starts a pass over the batch: writes stream 0.
    fn embed_batch(&mut self, rows: usize, sequences: usize) -> Result<()> {
        let hidden = self.config.hidden;
        self.check_batch(rows, sequences)?;
        let table = self.params[EMBEDDING].weight.view().matrix(0);
        let Activations { streams, inputs, .. } = &mut self.acts;
        let (ids, y) = (inputs.front([rows]), streams[0].front_mut([rows, hidden]));
        self.device.run(Embedding { ids, table, scale: embedding_scale(hidden), y })
    }

    /// One block: stream `l` to stream `l + 1`.
    pub(super) fn block(
        &mut self,
        l: usize,
        rows: usize,
        context: Context<'_, T>,
        temperature: Scalar<'_>,
    ) -> Result<()> {
        let (device, config) = (&self.device, &self.config);
        let (hidden, heads, eps) = (config.hidden, config.heads, config.norm_eps);
        let (params, full) = self.params.split_at_mut(config.fading_start(0));
        let params = &mut params[config.layer_start(l)..config.layer_start(l + 1)];
        let bias = self.bias.get(l).map(|b| b.tensor.flat());
        let (x, block, next, ws) = self.acts.at(l);
        let x = x.front([rows, hidden]);
        let mut y = next.front_mut([rows, hidden]);
        let Block { normed1, inv_rms1, qkv, attended, lse, middle, normed2, inv_rms2, ffn } = block;
        let segments = Segments::Whole(rows);

        let mut normed = normed1.front_mut([rows, hidden]);
        let inv_rms = inv_rms1.front_mut([rows]);
        device.run(RmsNorm { x, gain: gain(&params[NORM1]), eps, y: normed.reborrow(), inv_rms })?;
        let mut qkv = qkv.front_mut([rows, 3 * hidden]);
        let w = params[QKV].weight.view();
        device.run(GroupedGemm { x: normed.as_view(), w, segments, y: qkv.reborrow(), accumulate: false })?;
        let theta = config.rope_theta;
        let mut out = attended.front_mut([rows, hidden]);
        match context {
            Context::Own(seq) => {
                // q and k side by side, as twice the heads.
                let qk = qkv.reborrow().narrow(1, 0..2 * hidden);
                device.run(Rope { x: qk, heads: 2 * heads, seq, theta, inverse: false })?;
                let lse = lse.front_mut([heads, rows]);
                device.run(Attention { qkv: qkv.as_view(), heads, seq, out: out.reborrow(), lse })?;
            }
            Context::Kept { kv, sequence, position } => {
                let (qkv, out) = (qkv.as_view(), out.reborrow());
                device.run(AttentionStep { qkv, heads, theta, kv, sequence, position, out })?;
            }
        }
        let mut middle = middle.front_mut([rows, hidden]);
        device.run(Copy { x, y: middle.reborrow() })?;
        let w = params[OUT].weight.view();
        device.run(GroupedGemm { x: out.as_view(), w, segments, y: middle.reborrow(), accumulate: true })?;

        let mut normed = normed2.front_mut([rows, hidden]);
        let (x, inv_rms) = (middle.as_view(), inv_rms2.front_mut([rows]));
        device.run(RmsNorm { x, gain: gain(&params[NORM2]), eps, y: normed.reborrow(), inv_rms })?;
        device.run(Copy { x, y: y.reborrow() })?;
        let router = Router { temperature, loss: RouteLoss { balance: 0.0, z: 0.0 } };
        let pass = Forward { device, router, bias, x: normed.as_view(), y };
        if let Some(residuals) = self.residuals.get(l) {
            let [router, w13, w2] = [0, 1, 2].map(|i| params[FFN + i].weight.view());
            return self.layer.forward_packed(pass, residuals.on([router, w13, w2]), ffn, ws);
        }
        if let Some(fading) = &mut self.fading {
            let (clusters, full) = (views(&params[FFN..]), &full[l * FULL..(l + 1) * FULL]);
            return fading.forward(l, &self.layer, pass, (&clusters, full), ffn, ws);
        }
        let Some(offload) = &mut self.offload else {
            return self.layer.forward(pass, &views(&params[FFN..]), ffn, ws);
        };
        let offload = unlocked(offload);
        self.layer.choose(&pass, params[FFN].weight.view(), ffn, ws)?;
        offload.enter_forward(l, &bounds(ffn), &mut params[FFN + 1..])?;
        self.layer.forward_chosen(pass, &views(&params[FFN..]), ffn, ws)?;
        offload.leave(&mut params[FFN + 1..])
    }

    /// Writes the mean of what layer `l` sent to each expert in the last forward of a model in training, whose batch had
    /// `rows` rows, to `mu`, `[experts, hidden]` and zero before; it stays so for an expert that was sent nothing.
    pub(super) fn mean_tokens(&self, l: usize, rows: usize, mu: ViewMut<'_, f32, 2>) -> Result<()> {
        let block = self.acts.block(l);
        let Some(plan) = block.ffn.plan() else { return Ok(()) };
        let x = block.normed2.front([rows, self.config.hidden]);
        self.device.run(CentroidEma { x, order: plan.by_expert(), beta: 1.0, mu })
    }

    /// What the router of layer `l` decided in the last forward of a model in training; `None` when dense.
    pub(super) fn routing(&self, l: usize) -> Option<&Routing> {
        self.acts.block(l).ffn.routing()
    }

    fn check_batch(&self, rows: usize, sequences: usize) -> Result<()> {
        let most = self.config.seq;
        let fits = sequences > 0 && rows > 0 && rows.is_multiple_of(sequences) && rows / sequences <= most;
        if !fits || sequences > self.acts.batch {
            let values =
                format!("rows = {rows}, sequences = {sequences}, seq = {most}, batch = {}", self.acts.batch);
            return Err(Error::Rule {
                op: "Model",
                rule: "equal sequences of 1..=seq ids, at most batch of them",
                values,
            });
        }
        Ok(())
    }
}

fn views<T: Elem>(params: &[Param<T>]) -> Vec<View<'_, T, 3>> {
    params.iter().map(|p| p.weight.view()).collect()
}

/// Where the rows of each cluster start in the last forward's order, and where the last end. On a CUDA device, whose choices
/// nobody waits for, every cluster counts as chosen.
pub(super) fn bounds<T: Elem>(ffn: &Saved<T>) -> Vec<u32> {
    match ffn.plan().map(|plan| plan.by_cluster()) {
        Some(order) if order.is_at(Place::Host) => order.offsets().to_vec(),
        Some(order) => (0..=order.groups() as u32).collect(),
        None => Vec::new(),
    }
}

/// Factor from the embedding, which is the output projection too, to the stream: `sqrt(hidden)`, as in Vaswani
/// et al., "Attention Is All You Need", 3.4. Without it the blocks' outputs drown the token itself.
pub(super) fn embedding_scale(hidden: usize) -> f32 {
    (hidden as f32).sqrt()
}

/// The `[hidden]` gain of a norm.
pub(super) fn gain<T: Elem>(param: &Param<T>) -> View<'_, T, 1> {
    param.weight.flat()
}

/// Inputs and targets of `sequences` rows of equal length: each row without its last, without its first id.
pub(super) fn split_ids(ids: &[u32], sequences: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let width = ids.len().checked_div(sequences).unwrap_or(0);
    if width < 2 || !ids.len().is_multiple_of(sequences) {
        let values = format!("ids = {}, sequences = {sequences}", ids.len());
        return Err(Error::Rule { op: "Model", rule: "rows of equal length, two ids or more", values });
    }
    let rows = ids.chunks_exact(width);
    Ok((
        rows.clone().flat_map(|r| &r[..width - 1]).copied().collect(),
        rows.flat_map(|r| &r[1..]).copied().collect(),
    ))
}
