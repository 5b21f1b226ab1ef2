//! Softmax cross-entropy, alone and fused with its gradient.

use rayon::prelude::*;

use super::Op;
use super::embedding::check_ids;
use crate::cpu::bounds;
use crate::cpu::math::{exp, sum_by, vectorize};
#[cfg(feature = "cuda")]
use crate::cuda::{CrossEntropyParams, Cuda, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows per task.
const ROWS: usize = 32;

#[cfg(feature = "cuda")]
const CROSS_ENTROPY: Kernel =
    Kernel { image: &images::CROSS_ENTROPY, name: "cross_entropy", tile: "moe_cross_entropy_launch" };

/// `loss[p] = -ln softmax(logits[p])[targets[p]]`, and the gradient of `scale sum(loss)` over the logits:
/// `logits[p] <- scale (softmax(logits[p]) - onehot(targets[p]))`.
///
/// A NaN or infinite logit gives a loss that is not finite, except minus infinity off the target, which
/// means probability zero. The gradient of a row whose loss is not finite is NaN: a step that is checked by the norm of
/// its gradient alone cannot miss it.
///
/// A target that is not below `vocab` is an error where the host can see it; on a CUDA device its loss and gradient become
/// NaN.
#[derive(Debug)]
pub struct CrossEntropy<'a, T> {
    /// `[rows, vocab]`: logits in, their gradient out.
    pub logits: ViewMut<'a, T, 2>,
    /// `[rows]`, each below `vocab`.
    pub targets: View<'a, u32, 1>,
    /// Weight of every row in the gradient, for example `1 / rows`.
    pub scale: f32,
    /// `[rows]`, f32, in nats, not scaled.
    pub loss: ViewMut<'a, f32, 1>,
}

/// The loss of [`CrossEntropy`] alone, which leaves the logits as they are.
#[derive(Debug)]
pub struct NegLogLikelihood<'a, T> {
    /// `[rows, vocab]`.
    pub logits: View<'a, T, 2>,
    /// `[rows]`, each below `vocab`.
    pub targets: View<'a, u32, 1>,
    /// `[rows]`, f32, in nats.
    pub loss: ViewMut<'a, f32, 1>,
}

/// The rules both operations share.
fn check_rows(
    op: &'static str,
    logits: [usize; 2],
    targets: View<'_, u32, 1>,
    loss: [usize; 1],
) -> Result<()> {
    ensure!(op, targets.shape() == [logits[0]], targets = targets.shape(), logits = logits);
    ensure!(op, loss == [logits[0]], loss = loss, logits = logits);
    check_ids(op, targets, logits[1])
}

impl<T: Elem> Op for CrossEntropy<'_, T> {
    const NAME: &'static str = "cross_entropy";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: logits, targets, loss);
    }

    fn check(&self) -> Result<()> {
        check_rows(Self::NAME, self.logits.shape(), self.targets, self.loss.shape())
    }

    fn is_empty(&self) -> bool {
        self.targets.dim(0) == 0
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let [rows, vocab] = self.logits.shape();
        (2 * rows * vocab * T::DTYPE.size() + rows * (size_of::<u32>() + size_of::<f32>())) as u64
    }

    fn cpu(self) -> Result<()> {
        let (targets, scale) = (self.targets.as_slice(), self.scale);
        let rows = bounds(targets.len(), ROWS);
        let bands = self.logits.cut(0, &rows).into_par_iter().zip(self.loss.cut(0, &rows));
        bands.zip(rows.par_windows(2)).for_each_part(|((mut logits, mut loss), rows)| {
            let mut exps = vec![0f32; logits.dim(1)];
            let targets = &targets[rows[0]..rows[1]];
            for (i, (loss, &target)) in loss.as_slice_mut().iter_mut().zip(targets).enumerate() {
                let (row, target) = (logits.row_mut(i), target as usize);
                let sum;
                (*loss, sum) = nll(row, target, &mut exps);
                let scale = if loss.is_finite() { scale } else { f32::NAN };
                let factor = scale / sum;
                vectorize!(|| row.iter_mut().zip(&exps).for_each(|(d, e)| *d = T::from_f32(factor * e)));
                row[target] = T::from_f32(scale * (exps[target] / sum - 1.0));
            }
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, vocab] = self.logits.shape();
        let params = CrossEntropyParams {
            logits: self.logits.address(),
            targets: self.targets.address(),
            loss: self.loss.address(),
            logits_stride: self.logits.stride(0),
            rows: rows as u32,
            vocab: vocab as u32,
            scale: self.scale,
            gradient: 1,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the kernel looks at no
        // logit that is not below `vocab`.
        unsafe { device.over_rows(CROSS_ENTROPY, T::DTYPE, [rows, vocab], &params) }
    }
}

impl<T: Elem> Op for NegLogLikelihood<'_, T> {
    const NAME: &'static str = "neg_log_likelihood";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: logits, targets, loss);
    }

    fn check(&self) -> Result<()> {
        check_rows(Self::NAME, self.logits.shape(), self.targets, self.loss.shape())
    }

    fn is_empty(&self) -> bool {
        self.targets.dim(0) == 0
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let [rows, vocab] = self.logits.shape();
        (rows * vocab * T::DTYPE.size() + rows * (size_of::<u32>() + size_of::<f32>())) as u64
    }

    fn cpu(self) -> Result<()> {
        let (targets, rows) = (self.targets.as_slice(), bounds(self.targets.dim(0), ROWS));
        let bands = self.loss.cut(0, &rows).into_par_iter();
        bands.zip(rows.par_windows(2)).for_each_part(|(mut loss, rows)| {
            let mut exps = vec![0f32; self.logits.dim(1)];
            for (loss, p) in loss.as_slice_mut().iter_mut().zip(rows[0]..rows[1]) {
                (*loss, _) = nll(self.logits.row(p), targets[p] as usize, &mut exps);
            }
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [rows, vocab] = self.logits.shape();
        let params = CrossEntropyParams {
            logits: self.logits.address(),
            targets: self.targets.address(),
            loss: self.loss.address(),
            logits_stride: self.logits.stride(0),
            rows: rows as u32,
            vocab: vocab as u32,
            scale: 0.0,
            gradient: 0,
        };
        // SAFETY: as for [`CrossEntropy`]; without `gradient` the logits are only read.
        unsafe { device.over_rows(CROSS_ENTROPY, T::DTYPE, [rows, vocab], &params) }
    }
}

/// Negative log-likelihood of `target`; also `exps = e^(logits - max)` and their sum.
fn nll<T: Elem>(logits: &[T], target: usize, exps: &mut [f32]) -> (f32, f32) {
    vectorize!(|| {
        exps.iter_mut().zip(logits).for_each(|(e, l)| *e = l.to_f32());
        let max = crate::cpu::math::max(exps);
        exps.iter_mut().for_each(|e| *e = exp(*e - max));
        let sum = sum_by(exps.len(), |i| exps[i]);
        (sum.ln() + (max - logits[target].to_f32()), sum)
    })
}
