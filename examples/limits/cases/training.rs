//! Operations of the trainer: vocabulary, optimiser.

use std::collections::BTreeSet;

use trimoe::ops::{AdamW, CrossEntropy, Embedding, EmbeddingBackward, GlobalNorm, Rates, RmsNormBackward};
use trimoe::{Result, Tensor, bf16};

use super::{Case, once, one_by_one};
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] =
    &[rms_norm_backward, embedding, embedding_backward, cross_entropy, global_norm, adamw];

/// Entries of the vocabulary, few enough that the shapes of large models fit.
const VOCAB: usize = 4096;

/// Ids in no order.
fn ids(lab: &Lab, s: &Shape) -> Result<Tensor<u32, 1>> {
    let ids: Vec<u32> = (0..s.tokens).map(|t| (t * 2654435761 % VOCAB) as u32).collect();
    lab.given(&ids, [s.tokens])
}

fn rms_norm_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let [dy, x] = [lab.filled::<bf16, 2>([s.tokens, s.hidden])?, lab.filled([s.tokens, s.hidden])?];
    let gain = lab.filled::<bf16, 1>([s.hidden])?;
    let inv_rms = lab.filled::<f32, 1>([s.tokens])?;
    let mut dx = lab.zeros::<bf16, 2>([s.tokens, s.hidden])?;
    let mut dgain = lab.zeros::<f32, 1>([s.hidden])?;
    let mut workspace = lab.zeros::<f32, 1>([RmsNormBackward::<bf16>::workspace_len(s.tokens, s.hidden)])?;
    // One kernel writes partial sums of dgain, a second adds them up. Every row reads the gain for its sum and for dx, and
    // each of its four warps the row's norm. Columns beyond the first 4,096 are read twice, and their partial sums read and
    // written by every row, in halves of sectors.
    let rest = s.hidden.saturating_sub(4096);
    let need = Need {
        floor: 3 * x.sectors()
            + gain.sectors()
            + dgain.sectors()
            + inv_rms.sectors()
            + 2 * workspace.sectors(),
        again: (2 * s.tokens as u64 - 1) * gain.sectors() + 4 * s.tokens as u64 - inv_rms.sectors()
            + (s.tokens * rest / 8 + s.tokens * rest / 2) as u64,
        ..Need::default()
    };
    let op = RmsNormBackward {
        dy: dy.view(),
        x: x.view(),
        gain: gain.view(),
        inv_rms: inv_rms.view(),
        dx: dx.view_mut(),
        accumulate_dx: false,
        dgain: dgain.view_mut(),
        accumulate: false,
        workspace: workspace.view_mut(),
    };
    lab.measure(s, need, op)
}

fn embedding(lab: &Lab, s: &Shape) -> Result<Row> {
    let ids = ids(lab, s)?;
    let table = lab.filled::<bf16, 2>([VOCAB, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([s.tokens, s.hidden])?;
    let need =
        Need { floor: 2 * y.sectors() + ids.sectors(), again: one_by_one(s.tokens), ..Need::default() };
    lab.measure(s, need, Embedding { ids: ids.view(), table: table.view(), scale: 2.0, y: y.view_mut() })
}

fn embedding_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let ids = ids(lab, s)?;
    let dy = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut dtable = lab.zeros::<f32, 2>([VOCAB, s.hidden])?;
    // The first row of each id adds up all rows of it, and every row looks through all ids.
    let different: BTreeSet<u32> = ids.to_vec()?.into_iter().collect();
    let need = Need {
        floor: dy.sectors() + ids.sectors() + 2 * (different.len() * s.hidden * 4 / 32) as u64,
        again: (s.hidden.div_ceil(1024) * s.tokens) as u64 * (ids.sectors() + 12),
        ..Need::default()
    };
    let dtable = dtable.view_mut();
    lab.measure(s, need, EmbeddingBackward { ids: ids.view(), dy: dy.view(), scale: 2.0, dtable })
}

fn cross_entropy(lab: &Lab, s: &Shape) -> Result<Row> {
    let targets = ids(lab, s)?;
    let mut logits = lab.filled::<bf16, 2>([s.tokens, VOCAB])?;
    let mut loss = lab.zeros::<f32, 1>([s.tokens])?;
    // A row is read twice, the second time from the cache, and the logit of its target besides.
    let need = Need {
        floor: 2 * logits.sectors() + targets.sectors() + loss.sectors(),
        again: logits.sectors() + s.tokens as u64 + 2 * one_by_one(s.tokens),
        ..Need::default()
    };
    let op = CrossEntropy {
        logits: logits.view_mut(),
        targets: targets.view(),
        scale: 0.5,
        loss: loss.view_mut(),
    };
    lab.measure(s, need, op)
}

fn global_norm(lab: &Lab, s: &Shape) -> Result<Row> {
    let grads = [lab.filled::<f32, 1>([s.tokens * s.hidden])?, lab.filled::<f32, 1>([s.hidden])?];
    let mut norm = lab.zeros::<f32, 1>([1])?;
    let lens = [s.tokens * s.hidden, s.hidden];
    let mut workspace = lab.zeros::<f64, 1>([GlobalNorm::workspace_len(lens)])?;
    let floor = grads[0].sectors() + grads[1].sectors() + 2 * workspace.sectors() + 1;
    let grads = grads.iter().map(Tensor::view).collect();
    lab.measure(s, once(floor), GlobalNorm { grads, norm: norm.view_mut(), workspace: workspace.view_mut() })
}

fn adamw(lab: &Lab, s: &Shape) -> Result<Row> {
    let len = s.tokens * s.hidden;
    let [mut weight, grad, mut m] = [lab.filled::<f32, 1>([len])?, lab.filled([len])?, lab.filled([len])?];
    let (mut v, mut stored) = (lab.zeros::<f32, 1>([len])?, lab.zeros::<bf16, 1>([len])?);
    let norm = lab.given(&[1f32], [1])?;
    let need = once(7 * weight.sectors() + stored.sectors() + 1);
    let op = AdamW {
        weight: weight.view_mut(),
        grad: grad.view(),
        m: m.view_mut(),
        v: v.view_mut(),
        stored: Some(stored.view_mut()),
        rates: Rates::Step { lr: 1e-3, step: 1 },
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        norm: norm.view(),
        max_norm: 1.0,
    };
    lab.measure(s, need, op)
}
