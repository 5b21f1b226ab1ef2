//! Exchange between the lanes of a warp: `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`.
//!
//! Every `.sync` form names its members. Lanes wait until all living members of their mask stand at the
//! instruction; lanes with different masks form groups of their own.

use super::{Code, plain};
use crate::Result;
use crate::machine::registers::{R, lanes};
use crate::machine::step::{Execution, Flow, Step};
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};
use crate::sanitizer::report::Kind;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "shfl" => shfl(d),
        "vote" => vote(d),
        "match" => matching(d),
        "redux" => redux(d),
        "elect" => elect(d),
        _ => {
            let x = d.dst_r(d.operand(0)?)?;
            plain(move |s, m| s.set(x, &[m; 32], m))
        }
    }
}

/// Runs `f` once for every group of lanes that can go on; the others wait.
fn collective(s: &mut Step<'_>, members: R, mask: u32, mut f: impl FnMut(&mut Step<'_>, u32)) -> Execution {
    let members = s.warp.registers.r[members.0 as usize];
    let ready = s.converged(&members, mask);
    let mut left = ready;
    while left != 0 {
        let first = left.trailing_zeros() as usize;
        let group = s.lanes_where(left, |l| members[l] == members[first]);
        left &= !group;
        f(s, group);
    }
    Ok(match ready {
        _ if ready == mask => Flow::Next,
        0 => Flow::Wait,
        _ => Flow::Partial(ready),
    })
}

#[derive(Clone, Copy)]
enum Mode {
    Up,
    Down,
    Butterfly,
    Index,
}

impl Mode {
    /// The lane read from, and whether it is in range.
    fn source(self, lane: u32, b: u32, c: u32) -> (u32, bool) {
        let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
        let lowest = lane & segment;
        let highest = lowest | clamp & !segment;
        let (from, inside) = match self {
            // Compared as signed numbers: lane 0 minus 1 is below every bound.
            Mode::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= highest as i32),
            Mode::Down => (lane + b, lane + b <= highest),
            Mode::Butterfly => (lane ^ b, lane ^ b <= highest),
            Mode::Index => {
                let from = lowest | b & !segment;
                (from, from <= highest)
            }
        };
        if inside { (from, true) } else { (lane, false) }
    }
}

fn shfl(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if !d.has("sync") || d.ty()?.bytes() != 4 {
        return Err(d.unsupported());
    }
    d.expect(5..=5)?;
    let modes = [Mode::Up, Mode::Down, Mode::Butterfly, Mode::Index];
    let mode = modes[d.one_of(&["up", "down", "bfly", "idx"]).ok_or_else(|| d.unsupported())?];
    let (x, p) = match d.operand(0)? {
        Operand::Pair(x, p) => (d.dst_r(x)?, Some(d.dst_p(p)?)),
        x => (d.dst_r(x)?, None),
    };
    let (a, b) = (d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?);
    let (c, members) = (d.src_r(d.operand(3)?)?, d.src_r(d.operand(4)?)?);
    Ok(Box::new(move |s, mask| {
        collective(s, members, mask, |s, group| {
            let r = &s.warp.registers.r;
            let (va, vb, vc) = (r[a.0 as usize], r[b.0 as usize], r[c.0 as usize]);
            let (mut out, mut inside) = ([0; 32], 0);
            for lane in lanes(group) {
                let (from, ok) = mode.source(lane as u32, vb[lane], vc[lane]);
                if group >> from & 1 == 0 {
                    s.report(Kind::MemberMask, lane, || {
                        format!("reads lane {from}, which does not take part (lanes {group:#010x})")
                    });
                }
                out[lane] = va[from as usize & 31];
                inside |= u32::from(ok) << lane;
            }
            s.set(x, &out, group);
            if let Some(p) = p {
                s.set_pred(p, inside, group);
            }
        })
    }))
}

fn vote(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(3..=3)?;
    let kind = d.one_of(&["all", "any", "uni", "ballot"]).filter(|_| d.has("sync"));
    let kind = kind.ok_or_else(|| d.unsupported())?;
    let to = d.operand(0)?;
    let (a, members) = (d.src_p(d.operand(1)?)?, d.src_r(d.operand(2)?)?);
    if kind == 3 {
        let x = d.dst_r(to)?;
        return Ok(Box::new(move |s, mask| {
            collective(s, members, mask, |s, group| {
                let votes = s.pred(a) & group;
                s.set(x, &[votes; 32], group);
            })
        }));
    }
    let x = d.dst_p(to)?;
    Ok(Box::new(move |s, mask| {
        collective(s, members, mask, |s, group| {
            let votes = s.pred(a) & group;
            let holds = match kind {
                0 => votes == group,
                1 => votes != 0,
                _ => votes == 0 || votes == group,
            };
            s.set_pred(x, if holds { u32::MAX } else { 0 }, group);
        })
    }))
}

fn matching(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(3..=3)?;
    let all = d.has("all");
    let (x, p) = match d.operand(0)? {
        Operand::Pair(x, p) => (d.dst_r(x)?, Some(d.dst_p(p)?)),
        x => (d.dst_r(x)?, None),
    };
    let wide = d.ty()?.bytes() == 8;
    let from = d.operand(1)?;
    // One of the two is used, by width.
    let (narrow, wide) = if wide { (None, Some(d.src_d(from)?)) } else { (Some(d.src_r(from)?), None) };
    let members = d.src_r(d.operand(2)?)?;
    Ok(Box::new(move |s, mask| {
        collective(s, members, mask, |s, group| {
            let registers = &s.warp.registers;
            let values: [u64; 32] = match (narrow, wide) {
                (Some(r), _) => registers.r[r.0 as usize].map(u64::from),
                (_, Some(d)) => registers.d[d.0 as usize],
                _ => [0; 32],
            };
            let mut same = [0; 32];
            for lane in lanes(group) {
                same[lane] = s.lanes_where(group, |l| values[l] == values[lane]);
            }
            if all {
                let agree = same[group.trailing_zeros() as usize] == group;
                same = [if agree { group } else { 0 }; 32];
                if let Some(p) = p {
                    s.set_pred(p, if agree { u32::MAX } else { 0 }, group);
                }
            }
            s.set(x, &same, group);
        })
    }))
}

fn redux(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(3..=3)?;
    let signed = d.ty()? == Type::S32;
    if d.ty()?.is_float() {
        return Err(d.unsupported());
    }
    let fold: fn(u32, u32) -> u32 = match d.one_of(&["add", "min", "max", "and", "or", "xor"]) {
        Some(0) => u32::wrapping_add,
        Some(1) if signed => |a, b| (a as i32).min(b as i32) as u32,
        Some(1) => |a, b| a.min(b),
        Some(2) if signed => |a, b| (a as i32).max(b as i32) as u32,
        Some(2) => |a, b| a.max(b),
        Some(3) => |a, b| a & b,
        Some(4) => |a, b| a | b,
        Some(5) => |a, b| a ^ b,
        _ => return Err(d.unsupported()),
    };
    let (x, a, members) = (d.dst_r(d.operand(0)?)?, d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?);
    Ok(Box::new(move |s, mask| {
        collective(s, members, mask, |s, group| {
            let values = s.warp.registers.r[a.0 as usize];
            if let Some(total) = lanes(group).map(|l| values[l]).reduce(fold) {
                s.set(x, &[total; 32], group);
            }
        })
    }))
}

/// `elect.sync d|p, members`: one lane is chosen, here the lowest.
fn elect(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(2..=2)?;
    let Operand::Pair(x, p) = d.operand(0)? else { return Err(d.unsupported()) };
    let (x, p, members) = (d.dst_r(x)?, d.dst_p(p)?, d.src_r(d.operand(1)?)?);
    Ok(Box::new(move |s, mask| {
        collective(s, members, mask, |s, group| {
            let leader = group.trailing_zeros();
            s.set(x, &[leader; 32], group);
            s.set_pred(p, 1 << leader, group);
        })
    }))
}
