//! How alike experts are.

use super::Op;
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Kernel, SimilarityParams, images};
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::view::{View, ViewMut};

#[cfg(feature = "cuda")]
const SIMILARITY: Kernel =
    Kernel { image: &images::SIMILARITY, name: "similarity", tile: "moe_similarity_launch" };

/// `s = alpha cos(param) + (1 - alpha) cos(act)`: the cosines of the experts' weights and of their mean tokens, from
/// dot products as [`Gram`](super::Gram) makes them.
///
/// `cos(g)[i, j] = g[i, j] / (|i| |j|)` with the norms of g's diagonal, kept in [-1, 1], and 0 where a norm is; `s[i, i]`
/// is 1. Only lower halves are read, so `s` is exactly symmetric. All of it is in f64.
#[derive(Debug)]
pub struct Similarity<'a> {
    /// `[experts, experts]`: dot products of weights.
    pub param: View<'a, f64, 2>,
    /// `[experts, experts]`: dot products of mean tokens.
    pub act: View<'a, f64, 2>,
    /// Share of `param`, from 0 to 1.
    pub alpha: f64,
    /// `[experts, experts]`.
    pub s: ViewMut<'a, f64, 2>,
}

impl Op for Similarity<'_> {
    const NAME: &'static str = "similarity";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: param, act, s);
    }

    fn check(&self) -> Result<()> {
        let (param, act, s) = (self.param.shape(), self.act.shape(), self.s.shape());
        ensure!(Self::NAME, param[0] == param[1], param = param);
        ensure!(Self::NAME, param[0] <= u16::MAX as usize, param = param);
        ensure!(Self::NAME, act == param, act = act, param = param);
        ensure!(Self::NAME, s == param, s = s, param = param);
        ensure!(Self::NAME, (0.0..=1.0).contains(&self.alpha), alpha = self.alpha);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.s.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        // Half of each matrix is read, all of `s` written.
        2 * (self.s.shape().iter().product::<usize>() * size_of::<f64>()) as u64
    }

    fn cpu(mut self) -> Result<()> {
        for i in 0..self.s.dim(0) {
            for j in 0..i {
                let s = self.alpha * cosine(self.param, i, j) + (1.0 - self.alpha) * cosine(self.act, i, j);
                self.s.row_mut(i)[j] = s;
                self.s.row_mut(j)[i] = s;
            }
            self.s.row_mut(i)[i] = 1.0;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let experts = self.s.dim(0);
        let params = SimilarityParams {
            param: self.param.address(),
            act: self.act.address(),
            s: self.s.address(),
            param_stride: self.param.stride(0),
            act_stride: self.act.stride(0),
            s_stride: self.s.stride(0),
            alpha: self.alpha,
            experts: experts as u32,
            unused: 0,
        };
        let pairs = experts * (experts + 1) / 2;
        let blocks = pairs.div_ceil(device.tile(SIMILARITY)?.columns as usize);
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`).
        unsafe { device.launch(SIMILARITY, "F64", [blocks, 1, 1], &params) }
    }
}

/// Cosine of `i` and `j`, `j < i`.
fn cosine(gram: View<'_, f64, 2>, i: usize, j: usize) -> f64 {
    let (norm_i, norm_j) = (gram.row(i)[i], gram.row(j)[j]); // squared
    if norm_i <= 0.0 || norm_j <= 0.0 {
        return 0.0;
    }
    // `clamp` keeps NaN.
    (gram.row(i)[j] / norm_i.sqrt() / norm_j.sqrt()).clamp(-1.0, 1.0)
}
