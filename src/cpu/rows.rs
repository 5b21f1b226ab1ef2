//! Loops over whole rows, to be called inside [`vectorize`](super::math::vectorize).
//!
//! Each takes its rows as arguments: that tells the compiler that they do not overlap, without which loops
//! over several rows stay scalar.

use super::math::{LANES, sigmoid};
use crate::elem::Elem;

/// `to = from`, in f32.
#[inline(always)]
pub(crate) fn widen<T: Elem>(from: &[T], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t = f.to_f32());
}

/// `to = from`, rounded.
#[inline(always)]
pub(crate) fn narrow<T: Elem>(from: &[f32], to: &mut [T]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t = T::from_f32(f));
}

/// `c = sum` or `c += sum`, rounded once.
#[inline(always)]
pub(crate) fn store<C: Elem>(c: &mut C, sum: f32, accumulate: bool) {
    *c = C::from_f32(if accumulate { c.to_f32() + sum } else { sum });
}

/// `sum += row`.
#[inline(always)]
pub(crate) fn add(row: &[f32], sum: &mut [f32]) {
    sum.iter_mut().zip(row).for_each(|(s, r)| *s += r);
}

/// `h = w silu(gate) up`.
#[inline(always)]
pub(crate) fn swiglu<T: Elem, H: Elem>(w: f32, gate: &[T], up: &[T], h: &mut [H]) {
    let (gate, up) = (&gate[..h.len()], &up[..h.len()]);
    for (j, h) in h.iter_mut().enumerate() {
        let g = gate[j].to_f32();
        *h = H::from_f32(w * (g * sigmoid(g) * up[j].to_f32()));
    }
}

/// Backward of [`swiglu`] in place: `gate` and `up` become their gradients, `dh` becomes `h`. Returns the
/// gradient of `w`, `<dh, silu(gate) up>`.
#[inline(always)]
pub(crate) fn swiglu_backward<T: Elem>(w: f32, gate: &mut [T], up: &mut [T], dh: &mut [T]) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = gate.len() / LANES * LANES;
    let (gate, gate_rest) = gate.split_at_mut(whole);
    let (up, up_rest) = up.split_at_mut(whole);
    let (dh, dh_rest) = dh.split_at_mut(whole);
    let chunks = gate.chunks_exact_mut(LANES).zip(up.chunks_exact_mut(LANES)).zip(dh.chunks_exact_mut(LANES));
    for ((gate, up), dh) in chunks {
        swiglu_backward_lanes(w, gate, up, dh, &mut lanes);
    }
    swiglu_backward_lanes(w, gate_rest, up_rest, dh_rest, &mut lanes);
    lanes.iter().sum()
}

/// Up to [`LANES`] elements of [`swiglu_backward`].
#[inline(always)]
fn swiglu_backward_lanes<T: Elem>(
    w: f32,
    gate: &mut [T],
    up: &mut [T],
    dh: &mut [T],
    lanes: &mut [f32; LANES],
) {
    // Through arrays: every load happens before any store, so the loop is one vector wide.
    let (mut g, mut u, mut d) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    widen(gate, &mut g);
    widen(up, &mut u);
    widen(dh, &mut d);
    let (mut dg, mut du, mut h) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    for l in 0..LANES {
        let s = sigmoid(g[l]);
        let silu = g[l] * s;
        let wd = w * d[l];
        lanes[l] += d[l] * (silu * u[l]);
        dg[l] = wd * u[l] * (s + silu * (1.0 - s));
        du[l] = wd * silu;
        h[l] = w * (silu * u[l]);
    }
    narrow(&dg, gate);
    narrow(&du, up);
    narrow(&h, dh);
}
