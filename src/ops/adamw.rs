//! The AdamW update, fused with gradient clipping and with the refresh of the stored weights.

use rayon::prelude::*;

use super::Op;
use crate::cpu::bounds;
use crate::cpu::math::vectorize;
#[cfg(feature = "cuda")]
use crate::cuda::{AdamWParams, Cuda, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Operand, Place, Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Elements per task.
const CHUNK: usize = 1 << 15;

/// One AdamW step (decoupled weight decay) on one tensor, in f32, with the gradient clipped on the way:
///
/// `g = grad min(1, max_norm / norm)`, `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
/// `weight = (1 - lr weight_decay) weight - lr m_hat / (sqrt(v_hat) + eps)` with the moments divided by
/// `1 - beta^step`.
///
/// If `norm` is not finite nothing is written: the weights stay as good as they were, and the caller, who
/// has the norm too, reports the divergence.
#[derive(Debug)]
pub struct AdamW<'a, T> {
    /// `[len]`, the f32 weights.
    pub weight: ViewMut<'a, f32, 1>,
    /// `[len]`, before clipping.
    pub grad: View<'a, f32, 1>,
    /// `[len]`, first moment.
    pub m: ViewMut<'a, f32, 1>,
    /// `[len]`, second moment.
    pub v: ViewMut<'a, f32, 1>,
    /// `[len]`, a copy of the weights in their storage dtype, if that is another tensor.
    pub stored: Option<ViewMut<'a, T, 1>>,
    /// Learning rate and number of the update.
    pub rates: Rates<'a>,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f32,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f32,
    /// Added to the square root of the second moment, at least 0.
    pub eps: f32,
    /// Decoupled weight decay; 0 for none.
    pub weight_decay: f32,
    /// `[1]`, the norm of the gradient over all tensors, from [`GlobalNorm`](super::GlobalNorm).
    pub norm: View<'a, f32, 1>,
    /// Norm to clip to, above 0; infinity for no clipping.
    pub max_norm: f32,
}

impl<T: Elem> Op for AdamW<'_, T> {
    const NAME: &'static str = "adamw";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: weight, grad, m, v, stored, rates, norm);
    }

    fn check(&self) -> Result<()> {
        let len = self.weight.shape();
        ensure!(Self::NAME, self.grad.shape() == len, grad = self.grad.shape(), len = len);
        ensure!(Self::NAME, self.m.shape() == len, m = self.m.shape(), len = len);
        ensure!(Self::NAME, self.v.shape() == len, v = self.v.shape(), len = len);
        if let Some(stored) = &self.stored {
            ensure!(Self::NAME, stored.shape() == len, stored = stored.shape(), len = len);
        }
        ensure!(Self::NAME, self.norm.shape() == [1], norm = self.norm.shape());
        self.rates.check()?;
        ensure!(Self::NAME, (0.0..1.0).contains(&self.beta1), beta1 = self.beta1);
        ensure!(Self::NAME, (0.0..1.0).contains(&self.beta2), beta2 = self.beta2);
        ensure!(Self::NAME, self.eps >= 0.0, eps = self.eps);
        ensure!(Self::NAME, self.weight_decay.is_finite(), weight_decay = self.weight_decay);
        ensure!(Self::NAME, self.max_norm > 0.0, max_norm = self.max_norm);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.weight.dim(0) == 0
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let stored = if self.stored.is_some() { T::DTYPE.size() } else { 0 };
        (self.weight.dim(0) * (7 * size_of::<f32>() + stored)) as u64
    }

    fn cpu(self) -> Result<()> {
        let norm = self.norm.as_slice()[0];
        if !norm.is_finite() {
            return Ok(());
        }
        let [lr, rate, scale2] = self.rates.seen(self.beta1, self.beta2).unwrap_or_default(); // there on the CPU
        let update = Update {
            clip: if norm > self.max_norm { self.max_norm / norm } else { 1.0 },
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            decay: 1.0 - lr * self.weight_decay,
            rate,
            scale2,
        };
        let at = bounds(self.weight.dim(0), CHUNK);
        let grad = self.grad;
        let stored: Vec<Option<ViewMut<'_, T, 1>>> = match self.stored {
            Some(stored) => stored.cut(0, &at).into_iter().map(Some).collect(),
            None => at.iter().skip(1).map(|_| None).collect(),
        };
        let chunks = self.weight.cut(0, &at).into_par_iter().zip(self.m.cut(0, &at)).zip(self.v.cut(0, &at));
        chunks.zip(stored).zip(at.par_windows(2)).for_each_part(|((((mut w, mut m), mut v), stored), at)| {
            let (w, grad) = (w.as_slice_mut(), &grad.as_slice()[at[0]..at[1]]);
            let (m, v) = (m.as_slice_mut(), v.as_slice_mut());
            vectorize!(|| update.apply(w, grad, m, v));
            if let Some(mut stored) = stored {
                vectorize!(|| stored
                    .as_slice_mut()
                    .iter_mut()
                    .zip(&*w)
                    .for_each(|(s, &w)| *s = T::from_f32(w)));
            }
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let [lr, rate, scale2] = self.rates.seen(self.beta1, self.beta2).unwrap_or_default();
        let len = self.weight.dim(0);
        let params = AdamWParams {
            weight: self.weight.address(),
            grad: self.grad.address(),
            m: self.m.address(),
            v: self.v.address(),
            stored: self.stored.as_ref().map_or(0, |s| s.address()),
            norm: self.norm.address(),
            rates: match &self.rates {
                Rates::Step { .. } => 0,
                Rates::At(view) => view.address(),
            },
            len: len as u64,
            max_norm: self.max_norm,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            decay: 1.0 - lr * self.weight_decay,
            rate,
            scale2,
            weight_decay: self.weight_decay,
        };
        // SAFETY: the views are on this device (`misplaced`) and of `len` elements (`check`).
        unsafe { device.over_rows(ADAMW, T::DTYPE, [1, len], &params) }
    }
}

#[cfg(feature = "cuda")]
const ADAMW: Kernel = Kernel { image: &images::ADAMW, name: "adamw", tile: "moe_adamw_launch" };

/// What changes from one update of a tensor to the next.
#[derive(Clone, Copy, Debug)]
pub enum Rates<'a> {
    /// Known when the operation is enqueued.
    Step {
        /// Learning rate.
        lr: f32,
        /// Number of this update, counted from 1.
        step: u64,
    },
    /// `[3]`: [`Rates::values`], read when the operation runs, so that a captured graph can be replayed as another step.
    At(View<'a, f32, 1>),
}

impl Rates<'_> {
    /// Learning rate; the same over the first moment's correction; one over the second moment's correction.
    pub fn values(lr: f32, step: u64, [beta1, beta2]: [f32; 2]) -> [f32; 3] {
        let rate = f64::from(lr) / correction(beta1, step);
        [lr, rate as f32, (1.0 / correction(beta2, step)) as f32]
    }

    /// The values, where the host can see them.
    fn seen(&self, beta1: f32, beta2: f32) -> Option<[f32; 3]> {
        match self {
            Rates::Step { lr, step } => Some(Self::values(*lr, *step, [beta1, beta2])),
            Rates::At(view) if view.place() == Place::Host => view.as_slice().try_into().ok(),
            Rates::At(_) => None,
        }
    }

    fn check(&self) -> Result<()> {
        const OP: &str = AdamW::<f32>::NAME;
        match self {
            Rates::Step { lr, step } => {
                ensure!(OP, lr.is_finite(), lr = lr);
                ensure!(OP, *step >= 1, step = step);
            }
            Rates::At(view) => {
                ensure!(OP, view.shape() == [3], rates = view.shape());
            }
        }
        Ok(())
    }
}

impl Operand for Rates<'_> {
    fn is_at(&self, place: Place) -> bool {
        match self {
            Rates::Step { .. } => true,
            Rates::At(view) => view.is_at(place),
        }
    }

    fn sizes(&self) -> Vec<usize> {
        Vec::new()
    }
}

/// `1 - beta^step`.
fn correction(beta: f32, step: u64) -> f64 {
    1.0 - f64::from(beta).powf(step as f64)
}

/// The scalars of a step.
struct Update {
    clip: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    rate: f32,
    scale2: f32,
}

impl Update {
    #[inline(always)]
    fn apply(&self, w: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((w, &g), m), v) in w.iter_mut().zip(grad).zip(m).zip(v) {
            let g = g * self.clip;
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * (g * g);
            *w = self.decay * *w - self.rate * *m / ((*v * self.scale2).sqrt() + self.eps);
        }
    }
}
