//! Operations that move rows as they lie.

use trimoe::ops::{Add, Copy, RmsNorm, RmsNormBackward, Rope, SwiGlu, SwiGluBackward};
use trimoe::{Elem, Result};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![
        copy::<T>,
        add::<T>,
        rms_norm::<T>,
        rms_norm_backward::<T>,
        rope::<T>,
        swiglu::<T>,
        swiglu_backward::<T>,
    ]
}

fn copy<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (x, mut y) = (lab.filled::<T, 2>([s.tokens, s.hidden])?, lab.zeros([s.tokens, s.hidden])?);
    Ok(Work::new(move |lab| lab.run(Copy { x: x.view(), y: y.view_mut() })))
}

fn add<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (x, mut y) = (lab.filled::<T, 2>([s.tokens, s.hidden])?, lab.zeros([s.tokens, s.hidden])?);
    Ok(Work::new(move |lab| lab.run(Add { x: x.view(), y: y.view_mut() })))
}

fn rms_norm<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (x, gain) = (lab.filled::<T, 2>([s.tokens, s.hidden])?, lab.filled::<T, 1>([s.hidden])?);
    let (mut y, mut inv_rms) = (lab.zeros([s.tokens, s.hidden])?, lab.zeros([s.tokens])?);
    Ok(Work::new(move |lab| {
        let (y, inv_rms) = (y.view_mut(), inv_rms.view_mut());
        lab.run(RmsNorm { x: x.view(), gain: gain.view(), eps: 1e-5, y, inv_rms })
    }))
}

fn rms_norm_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let rows = [s.tokens, s.hidden];
    let (dy, x, gain) =
        (lab.filled::<T, 2>(rows)?, lab.filled::<T, 2>(rows)?, lab.filled::<T, 1>([s.hidden])?);
    let inv_rms = lab.filled::<f32, 1>([s.tokens])?;
    let (mut dx, mut dgain) = (lab.zeros(rows)?, lab.zeros([s.hidden])?);
    let mut workspace = lab.zeros([RmsNormBackward::<T>::workspace_len(s.tokens, s.hidden)])?;
    Ok(Work::new(move |lab| {
        lab.run(RmsNormBackward {
            dy: dy.view(),
            x: x.view(),
            gain: gain.view(),
            inv_rms: inv_rms.view(),
            dx: dx.view_mut(),
            accumulate_dx: false,
            dgain: dgain.view_mut(),
            accumulate: false,
            workspace: workspace.view_mut(),
        })
    }))
}

/// Queries and keys side by side.
fn rope<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let mut x = lab.filled::<T, 2>([s.tokens, 2 * s.hidden])?;
    let (heads, seq) = (2 * s.heads, s.seq);
    Ok(Work::new(move |lab| lab.run(Rope { x: x.view_mut(), heads, seq, theta: 1e4, inverse: false })))
}

fn swiglu<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (z, mut h) = (lab.filled::<T, 2>([s.tokens, 2 * s.inner])?, lab.zeros([s.tokens, s.inner])?);
    Ok(Work::new(move |lab| lab.run(SwiGlu { z: z.view(), weights: None, h: h.view_mut() })))
}

fn swiglu_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (wide, narrow) = ([s.tokens, 2 * s.inner], [s.tokens, s.inner]);
    let first = (lab.filled::<T, 2>(wide)?, lab.filled::<T, 2>(narrow)?);
    let own = (lab.zeros::<T, 2>(wide)?, lab.zeros::<T, 2>(narrow)?);
    Ok(Work::in_place(
        own,
        move |(z, dh), lab| {
            lab.device.run(Copy { x: first.0.view(), y: z.view_mut() })?;
            lab.device.run(Copy { x: first.1.view(), y: dh.view_mut() })
        },
        |(z, dh), lab| {
            lab.run(SwiGluBackward { z: z.view_mut(), dh: dh.view_mut(), weights: None, dweight: None })
        },
    ))
}
