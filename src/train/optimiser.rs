//! The optimiser's update of one stretch of weights.

use super::config::TrainConfig;
use crate::ops::{AdamW, Rates};
use crate::view::{View, ViewMut};

/// What an update reads and writes, all of one length.
#[derive(Debug)]
pub(super) struct Update<'a, T> {
    pub weight: ViewMut<'a, f32, 1>,
    pub grad: View<'a, f32, 1>,
    pub m: ViewMut<'a, f32, 1>,
    pub v: ViewMut<'a, f32, 1>,
    /// The weights as stored, where those are other than f32 or not all there is.
    pub stored: Option<ViewMut<'a, T, 1>>,
    /// Whether weight decay applies.
    pub decay: bool,
}

impl<'a, T> Update<'a, T> {
    /// The update at these rates; `norm` is that of the whole gradient.
    pub fn at(self, rates: Rates<'a>, config: &TrainConfig, norm: View<'a, f32, 1>) -> AdamW<'a, T> {
        let Update { weight, grad, m, v, stored, decay } = self;
        AdamW {
            weight,
            grad,
            m,
            v,
            stored,
            rates,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: if decay { config.weight_decay } else { 0.0 },
            norm,
            max_norm: config.clip,
        }
    }
}
