//! The backward pass of the model: the forward's operations in reverse, one block at a time.

use super::activations::Block;
use super::anneal::FULL;
use super::config::{FfnKind, Parts};
use super::forward::{bounds, embedding_scale};
use super::layout::{EMBEDDING, FFN, NORM1, NORM2, OUT, QKV};
use super::model::{HEAD_ROWS, Model};
use super::offload::unlocked;
use super::param::Param;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::{Backward, Router};
use crate::ops::{
    AttentionBackward, CrossEntropy, EmbeddingBackward, GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad,
    RmsNormBackward, Rope, RouteStats,
};
use crate::plan::Segments;
use crate::view::{View, ViewMut};

/// Operands of one gradient computation.
#[derive(Debug)]
pub struct Pass<'a> {
    /// `sequences` rows of equal length, `seq + 1` ids each.
    pub ids: &'a [u32],
    /// Number of rows.
    pub sequences: usize,
    /// Factor of the gradient: 1 over the number of micro-batches.
    pub scale: f32,
    /// Temperature, and coefficients of the router's losses (not yet scaled).
    pub router: Router<'a>,
    /// Add to the gradients instead of overwriting them.
    pub accumulate: bool,
}

/// The same for a batch that was loaded.
#[derive(Debug)]
pub(super) struct Micro<'a> {
    pub rows: usize,
    pub sequences: usize,
    pub scale: f32,
    pub router: Router<'a>,
    pub accumulate: bool,
}

/// The losses of one pass, unscaled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Mean cross-entropy in nats per token.
    pub cross_entropy: f32,
    /// The router's losses, summed over layers.
    pub router: f32,
}

impl<T: Elem> Model<T> {
    /// Forward and backward of one micro-batch into the parameters' gradients.
    ///
    /// `visit` is called with each layer's routing sums (never when dense). Errors if the model was made
    /// without training state.
    pub fn gradients(&mut self, pass: Pass<'_>, mut visit: impl FnMut(usize, &RouteStats)) -> Result<Losses> {
        let Pass { ids, sequences, scale, router, accumulate } = pass;
        let rows = self.load(ids, sequences)?;
        self.add_gradients(&Micro { rows, sequences, scale, router, accumulate })?;
        let mut router_loss = 0.0;
        for l in 0..self.config.layers {
            if let Some(routing) = self.routing(l) {
                let stats = routing.stats()?;
                router_loss += stats.loss(router.loss);
                visit(l, &stats);
            }
        }
        Ok(Losses { cross_entropy: mean(&self.losses(rows)?), router: router_loss as f32 })
    }

    /// Forward and backward of the batch that was loaded, into the parameters' gradients. Everything is enqueued: losses and
    /// what routers did stay on the device.
    pub(super) fn add_gradients(&mut self, micro: &Micro<'_>) -> Result<()> {
        if self.params.iter().any(|p| p.state.is_none()) {
            return Err(no_state());
        }
        let (rows, seq) = (micro.rows, micro.rows / micro.sequences.max(1));
        if let Some(offload) = self.offload.as_mut().filter(|_| !micro.accumulate) {
            unlocked(offload).begin_step();
        }
        let span = self.device.span("forward");
        self.forward(rows, micro.sequences, micro.router.temperature, &mut |_, _| Ok(()))?;
        drop(span);
        let _span = self.device.span("backward");
        self.head_backward(micro)?;
        for l in (0..self.config.layers).rev() {
            self.block_backward(l, seq, micro)?;
        }
        let (dy, ids) = (self.acts.dstream.front([rows, self.config.hidden]), self.acts.inputs.front([rows]));
        let dtable = grad(&mut self.params[EMBEDDING])?.into_matrix();
        self.device.run(EmbeddingBackward { ids, dy, scale: embedding_scale(self.config.hidden), dtable })
    }

    /// Makes the gradients of bases zero where there are to be none ([`Parts::Residuals`]). Factors that are to be none need
    /// no such help: each one's gradient is a product with the other, which is zero.
    pub(super) fn drop_missing_gradients(&mut self) -> Result<()> {
        if self.config.parts != Parts::Residuals || self.layer.kind != FfnKind::Clustered {
            return Ok(());
        }
        for param in &mut self.params {
            let Some(state) = &mut param.state else { continue };
            for base in param.pieces.iter().filter(|piece| piece.name.contains(".clusters.")) {
                base.clear(&mut state.grad)?;
            }
        }
        Ok(())
    }

    /// Output projection, cross-entropy and final norm; leaves the gradient of the last stream in `dstream`.
    fn head_backward(&mut self, pass: &Micro<'_>) -> Result<()> {
        let (rows, hidden, device) = (pass.rows, self.config.hidden, &self.device);
        let scale = pass.scale / rows as f32;
        let x = self.acts.normed.front([rows, hidden]);
        let mut dnormed = self.acts.dnormed.front_mut([rows, hidden]);
        let (w, mut dw) = weight_and_grad(&mut self.params[EMBEDDING])?;
        for start in (0..rows).step_by(HEAD_ROWS) {
            let end = rows.min(start + HEAD_ROWS);
            let (segments, x) = (Segments::Whole(end - start), x.narrow(0, start..end));
            let mut logits = self.acts.ws.lend().front_mut([end - start, self.config.vocab]);
            device.run(GroupedGemm { x, w, segments, y: logits.reborrow(), accumulate: false })?;
            let loss = self.acts.loss.view_mut().narrow(0, start..end);
            let targets = self.acts.targets.view().narrow(0, start..end);
            device.run(CrossEntropy { logits: logits.reborrow(), targets, scale, loss })?;
            let dy = logits.as_view();
            let dx = dnormed.reborrow().narrow(0, start..end);
            device.run(GroupedGemmDgrad { dy, w, segments, dx, accumulate: false })?;
            let accumulate = pass.accumulate || start > 0;
            device.run(GroupedGemmWgrad { dy, x, segments, dw: dw.reborrow(), accumulate })?;
        }
        let last = self.config.layers;
        let param = &mut self.params[self.config.layer_start(last)];
        let state = param.state.as_mut().ok_or_else(no_state)?;
        device.run(RmsNormBackward {
            dy: dnormed.as_view(),
            x: self.acts.streams[last].front([rows, hidden]),
            gain: param.weight.flat(),
            inv_rms: self.acts.inv_rms.front([rows]),
            dx: self.acts.dstream.front_mut([rows, hidden]),
            accumulate_dx: false,
            dgain: state.grad.flat_mut(),
            accumulate: pass.accumulate,
            workspace: self.acts.floats.view_mut(),
        })
    }

    /// Turns the gradient of stream `l + 1` in `dstream` into that of stream `l`.
    fn block_backward(&mut self, l: usize, seq: usize, pass: &Micro<'_>) -> Result<()> {
        let (device, config) = (&self.device, &self.config);
        let (rows, hidden, heads) = (pass.rows, config.hidden, config.heads);
        let (params, full) = self.params.split_at_mut(config.fading_start(0));
        let params = &mut params[config.layer_start(l)..config.layer_start(l + 1)];
        let acts = &mut self.acts;
        let Block { normed1, inv_rms1, qkv, attended, lse, middle, normed2, inv_rms2, ffn } =
            &mut acts.blocks[l];
        let mut dstream = acts.dstream.front_mut([rows, hidden]);
        let mut dnormed = acts.dnormed.front_mut([rows, hidden]);
        let (segments, accumulate) = (Segments::Whole(rows), pass.accumulate);

        let (attention, ffn_params) = params.split_at_mut(FFN);
        let mut offload = self.offload.as_mut().map(unlocked);
        if let Some(offload) = &mut offload {
            offload.enter_backward(l, &bounds(ffn), accumulate, &mut ffn_params[1..])?;
        }
        let loss = crate::ops::RouteLoss {
            balance: pass.router.loss.balance * pass.scale,
            z: pass.router.loss.z * pass.scale,
        };
        let router = Router { loss, ..pass.router };
        let x = normed2.front([rows, hidden]);
        let operands =
            Backward { device, router, x, dy: dstream.as_view(), dx: dnormed.reborrow(), accumulate };
        match &mut self.fading {
            None => {
                let (weights, grads) = weights_and_grads(ffn_params)?;
                self.layer.backward(operands, &weights, grads, ffn, &mut acts.ws)?;
            }
            Some(fading) => {
                let full = &mut full[l * FULL..(l + 1) * FULL];
                fading.backward(l, &self.layer, operands, (ffn_params, full), ffn, &mut acts.ws)?;
            }
        }
        if let Some(offload) = offload {
            offload.leave(&mut ffn_params[1..])?;
        }
        let (weight, dgain) = norm_operands(&mut attention[NORM2])?;
        device.run(RmsNormBackward {
            dy: dnormed.as_view(),
            x: middle.front([rows, hidden]),
            gain: weight,
            inv_rms: inv_rms2.front([rows]),
            dx: dstream.reborrow(),
            accumulate_dx: true,
            dgain,
            accumulate,
            workspace: acts.floats.view_mut(),
        })?;

        let out = attended.front([rows, hidden]);
        let (w, dw) = weight_and_grad(&mut attention[OUT])?;
        device.run(GroupedGemmWgrad { dy: dstream.as_view(), x: out, segments, dw, accumulate })?;
        device.run(GroupedGemmDgrad {
            dy: dstream.as_view(),
            w,
            segments,
            dx: dnormed.reborrow(),
            accumulate: false,
        })?;
        let mut dqkv = acts.ws.lend().front_mut([rows, 3 * hidden]);
        device.run(AttentionBackward {
            dout: dnormed.as_view(),
            out,
            qkv: qkv.front([rows, 3 * hidden]),
            lse: lse.front([heads, rows]),
            heads,
            seq,
            dqkv: dqkv.reborrow(),
            workspace: acts.floats.view_mut(),
        })?;
        let x = dqkv.reborrow().narrow(1, 0..2 * hidden);
        device.run(Rope { x, heads: 2 * heads, seq, theta: config.rope_theta, inverse: true })?;
        let (w, dw) = weight_and_grad(&mut attention[QKV])?;
        let x = normed1.front([rows, hidden]);
        device.run(GroupedGemmWgrad { dy: dqkv.as_view(), x, segments, dw, accumulate })?;
        device.run(GroupedGemmDgrad {
            dy: dqkv.as_view(),
            w,
            segments,
            dx: dnormed.reborrow(),
            accumulate: false,
        })?;
        let (weight, dgain) = norm_operands(&mut attention[NORM1])?;
        device.run(RmsNormBackward {
            dy: dnormed.as_view(),
            x: acts.streams[l].front([rows, hidden]),
            gain: weight,
            inv_rms: inv_rms1.front([rows]),
            dx: dstream,
            accumulate_dx: true,
            dgain,
            accumulate,
            workspace: acts.floats.view_mut(),
        })
    }
}

/// Mean of the losses of a batch.
pub(super) fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len() as f64) as f32
}

fn no_state() -> Error {
    let values = "train = false".to_owned();
    Error::Rule { op: "Model", rule: "gradients need a model made for training", values }
}

fn grad<T: Elem>(param: &mut Param<T>) -> Result<ViewMut<'_, f32, 3>> {
    Ok(param.state.as_mut().ok_or_else(no_state)?.grad.view_mut())
}

fn weight_and_grad<T: Elem>(param: &mut Param<T>) -> Result<(View<'_, T, 3>, ViewMut<'_, f32, 3>)> {
    let state = param.state.as_mut().ok_or_else(no_state)?;
    Ok((param.weight.view(), state.grad.view_mut()))
}

#[allow(clippy::type_complexity, reason = "two lists in step")]
pub(super) fn weights_and_grads<T: Elem>(
    params: &mut [Param<T>],
) -> Result<(Vec<View<'_, T, 3>>, Vec<ViewMut<'_, f32, 3>>)> {
    params.iter_mut().map(weight_and_grad).collect()
}

fn norm_operands<T: Elem>(param: &mut Param<T>) -> Result<(View<'_, T, 1>, ViewMut<'_, f32, 1>)> {
    let state = param.state.as_mut().ok_or_else(no_state)?;
    Ok((param.weight.flat(), state.grad.flat_mut()))
}
