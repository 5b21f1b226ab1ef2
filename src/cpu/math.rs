//! Vector arithmetic that the compiler turns into SIMD code.
//!
//! [`simd`] compiles its closure once for each instruction set (AVX-512, AVX2, baseline) and calls the best
//! one. Loops inside are plain Rust without fused multiply-adds, and sums run in [`LANES`] fixed lanes, so
//! the bits do not depend on which one was chosen.

use crate::elem::Elem;

/// Number of independent partial sums of a reduction.
pub(crate) const LANES: usize = 16;

/// Runs `work` compiled for the best instruction set of this processor.
#[inline(always)]
pub(crate) fn simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// [`simd`] that is sure to reach the loops: `vectorize!(|| work)`.
///
/// The instruction set is that of the function the loops end up in, and a large closure is called instead
/// of inlined unless it insists: the loops would then be compiled for the baseline.
macro_rules! vectorize {
    (|| $work:expr) => {
        $crate::cpu::math::simd(
            #[inline(always)]
            || $work,
        )
    };
}
pub(crate) use vectorize;

/// e^x with a relative error below 2e-7; 0 below -87.3, infinity above 88.7, NaN for NaN.
///
/// Cody-Waite reduction to [-ln2/2, ln2/2] and the degree-6 polynomial of Cephes `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
    let clamped = if x > 88.72 { 88.72 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // Two factors, because 2^128 alone does not fit an f32 though the product may.
    let bits = shifted.to_bits() as i32 - SHIFT.to_bits() as i32;
    let half = bits >> 1;
    let pow2 = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
    let y = y * pow2(half) * pow2(bits - half);
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.72 { f32::INFINITY } else { y }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum of `f(i)` for `i` in `0..len`, in fixed lanes.
#[inline(always)]
pub(crate) fn sum_by(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = len / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
        i += LANES;
    }
    for i in whole..len {
        lanes[i - whole] += f(i);
    }
    lanes.iter().sum()
}

/// Dot product in f32.
#[inline(always)]
pub(crate) fn dot<A: Elem, B: Elem>(a: &[A], b: &[B]) -> f32 {
    let b = &b[..a.len()];
    sum_by(a.len(), |i| a[i].to_f32() * b[i].to_f32())
}

/// Largest value, NaN ignored; -infinity when there is none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    for (i, &v) in chunks.remainder().iter().enumerate() {
        lanes[i] = if v > lanes[i] { v } else { lanes[i] };
    }
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut worst = 0f64;
        for i in 0..=1_000_000 {
            let x = -87.0 + 175.5 * (i as f32 / 1e6);
            let want = (x as f64).exp();
            worst = worst.max((exp(x) as f64 / want - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_ragged_lengths() {
        for len in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i % 7) as f32 - 3.0).collect();
            assert_eq!(sum_by(len, |i| x[i]), x.iter().sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(simd(|| dot(&x, &x)), x.iter().map(|v| v * v).sum::<f32>());
        }
        assert_eq!(max(&[f32::NAN, 1.0]), 1.0);
    }
}
