//! Operations on sorted rows.

use trimoe::ops::{Combine, CombineBackward, Permute, SlotWeights, SwiGluBackward};
use trimoe::{Result, bf16};

use super::{Case, one_by_one};
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[permute, combine, combine_backward, swiglu_backward];

fn permute(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([s.tokens * s.topk, s.hidden])?;
    let floor = x.sectors() + y.sectors() + places(s);
    let need = Need { floor, again: each_strip(s), ..Need::default() };
    lab.measure(s, need, Permute { x: x.view(), order: plan.by_expert(), y: y.view_mut() })
}

fn combine(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let x = lab.filled::<bf16, 2>([s.tokens * s.topk, s.hidden])?;
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let mut y = lab.zeros::<bf16, 2>([s.tokens, s.hidden])?;
    let floor = x.sectors() + y.sectors() + weight.sectors() + places(s);
    let order = plan.by_expert();
    let op = Combine { x: x.view(), order, weight: Some(weight.view()), y: y.view_mut(), accumulate: false };
    lab.measure(s, Need { floor, again: 2 * each_strip(s), ..Need::default() }, op)
}

fn combine_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let rows = s.tokens * s.topk;
    let dy = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let x = lab.filled::<bf16, 2>([rows, s.hidden])?;
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let mut dx = lab.zeros::<bf16, 2>([rows, s.hidden])?;
    let mut dweight = lab.zeros::<f32, 2>([s.tokens, s.topk])?;
    let need = Need {
        floor: dy.sectors() + x.sectors() + dx.sectors() + 2 * weight.sectors() + places(s),
        again: 3 * one_by_one(rows),
        ..Need::default()
    };
    let op = CombineBackward {
        dy: dy.view(),
        x: x.view(),
        order: plan.by_expert(),
        weight: weight.view(),
        dx: dx.view_mut(),
        dweight: dweight.view_mut(),
    };
    lab.measure(s, need, op)
}

fn swiglu_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let plan = lab.plan(s)?;
    let rows = s.tokens * s.topk;
    let mut z = lab.filled::<bf16, 2>([rows, 2 * s.inner])?;
    let mut dh = lab.filled::<bf16, 2>([rows, s.inner])?;
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let mut dweight = lab.zeros::<f32, 2>([s.tokens, s.topk])?;
    // Everything in place; a row finds its weight by its source, and the source is asked for twice.
    let need = Need {
        floor: 2 * (z.sectors() + dh.sectors()) + 2 * weight.sectors() + places(s),
        again: 4 * one_by_one(rows),
        ..Need::default()
    };
    let weights = Some(SlotWeights { weight: weight.view(), order: plan.by_expert() });
    let (z, dh, dweight) = (z.view_mut(), dh.view_mut(), Some(dweight.view_mut()));
    lab.measure(s, need, SwiGluBackward { z, dh, weights, dweight })
}

/// Sectors of a value of each slot beyond those it lies in, if every warp asks for it at every vector of a lane.
fn each_strip(s: &Shape) -> u64 {
    let strips = s.hidden.div_ceil(32 * 8);
    (s.tokens * s.topk * strips) as u64 - places(s)
}

/// Sectors of an order's sources, or of its places.
fn places(s: &Shape) -> u64 {
    (s.tokens * s.topk * 4).div_ceil(32) as u64
}
