//! The norm of a gradient over all its tensors.

use rayon::prelude::*;

use super::Op;
use crate::cpu::math::{LANES, vectorize};
use crate::cpu::pieces;
use crate::error::{Result, ensure};
use crate::place::{Place, misplaced};
use crate::view::{View, ViewMut};

/// Elements per partial sum.
const CHUNK: usize = 1 << 15;

/// `norm = sqrt(sum of squares over all elements of all tensors)`, summed in f64.
///
/// Not finite exactly when an element is not, or when the norm itself is above the range of f32.
#[derive(Debug)]
pub struct GlobalNorm<'a> {
    /// Any number of tensors, each flat.
    pub grads: Vec<View<'a, f32, 1>>,
    /// `[1]`.
    pub norm: ViewMut<'a, f32, 1>,
}

impl Op for GlobalNorm<'_> {
    const NAME: &'static str = "global_norm";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: grads, norm)
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.norm.shape() == [1], norm = self.norm.shape());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // Without gradients the norm is still written: it is zero.
        false
    }

    fn flops(&self) -> u64 {
        2 * self.grads.iter().map(|g| g.dim(0) as u64).sum::<u64>()
    }

    fn bytes(&self) -> u64 {
        let elements: u64 = self.grads.iter().map(|g| g.dim(0) as u64).sum();
        (elements + 1) * size_of::<f32>() as u64
    }

    fn cpu(mut self) -> Result<()> {
        let chunks: Vec<&[f32]> = self
            .grads
            .iter()
            .flat_map(|grad| pieces(grad.dim(0), CHUNK).into_iter().map(|piece| &grad.as_slice()[piece]))
            .collect();
        let partial: Vec<f64> =
            chunks.into_par_iter().map(|chunk| vectorize!(|| sum_of_squares(chunk))).collect();
        let sum = partial.iter().fold(0.0, |sum, p| sum + p);
        self.norm.as_slice_mut()[0] = f64::sqrt(sum) as f32;
        Ok(())
    }
}

/// In f64, whose range the square of an f32 cannot leave.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let mut add = |chunk: &[f32]| {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(v) * f64::from(v);
        }
    };
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    chunks.for_each(&mut add);
    add(rest);
    lanes.iter().sum()
}
