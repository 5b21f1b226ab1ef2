//! The norm of a gradient over all its tensors.

use rayon::prelude::*;

use super::Op;
use crate::cpu::math::{LANES, vectorize};
use crate::cpu::pieces;
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, GLOBAL_NORM_CHUNK, GlobalNormParams, GlobalNormRootParams, Kernel, ONLY, images};
#[cfg(feature = "cuda")]
use crate::elem::DType;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Elements per partial sum.
const CHUNK: usize = 1 << 15;

#[cfg(feature = "cuda")]
const _: () = assert!(CHUNK == GLOBAL_NORM_CHUNK as usize, "the kernels' workspace");
#[cfg(feature = "cuda")]
const PARTIAL: Kernel =
    Kernel { image: &images::GLOBAL_NORM, name: "global_norm", tile: "moe_global_norm_launch" };
#[cfg(feature = "cuda")]
const ROOT: Kernel =
    Kernel { image: &images::GLOBAL_NORM, name: "global_norm_root", tile: "moe_global_norm_root_launch" };

/// `norm = sqrt(sum of squares over all elements of all tensors)`, summed in f64.
///
/// Not finite exactly when an element is not, or when the norm itself is above the range of f32. On a CUDA device it is
/// a launch for each tensor, and one more.
#[derive(Debug)]
pub struct GlobalNorm<'a> {
    /// Any number of tensors, each flat.
    pub grads: Vec<View<'a, f32, 1>>,
    /// `[1]`.
    pub norm: ViewMut<'a, f32, 1>,
    /// Partial sums: [`GlobalNorm::workspace_len`] elements or more.
    pub workspace: ViewMut<'a, f64, 1>,
}

impl GlobalNorm<'_> {
    /// Elements of workspace for tensors of these lengths: a partial sum for every started 32,768 elements of each.
    pub fn workspace_len(lens: impl IntoIterator<Item = usize>) -> usize {
        lens.into_iter().map(|len| len.div_ceil(CHUNK)).sum()
    }
}

impl Op for GlobalNorm<'_> {
    const NAME: &'static str = "global_norm";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: grads, norm, workspace);
    }

    fn check(&self) -> Result<()> {
        ensure!(Self::NAME, self.norm.shape() == [1], norm = self.norm.shape());
        let need = Self::workspace_len(self.grads.iter().map(|g| g.dim(0)));
        let workspace = self.workspace.dim(0);
        ensure!(Self::NAME, workspace >= need, workspace = workspace, need = need);
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
            .filter(|chunk| !chunk.is_empty())
            .collect();
        let partial = &mut self.workspace.as_slice_mut()[..chunks.len()];
        let sums = partial.par_iter_mut().zip(chunks);
        sums.for_each_part(|(sum, chunk)| *sum = vectorize!(|| sum_of_squares(chunk)));
        let sum = partial.iter().fold(0.0, |sum, p| sum + p);
        self.norm.as_slice_mut()[0] = f64::sqrt(sum) as f32;
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let mut partials = 0;
        for grad in self.grads.iter().filter(|g| g.dim(0) > 0) {
            let (len, blocks) = (grad.dim(0), grad.dim(0).div_ceil(CHUNK));
            let partial = self.workspace.as_view().narrow(0, partials..partials + blocks);
            let params =
                GlobalNormParams { grad: grad.address(), partial: partial.address(), len: len as u64 };
            // SAFETY: the views are on this device (`misplaced`) and the workspace is large enough (`check`).
            unsafe { device.launch(PARTIAL, DType::F32.variant(), [blocks, 1, 1], &params)? };
            partials += blocks;
        }
        let params = GlobalNormRootParams {
            partial: self.workspace.address(),
            norm: self.norm.address(),
            partials: partials as u64,
        };
        // SAFETY: as above; so many partial sums were written by the kernels before.
        unsafe { device.launch(ROOT, ONLY, [1, 1, 1], &params) }
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
