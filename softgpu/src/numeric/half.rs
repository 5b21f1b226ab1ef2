//! Conversions between f32, f64 and the formats f16, bf16 and tf32.

use super::Round;
use super::exact::{Exact, Format};
use super::float::canonical;

/// The canonical NaN of single precision.
pub const NAN_F32: u32 = 0x7fff_ffff;
/// The canonical NaN of f16 and of bf16.
pub const NAN_HALF: u16 = 0x7fff;

/// One of the two 16-bit formats. Functions take it as a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
}

impl Half {
    /// The bits of positive infinity.
    #[inline(always)]
    pub fn infinity(self) -> u16 {
        match self {
            Half::F16 => 0x7c00,
            Half::Bf16 => 0x7f80,
        }
    }

    /// The exact value of `x`. A NaN stays one, its payload is not canonical.
    #[inline(always)]
    pub fn widen(self, x: u16) -> f32 {
        match self {
            Half::F16 => {
                // Without a choice that the compiler could turn into branches: arithmetic on f16 lives of this.
                let magnitude = (x as u32 & 0x7fff) << 13;
                let special = ((magnitude >= 0x1f << 23) as u32).wrapping_neg() & 0x7f80_0000;
                let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
                f32::from_bits(scaled.to_bits() | special | (x as u32 & 0x8000) << 16)
            }
            Half::Bf16 => bf16_to_f32(x),
        }
    }

    /// `x` to the nearest number of the format.
    #[inline(always)]
    pub fn nearest(self, x: f32) -> u16 {
        match self {
            Half::F16 => f32_to_f16(x),
            Half::Bf16 => f32_to_bf16(x),
        }
    }

    /// `x` rounded as `round` says: `cvt.rnd.f16.f32`, `cvt.rnd.bf16.f32`.
    #[inline(always)]
    pub fn narrow(self, x: f32, round: Round) -> u16 {
        match round {
            Round::Nearest => self.nearest(x),
            _ => self.narrow_slowly(x, round),
        }
    }

    /// `x` rounded once: `cvt.rnd.f16.f64`.
    #[inline(always)]
    pub fn narrow_f64(self, x: f64, round: Round) -> u16 {
        self.narrow(f64_to_f32_odd(x), round)
    }

    fn narrow_slowly(self, x: f32, round: Round) -> u16 {
        if x.is_nan() {
            return NAN_HALF;
        }
        if x.is_infinite() {
            return (x.is_sign_negative() as u16) << 15 | self.infinity();
        }
        let format = match self {
            Half::F16 => Format::F16,
            Half::Bf16 => Format::BF16,
        };
        Exact::from_f64(x.into()).round(format, round) as u16
    }

    /// `.relu`: negative numbers (and -0) become +0, a NaN the canonical one.
    #[inline(always)]
    pub fn relu(self, x: u16) -> u16 {
        if self.is_nan(x) {
            NAN_HALF
        } else if x >> 15 != 0 {
            0
        } else {
            x
        }
    }

    /// `.satfinite`: what is beyond the largest finite number (infinity too) becomes that number.
    #[inline(always)]
    pub fn satfinite(self, x: u16) -> u16 {
        if x & 0x7fff == self.infinity() { x - 1 } else { x }
    }

    /// Whether `x` is a NaN.
    #[inline(always)]
    pub fn is_nan(self, x: u16) -> bool {
        x & 0x7fff > self.infinity()
    }

    /// `.ftz`: a subnormal number becomes zero of its sign.
    #[inline(always)]
    pub fn flush(self, x: u16) -> u16 {
        let least = match self {
            Half::F16 => 0x0400,
            Half::Bf16 => 0x0080,
        };
        if x & 0x7fff < least { x & 0x8000 } else { x }
    }
}

/// The exact value of an f16. NaNs become canonical.
#[inline(always)]
pub fn f16_to_f32(x: u16) -> f32 {
    let sign = (x as u32 & 0x8000) << 16;
    let magnitude = (x as u32 & 0x7fff) << 13;
    let normal = magnitude + (112 << 23);
    // 2^-14 * (1 + f) - 2^-14 is exact and never meets a subnormal f32.
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let value = if magnitude < 1 << 23 { subnormal } else { normal };
    let value = if magnitude == 0x1f << 23 { 0x7f80_0000 } else { value };
    f32::from_bits(if magnitude > 0x1f << 23 { NAN_F32 } else { value | sign })
}

/// An f32 to the nearest f16.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let normal = magnitude.wrapping_add((magnitude >> 13 & 1) + 0xfff).wrapping_sub(112 << 23) >> 13;
    // The addition puts the last bit of an f16 subnormal at the last bit of the f32, and rounds there.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let value = if magnitude < 113 << 23 { subnormal } else { normal };
    let value = if magnitude >= 143 << 23 { 0x7c00 } else { value };
    (if magnitude > 0x7f80_0000 { NAN_HALF as u32 } else { value | sign }) as u16
}

/// The exact value of a bf16, NaNs with their payload: the shift that compilers emit for it.
#[inline(always)]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits((x as u32) << 16)
}

/// An f32 to the nearest bf16.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_HALF as u32 } else { rounded }) as u16
}

/// `cvt.rnd.tf32.f32`: an f32 with 10 bits of fraction, the 13 low bits zero.
#[inline(always)]
pub fn f32_to_tf32(x: f32, round: Round) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let step = match round {
        Round::Nearest => 0xfff + (bits >> 13 & 1),
        Round::Away => 0x1000,
        Round::Zero => 0,
        Round::Down => (bits >> 31) * 0x1fff,
        Round::Up => (1 - (bits >> 31)) * 0x1fff,
    };
    let value = (magnitude + step) & !0x1fff | bits & 0x8000_0000;
    let value = if magnitude == 0x7f80_0000 { bits } else { value };
    if magnitude > 0x7f80_0000 { NAN_F32 } else { value }
}

/// `.relu` of a tf32 (or an f32).
#[inline(always)]
pub fn relu_tf32(x: u32) -> u32 {
    let positive = if x >> 31 != 0 { 0 } else { x };
    if x & 0x7fff_ffff > 0x7f80_0000 { NAN_F32 } else { positive }
}

/// `.satfinite` of a tf32: infinity becomes the largest finite number.
#[inline(always)]
pub fn satfinite_tf32(x: u32) -> u32 {
    if x & 0x7fff_ffff == 0x7f80_0000 { x & 0x8000_0000 | 0x7f7f_e000 } else { x }
}

/// `x` rounded to odd: an inexact result gets a last bit of 1, so that rounding it once more, to any format
/// of at most 22 bits, gives what rounding `x` would have given.
#[inline(always)]
pub fn f64_to_f32_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = near as f64;
    let bits = near.to_bits();
    let even = 1 - (bits & 1);
    let down = (back.abs() > x.abs()) as u32;
    let up = (back.abs() < x.abs()) as u32;
    f32::from_bits(bits.wrapping_add(up & even).wrapping_sub(down & even))
}

/// `cvt.rnd.f32.f64`. NaNs become canonical.
#[inline(always)]
pub fn f64_to_f32(x: f64, round: Round) -> f32 {
    let near = x as f32;
    let bits = match round {
        Round::Nearest | Round::Away => near.to_bits(),
        _ => {
            let (back, positive) = (near as f64, x > 0.0);
            let shrink = match round {
                Round::Up => !positive,
                Round::Down => positive,
                _ => true,
            };
            let down = (shrink && back.abs() > x.abs()) as u32;
            let up = (!shrink && back.abs() < x.abs()) as u32;
            near.to_bits().wrapping_add(up).wrapping_sub(down)
        }
    };
    canonical(f32::from_bits(bits))
}
