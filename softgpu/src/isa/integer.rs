//! Arithmetic of integers of 16, 32 and 64 bits. What works on parts of a register is in `packed`, what passes a
//! carry on in `carry`.

use super::lanewise::{Value, binary, ternary, unary};
use super::{Code, carry, packed};
use crate::Result;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.has("cc") || matches!(d.inst.name.as_str(), "addc" | "subc" | "madc") {
        return carry::decode(d);
    }
    match (d.inst.name.as_str(), d.ty()?) {
        (_, Type::U16x2 | Type::S16x2) => packed::decode(d),
        ("dp4a" | "dp2a", _) => packed::dot(d),
        ("mul24" | "mad24", ty) => product24(d, ty),
        (_, Type::U16) => integer::<u16>(d),
        (_, Type::S16) => integer::<i16>(d),
        (_, Type::U32) => integer::<u32>(d),
        (_, Type::S32) => signed32(d),
        (_, Type::U64) => integer::<u64>(d),
        (_, Type::S64) => integer::<i64>(d),
        _ => Err(d.unsupported()),
    }
}

/// What the instructions need of an integer type.
pub(super) trait Integer: Value + Ord + Default {
    /// The type of twice its width; 64 bits have none.
    type Wide: Value;
    const SIGNED: bool;
    fn sum(self, b: Self) -> Self;
    fn difference(self, b: Self) -> Self;
    fn low(self, b: Self) -> Self;
    /// The upper half of the product.
    fn high(self, b: Self) -> Self;
    fn wide(self, b: Self) -> Self::Wide;
    fn wide_sum(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn quotient(self, b: Self) -> Self;
    fn remainder(self, b: Self) -> Self;
    fn magnitude(self) -> Self;
    /// Whether it is less than `b` when both are read without a sign.
    fn below(self, b: Self) -> bool;
}

macro_rules! integer {
    ($($ty:ident, $unsigned:ty, $wide:ident, $product:ty, $signed:literal;)*) => {$(
        impl Integer for $ty {
            type Wide = $wide;
            const SIGNED: bool = $signed;

            #[inline(always)]
            fn sum(self, b: Self) -> Self {
                self.wrapping_add(b)
            }

            #[inline(always)]
            fn difference(self, b: Self) -> Self {
                self.wrapping_sub(b)
            }

            #[inline(always)]
            fn low(self, b: Self) -> Self {
                self.wrapping_mul(b)
            }

            #[inline(always)]
            fn high(self, b: Self) -> Self {
                // The product of two values always fits in twice their width.
                ((self as $product).wrapping_mul(b as $product) >> $ty::BITS) as $ty
            }

            #[inline(always)]
            fn wide(self, b: Self) -> $wide {
                (self as $wide).wrapping_mul(b as $wide)
            }

            #[inline(always)]
            fn wide_sum(a: $wide, b: $wide) -> $wide {
                a.wrapping_add(b)
            }

            #[inline(always)]
            fn quotient(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_div(b) }
            }

            #[inline(always)]
            fn remainder(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_rem(b) }
            }

            #[inline(always)]
            #[allow(unused_comparisons)] // of the unsigned types
            fn magnitude(self) -> Self {
                if self < 0 { (0 as $ty).wrapping_sub(self) } else { self }
            }

            #[inline(always)]
            fn below(self, b: Self) -> bool {
                (self as $unsigned) < b as $unsigned
            }
        }
    )*};
}

integer! {
    u16, u16, u32, u32, false;
    i16, u16, i32, i32, true;
    u32, u32, u64, u64, false;
    i32, u32, i64, i64, true;
    u64, u64, u64, u128, false;
    i64, u64, i64, i128, true;
}

/// Which part of a product an instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Low,
    High,
    Wide,
}

impl Part {
    pub(super) fn of(d: &Decoder<'_, '_>) -> Result<Part> {
        match d.one_of(&["lo", "hi", "wide"]) {
            Some(0) => Ok(Part::Low),
            Some(1) => Ok(Part::High),
            Some(_) if d.ty()?.bytes() < 8 => Ok(Part::Wide),
            _ => Err(d.fail("it needs one of .lo, .hi and, for less than 64 bits, .wide")),
        }
    }
}

/// Instructions that mean the same in every width.
fn integer<T: Integer>(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let signed_only = matches!(d.inst.name.as_str(), "abs" | "neg") && !T::SIGNED;
    if signed_only || d.has("sat") || d.has("relu") {
        return Err(d.unsupported());
    }
    match d.inst.name.as_str() {
        "add" => binary(d, T::sum),
        "sub" => binary(d, T::difference),
        "mul" => match Part::of(d)? {
            Part::Low => binary(d, T::low),
            Part::High => binary(d, T::high),
            Part::Wide => binary(d, T::wide),
        },
        "mad" => match Part::of(d)? {
            Part::Low => ternary(d, |a: T, b: T, c: T| a.low(b).sum(c)),
            Part::High => ternary(d, |a: T, b: T, c: T| a.high(b).sum(c)),
            Part::Wide => ternary(d, |a: T, b: T, c: T::Wide| T::wide_sum(a.wide(b), c)),
        },
        "sad" => ternary(d, |a: T, b: T, c: T| a.max(b).difference(a.min(b)).sum(c)),
        // By zero every bit is set, in the quotient and in the remainder: so does the code that ptxas expands
        // these to, for every width.
        "div" => binary(d, T::quotient),
        "rem" => binary(d, T::remainder),
        "abs" => unary(d, T::magnitude),
        "neg" => unary(d, |a: T| T::default().difference(a)),
        "min" => binary(d, T::min),
        "max" => binary(d, T::max),
        _ => Err(d.unsupported()),
    }
}

/// `.s32` alone can saturate and clamp to zero.
fn signed32(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match (d.inst.name.as_str(), d.has("sat"), d.has("relu")) {
        ("add", true, _) => binary(d, i32::saturating_add),
        ("sub", true, _) => binary(d, i32::saturating_sub),
        ("mad", true, _) if Part::of(d)? == Part::High => {
            ternary(d, |a: i32, b: i32, c: i32| a.high(b).saturating_add(c))
        }
        ("min", _, true) => binary(d, |a: i32, b: i32| a.min(b).max(0)),
        ("max", _, true) => binary(d, |a: i32, b: i32| a.max(b).max(0)),
        _ => integer::<i32>(d),
    }
}

/// `mul24`, `mad24`: products of the low 24 bits, of which they take bits 0 to 31 or 16 to 47.
fn product24(d: &mut Decoder<'_, '_>, ty: Type) -> Result<Code> {
    #[inline(always)]
    fn signed(a: i32, b: i32) -> i64 {
        i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
    }
    #[inline(always)]
    fn unsigned(a: u32, b: u32) -> u64 {
        u64::from(a & 0xFF_FFFF) * u64::from(b & 0xFF_FFFF)
    }
    let add = d.inst.name == "mad24";
    if d.has("sat") && !(add && ty == Type::S32 && d.has("hi")) {
        return Err(d.unsupported());
    }
    match (ty, Part::of(d)?, add) {
        (Type::S32, Part::Low, false) => binary(d, |a, b| signed(a, b) as i32),
        (Type::S32, Part::High, false) => binary(d, |a, b| (signed(a, b) >> 16) as i32),
        (Type::U32, Part::Low, false) => binary(d, |a, b| unsigned(a, b) as u32),
        (Type::U32, Part::High, false) => binary(d, |a, b| (unsigned(a, b) >> 16) as u32),
        (Type::S32, Part::High, true) if d.has("sat") => {
            ternary(d, |a, b, c: i32| ((signed(a, b) >> 16) as i32).saturating_add(c))
        }
        (Type::S32, Part::Low, true) => ternary(d, |a, b, c: i32| (signed(a, b) as i32).wrapping_add(c)),
        (Type::S32, Part::High, true) => {
            ternary(d, |a, b, c: i32| ((signed(a, b) >> 16) as i32).wrapping_add(c))
        }
        (Type::U32, Part::Low, true) => ternary(d, |a, b, c: u32| (unsigned(a, b) as u32).wrapping_add(c)),
        (Type::U32, Part::High, true) => {
            ternary(d, |a, b, c: u32| ((unsigned(a, b) >> 16) as u32).wrapping_add(c))
        }
        _ => Err(d.unsupported()),
    }
}
