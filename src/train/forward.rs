//! The forward pass of the model: operations on the batch that was loaded, one block after another.

use super::activations::{Activations, Block};
use super::anneal::FULL;
use super::layout::{EMBEDDING, FFN, NORM1, NORM2, OUT, QKV};
use super::model::{HEAD_ROWS, Model, Routed};
use super::offload::unlocked;
use super::param::Param;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::{Forward, Router, Saved};
use crate::ops::{
    Attention, AttentionStep, CentroidEma, Copy, Embedding, GroupedGemm, NegLogLikelihood, RmsNorm, Rope,
    RouteLoss, Routing, Scalar,
};
use crate::place::{Operand, Place};
use crate::plan::Segments;
use crate::view::{View, ViewMut};

/// What the rows of a pass attend to.
#[derive(Debug)]
pub(super) enum Context<'a, T> {
    /// The rows before each in its sequence of so many rows.
    Own(usize),
    /// What is kept of the sequence of each, see [`AttentionStep`].
    Kept { kv: ViewMut<'a, T, 3>, sequence: View<'a, u32, 1>, position: View<'a, u32, 1> },
}

impl<T: Elem> Model<T> {
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
