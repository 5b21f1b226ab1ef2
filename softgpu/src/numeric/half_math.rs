//! Arithmetic on f16 and bf16, each result rounded once.
//!
//! Packed instructions (`.f16x2`, `.bf16x2`) apply these to both halves of a register; see [`both`].

use super::float::{fma_odd, saturate};
use super::half::{Half, NAN_HALF, f64_to_f32_odd};

/// Applies `f` to both halves of each register.
#[inline(always)]
pub fn both<const N: usize>(registers: [u32; N], f: impl Fn([u16; N]) -> u16) -> u32 {
    let low = f(registers.map(|r| r as u16));
    let high = f(registers.map(|r| (r >> 16) as u16));
    (high as u32) << 16 | low as u32
}

/// The modifiers of f16 and bf16 arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Modifiers {
    /// `.ftz`: subnormal operands and results become zero.
    pub ftz: bool,
    /// `.sat`: results are clamped to [0, 1], a NaN becomes +0.
    pub sat: bool,
    /// `.relu`: negative results become +0, a NaN the canonical one.
    pub relu: bool,
}

#[inline(always)]
fn operand(kind: Half, x: u16, with: Modifiers) -> u16 {
    if with.ftz { kind.flush(x) } else { x }
}

/// Rounds a result that is exact, rounded to odd, or known to suffer no harm from being rounded twice.
#[inline(always)]
fn finish(kind: Half, x: f32, with: Modifiers) -> u16 {
    let mut bits = kind.nearest(if with.sat { saturate(x) } else { x });
    if with.ftz {
        bits = kind.flush(bits);
    }
    if with.relu { kind.relu(bits) } else { bits }
}

/// `add`
#[inline(always)]
pub fn add(kind: Half, a: u16, b: u16, with: Modifiers) -> u16 {
    // f32 has more than twice the digits (and two more): rounding to it first changes no sum.
    finish(kind, kind.widen(operand(kind, a, with)) + kind.widen(operand(kind, b, with)), with)
}

/// `sub`
#[inline(always)]
pub fn sub(kind: Half, a: u16, b: u16, with: Modifiers) -> u16 {
    finish(kind, kind.widen(operand(kind, a, with)) - kind.widen(operand(kind, b, with)), with)
}

/// `mul`
#[inline(always)]
pub fn mul(kind: Half, a: u16, b: u16, with: Modifiers) -> u16 {
    let (a, b) = (kind.widen(operand(kind, a, with)), kind.widen(operand(kind, b, with)));
    match kind {
        Half::F16 => finish(kind, a * b, with),
        // A product of bf16 can fall among the subnormals of f32, where f32 rounds too.
        Half::Bf16 => finish(kind, f64_to_f32_odd(a as f64 * b as f64), with),
    }
}

/// `fma`
#[inline(always)]
pub fn fma(kind: Half, a: u16, b: u16, c: u16, with: Modifiers) -> u16 {
    let (a, b) = (kind.widen(operand(kind, a, with)), kind.widen(operand(kind, b, with)));
    let c = kind.widen(operand(kind, c, with));
    finish(
        kind,
        match kind {
            // The product is exact in f32, and nothing is so small or large that f32 would show its limits.
            Half::F16 => sum_odd_f32(a * b, c),
            Half::Bf16 => f64_to_f32_odd(fma_odd(a, b, c)),
        },
        with,
    )
}

/// `x + y` rounded to odd in f32, for numbers far from the ends of its range.
#[inline(always)]
fn sum_odd_f32(x: f32, y: f32) -> f32 {
    let sum = x + y;
    let virtual_y = sum - x;
    let error = (x - (sum - virtual_y)) + (y - virtual_y);
    let bits = sum.to_bits();
    let even = 1 - (bits & 1);
    // With an infinity the error is NaN and both comparisons fail.
    let outward = f32::from_bits(error.to_bits() ^ bits & 0x8000_0000);
    let (up, down) = (u32::from(outward > 0.0), u32::from(outward < 0.0));
    f32::from_bits(bits.wrapping_add(up & even).wrapping_sub(down & even))
}

/// `neg`
#[inline(always)]
pub fn neg(kind: Half, a: u16, ftz: bool) -> u16 {
    (if ftz { kind.flush(a) } else { a }) ^ 0x8000
}

/// `abs`
#[inline(always)]
pub fn abs(kind: Half, a: u16, ftz: bool) -> u16 {
    (if ftz { kind.flush(a) } else { a }) & 0x7fff
}

/// The modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pick {
    /// `.ftz`: subnormal operands and results become zero.
    pub ftz: bool,
    /// `.NaN`: the result is NaN if any operand is, not only if both are.
    pub nan: bool,
    /// `.xorsign.abs`: of the magnitudes, with the product of the signs.
    pub xorsign: bool,
}

#[inline(always)]
fn pick(kind: Half, a: u16, b: u16, with: Pick, larger: bool) -> u16 {
    let (a, b) = if with.ftz { (kind.flush(a), kind.flush(b)) } else { (a, b) };
    let sign = (a ^ b) & 0x8000;
    let (a, b) = if with.xorsign { (a & 0x7fff, b & 0x7fff) } else { (a, b) };
    // As signed integers with the magnitude of negative numbers inverted, floats are in order, -0 < +0.
    let key = |x: u16| x as i16 ^ ((x as i16 >> 15) & 0x7fff);
    let best = if (key(a) > key(b)) == larger { a } else { b };
    let (nan_a, nan_b) = (kind.is_nan(a), kind.is_nan(b));
    let best = if nan_a { b } else { best };
    let best = if nan_b { a } else { best };
    let best = if with.xorsign { best | sign } else { best };
    if (nan_a && nan_b) || (with.nan && (nan_a || nan_b)) { NAN_HALF } else { best }
}

/// `min`
#[inline(always)]
pub fn min(kind: Half, a: u16, b: u16, with: Pick) -> u16 {
    pick(kind, a, b, with, false)
}

/// `max`
#[inline(always)]
pub fn max(kind: Half, a: u16, b: u16, with: Pick) -> u16 {
    pick(kind, a, b, with, true)
}
