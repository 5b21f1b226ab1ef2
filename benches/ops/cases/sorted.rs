//! Rows into a plan's order and back; each slot is a row of its own here, as with full experts.

use trimoe::ops::{CentroidEma, Combine, CombineBackward, Permute};
use trimoe::{Elem, Result};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![permute::<T>, combine::<T>, combine_backward::<T>, centroid_ema::<T>]
}

fn permute<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, x) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.hidden])?);
    let mut y = lab.zeros([s.tokens * s.topk, s.hidden])?;
    Ok(Work::new(move |lab| lab.run(Permute { x: x.view(), order: plan.by_expert(), y: y.view_mut() })))
}

fn combine<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, x) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens * s.topk, s.hidden])?);
    let (weight, mut y) = (lab.filled::<f32, 2>([s.tokens, s.topk])?, lab.zeros([s.tokens, s.hidden])?);
    Ok(Work::new(move |lab| {
        let (order, weight) = (plan.by_expert(), Some(weight.view()));
        lab.run(Combine { x: x.view(), order, weight, y: y.view_mut(), accumulate: false })
    }))
}

fn combine_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let slots = [s.tokens * s.topk, s.hidden];
    let (plan, dy, x) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.hidden])?, lab.filled::<T, 2>(slots)?);
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let (mut dx, mut dweight) = (lab.zeros(slots)?, lab.zeros([s.tokens, s.topk])?);
    Ok(Work::new(move |lab| {
        lab.run(CombineBackward {
            dy: dy.view(),
            x: x.view(),
            order: plan.by_expert(),
            weight: weight.view(),
            dx: dx.view_mut(),
            dweight: dweight.view_mut(),
        })
    }))
}

fn centroid_ema<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, x) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.hidden])?);
    let mut mu = lab.filled([s.experts, s.hidden])?;
    Ok(Work::new(move |lab| {
        lab.run(CentroidEma { x: x.view(), order: plan.by_expert(), beta: 0.05, mu: mu.view_mut() })
    }))
}
