//! Shifts: `shl`, `shr`, `shf`. The amount has 32 bits, whatever is shifted.

use super::Code;
use super::lanewise::{binary, ternary};
use crate::Result;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match (d.inst.name.as_str(), d.ty()?) {
        // An amount beyond the width shifts everything out.
        ("shl", Type::B16) => binary(d, |a: u16, n: u32| a.checked_shl(n).unwrap_or(0)),
        ("shl", Type::B32) => binary(d, |a: u32, n: u32| a.checked_shl(n).unwrap_or(0)),
        ("shl", Type::B64) => binary(d, |a: u64, n: u32| a.checked_shl(n).unwrap_or(0)),
        ("shr", Type::U16 | Type::B16) => binary(d, |a: u16, n: u32| a.checked_shr(n).unwrap_or(0)),
        ("shr", Type::U32 | Type::B32) => binary(d, |a: u32, n: u32| a.checked_shr(n).unwrap_or(0)),
        ("shr", Type::U64 | Type::B64) => binary(d, |a: u64, n: u32| a.checked_shr(n).unwrap_or(0)),
        ("shr", Type::S16) => binary(d, |a: i16, n: u32| a >> n.min(15)),
        ("shr", Type::S32) => binary(d, |a: i32, n: u32| a >> n.min(31)),
        ("shr", Type::S64) => binary(d, |a: i64, n: u32| a >> n.min(63)),
        ("shf", Type::B32) => funnel(d),
        _ => Err(d.unsupported()),
    }
}

/// `shf`: shifts the 64 bits of which `a` is the lower half, and takes the half that is shifted into.
fn funnel(d: &mut Decoder<'_, '_>) -> Result<Code> {
    #[inline(always)]
    fn join(a: u32, b: u32) -> u64 {
        u64::from(b) << 32 | u64::from(a)
    }
    match (d.one_of(&["l", "r"]), d.one_of(&["wrap", "clamp"])) {
        (Some(0), Some(0)) => ternary(d, |a, b, n: u32| (join(a, b) << (n & 31) >> 32) as u32),
        (Some(0), Some(1)) => ternary(d, |a, b, n: u32| (join(a, b) << n.min(32) >> 32) as u32),
        (Some(1), Some(0)) => ternary(d, |a, b, n: u32| (join(a, b) >> (n & 31)) as u32),
        (Some(1), Some(1)) => ternary(d, |a, b, n: u32| (join(a, b) >> n.min(32)) as u32),
        _ => Err(d.fail("it needs .l or .r, and .wrap or .clamp")),
    }
}
