//! How alike experts are.

use trimoe::ops::{Gram, ResidualGram, Similarity};
use trimoe::{Elem, Result};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![gram::<T>, residual_gram::<T>, similarity]
}

/// One matrix of full experts, cut to 256 columns.
fn gram<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let x = lab.filled::<T, 3>([s.experts, s.inner, s.hidden.min(256)])?;
    let mut gram = lab.zeros([s.experts, s.experts])?;
    let mut workspace = lab.zeros([Gram::<T>::workspace_len(x.shape())])?;
    Ok(Work::new(move |lab| {
        let (gram, workspace) = (gram.view_mut(), workspace.view_mut());
        lab.run(Gram { x: x.view(), gram, workspace, accumulate: false })
    }))
}

fn residual_gram<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let w13 = lab.filled::<T, 3>([s.clusters, s.wide(), s.hidden])?;
    let w2 = lab.filled::<T, 3>([s.clusters, s.hidden, s.narrow()])?;
    let b = lab.filled::<T, 3>([s.experts, 2 * s.inner, s.rank])?;
    let a2 = lab.filled::<T, 3>([s.experts, s.rank, s.inner])?;
    let mut gram = lab.zeros([s.experts, s.experts])?;
    let mut workspace = lab.zeros([ResidualGram::<T>::workspace_len(s.experts, s.hidden, s.inner, 256)])?;
    Ok(Work::new(move |lab| {
        lab.run(ResidualGram {
            w13: w13.view(),
            w2: w2.view(),
            b: b.view(),
            a2: a2.view(),
            gram: gram.view_mut(),
            workspace: workspace.view_mut(),
        })
    }))
}

fn similarity(lab: &Lab, s: &Shape) -> Result<Work> {
    let square = [s.experts, s.experts];
    // The diagonal is largest, as of experts that are alike.
    let values: Vec<f64> =
        (0..s.experts * s.experts).map(|at| if at % (s.experts + 1) == 0 { 2.0 } else { 1.0 }).collect();
    let (param, act) = (lab.given(&values, square)?, lab.given(&values, square)?);
    let mut out = lab.zeros(square)?;
    Ok(Work::new(move |lab| {
        lab.run(Similarity { param: param.view(), act: act.view(), alpha: 0.7, s: out.view_mut() })
    }))
}
