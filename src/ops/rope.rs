//! Rotary position embedding.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::vectorize;
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Kernel, RopeParams, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::ViewMut;

/// Rows per task.
const ROWS: usize = 128;

#[cfg(feature = "cuda")]
const ROPE: Kernel = Kernel { image: &images::ROPE, name: "rope", tile: "moe_rope_launch" };

/// Rotates, in place, elements `i` and `i + head_dim / 2` of every head by the angle
/// `position theta^(-2 i / head_dim)`, where `position = row % seq` (the Hugging Face layout).
///
/// It is linear and orthogonal: the gradient is the same operation on `dy` with `inverse` set.
#[derive(Debug)]
pub struct Rope<'a, T> {
    /// `[batch * seq, heads * head_dim]`; queries and keys side by side count as `2 heads`.
    pub x: ViewMut<'a, T, 2>,
    /// Number of heads in a row.
    pub heads: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// Base of the wavelengths, usually 10,000; finite and above 0.
    pub theta: f32,
    /// Rotate by the opposite angle.
    pub inverse: bool,
}

impl<T: Elem> Op for Rope<'_, T> {
    const NAME: &'static str = "rope";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: x);
    }

    fn check(&self) -> Result<()> {
        let (x, heads, seq, theta) = (self.x.shape(), self.heads, self.seq, self.theta);
        ensure!(Self::NAME, heads >= 1, heads = heads);
        ensure!(Self::NAME, x[1] % heads == 0, x = x, heads = heads);
        ensure!(Self::NAME, x[1] / heads % 2 == 0, x = x, heads = heads);
        ensure!(Self::NAME, seq >= 1, seq = seq);
        ensure!(Self::NAME, x[0] % seq == 0, x = x, seq = seq);
        ensure!(Self::NAME, theta > 0.0 && theta.is_finite(), theta = theta);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.x.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        (2 * self.x.dim(0) * self.x.dim(1) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let (head_dim, seq) = (self.x.dim(1) / self.heads, self.seq);
        let half = head_dim / 2;
        let turns = turns(seq, head_dim, self.theta, self.inverse);
        let rows = bounds(self.x.dim(0), ROWS);
        self.x.cut(0, &rows).into_par_iter().zip(rows.par_windows(2)).for_each_part(|(mut band, rows)| {
            vectorize!(|| {
                for p in rows[0]..rows[1] {
                    let (cos, sin) = turns[p % seq * head_dim..][..head_dim].split_at(half);
                    for head in band.row_mut(p - rows[0]).chunks_exact_mut(head_dim) {
                        rotate(head, cos, sin);
                    }
                }
            });
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, width] = self.x.shape();
        let head_dim = width / self.heads;
        let params = RopeParams {
            x: self.x.address(),
            x_stride: self.x.stride(0),
            ratio: f64::from(self.theta).powf(-2.0 / head_dim as f64),
            rows: rows as u32,
            seq: self.seq as u32,
            heads: self.heads as u32,
            half: (head_dim / 2) as u32,
            inverse: u32::from(self.inverse),
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.over_rows(ROPE, T::DTYPE, [rows, width], &params) }
    }
}

/// Rotates a head by the angles of its position.
#[inline(always)]
pub(super) fn rotate<T: Elem>(head: &mut [T], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x, y) = (a.to_f32(), b.to_f32());
        *a = T::from_f32(x * cos - y * sin);
        *b = T::from_f32(y * cos + x * sin);
    }
}

/// Cosines and sines of the angles of one position.
pub(super) fn turn(position: usize, head_dim: usize, theta: f32) -> [Vec<f32>; 2] {
    let angle = |i: usize| position as f64 * f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
    let part = |of: fn(f64) -> f64| (0..head_dim / 2).map(|i| of(angle(i)) as f32).collect();
    [part(f64::cos), part(f64::sin)]
}

/// For every position the cosines, then the sines, of its angles: `[seq, head_dim]`.
///
/// Each position turns the one before by one step, in f64: the error grows by 2^-53 a position, so it
/// stays below f32 rounding for millions of them, at a hundredth of the cost of `sin_cos`.
fn turns(seq: usize, head_dim: usize, theta: f32, inverse: bool) -> Vec<f32> {
    let half = head_dim / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
    let steps: Vec<(f64, f64)> = (0..half).map(|i| (sign * frequency(i)).sin_cos()).collect();
    let mut turn = vec![(0f64, 1f64); half];
    let mut table = vec![0f32; seq * head_dim];
    for row in table.chunks_exact_mut(head_dim) {
        let (cos, sin) = row.split_at_mut(half);
        for (((c, s), turn), step) in cos.iter_mut().zip(sin).zip(&mut turn).zip(&steps) {
            (*s, *c) = (turn.0 as f32, turn.1 as f32);
            *turn = (turn.0 * step.1 + turn.1 * step.0, turn.1 * step.1 - turn.0 * step.0);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_turn_is_that_of_the_table() {
        let (seq, head_dim) = (2000, 12);
        let table = turns(seq, head_dim, 500.0, false);
        for (p, row) in table.chunks_exact(head_dim).enumerate() {
            let turn = turn(p, head_dim, 500.0).concat();
            assert!(turn.iter().zip(row).all(|(a, b)| (a - b).abs() <= 6e-8), "position {p}");
        }
    }

    #[test]
    fn turns_stay_exact_over_long_sequences() {
        let (seq, head_dim, theta) = (100_000, 8, 10_000f32);
        let table = turns(seq, head_dim, theta, true);
        for (p, i) in [0, 1, 1000, seq - 1].into_iter().flat_map(|p| (0..4).map(move |i| (p, i))) {
            let angle = -(p as f64) * f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
            let (cos, sin) = (table[p * head_dim + i], table[p * head_dim + 4 + i]);
            assert!((f64::from(cos) - angle.cos()).abs() < 6e-8, "cos of position {p}, frequency {i}");
            assert!((f64::from(sin) - angle.sin()).abs() < 6e-8, "sin of position {p}, frequency {i}");
        }
    }
}
