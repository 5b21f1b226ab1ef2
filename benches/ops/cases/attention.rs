//! Attention, of whole sequences and of a new token each.

use trimoe::ops::{Attention, AttentionBackward, AttentionStep};
use trimoe::{Elem, Result};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![attention::<T>, attention_backward::<T>, attention_step::<T>]
}

fn attention<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (heads, seq) = (s.heads, s.seq);
    let qkv = lab.filled::<T, 2>([s.tokens, 3 * s.hidden])?;
    let (mut out, mut lse) = (lab.zeros([s.tokens, s.hidden])?, lab.zeros([heads, s.tokens])?);
    Ok(Work::new(move |lab| {
        lab.run(Attention { qkv: qkv.view(), heads, seq, out: out.view_mut(), lse: lse.view_mut() })
    }))
}

fn attention_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (heads, seq, rows) = (s.heads, s.seq, [s.tokens, s.hidden]);
    let (dout, mut out) = (lab.filled::<T, 2>(rows)?, lab.zeros::<T, 2>(rows)?);
    let (qkv, mut lse) = (lab.filled::<T, 2>([s.tokens, 3 * s.hidden])?, lab.zeros([heads, s.tokens])?);
    lab.device.run(Attention { qkv: qkv.view(), heads, seq, out: out.view_mut(), lse: lse.view_mut() })?;
    let mut dqkv = lab.zeros([s.tokens, 3 * s.hidden])?;
    let mut workspace = lab.zeros([AttentionBackward::<T>::workspace_len(s.tokens, heads)])?;
    Ok(Work::new(move |lab| {
        lab.run(AttentionBackward {
            dout: dout.view(),
            out: out.view(),
            qkv: qkv.view(),
            lse: lse.view(),
            heads,
            seq,
            dqkv: dqkv.view_mut(),
            workspace: workspace.view_mut(),
        })
    }))
}

/// The last token of each of eight sequences.
fn attention_step<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    const ROWS: usize = 8;
    let qkv = lab.filled::<T, 2>([ROWS, 3 * s.hidden])?;
    let mut kv = lab.filled::<T, 3>([ROWS, s.seq, 2 * s.hidden])?;
    let mut out = lab.zeros([ROWS, s.hidden])?;
    let sequence = lab.given(&[0u32, 1, 2, 3, 4, 5, 6, 7], [ROWS])?;
    let position = lab.given(&[s.seq as u32 - 1; ROWS], [ROWS])?;
    let heads = s.heads;
    Ok(Work::new(move |lab| {
        lab.run(AttentionStep {
            qkv: qkv.view(),
            heads,
            theta: 1e4,
            kv: kv.view_mut(),
            sequence: sequence.view(),
            position: position.view(),
            out: out.view_mut(),
        })
    }))
}
