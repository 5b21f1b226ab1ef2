//! Vocabulary and optimiser.

use trimoe::ops::{
    AdamW, Copy, CrossEntropy, Embedding, EmbeddingBackward, GlobalNorm, NegLogLikelihood, Rates,
};
use trimoe::{Elem, Result};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![
        embedding::<T>,
        embedding_backward::<T>,
        neg_log_likelihood::<T>,
        cross_entropy::<T>,
        global_norm,
        adamw::<T>,
    ]
}

fn embedding<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (ids, table) = (lab.ids(s)?, lab.filled::<T, 2>([s.vocab, s.hidden])?);
    let mut y = lab.zeros([s.tokens, s.hidden])?;
    Ok(Work::new(move |lab| {
        lab.run(Embedding { ids: ids.view(), table: table.view(), scale: 2.0, y: y.view_mut() })
    }))
}

fn embedding_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (ids, dy) = (lab.ids(s)?, lab.filled::<T, 2>([s.tokens, s.hidden])?);
    let mut dtable = lab.zeros([s.vocab, s.hidden])?;
    Ok(Work::new(move |lab| {
        let dtable = dtable.view_mut();
        lab.run(EmbeddingBackward { ids: ids.view(), dy: dy.view(), scale: 2.0, dtable })
    }))
}

fn neg_log_likelihood<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (targets, logits) = (lab.ids(s)?, lab.filled::<T, 2>([s.tokens, s.vocab])?);
    let mut loss = lab.zeros([s.tokens])?;
    Ok(Work::new(move |lab| {
        let loss = loss.view_mut();
        lab.run(NegLogLikelihood { logits: logits.view(), targets: targets.view(), loss })
    }))
}

fn cross_entropy<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (targets, first) = (lab.ids(s)?, lab.filled::<T, 2>([s.tokens, s.vocab])?);
    // Logits become their gradient.
    let own = (lab.zeros::<T, 2>([s.tokens, s.vocab])?, lab.zeros::<f32, 1>([s.tokens])?);
    Ok(Work::in_place(
        own,
        move |(logits, _), lab| lab.device.run(Copy { x: first.view(), y: logits.view_mut() }),
        move |(logits, loss), lab| {
            let (logits, loss) = (logits.view_mut(), loss.view_mut());
            lab.run(CrossEntropy { logits, targets: targets.view(), scale: 0.5, loss })
        },
    ))
}

/// As many elements as a dense layer has weights, in two parts.
fn global_norm(lab: &Lab, s: &Shape) -> Result<Work> {
    let lens = [2 * s.hidden * s.inner, s.hidden * s.inner];
    let (a, b) = (lab.filled::<f32, 1>([lens[0]])?, lab.filled::<f32, 1>([lens[1]])?);
    let (mut norm, mut workspace) = (lab.zeros([1])?, lab.zeros([GlobalNorm::workspace_len(lens)])?);
    Ok(Work::new(move |lab| {
        let (grads, workspace) = (vec![a.view(), b.view()], workspace.view_mut());
        lab.run(GlobalNorm { grads, norm: norm.view_mut(), workspace })
    }))
}

/// The same elements; a 16-bit copy is kept beside f32 weights.
fn adamw<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let len = [3 * s.hidden * s.inner];
    let (mut weight, grad) = (lab.filled::<f32, 1>(len)?, lab.filled::<f32, 1>(len)?);
    let (mut m, mut v, mut stored) =
        (lab.zeros::<f32, 1>(len)?, lab.zeros::<f32, 1>(len)?, lab.zeros::<T, 1>(len)?);
    let norm = lab.given(&[2f32], [1])?;
    let keeps = T::DTYPE.size() < 4;
    Ok(Work::new(move |lab| {
        lab.run(AdamW {
            weight: weight.view_mut(),
            grad: grad.view(),
            m: m.view_mut(),
            v: v.view_mut(),
            stored: keeps.then(|| stored.view_mut()),
            rates: Rates::Step { lr: 1e-3, step: 1 },
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            norm: norm.view(),
            max_norm: 1.0,
        })
    }))
}
