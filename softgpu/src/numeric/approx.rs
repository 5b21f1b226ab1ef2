//! The `.approx` instructions, modelled as the correctly rounded result.
//!
//! Hardware tabulates these functions and differs from the correct rounding by 1 or 2 units in the last
//! place in many inputs. The special cases are those of the PTX manual. What a kernel computes here is thus
//! within the documented bounds of what it computes on a GPU, not equal to it.

use super::float::{canonical, flush};
use super::half::{Half, f64_to_f32_odd};

#[inline(always)]
fn operand(x: f32, ftz: bool) -> f32 {
    if ftz { flush(x) } else { x }
}

#[inline(always)]
fn finish(x: f64, ftz: bool) -> f32 {
    let x = canonical(x as f32);
    if ftz { flush(x) } else { x }
}

/// `2^x` to within an ulp or two of f64, for `x` from -1074 + 52 on; above 1023 infinity.
#[inline(always)]
fn exp2(x: f64) -> f64 {
    // ln(2)^n / n!
    #[allow(clippy::approx_constant)] // the second is ln(2), as the series has it
    const SERIES: [f64; 14] = [
        1.0,
        0.6931471805599453,
        0.24022650695910072,
        0.05550410866482158,
        0.009618129107628477,
        0.0013333558146428443,
        0.0001540353039338161,
        1.5252733804059841e-05,
        1.321548679014431e-06,
        1.01780860092397e-07,
        7.054911620801123e-09,
        4.4455382718708116e-10,
        2.5678435993488206e-11,
        1.3691488853904128e-12,
    ];
    // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
    const MAGIC: f64 = 6755399441055744.0;
    let clamped = if x > 1000.0 { 1000.0 } else { x };
    let clamped = if clamped < -1000.0 { -1000.0 } else { clamped };
    let shifted = clamped + MAGIC;
    let fraction = clamped - (shifted - MAGIC);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let mut sum = 0.0;
    for n in 0..SERIES.len() {
        sum = sum * fraction + SERIES[SERIES.len() - 1 - n];
    }
    sum * power
}

/// `log2(x)` to within an ulp or two of f64, for positive normal `x`.
#[inline(always)]
fn log2(x: f64) -> f64 {
    // 2 / ln(2) / (2 n + 1)
    const SERIES: [f64; 12] = [
        2.8853900817779268,
        0.9617966939259756,
        0.5770780163555853,
        0.4121985831111324,
        0.3205988979753252,
        0.2623082891925388,
        0.22195308321368667,
        0.19235933878519512,
        0.16972882833987804,
        0.15186263588304877,
        0.1373995277037108,
        0.12545174268599682,
    ];
    let bits = x.to_bits();
    let fraction = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let high = fraction > std::f64::consts::SQRT_2;
    let fraction = if high { fraction * 0.5 } else { fraction };
    // The exponent field in the low bits of 2^52, less 2^52 and the bias.
    let exponent = f64::from_bits(0x4330 << 48 | bits >> 52) - (4503599627370496.0 + 1023.0);
    let exponent = if high { exponent + 1.0 } else { exponent };
    let s = (fraction - 1.0) / (fraction + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for n in 0..SERIES.len() {
        sum = sum * square + SERIES[SERIES.len() - 1 - n];
    }
    exponent + s * sum
}

/// `tanh(x)` to within some ulps of f64.
#[inline(always)]
fn tanh(x: f64) -> f64 {
    // Taylor series in x^2.
    const SERIES: [f64; 12] = [
        1.0,
        -0.3333333333333333,
        0.13333333333333333,
        -0.05396825396825397,
        0.021869488536155203,
        -0.008863235529902197,
        0.003592128036572481,
        -0.0014558343870513183,
        0.000590027440945586,
        -0.00023912911424355248,
        9.691537956929451e-05,
        -3.927832388331683e-05,
    ];
    let magnitude = x.abs();
    let square = x * x;
    let mut sum = 0.0;
    for n in 0..SERIES.len() {
        sum = sum * square + SERIES[SERIES.len() - 1 - n];
    }
    let far = 1.0 - 2.0 / (exp2(magnitude * (2.0 * std::f64::consts::LOG2_E)) + 1.0);
    let value = if magnitude < 0.25 { x * sum } else { far.copysign(x) };
    if x.is_nan() { x } else { value }
}

/// `2^x` of any f32 in f64.
#[inline(always)]
fn exp2_of(x: f32) -> f64 {
    let value = exp2(x as f64);
    if x.is_nan() { f64::NAN } else { value }
}

/// `ex2.approx{.ftz}.f32`
#[inline(always)]
pub fn ex2(x: f32, ftz: bool) -> f32 {
    finish(exp2_of(operand(x, ftz)), ftz)
}

/// `lg2.approx{.ftz}.f32`
#[inline(always)]
pub fn lg2(x: f32, ftz: bool) -> f32 {
    let x = operand(x, ftz);
    let value = log2(x as f64);
    let value = if x == 0.0 { f64::NEG_INFINITY } else { value };
    let value = if x == f32::INFINITY { f64::INFINITY } else { value };
    finish(if x >= 0.0 { value } else { f64::NAN }, ftz)
}

/// `tanh.approx.f32`
#[inline(always)]
pub fn tanh_f32(x: f32) -> f32 {
    finish(tanh(x as f64), false)
}

/// `sin.approx{.ftz}.f32`
#[inline(always)]
pub fn sin(x: f32, ftz: bool) -> f32 {
    finish((operand(x, ftz) as f64).sin(), ftz)
}

/// `cos.approx{.ftz}.f32`
#[inline(always)]
pub fn cos(x: f32, ftz: bool) -> f32 {
    finish((operand(x, ftz) as f64).cos(), ftz)
}

/// `rcp.approx{.ftz}.f32`
#[inline(always)]
pub fn rcp(x: f32, ftz: bool) -> f32 {
    let value = canonical(1.0 / operand(x, ftz));
    if ftz { flush(value) } else { value }
}

/// `rsqrt.approx{.ftz}.f32`
#[inline(always)]
pub fn rsqrt(x: f32, ftz: bool) -> f32 {
    finish(1.0 / (operand(x, ftz) as f64).sqrt(), ftz)
}

/// `sqrt.approx{.ftz}.f32`
#[inline(always)]
pub fn sqrt(x: f32, ftz: bool) -> f32 {
    canonical(operand(x, ftz).sqrt())
}

/// `div.full{.ftz}.f32`
#[inline(always)]
pub fn div_full(a: f32, b: f32, ftz: bool) -> f32 {
    let value = canonical(operand(a, ftz) / operand(b, ftz));
    if ftz { flush(value) } else { value }
}

/// `div.approx{.ftz}.f32`: `a * (1 / b)`, whose reciprocal is flushed to zero for `|b|` above 2^126.
#[inline(always)]
pub fn div(a: f32, b: f32, ftz: bool) -> f32 {
    let huge = b.abs() > f32::from_bits(253 << 23) && b.is_finite();
    let lost = canonical(a * 0.0f32.copysign(b));
    let value = div_full(a, b, ftz);
    if huge { lost } else { value }
}

/// `rcp.approx.ftz.f64`: only the upper 32 bits of the operand count, those of the result's lower are zero.
#[inline(always)]
pub fn rcp_f64(x: f64) -> f64 {
    upper(1.0 / flush_f64(upper(x)))
}

/// `rsqrt.approx.ftz.f64`: only the upper 32 bits of the operand count, those of the result's lower are zero.
#[inline(always)]
pub fn rsqrt_f64_ftz(x: f64) -> f64 {
    upper(1.0 / flush_f64(upper(x)).sqrt())
}

/// `rsqrt.approx.f64`
#[inline(always)]
pub fn rsqrt_f64(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// A double without the lower half of its bits; a NaN becomes canonical, a subnormal result zero.
#[inline(always)]
fn upper(x: f64) -> f64 {
    if x.is_nan() {
        f64::from_bits(0x7fff_ffff << 32)
    } else {
        flush_f64(f64::from_bits(x.to_bits() & !0xffff_ffff))
    }
}

#[inline(always)]
fn flush_f64(x: f64) -> f64 {
    if x.abs() < f64::MIN_POSITIVE { 0.0f64.copysign(x) } else { x }
}

#[inline(always)]
fn finish_half(kind: Half, x: f64, ftz: bool) -> u16 {
    let bits = kind.nearest(f64_to_f32_odd(x));
    if ftz { kind.flush(bits) } else { bits }
}

/// `ex2.approx{.ftz}` of f16 or bf16 (bf16: always `.ftz`).
#[inline(always)]
pub fn ex2_half(kind: Half, x: u16, ftz: bool) -> u16 {
    let x = if ftz { kind.flush(x) } else { x };
    finish_half(kind, exp2_of(kind.widen(x)), ftz)
}

/// `tanh.approx` of f16 or bf16.
#[inline(always)]
pub fn tanh_half(kind: Half, x: u16) -> u16 {
    finish_half(kind, tanh(kind.widen(x) as f64), false)
}
