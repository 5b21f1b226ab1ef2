//! `min` and `max` of f32 and f64 with the NaN rules of PTX.

use super::float::{canonical, flush};
pub use super::half_math::Pick;

#[inline(always)]
fn pick(a: f32, b: f32, with: Pick, larger: bool) -> f32 {
    let (a, b) = if with.ftz { (flush(a), flush(b)) } else { (a, b) };
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let (a, b) = if with.xorsign { (a.abs(), b.abs()) } else { (a, b) };
    // As signed integers with the magnitude of negative numbers inverted, floats are in order, -0 < +0.
    let key = |x: f32| x.to_bits() as i32 ^ ((x.to_bits() as i32 >> 31) & 0x7fff_ffff);
    let best = if (key(a) > key(b)) == larger { a } else { b };
    let best = if a.is_nan() { b } else { best };
    let best = if b.is_nan() { a } else { best };
    let best = if with.xorsign { f32::from_bits(best.to_bits() | sign) } else { best };
    let any = with.nan && (a.is_nan() || b.is_nan());
    canonical(if any { f32::NAN } else { best })
}

/// `min{.ftz}{.NaN}{.xorsign.abs}.f32`
#[inline(always)]
pub fn min(a: f32, b: f32, with: Pick) -> f32 {
    pick(a, b, with, false)
}

/// `max{.ftz}{.NaN}{.xorsign.abs}.f32`
#[inline(always)]
pub fn max(a: f32, b: f32, with: Pick) -> f32 {
    pick(a, b, with, true)
}

#[inline(always)]
fn pick_f64(a: f64, b: f64, larger: bool) -> f64 {
    let key = |x: f64| x.to_bits() as i64 ^ ((x.to_bits() as i64 >> 63) & i64::MAX);
    let best = if (key(a) > key(b)) == larger { a } else { b };
    let best = if a.is_nan() { b } else { best };
    if b.is_nan() { a } else { best }
}

/// `min.f64`
#[inline(always)]
pub fn min_f64(a: f64, b: f64) -> f64 {
    pick_f64(a, b, false)
}

/// `max.f64`
#[inline(always)]
pub fn max_f64(a: f64, b: f64) -> f64 {
    pick_f64(a, b, true)
}
