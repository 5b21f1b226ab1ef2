//! Arithmetic on f32 and f64 with every rounding mode, `.ftz` and `.sat`.

use super::Round;
use super::exact::{Exact, Format};
use super::half::{NAN_F32, f64_to_f32};

/// The modifiers of f32 arithmetic. Pass a constant: the choices then cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Rounding.
    pub round: Round,
    /// `.ftz`: subnormal operands and results become zero of their sign.
    pub ftz: bool,
    /// `.sat`: results are clamped to [0, 1], a NaN becomes +0.
    pub sat: bool,
}

impl Mode {
    /// `.rn` without other modifiers.
    pub const NEAREST: Mode = Mode { round: Round::Nearest, ftz: false, sat: false };

    /// An operand as this mode sees it.
    #[inline(always)]
    pub fn operand(self, x: f32) -> f32 {
        if self.ftz { flush(x) } else { x }
    }

    /// A rounded result with the other modifiers applied, a NaN made canonical.
    #[inline(always)]
    pub fn finish(self, x: f32) -> f32 {
        let x = if self.ftz { flush(x) } else { x };
        if self.sat { saturate(x) } else { canonical(x) }
    }
}

/// A NaN becomes the canonical one.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    // On integers: the compiler takes all NaNs for equal and may drop a choice between two floats.
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_F32 } else { bits })
}

/// A subnormal number becomes zero of its sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Clamps to [0, 1]; a NaN and -0 become +0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// [`saturate`] for f64.
#[inline(always)]
pub fn saturate_f64(x: f64) -> f64 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// `add{.rnd}{.ftz}{.sat}.f32`
#[inline(always)]
pub fn add(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (mode.operand(a), mode.operand(b));
    mode.finish(match mode.round {
        Round::Nearest | Round::Away => a + b,
        round => round_sum(sum_odd(a as f64, b as f64), a as f64, b as f64, round),
    })
}

/// `sub{.rnd}{.ftz}{.sat}.f32`
#[inline(always)]
pub fn sub(a: f32, b: f32, mode: Mode) -> f32 {
    add(a, -b, mode)
}

/// `mul{.rnd}{.ftz}{.sat}.f32`
#[inline(always)]
pub fn mul(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (mode.operand(a), mode.operand(b));
    mode.finish(match mode.round {
        Round::Nearest | Round::Away => a * b,
        round => f64_to_f32(a as f64 * b as f64, round),
    })
}

/// `fma.rnd{.ftz}{.sat}.f32`
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    let (a, b, c) = (mode.operand(a), mode.operand(b), mode.operand(c));
    mode.finish(match mode.round {
        Round::Nearest | Round::Away => a.mul_add(b, c),
        round => round_sum(fma_odd(a, b, c), a as f64 * b as f64, c as f64, round),
    })
}

/// `div.rnd{.ftz}.f32`
#[inline(always)]
pub fn div(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (mode.operand(a), mode.operand(b));
    mode.finish(match mode.round {
        Round::Nearest | Round::Away => a / b,
        // A quotient of f32 that is no f32 lies too far from one for the f64 quotient to hit it.
        round => f64_to_f32(a as f64 / b as f64, round),
    })
}

/// `rcp.rnd{.ftz}.f32`
#[inline(always)]
pub fn rcp(a: f32, mode: Mode) -> f32 {
    div(1.0, a, mode)
}

/// `sqrt.rnd{.ftz}.f32`
#[inline(always)]
pub fn sqrt(a: f32, mode: Mode) -> f32 {
    let a = mode.operand(a);
    mode.finish(match mode.round {
        Round::Nearest | Round::Away => a.sqrt(),
        round => f64_to_f32((a as f64).sqrt(), round),
    })
}

/// `neg{.ftz}.f32`
#[inline(always)]
pub fn neg(a: f32, ftz: bool) -> f32 {
    -(if ftz { flush(a) } else { a })
}

/// `abs{.ftz}.f32`
#[inline(always)]
pub fn abs(a: f32, ftz: bool) -> f32 {
    (if ftz { flush(a) } else { a }).abs()
}

/// `copysign.f32 d, a, b`: `b` with the sign of `a`.
#[inline(always)]
pub fn copysign(a: f32, b: f32) -> f32 {
    b.copysign(a)
}

/// `copysign.f64 d, a, b`: `b` with the sign of `a`.
#[inline(always)]
pub fn copysign_f64(a: f64, b: f64) -> f64 {
    b.copysign(a)
}

/// `a * b + c` rounded to odd in f64: rounding it again to f32 or less equals rounding the exact value.
#[inline(always)]
pub fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    sum_odd(a as f64 * b as f64, c as f64)
}

macro_rules! sum_odd {
    ($(#[$doc:meta])* $name:ident, $float:ty, $bits:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name(x: $float, y: $float) -> $float {
            let sum = x + y;
            let virtual_y = sum - x;
            let error = (x - (sum - virtual_y)) + (y - virtual_y);
            let bits = sum.to_bits();
            let even = 1 - (bits & 1);
            // With an infinity the error is NaN and both comparisons fail.
            let outward = if sum > 0.0 { error } else { -error };
            let (up, down) = ((outward > 0.0) as $bits, (outward < 0.0) as $bits);
            <$float>::from_bits(bits.wrapping_add(up & even).wrapping_sub(down & even))
        }
    };
}

sum_odd!(
    /// `x + y` rounded to odd: an inexact sum has a last bit of 1. Its exponents are those of products of
    /// f32: nothing overflows.
    sum_odd, f64, u64
);
sum_odd!(
    /// `x + y` rounded to odd: an inexact sum has a last bit of 1. Its exponents are those of products of
    /// f16: nothing overflows.
    sum_odd_f32, f32, u32
);

/// Rounds `sum`, which is `x + y` rounded to odd; an exact zero gets the sign that `round` gives it.
#[inline(always)]
fn round_sum(sum: f64, x: f64, y: f64, round: Round) -> f32 {
    let value = f64_to_f32(sum, round);
    let negative_zero = round == Round::Down && sum == 0.0 && (x.to_bits() | y.to_bits()) >> 63 != 0;
    if negative_zero { -0.0 } else { value }
}

/// `add.rnd.f64`
#[inline(always)]
pub fn add_f64(a: f64, b: f64, round: Round) -> f64 {
    match round {
        Round::Nearest | Round::Away => a + b,
        _ => slowly(a + b, [a, b], round, |[a, b]| a.plus(b, round)),
    }
}

/// `sub.rnd.f64`
#[inline(always)]
pub fn sub_f64(a: f64, b: f64, round: Round) -> f64 {
    add_f64(a, -b, round)
}

/// `mul.rnd.f64`
#[inline(always)]
pub fn mul_f64(a: f64, b: f64, round: Round) -> f64 {
    match round {
        Round::Nearest | Round::Away => a * b,
        _ => slowly(a * b, [a, b], round, |[a, b]| a.times(b)),
    }
}

/// `fma.rnd.f64`
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    match round {
        Round::Nearest | Round::Away => a.mul_add(b, c),
        _ => slowly(a.mul_add(b, c), [a, b, c], round, |[a, b, c]| a.times(b).plus(c, round)),
    }
}

/// `div.rnd.f64`
#[inline(always)]
pub fn div_f64(a: f64, b: f64, round: Round) -> f64 {
    match round {
        Round::Nearest | Round::Away => a / b,
        _ if b == 0.0 => a / b,
        _ => slowly(a / b, [a, b], round, |[a, b]| a.over(b).unwrap_or(a)),
    }
}

/// `rcp.rnd.f64`
#[inline(always)]
pub fn rcp_f64(a: f64, round: Round) -> f64 {
    div_f64(1.0, a, round)
}

/// `sqrt.rnd.f64`
#[inline(always)]
pub fn sqrt_f64(a: f64, round: Round) -> f64 {
    match round {
        Round::Nearest | Round::Away => a.sqrt(),
        _ if a <= 0.0 => a.sqrt(),
        _ => slowly(a.sqrt(), [a], round, |[a]| a.root()),
    }
}

/// The exact result of `operation` rounded once; `plain` where an operand is not finite.
fn slowly<const N: usize>(
    plain: f64,
    operands: [f64; N],
    round: Round,
    operation: impl Fn([Exact; N]) -> Exact,
) -> f64 {
    if operands.iter().all(|x| x.is_finite()) {
        f64::from_bits(operation(operands.map(Exact::from_f64)).round(Format::F64, round))
    } else {
        plain
    }
}

/// A property that `testp` asks for. Zeros count as normal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the PTX modifier of its name
pub enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

impl Property {
    /// The property of a modifier without its dot: `"finite"`.
    pub fn parse(name: &str) -> Option<Property> {
        Some(match name {
            "finite" => Property::Finite,
            "infinite" => Property::Infinite,
            "number" => Property::Number,
            "notanumber" => Property::NotANumber,
            "normal" => Property::Normal,
            "subnormal" => Property::Subnormal,
            _ => return None,
        })
    }

    /// `testp.f32`
    #[inline(always)]
    pub fn holds(self, x: f32) -> bool {
        match self {
            Property::Finite => x.is_finite(),
            Property::Infinite => x.is_infinite(),
            Property::Number => !x.is_nan(),
            Property::NotANumber => x.is_nan(),
            Property::Normal => x.is_normal() || x == 0.0,
            Property::Subnormal => x.is_subnormal(),
        }
    }

    /// `testp.f64`
    #[inline(always)]
    pub fn holds_f64(self, x: f64) -> bool {
        match self {
            Property::Finite => x.is_finite(),
            Property::Infinite => x.is_infinite(),
            Property::Number => !x.is_nan(),
            Property::NotANumber => x.is_nan(),
            Property::Normal => x.is_normal() || x == 0.0,
            Property::Subnormal => x.is_subnormal(),
        }
    }
}
