//! Rounding by search: what each mode must give, from nothing but the values of a format.

use super::Random;

/// A format as the ordered list of its magnitudes: those of the ordinals below `infinity`.
#[derive(Clone, Copy)]
pub struct Format {
    pub infinity: u64,
    /// Distance of the sign bit from the lowest bit.
    pub sign: u32,
    pub value: fn(u64) -> f64,
}

pub const F16: Format =
    Format { infinity: 0x7c00, sign: 15, value: |x| half::f16::from_bits(x as u16).to_f64() };
pub const BF16: Format =
    Format { infinity: 0x7f80, sign: 15, value: |x| half::bf16::from_bits(x as u16).to_f64() };
pub const F32: Format =
    Format { infinity: 0x7f80_0000, sign: 31, value: |x| f32::from_bits(x as u32).into() };
/// An f32 without its 13 lowest bits.
pub const TF32: Format =
    Format { infinity: 0x7f80_0000 >> 13, sign: 18, value: |x| f32::from_bits((x as u32) << 13).into() };

/// `high + low` rounded, where `high` is that sum rounded to the nearest f64; of `low` only the sign counts.
pub fn round(format: Format, high: f64, low: f64, mode: &str) -> u64 {
    assert!(!high.is_nan());
    let negative = high.is_sign_negative();
    let sign = u64::from(negative) << format.sign;
    let (high, low) = if negative { (-high, -low) } else { (high, low) };
    if high.is_infinite() {
        return sign | format.infinity;
    }
    // The largest magnitude that is not above the number.
    let (mut at, mut end) = (0, format.infinity);
    while end - at > 1 {
        let middle = at + (end - at) / 2;
        let value = (format.value)(middle);
        if value < high || value == high && low >= 0.0 { at = middle } else { end = middle }
    }
    let below = (format.value)(at);
    if below == high && low == 0.0 {
        return sign | at;
    }
    // Beyond the largest number the next would be as far above it as the one before is below.
    let last = |n| (format.value)(format.infinity - n);
    let above = if at + 1 == format.infinity { 2.0 * last(1) - last(2) } else { (format.value)(at + 1) };
    let middle = (below + above) / 2.0;
    let beyond = high > middle || high == middle && low > 0.0;
    let tie = high == middle && low == 0.0;
    let up = match mode {
        "rn" => beyond || tie && at % 2 == 1,
        "rna" => beyond || tie,
        "rz" => false,
        "rm" => negative,
        "rp" => !negative,
        other => panic!("rounding mode {other}"),
    };
    sign | (at + u64::from(up))
}

/// `x + y` as a rounded sum and what is missing from it.
pub fn sum(x: f64, y: f64) -> (f64, f64) {
    let high = x + y;
    let part = high - x;
    (high, (x - (high - part)) + (y - part))
}

/// Sum rounded to a format. An exact zero of numbers with different signs is -0 for `.rm` alone.
pub fn round_sum(format: Format, x: f64, y: f64, mode: &str) -> u64 {
    let (high, low) = sum(x, y);
    let low = if high.is_infinite() { 0.0 } else { low };
    let cancelled = high == 0.0 && low == 0.0 && x.is_sign_negative() != y.is_sign_negative();
    round(format, if cancelled { if mode == "rm" { -0.0 } else { 0.0 } } else { high }, low, mode)
}

/// Numbers at which things go wrong, in a format of `exponent` and `fraction` bits: zeros, subnormal numbers,
/// the neighbours of powers of two, the largest ones, infinities and NaNs, of both signs.
pub fn edges(exponent: u32, fraction: u32) -> Vec<u64> {
    let one = ((1u64 << (exponent - 1)) - 1) << fraction;
    let infinity = ((1u64 << exponent) - 1) << fraction;
    let normal = 1u64 << fraction;
    let half = one - normal;
    let magnitudes = [
        0,
        1,
        2,
        3,
        normal - 1,
        normal,
        normal + 1,
        half,
        one - 1,
        one,
        one + 1,
        one + normal / 2,
        one + normal,
        one + normal * u64::from(fraction),
        one + normal * u64::from(fraction) + 1,
        infinity - normal,
        infinity - 1,
        infinity,
        infinity + 1,
        infinity + normal / 2,
        infinity + normal - 1,
    ];
    magnitudes.iter().flat_map(|m| [*m, m | 1 << (exponent + fraction)]).collect()
}

/// Random numbers of a format, half of them near 1, where sums and products meet.
pub fn random(seed: u64, count: usize, exponent: u32, fraction: u32) -> Vec<u64> {
    let mut random = Random::new(seed);
    let bias = (1u64 << (exponent - 1)) - 1;
    let one = |_| {
        let bits = random.next() >> (63 - exponent - fraction);
        let near = (bias - 3 + random.next() % 6) << fraction;
        let field = ((1u64 << exponent) - 1) << fraction;
        if random.next() & 1 == 0 { bits } else { bits & !field | near }
    };
    (0..count).map(one).collect()
}
