//! `cvt` to and from two numbers in a register, and `cvt.pack`.

use super::float::Narrowing;
use super::{Packed, permit, specialise, unary};
use crate::Result;
use crate::isa::Code;
use crate::isa::lanewise::{binary, ternary};
use crate::numeric::fp8::Fp8;
use crate::numeric::half::Half;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>, to: Type, from: Type) -> Result<Code> {
    match (to, from) {
        (Type::F16x2, Type::F32) => two(d, Half::F16),
        (Type::Bf16x2, Type::F32) => two(d, Half::Bf16),
        (Type::E4m3x2, _) => to_fp8(d, Fp8::E4m3, from),
        (Type::E5m2x2, _) => to_fp8(d, Fp8::E5m2, from),
        (Type::F16x2, Type::E4m3x2) => from_fp8(d, Fp8::E4m3),
        (Type::F16x2, Type::E5m2x2) => from_fp8(d, Fp8::E5m2),
        _ => Err(d.unsupported()),
    }
}

/// Two f32 to one register of halves, the first to the upper one.
fn two(d: &mut Decoder<'_, '_>, kind: Half) -> Result<Code> {
    let form = Narrowing::of(d, kind)?;
    if d.one_of(&["rn", "rz"]).is_none() || d.one_of(&["sat", "ftz"]).is_some() {
        return Err(d.fail("pairs take `.rn` or `.rz`, and neither `.sat` nor `.ftz`"));
    }
    specialise!(form, Narrowing: [Narrowing::nearest(Half::F16), Narrowing::nearest(Half::Bf16)], f => {
        binary(d, #[inline(always)] move |a: f32, b: f32| {
            Packed(u32::from(f.narrow(a)) << 16 | u32::from(f.narrow(b)))
        })
    })
}

fn to_fp8(d: &mut Decoder<'_, '_>, kind: Fp8, from: Type) -> Result<Code> {
    permit(d, "rn satfinite relu")?;
    if !(d.has("rn") && d.has("satfinite")) {
        return Err(d.fail("conversions to 8-bit floats need `.rn.satfinite`"));
    }
    let relu = d.has("relu");
    match from {
        Type::F32 => binary(d, move |a: f32, b: f32| kind.pack(a, b, relu)),
        Type::F16x2 => unary(d, move |a: Packed| kind.pack_f16x2(a.0, relu)),
        _ => Err(d.unsupported()),
    }
}

fn from_fp8(d: &mut Decoder<'_, '_>, kind: Fp8) -> Result<Code> {
    permit(d, "rn relu")?;
    if !d.has("rn") {
        return Err(d.fail("it needs `.rn`"));
    }
    let relu = d.has("relu");
    unary(d, move |a: u16| Packed(kind.unpack(a, relu)))
}

/// `cvt.pack.sat`: two integers clamped and put side by side, the first one above; below what the third
/// operand of the narrow forms gives.
pub(super) fn saturated(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let modifiers: Vec<&str> = d.inst.modifiers.iter().map(String::as_str).collect();
    let (to, third) = match modifiers[..] {
        ["pack", "sat", to, "s32"] => (to, false),
        ["pack", "sat", to, "s32", "b32"] => (to, true),
        _ => return Err(d.unsupported()),
    };
    let (signed, bits) = match (to, third) {
        ("u16", false) => (false, 16u32),
        ("s16", false) => (true, 16),
        ("u8", true) => (false, 8),
        ("s8", true) => (true, 8),
        ("u4", true) => (false, 4),
        ("s4", true) => (true, 4),
        ("u2", true) => (false, 2),
        ("s2", true) => (true, 2),
        _ => return Err(d.unsupported()),
    };
    let (least, largest) =
        if signed { (-1 << (bits - 1), (1 << (bits - 1)) - 1) } else { (0, (1i32 << bits) - 1) };
    let mask = (1u32 << bits) - 1;
    let clamp = move |x: u32| (x as i32).clamp(least, largest) as u32 & mask;
    let pair = move |a: u32, b: u32| clamp(a) << bits | clamp(b);
    if third {
        ternary(d, move |a: u32, b: u32, c: u32| c << (2 * bits) | pair(a, b))
    } else {
        binary(d, pair)
    }
}
