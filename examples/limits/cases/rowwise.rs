//! Operations that move rows as they lie.

use trimoe::ops::{Add, Copy, RmsNorm, Rope, SwiGlu};
use trimoe::{Result, bf16};

use super::{Case, once, one_by_one};
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[add, copy, rms_norm, rope, swiglu];

fn add(lab: &Lab, s: &Shape) -> Result<Row> {
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut y = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    lab.measure(s, once(3 * x.sectors()), Add { x: x.view(), y: y.view_mut() })
}

fn copy(lab: &Lab, s: &Shape) -> Result<Row> {
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([s.tokens, s.hidden])?;
    lab.measure(s, once(2 * x.sectors()), Copy { x: x.view(), y: y.view_mut() })
}

fn rms_norm(lab: &Lab, s: &Shape) -> Result<Row> {
    let x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let gain = lab.filled::<bf16, 1>([s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([s.tokens, s.hidden])?;
    let mut inv_rms = lab.zeros::<f32, 1>([s.tokens])?;
    // A row of up to 8,192 elements stays in registers; every row reads the gain.
    let need = Need {
        floor: 2 * x.sectors() + gain.sectors() + inv_rms.sectors(),
        again: (s.tokens as u64 - 1) * gain.sectors() + one_by_one(s.tokens),
        ..Need::default()
    };
    let (gain, inv_rms) = (gain.view(), inv_rms.view_mut());
    lab.measure(s, need, RmsNorm { x: x.view(), gain, eps: 1e-5, y: y.view_mut(), inv_rms })
}

fn rope(lab: &Lab, s: &Shape) -> Result<Row> {
    let mut x = lab.filled::<bf16, 2>([s.tokens, s.hidden])?;
    let need = once(2 * x.sectors());
    lab.measure(s, need, Rope { x: x.view_mut(), heads: s.heads, seq: s.tokens, theta: 1e4, inverse: false })
}

fn swiglu(lab: &Lab, s: &Shape) -> Result<Row> {
    let z = lab.filled::<bf16, 2>([s.tokens, 2 * s.inner])?;
    let mut h = lab.zeros::<bf16, 2>([s.tokens, s.inner])?;
    let need = once(z.sectors() + h.sectors());
    lab.measure(s, need, SwiGlu { z: z.view(), weights: None, h: h.view_mut() })
}
