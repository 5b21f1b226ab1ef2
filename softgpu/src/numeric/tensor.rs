//! Tensor cores as they compute: matrix multiply-accumulate in blocks of fused products.
//!
//! A tensor core adds the products of one block and the accumulator at once. It aligns all of them to the
//! largest exponent among them, keeps `23 + extra_bits` bits of fraction of each (the rest is cut off), adds
//! exactly, and cuts the sum to f32. The exponent of a product is the sum of its factors' exponents: neither
//! products nor subnormal factors are normalised. Longer dot products are chains of blocks. For f16 and bf16
//! into f32 this reproduces recorded outputs of A100 and H100 bit for bit; Ada is taken for an A100, and tf32
//! and f16 accumulators (rounded to the nearest after each block) follow the published models of those chips
//! without recordings to hold them against.
//!
//! Operands are decoded once ([`Fragment`]), as a significand in f32 and an exponent. A product of two
//! significands is exact in f32, scaling it by a power of two too, and the conversion to an integer cuts off
//! what the hardware cuts off: four instructions a product, for eight columns at a time.

use super::float::canonical;
use super::half::{f16_to_f32, f32_to_f16, f64_to_f32_odd};

/// Columns of B that are computed at once: `n` of the smallest instruction.
pub const COLUMNS: usize = 8;

/// Exponent of a zero: far below those of numbers, so that it never is the largest.
const ZERO_EXPONENT: i32 = -1000;

/// Chips whose tensor cores differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chip {
    /// A100 (sm_80), also taken for sm_86 and sm_89.
    Ampere,
    /// H100 (sm_90).
    Hopper,
}

/// Formats of floating-point operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.tf32`
    Tf32,
}

/// Rows or columns of a floating-point operand, decoded: A as rows of `k`, B as `k` rows of [`COLUMNS`].
#[derive(Clone, Debug)]
pub struct Fragment<const R: usize, const C: usize> {
    significand: [[f32; C]; R],
    exponent: [[i32; C]; R],
    input: Input,
    /// Whether every significand is finite; each is then below 2 in magnitude.
    finite: bool,
}

impl<const R: usize, const C: usize> Fragment<R, C> {
    /// Decodes f16.
    #[inline(always)]
    pub fn from_f16(bits: &[[u16; C]; R]) -> Self {
        Self::new(Input::F16, |r, c| {
            let x = u32::from(bits[r][c]);
            (x >> 15 << 31, x >> 10 & 31, (x & 0x3ff) << 13)
        })
    }

    /// Decodes bf16.
    #[inline(always)]
    pub fn from_bf16(bits: &[[u16; C]; R]) -> Self {
        Self::new(Input::Bf16, |r, c| {
            let x = u32::from(bits[r][c]);
            (x >> 15 << 31, x >> 7 & 255, (x & 0x7f) << 16)
        })
    }

    /// Decodes tf32: the 13 low bits of each register are ignored.
    #[inline(always)]
    pub fn from_tf32(bits: &[[u32; C]; R]) -> Self {
        Self::new(Input::Tf32, |r, c| {
            let x = bits[r][c];
            (x >> 31 << 31, x >> 23 & 255, x & 0x7f_e000)
        })
    }

    /// `fields` gives sign (bit 31), exponent field and fraction (23 bits) of an element.
    #[inline(always)]
    fn new(input: Input, fields: impl Fn(usize, usize) -> (u32, u32, u32)) -> Self {
        let top = if input == Input::F16 { 31 } else { 255 };
        let bias = (top >> 1) as i32;
        let mut it =
            Fragment { significand: [[0.0; C]; R], exponent: [[ZERO_EXPONENT; C]; R], input, finite: true };
        let mut special = 0;
        for r in 0..R {
            for c in 0..C {
                let (sign, field, fraction) = fields(r, c);
                let normal = f32::from_bits(0x3f80_0000 | fraction);
                let magnitude = if field == 0 { normal - 1.0 } else { normal };
                let infinite = f32::from_bits(0x7f80_0000 | fraction);
                let magnitude = if field == top { infinite } else { magnitude };
                it.significand[r][c] = f32::from_bits(magnitude.to_bits() | sign);
                let exponent = (field as i32).max(1) - bias;
                it.exponent[r][c] = if field | fraction == 0 { ZERO_EXPONENT } else { exponent };
                special |= u32::from(field == top);
            }
        }
        it.finite = special == 0;
        it
    }

    /// The same with zeros in place of infinities and NaNs.
    fn finite_part(&self) -> Self {
        let mut it = self.clone();
        for r in 0..R {
            for c in 0..C {
                if !it.significand[r][c].is_finite() {
                    (it.significand[r][c], it.exponent[r][c]) = (0.0, ZERO_EXPONENT);
                }
            }
        }
        it.finite = true;
        it
    }
}

/// `accumulator += a * b` as `chip` does it, accumulators in f32.
///
/// Inline it into a function compiled for the SIMD level of the host.
#[inline(always)]
pub fn mma_f32<const M: usize, const K: usize>(
    chip: Chip,
    a: &Fragment<M, K>,
    b: &Fragment<K, COLUMNS>,
    accumulator: &mut [[f32; COLUMNS]; M],
) {
    mma::<M, K, false>(chip, a, b, accumulator);
}

/// `accumulator += a * b` as `chip` does it, accumulators in f16 (no recorded output confirms this one).
///
/// Inline it into a function compiled for the SIMD level of the host.
#[inline(always)]
pub fn mma_f16<const M: usize, const K: usize>(
    chip: Chip,
    a: &Fragment<M, K>,
    b: &Fragment<K, COLUMNS>,
    accumulator: &mut [[u16; COLUMNS]; M],
) {
    let mut wide = accumulator.map(|row| row.map(f16_to_f32));
    mma::<M, K, true>(chip, a, b, &mut wide);
    *accumulator = wide.map(|row| row.map(f32_to_f16));
}

/// `accumulator += a * b` of `.f64`: fused multiply-adds in the order of k.
#[inline(always)]
pub fn mma_f64<const M: usize, const K: usize>(
    a: &[[f64; K]; M],
    b: &[[f64; COLUMNS]; K],
    accumulator: &mut [[f64; COLUMNS]; M],
) {
    for (row, sums) in a.iter().zip(accumulator) {
        for (x, ys) in row.iter().zip(b) {
            for (y, sum) in ys.iter().zip(sums.iter_mut()) {
                *sum = x.mul_add(*y, *sum);
            }
        }
    }
}

#[inline(always)]
fn mma<const M: usize, const K: usize, const HALF: bool>(
    chip: Chip,
    a: &Fragment<M, K>,
    b: &Fragment<K, COLUMNS>,
    accumulator: &mut [[f32; COLUMNS]; M],
) {
    match (chip, a.input == Input::Tf32) {
        (Chip::Ampere, true) => rows::<M, K, 4, 1, HALF>(a, b, accumulator),
        (Chip::Ampere, false) => rows::<M, K, 8, 1, HALF>(a, b, accumulator),
        (Chip::Hopper, true) => rows::<M, K, 8, 2, HALF>(a, b, accumulator),
        (Chip::Hopper, false) => rows::<M, K, 16, 2, HALF>(a, b, accumulator),
    }
}

#[inline(always)]
fn rows<const M: usize, const K: usize, const BLOCK: usize, const EXTRA: i32, const HALF: bool>(
    a: &Fragment<M, K>,
    b: &Fragment<K, COLUMNS>,
    accumulator: &mut [[f32; COLUMNS]; M],
) {
    if !(a.finite && b.finite) {
        return rows_with_specials::<M, K, BLOCK, EXTRA, HALF>(a, b, accumulator);
    }
    for start in (0..K).step_by(BLOCK) {
        block::<M, K, BLOCK, EXTRA, HALF>(a, b, start, accumulator);
    }
}

/// One block: `c += sum of a[..][k] * b[k]` for `k` from `start`. All operands are finite.
#[inline(always)]
fn block<const M: usize, const K: usize, const BLOCK: usize, const EXTRA: i32, const HALF: bool>(
    a: &Fragment<M, K>,
    b: &Fragment<K, COLUMNS>,
    start: usize,
    c: &mut [[f32; COLUMNS]; M],
) {
    debug_assert!(a.finite && b.finite);
    // Integers here wrap in form only: exponents are small, and checks would keep the loops of debug builds
    // from vectorising.
    let fraction_bits = 23 + EXTRA;
    let ks = start..(start + BLOCK).min(K);

    let mut largest = [[0; COLUMNS]; M];
    for (largest, c) in largest.as_flattened_mut().iter_mut().zip(c.as_flattened()) {
        *largest = exponent_of(*c).max(-131 - EXTRA);
    }
    // Sums of eight terms below 2^(25 + EXTRA), and the accumulator in one of them, fit 32 bits.
    let mut sums = [[[0i32; COLUMNS]; M]; 2];
    for m in 0..M {
        let row = &mut largest[m];
        for k in ks.clone() {
            for (largest, exponent) in row.iter_mut().zip(b.exponent[k]) {
                *largest = (*largest).max(a.exponent[m][k].wrapping_add(exponent));
            }
        }
        for k in ks.clone() {
            let sums = &mut sums[(k - start) / 8 % 2][m];
            for n in 0..COLUMNS {
                // Below 2^-60 of the largest nothing is left; the bound keeps the scale a normal number.
                let exponent = a.exponent[m][k].wrapping_add(b.exponent[k][n]);
                let down = exponent.wrapping_sub(row[n]).max(-60);
                let scale = f32::from_bits((down.wrapping_add(fraction_bits + 127) as u32) << 23);
                let term = a.significand[m][k] * b.significand[k][n] * scale;
                // SAFETY: significands are finite and below 2, `down` is at most 0: |term| < 2^(25 + EXTRA).
                sums[n] = sums[n].wrapping_add(unsafe { term.to_int_unchecked::<i32>() });
            }
        }
    }
    let [low, high] = &sums;
    let sums = low.as_flattened().iter().zip(high.as_flattened());
    for ((c, largest), (low, high)) in c.as_flattened_mut().iter_mut().zip(largest.as_flattened()).zip(sums) {
        let unit = largest.wrapping_sub(fraction_bits);
        let finite = c.is_finite();
        let old = if finite { *c } else { 0.0 } as f64 * power_of_two(unit.wrapping_neg());
        // SAFETY: finite, and its exponent is at most the largest: below 2^(24 + EXTRA).
        let old: i32 = unsafe { old.to_int_unchecked() };
        let sum = (low.wrapping_add(old) as f64 + *high as f64) * power_of_two(unit);
        let new = if HALF { nearest_f16(sum) } else { cut_to_f32(sum) };
        *c = if finite { new } else { canonical(*c) };
    }
}

/// Exponent of an accumulator; that of a zero where it is no number.
#[inline(always)]
fn exponent_of(c: f32) -> i32 {
    let magnitude = c.to_bits() & 0x7fff_ffff;
    let exponent = ((magnitude >> 23) as i32).max(1) - 127;
    if magnitude == 0 || magnitude >= 0x7f80_0000 { ZERO_EXPONENT } else { exponent }
}

/// [`rows`] where an operand is infinite or NaN: blocks of the finite products, then what the others make
/// of their sums.
#[cold]
fn rows_with_specials<
    const M: usize,
    const K: usize,
    const BLOCK: usize,
    const EXTRA: i32,
    const HALF: bool,
>(
    a: &Fragment<M, K>,
    b: &Fragment<K, COLUMNS>,
    accumulator: &mut [[f32; COLUMNS]; M],
) {
    let (x, y) = (a.finite_part(), b.finite_part());
    for start in (0..K).step_by(BLOCK) {
        let old = *accumulator;
        block::<M, K, BLOCK, EXTRA, HALF>(&x, &y, start, accumulator);
        let ks = start..(start + BLOCK).min(K);
        for (m, sums) in accumulator.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                // Significands stand for their numbers: inf * 0 and inf - inf are NaN, inf * x is inf.
                let products = ks.clone().map(|k| a.significand[m][k] * b.significand[k][n]);
                let special: f32 = products.chain([old[m][n]]).filter(|x| !x.is_finite()).sum();
                if special != 0.0 {
                    *sum = canonical(special);
                }
            }
        }
    }
}

/// `2^e` for exponents of normal doubles.
#[inline(always)]
fn power_of_two(e: i32) -> f64 {
    f64::from_bits((e.wrapping_add(1023) as u64) << 52)
}

/// `x` cut to the bits of an f32; beyond its range infinity.
#[inline(always)]
fn cut_to_f32(x: f64) -> f32 {
    // With 24 bits left the conversion is exact, save among the subnormals.
    let cut = f64::from_bits(x.to_bits() & !((1 << 29) - 1));
    let near = cut as f32;
    let away = near.abs() as f64 > cut.abs() && near.abs() <= f32::MIN_POSITIVE;
    f32::from_bits(near.to_bits().wrapping_sub(away as u32))
}

/// `x` rounded to the nearest f16, as an f32.
#[inline(always)]
fn nearest_f16(x: f64) -> f32 {
    f16_to_f32(f32_to_f16(f64_to_f32_odd(x)))
}
