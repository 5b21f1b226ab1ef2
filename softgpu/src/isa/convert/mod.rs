//! Conversions: `cvt`.
//!
//! Registers may be wider than the types of a conversion: of a source the low bits count, a result is extended
//! as its type says, up to the width of the destination's declaration.

mod float;
mod packed;

use super::float::named_rounding;
use super::lanewise::{Packed, Value, permit, specialise, unary};
use super::{Code, plain};
use crate::Result;
use crate::machine::registers::Reg;
use crate::numeric::Round;
use crate::numeric::convert::{
    Int, f32_to_int, f64_to_int, half_to_int, int_to_f32, int_to_f64, int_to_half, int_to_int,
};
use crate::numeric::float::{flush, saturate, saturate_f64};
use crate::numeric::half::Half;
use crate::program::assembler::Symbol;
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.has("pack") {
        return packed::saturated(d);
    }
    let [to, from] = d.types()[..] else {
        return Err(d.fail("a conversion names two types"));
    };
    fits(d, 0, to)?;
    fits(d, 1, from)?;
    match (integer(to), integer(from)) {
        (Some(to), Some(from)) => between_integers(d, to, from),
        (Some(to), None) => to_integer(d, to, from),
        (None, Some(from)) => from_integer(d, to, from),
        (None, None) if is_scalar(to) && is_scalar(from) => float::decode(d, to, from),
        (None, None) => packed::decode(d, to, from),
    }
}

/// The integer type of a PTX type.
fn integer(ty: Type) -> Option<Int> {
    Some(match ty {
        Type::U8 => Int::U8,
        Type::S8 => Int::S8,
        Type::U16 => Int::U16,
        Type::S16 => Int::S16,
        Type::U32 => Int::U32,
        Type::S32 => Int::S32,
        Type::U64 => Int::U64,
        Type::S64 => Int::S64,
        _ => return None,
    })
}

fn is_scalar(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::Bf16 | Type::Tf32 | Type::F32 | Type::F64)
}

/// The declared width in bits of the register that an operand names.
fn declared_bits(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Option<u32>> {
    let Operand::Name(name) = operand else { return Ok(None) };
    Ok(match d.asm.lookup(name)? {
        Some(Symbol::Register(_, ty)) => Some(8 * ty.bytes() as u32),
        _ => None,
    })
}

/// Refuses a register that is narrower than the type of its operand.
fn fits(d: &mut Decoder<'_, '_>, k: usize, ty: Type) -> Result<()> {
    let operand = d.operand(k)?;
    match declared_bits(d, operand)? {
        Some(bits) if bits < 8 * ty.bytes() as u32 => {
            Err(d.fail(format!("operand {} has {bits} bits, fewer than its type", k + 1)))
        }
        _ => Ok(()),
    }
}

/// The low bits of a word.
fn low(bits: u32) -> u64 {
    u64::MAX >> (64 - bits.clamp(1, 64))
}

/// A conversion to an integer that `f` gives extended to 64 bits.
fn extending<A: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A) -> u64 + Copy + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(2..=2)?;
    let (to, from) = (d.operand(0)?, d.operand(1)?);
    let keep = declared_bits(d, to)?.map_or(u64::MAX, low) as u32;
    let a = A::source(d, from)?;
    match d.dst(to, Type::B64)? {
        Reg::R(x) => plain(move |s, m| {
            s.map1(
                x,
                a,
                m,
                #[inline(always)]
                |a| f(A::of(a)) as u32 & keep,
            )
        }),
        Reg::D(x) => plain(move |s, m| {
            s.map1(
                x,
                a,
                m,
                #[inline(always)]
                |a| f(A::of(a)),
            )
        }),
        Reg::P(_) => Err(d.fail("the result of a conversion is no predicate")),
    }
}

/// Whether an integer source is a 64-bit register (its low bits may be what is meant).
fn is_wide(d: &mut Decoder<'_, '_>, from: Int) -> Result<bool> {
    let operand = d.operand(1)?;
    Ok(declared_bits(d, operand)?.unwrap_or(from.bits()) == 64)
}

/// [`extending`] from an integer register of either file.
fn from_any(
    d: &mut Decoder<'_, '_>,
    from: Int,
    f: impl Fn(u64) -> u64 + Copy + Send + Sync + 'static,
) -> Result<Code> {
    if is_wide(d, from)? {
        extending(d, f)
    } else {
        extending(
            d,
            #[inline(always)]
            move |a: u32| f(a.into()),
        )
    }
}

fn between_integers(d: &mut Decoder<'_, '_>, to: Int, from: Int) -> Result<Code> {
    permit(d, "sat")?;
    if d.has("sat") {
        return from_any(d, from, move |a| int_to_int(a, from, to, true));
    }
    // The narrower type decides what is left of the source, and how it is extended.
    let narrow = if from.bits() < to.bits() { from } else { to };
    if narrow.signed() {
        let (shift, keep) = (64 - narrow.bits(), if to.signed() { u64::MAX } else { low(to.bits()) });
        from_any(
            d,
            from,
            #[inline(always)]
            move |a| ((a << shift) as i64 >> shift) as u64 & keep,
        )
    } else {
        let keep = low(narrow.bits());
        from_any(
            d,
            from,
            #[inline(always)]
            move |a| a & keep,
        )
    }
}

/// How a number becomes an integer: the type, the rounding, and whether subnormal numbers count as zero.
type ToInteger = (Int, Round, bool);

fn to_integer(d: &mut Decoder<'_, '_>, to: Int, from: Type) -> Result<Code> {
    // `.sat` says what happens anyway.
    permit(d, "rni rzi rmi rpi ftz sat")?;
    let round = named_rounding(d)?;
    let ftz = d.has("ftz");
    match from {
        Type::F32 => specialise!((to, round, ftz), ToInteger: [
            (Int::S32, Round::Zero, false), (Int::S32, Round::Nearest, false),
            (Int::S32, Round::Down, false), (Int::U32, Round::Zero, false),
        ], how => extending(d, #[inline(always)] move |a: f32| {
            how.0.extend(f32_to_int(if how.2 { flush(a) } else { a }, how.1, how.0))
        })),
        Type::F64 => extending(d, move |a: f64| to.extend(f64_to_int(a, round, to))),
        Type::F16 => extending(d, move |a: u16| to.extend(half_to_int(Half::F16, a, round, to))),
        Type::Bf16 => extending(d, move |a: u16| to.extend(half_to_int(Half::Bf16, a, round, to))),
        _ => Err(d.unsupported()),
    }
}

/// The conversion of an integer in a register of either file to a value of type `X`.
fn of_integer<X: Value>(
    d: &mut Decoder<'_, '_>,
    from: Int,
    f: impl Fn(u64) -> X + Copy + Send + Sync + 'static,
) -> Result<Code> {
    if is_wide(d, from)? {
        unary(d, f)
    } else {
        unary(
            d,
            #[inline(always)]
            move |a: u32| f(a.into()),
        )
    }
}

/// How an integer becomes a number.
type FromInteger = (Int, Round);

fn from_integer(d: &mut Decoder<'_, '_>, to: Type, from: Int) -> Result<Code> {
    permit(d, "rn rz rm rp sat")?;
    let round = named_rounding(d)?;
    let sat = d.has("sat");
    match to {
        Type::F32 if sat => of_integer(d, from, move |a| saturate(int_to_f32(a, from, round))),
        Type::F32 => specialise!((from, round), FromInteger: [
            (Int::S32, Round::Nearest), (Int::U32, Round::Nearest),
        ], r => of_integer(d, from, #[inline(always)] move |a| int_to_f32(a, r.0, r.1))),
        Type::F64 if sat => of_integer(d, from, move |a| saturate_f64(int_to_f64(a, from, round))),
        Type::F64 => of_integer(d, from, move |a| int_to_f64(a, from, round)),
        Type::F16 if sat => {
            of_integer(d, from, move |a| saturated_half(int_to_half(Half::F16, a, from, round)))
        }
        Type::F16 => of_integer(d, from, move |a| int_to_half(Half::F16, a, from, round)),
        Type::Bf16 => of_integer(d, from, move |a| int_to_half(Half::Bf16, a, from, round)),
        _ => Err(d.unsupported()),
    }
}

/// An f16 that was an integer, clamped to [0, 1].
fn saturated_half(x: u16) -> u16 {
    Half::F16.nearest(saturate(Half::F16.widen(x)))
}
