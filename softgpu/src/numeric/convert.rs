//! `cvt` between integers and floats, and among integers.

use super::Round;
use super::exact::{Exact, Format};
use super::half::{Half, f64_to_f32};

/// An integer type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the PTX type of its name
pub enum Int {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
}

impl Int {
    /// Its width.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        match self {
            Int::U8 | Int::S8 => 8,
            Int::U16 | Int::S16 => 16,
            Int::U32 | Int::S32 => 32,
            Int::U64 | Int::S64 => 64,
        }
    }

    /// Whether it is signed.
    #[inline(always)]
    pub fn signed(self) -> bool {
        matches!(self, Int::S8 | Int::S16 | Int::S32 | Int::S64)
    }

    /// The low bits of a register as this type has them, extended to 64 bits by sign or by zeros.
    #[inline(always)]
    pub fn extend(self, raw: u64) -> u64 {
        match self {
            Int::U8 => raw as u8 as u64,
            Int::S8 => raw as i8 as u64,
            Int::U16 => raw as u16 as u64,
            Int::S16 => raw as i16 as u64,
            Int::U32 => raw as u32 as u64,
            Int::S32 => raw as i32 as u64,
            Int::U64 | Int::S64 => raw,
        }
    }
}

/// `cvt{.sat}` from integer to integer: the result extended to 64 bits as `to` has it.
#[inline(always)]
pub fn int_to_int(raw: u64, from: Int, to: Int, sat: bool) -> u64 {
    let x = from.extend(raw);
    if !sat {
        return to.extend(x);
    }
    let (largest, least) = if to.signed() {
        (i64::MAX as u64 >> (64 - to.bits()), i64::MIN >> (64 - to.bits()))
    } else {
        (u64::MAX >> (64 - to.bits()), 0)
    };
    let negative = from.signed() && (x as i64) < 0;
    if negative { (x as i64).max(least) as u64 } else { x.min(largest) }
}

/// `x` rounded to an integer: `cvt.rni.f32.f32` and its kin, without their other modifiers.
#[inline(always)]
pub fn integral(x: f32, round: Round) -> f32 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// [`integral`] for f64.
#[inline(always)]
pub fn integral_f64(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// `cvt.irnd` from f32 to an integer: clamped to its range; NaN becomes 0, or 2^63 for a 64-bit type.
/// The result lies in the low bits, the others are zero.
#[inline(always)]
pub fn f32_to_int(x: f32, round: Round, to: Int) -> u64 {
    let x = integral(x, round);
    match to {
        Int::U8 => x as u8 as u64,
        Int::S8 => x as i8 as u8 as u64,
        Int::U16 => x as u16 as u64,
        Int::S16 => x as i16 as u16 as u64,
        Int::U32 => x as u32 as u64,
        Int::S32 => x as i32 as u32 as u64,
        Int::U64 if x.is_nan() => 1 << 63,
        Int::U64 => x as u64,
        Int::S64 if x.is_nan() => 1 << 63,
        Int::S64 => x as i64 as u64,
    }
}

/// `cvt.irnd` from f64 to an integer: clamped to its range; NaN becomes the integer with only its highest
/// bit set. The result lies in the low bits, the others are zero.
#[inline(always)]
pub fn f64_to_int(x: f64, round: Round, to: Int) -> u64 {
    let nan = 1 << (to.bits() - 1);
    let near = integral_f64(x, round);
    let value = match to {
        Int::U8 => near as u8 as u64,
        Int::S8 => near as i8 as u8 as u64,
        Int::U16 => near as u16 as u64,
        Int::S16 => near as i16 as u16 as u64,
        Int::U32 => near as u32 as u64,
        Int::S32 => near as i32 as u32 as u64,
        Int::U64 => near as u64,
        Int::S64 => near as i64 as u64,
    };
    if x.is_nan() { nan } else { value }
}

/// `cvt.irnd` from f16 or bf16 to an integer; NaN as in [`f32_to_int`].
#[inline(always)]
pub fn half_to_int(kind: Half, x: u16, round: Round, to: Int) -> u64 {
    f32_to_int(kind.widen(x), round, to)
}

/// `cvt.rnd.f32` from an integer.
#[inline(always)]
pub fn int_to_f32(raw: u64, from: Int, round: Round) -> f32 {
    let x = from.extend(raw);
    match (from, round) {
        (Int::S64, Round::Nearest) => x as i64 as f32,
        (Int::U64, Round::Nearest) => x as f32,
        (Int::S64 | Int::U64, _) => f32::from_bits(exact(x, from).round(Format::F32, round) as u32),
        // These fit f64 exactly.
        (Int::U32, _) => f64_to_f32(x as u32 as f64, round),
        _ => f64_to_f32(x as i32 as f64, round),
    }
}

/// `cvt.rnd.f64` from an integer.
#[inline(always)]
pub fn int_to_f64(raw: u64, from: Int, round: Round) -> f64 {
    let x = from.extend(raw);
    match (from, round) {
        (Int::S64, Round::Nearest) => x as i64 as f64,
        (Int::U64, Round::Nearest) => x as f64,
        (Int::S64 | Int::U64, _) => f64::from_bits(exact(x, from).round(Format::F64, round)),
        (Int::U32, _) => x as u32 as f64,
        _ => x as i32 as f64,
    }
}

/// `cvt.rnd.f16` or `.bf16` from an integer.
#[inline(always)]
pub fn int_to_half(kind: Half, raw: u64, from: Int, round: Round) -> u16 {
    let x = from.extend(raw);
    match from {
        Int::S64 | Int::U64 => {
            let format = match kind {
                Half::F16 => Format::F16,
                Half::Bf16 => Format::BF16,
            };
            exact(x, from).round(format, round) as u16
        }
        Int::U32 => kind.narrow_f64(x as u32 as f64, round),
        _ => kind.narrow_f64(x as i32 as f64, round),
    }
}

fn exact(x: u64, from: Int) -> Exact {
    if from.signed() { Exact::from_i64(x as i64) } else { Exact::from_u64(x) }
}
