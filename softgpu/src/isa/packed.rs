//! Integers packed in a register: pairs of 16 bits, and dot products of bytes.

use super::Code;
use super::lanewise::{binary, ternary};
use crate::Result;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

/// Instructions on `.u16x2` and `.s16x2`.
pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let signed = d.ty()? == Type::S16x2;
    if d.has("sat") || d.has("relu") && !(signed && matches!(d.inst.name.as_str(), "min" | "max")) {
        return Err(d.unsupported());
    }
    match (d.inst.name.as_str(), signed, d.has("relu")) {
        ("add", ..) => pairs(d, u16::wrapping_add),
        ("sub", ..) => pairs(d, u16::wrapping_sub),
        ("min", false, _) => pairs(d, u16::min),
        ("max", false, _) => pairs(d, u16::max),
        ("min", true, false) => pairs(d, |a, b| (a as i16).min(b as i16) as u16),
        ("max", true, false) => pairs(d, |a, b| (a as i16).max(b as i16) as u16),
        ("min", true, true) => pairs(d, |a, b| (a as i16).min(b as i16).max(0) as u16),
        ("max", true, true) => pairs(d, |a, b| (a as i16).max(b as i16).max(0) as u16),
        _ => Err(d.unsupported()),
    }
}

#[inline(always)]
fn both(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn pairs(d: &mut Decoder<'_, '_>, f: impl Fn(u16, u16) -> u16 + Send + Sync + 'static) -> Result<Code> {
    binary(d, move |a: u32, b: u32| both(a, b, &f))
}

#[inline(always)]
fn byte<const SIGNED: bool>(word: u32, i: u32) -> u32 {
    let byte = (word >> (8 * i)) as u8;
    if SIGNED { byte as i8 as u32 } else { byte.into() }
}

#[inline(always)]
fn half<const SIGNED: bool>(word: u32, i: u32) -> u32 {
    let half = (word >> (16 * i)) as u16;
    if SIGNED { half as i16 as u32 } else { half.into() }
}

/// `dp4a`, `dp2a`: the sum of four products of bytes, or of two products of 16 bits and a byte, and `c`. Modulo
/// 2^32 signed and unsigned sums are the same.
pub(super) fn dot(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let signs = match d.types()[..] {
        [a @ (Type::S32 | Type::U32), b @ (Type::S32 | Type::U32)] => (a.is_signed(), b.is_signed()),
        _ => return Err(d.unsupported()),
    };
    match signs {
        (false, false) => dot_of::<false, false>(d),
        (false, true) => dot_of::<false, true>(d),
        (true, false) => dot_of::<true, false>(d),
        (true, true) => dot_of::<true, true>(d),
    }
}

fn dot_of<const A: bool, const B: bool>(d: &mut Decoder<'_, '_>) -> Result<Code> {
    #[inline(always)]
    fn sum(c: u32, products: impl Iterator<Item = (u32, u32)>) -> u32 {
        products.fold(c, |c, (a, b)| c.wrapping_add(a.wrapping_mul(b)))
    }
    let dp4a = d.inst.name == "dp4a";
    match d.one_of(&["lo", "hi"]) {
        None if dp4a => ternary(d, |a, b, c| sum(c, (0..4).map(|i| (byte::<A>(a, i), byte::<B>(b, i))))),
        Some(upper) if !dp4a => {
            let first = 2 * upper as u32;
            ternary(d, move |a, b, c| sum(c, (0..2).map(|i| (half::<A>(a, i), byte::<B>(b, first + i)))))
        }
        _ => Err(d.unsupported()),
    }
}
