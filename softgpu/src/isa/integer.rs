//! Integer arithmetic.

use super::{Code, plain};
use crate::Result;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let ty = d.ty()?;
    match (d.inst.name.as_str(), ty) {
        ("add", Type::U32 | Type::S32 | Type::B32) => binary32(d, u32::wrapping_add),
        ("sub", Type::U32 | Type::S32) => binary32(d, u32::wrapping_sub),
        ("and", _) => binary32(d, |a, b| a & b),
        ("add", Type::U64 | Type::S64) => binary64(d, u64::wrapping_add),
        ("mad", Type::S32) if d.has("lo") => ternary32(d, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mul", Type::U32) if d.has("wide") => {
            d.expect(3..=3)?;
            let (x, a, b) = (d.dst_d(d.operand(0)?)?, d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?);
            plain(move |s, m| s.map2(x, (a, b), m, |a, b| u64::from(a) * u64::from(b)))
        }
        _ => Err(d.unsupported()),
    }
}

fn ternary32(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(u32, u32, u32) -> u32 + Copy + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(4..=4)?;
    let ops = (d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?, d.src_r(d.operand(3)?)?);
    let x = d.dst_r(d.operand(0)?)?;
    plain(move |s, m| s.map3(x, ops, m, f))
}

fn binary32(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(u32, u32) -> u32 + Copy + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(3..=3)?;
    let (x, a, b) = (d.dst_r(d.operand(0)?)?, d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?);
    plain(move |s, m| s.map2(x, (a, b), m, f))
}

fn binary64(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(u64, u64) -> u64 + Copy + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(3..=3)?;
    let (x, a, b) = (d.dst_d(d.operand(0)?)?, d.src_d(d.operand(1)?)?, d.src_d(d.operand(2)?)?);
    plain(move |s, m| s.map2(x, (a, b), m, f))
}
