//! What clustered experts do for every slot.

use trimoe::ops::{Copy, Expand, ExpandBackward};
use trimoe::{Elem, Result};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![expand::<T>, expand_backward::<T>]
}

fn expand<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, bp) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.wide()])?);
    let b = lab.filled::<T, 3>([s.experts, 2 * s.inner, s.rank])?;
    let a2 = lab.filled::<T, 3>([s.experts, s.rank, s.inner])?;
    let (weight, mut hq) = (lab.filled::<f32, 2>([s.tokens, s.topk])?, lab.zeros([s.tokens, s.narrow()])?);
    Ok(Work::new(move |lab| {
        lab.run(Expand {
            bp: bp.view(),
            b: b.view(),
            a2: a2.view(),
            plan: &plan,
            weight: weight.view(),
            hq: hq.view_mut(),
        })
    }))
}

fn expand_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, first) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.wide()])?);
    let b = lab.filled::<T, 3>([s.experts, 2 * s.inner, s.rank])?;
    let a2 = lab.filled::<T, 3>([s.experts, s.rank, s.inner])?;
    let weight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let dhq = lab.filled::<T, 2>([s.tokens, s.narrow()])?;
    let room = ExpandBackward::<T>::workspace_len(s.tokens, s.experts, s.clusters, s.inner, s.rank);
    // `bp` becomes its gradient.
    let own = (
        lab.zeros::<T, 2>([s.tokens, s.wide()])?,
        lab.zeros::<f32, 3>(b.shape())?,
        lab.zeros::<f32, 3>(a2.shape())?,
        lab.zeros::<f32, 2>([s.tokens, s.topk])?,
        lab.zeros::<f32, 1>([room])?,
    );
    Ok(Work::in_place(
        own,
        move |(bp, ..), lab| lab.device.run(Copy { x: first.view(), y: bp.view_mut() }),
        move |(bp, db, da2, dweight, workspace), lab| {
            lab.run(ExpandBackward {
                bp: bp.view_mut(),
                b: b.view(),
                a2: a2.view(),
                plan: &plan,
                weight: weight.view(),
                dhq: dhq.view(),
                db: db.view_mut(),
                da2: da2.view_mut(),
                dweight: dweight.view_mut(),
                workspace: workspace.view_mut(),
                accumulate: false,
            })
        },
    ))
}
