//! Softmax cross-entropy, alone and fused with its gradient.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::{exp, sum_by, vectorize};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, misplaced};
use crate::view::{View, ViewMut};

/// Rows per task.
const ROWS: usize = 32;

/// `loss[p] = -ln softmax(logits[p])[targets[p]]`, and the gradient of `scale sum(loss)` over the logits:
/// `logits[p] <- scale (softmax(logits[p]) - onehot(targets[p]))`.
///
/// A NaN or infinite logit gives a loss that is not finite, except minus infinity off the target, which
/// means probability zero.
#[derive(Debug)]
pub struct CrossEntropy<'a, T> {
    /// `[rows, vocab]`: logits in, their gradient out.
    pub logits: ViewMut<'a, T, 2>,
    /// `[rows]`, each below `vocab`.
    pub targets: &'a [u32],
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
    pub targets: &'a [u32],
    /// `[rows]`, f32, in nats.
    pub loss: ViewMut<'a, f32, 1>,
}

/// The rules both operations share.
fn check_rows(op: &'static str, logits: [usize; 2], targets: &[u32], loss: [usize; 1]) -> Result<()> {
    ensure!(op, targets.len() == logits[0], targets = targets.len(), logits = logits);
    ensure!(op, loss == [logits[0]], loss = loss, logits = logits);
    let max = targets.iter().max();
    ensure!(op, targets.iter().all(|&t| (t as usize) < logits[1]), max = max, logits = logits);
    Ok(())
}

impl<T: Elem> Op for CrossEntropy<'_, T> {
    const NAME: &'static str = "cross_entropy";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: logits, targets, loss)
    }

    fn check(&self) -> Result<()> {
        check_rows(Self::NAME, self.logits.shape(), self.targets, self.loss.shape())
    }

    fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let [rows, vocab] = self.logits.shape();
        (2 * rows * vocab * T::DTYPE.size() + rows * (size_of::<u32>() + size_of::<f32>())) as u64
    }

    fn cpu(self) -> Result<()> {
        let (targets, scale) = (self.targets, self.scale);
        let rows = bounds(targets.len(), ROWS);
        let bands = self.logits.cut(0, &rows).into_par_iter().zip(self.loss.cut(0, &rows));
        bands.zip(rows.par_windows(2)).for_each(|((mut logits, mut loss), rows)| {
            let mut exps = vec![0f32; logits.dim(1)];
            let targets = &targets[rows[0]..rows[1]];
            for (i, (loss, &target)) in loss.as_slice_mut().iter_mut().zip(targets).enumerate() {
                let (row, target) = (logits.row_mut(i), target as usize);
                let sum;
                (*loss, sum) = nll(row, target, &mut exps);
                let factor = scale / sum;
                vectorize!(|| row.iter_mut().zip(&exps).for_each(|(d, e)| *d = T::from_f32(factor * e)));
                row[target] = T::from_f32(scale * (exps[target] / sum - 1.0));
            }
        });
        Ok(())
    }
}

impl<T: Elem> Op for NegLogLikelihood<'_, T> {
    const NAME: &'static str = "neg_log_likelihood";

    fn misplaced(&self, place: Place) -> Option<&'static str> {
        misplaced!(self at place: logits, targets, loss)
    }

    fn check(&self) -> Result<()> {
        check_rows(Self::NAME, self.logits.shape(), self.targets, self.loss.shape())
    }

    fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let [rows, vocab] = self.logits.shape();
        (rows * vocab * T::DTYPE.size() + rows * (size_of::<u32>() + size_of::<f32>())) as u64
    }

    fn cpu(self) -> Result<()> {
        let rows = bounds(self.targets.len(), ROWS);
        let bands = self.loss.cut(0, &rows).into_par_iter();
        bands.zip(rows.par_windows(2)).for_each(|(mut loss, rows)| {
            let mut exps = vec![0f32; self.logits.dim(1)];
            for (loss, p) in loss.as_slice_mut().iter_mut().zip(rows[0]..rows[1]) {
                (*loss, _) = nll(self.logits.row(p), self.targets[p] as usize, &mut exps);
            }
        });
        Ok(())
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
