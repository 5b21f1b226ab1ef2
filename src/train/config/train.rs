//! How a model is trained.

use serde::{Deserialize, Serialize};

use super::{Balance, BaseWeights, FfnKind, Granularity, Mode, Precision, positive, rule};
use crate::error::Result;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Micro-batches whose gradients are averaged in one step.
    pub accumulate: usize,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Peak learning rate.
    pub lr: f32,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Final learning rate over the peak.
    pub min_lr_ratio: f32,
    /// Decoupled weight decay of matrices, per unit of learning rate.
    pub weight_decay: f32,
    /// Decay of AdamW's first moment.
    pub beta1: f32,
    /// Decay of AdamW's second moment.
    pub beta2: f32,
    /// Added to the root of AdamW's second moment.
    pub eps: f32,
    /// Largest global norm of the gradient.
    pub clip: f32,
    /// What keeps the experts' load even.
    pub balance: Balance,
    /// Coefficient of the balance loss, at both levels of the router.
    pub balance_coefficient: f32,
    /// Change of the selection bias in a step.
    pub bias_rate: f32,
    /// Coefficient of the router's z-loss; 0 for none.
    pub z_loss: f32,
    /// Router temperature until `burn_in`.
    pub temperature_start: f32,
    /// Router temperature at the last step.
    pub temperature_end: f32,
    /// Steps before the temperature starts to fall.
    pub burn_in: u64,
    /// How a clustered model comes to be.
    pub mode: Mode,
    /// Steps between attempts to regroup the experts of a clustered model, the first after `burn_in`; 0 for none.
    pub cluster_every: u64,
    /// Share of the weights in the similarity of experts; the rest is that of their mean tokens.
    pub cluster_alpha: f32,
    /// Least similarity to a member of another cluster for which evening out sizes considers a move there.
    pub cluster_tau: f32,
    /// Least rise of the mean similarity inside clusters (delta) for which a regrouping is taken.
    pub cluster_gain: f32,
    /// Largest relative error of an expert that a regrouping may cause.
    pub cluster_error: f32,
    /// Weight of a step in the moving means of an expert's tokens and of its load (beta).
    pub centroid_rate: f32,
    /// Weighted means that a changed cluster's base may become.
    pub base_weights: BaseWeights,
    /// Step from which the residuals that a clustered model computes with are those of INT4; 0 for never. Gradients pass
    /// through to f32 residuals (straight-through).
    pub int4_from: u64,
    /// What shares a scale in INT4.
    pub int4: Granularity,
    /// Seed of the weights and of the order of the data.
    pub seed: u64,
    /// Storage of weights and activations.
    pub precision: Precision,
}

impl TrainConfig {
    /// Tokens of one optimiser step with `seq` tokens of context, saturating.
    pub fn tokens_per_step(&self, seq: usize) -> u64 {
        (self.batch as u64).saturating_mul(seq as u64).saturating_mul(self.accumulate as u64)
    }

    /// Learning rate of `step`, counted from 1: linear warm-up, then a cosine to `min_lr_ratio * lr`.
    pub fn lr_at(&self, step: u64) -> f32 {
        let peak = f64::from(self.lr);
        if step < self.warmup {
            return (peak * step as f64 / self.warmup as f64) as f32;
        }
        let floor = f64::from(self.min_lr_ratio);
        let cosine = (std::f64::consts::PI * progress(step, self.warmup, self.steps)).cos();
        (peak * (floor + (1.0 - floor) * 0.5 * (1.0 + cosine))) as f32
    }

    /// Router temperature of `step`, counted from 1: constant until `burn_in`, then linear.
    pub fn temperature_at(&self, step: u64) -> f32 {
        let done = if step <= self.burn_in { 0.0 } else { progress(step, self.burn_in, self.steps) };
        self.temperature_start + (self.temperature_end - self.temperature_start) * done as f32
    }

    /// The form that a model of form `ffn` has after `done` steps.
    pub fn form(&self, ffn: FfnKind, done: u64) -> FfnKind {
        let full = self.mode == Mode::Convert && ffn == FfnKind::Clustered && done < self.burn_in;
        if full { FfnKind::Full } else { ffn }
    }

    /// Whether the residuals count as packed in INT4 once `done` steps are done: in the next step, and in evaluation.
    pub fn packs(&self, done: u64) -> bool {
        self.int4_from > 0 && done + 1 >= self.int4_from
    }

    /// Whether the experts may be regrouped after `step`.
    pub fn clusters_at(&self, step: u64) -> bool {
        self.cluster_every > 0 && step >= self.burn_in && step.is_multiple_of(self.cluster_every)
    }

    /// Checks every rule of the schedule; `seq` is the model's.
    pub fn validate(&self, seq: usize) -> Result<()> {
        positive("--batch", self.batch)?;
        positive("--accumulate", self.accumulate)?;
        if self.steps == 0 {
            return rule("--steps", self.steps, "must be at least 1".into());
        }
        // Row numbers of a micro-batch, times a few experts each, are 32-bit.
        if self.batch.checked_mul(seq).is_none_or(|rows| rows > u32::MAX as usize / 64) {
            return rule("--batch", self.batch, format!("too many tokens at once with --seq {seq}"));
        }
        if self.steps.checked_mul(self.tokens_per_step(seq)).is_none() {
            return rule("--steps", self.steps, "more tokens than can be counted".into());
        }
        let above_zero = |x: f32| x.is_finite() && x > 0.0;
        let not_negative = |x: f32| x.is_finite() && x >= 0.0;
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let cosine = |x: f32| (-1.0..=1.0).contains(&x);
        let decay = |x: f32| (0.0..1.0).contains(&x);
        for (option, value, good, why) in [
            ("--lr", self.lr, above_zero(self.lr), "must be a number above 0"),
            ("--min-lr-ratio", self.min_lr_ratio, share(self.min_lr_ratio), "must lie in 0..=1"),
            ("--weight-decay", self.weight_decay, not_negative(self.weight_decay), "must not be negative"),
            ("--beta1", self.beta1, decay(self.beta1), "must be at least 0 and below 1"),
            ("--beta2", self.beta2, decay(self.beta2), "must be at least 0 and below 1"),
            ("--eps", self.eps, above_zero(self.eps), "must be a number above 0"),
            ("--clip", self.clip, above_zero(self.clip), "must be a number above 0"),
            (
                "--balance-coefficient",
                self.balance_coefficient,
                not_negative(self.balance_coefficient),
                "must not be negative",
            ),
            ("--bias-rate", self.bias_rate, not_negative(self.bias_rate), "must not be negative"),
            ("--cluster-alpha", self.cluster_alpha, share(self.cluster_alpha), "must lie in 0..=1"),
            ("--cluster-tau", self.cluster_tau, cosine(self.cluster_tau), "must lie in -1..=1"),
            ("--cluster-gain", self.cluster_gain, not_negative(self.cluster_gain), "must not be negative"),
            ("--cluster-error", self.cluster_error, not_negative(self.cluster_error), "must not be negative"),
            ("--centroid-rate", self.centroid_rate, share(self.centroid_rate), "must lie in 0..=1"),
            ("--z-loss", self.z_loss, not_negative(self.z_loss), "must not be negative"),
            (
                "--temperature-start",
                self.temperature_start,
                above_zero(self.temperature_start),
                "must be above 0",
            ),
            ("--temperature-end", self.temperature_end, above_zero(self.temperature_end), "must be above 0"),
        ] {
            if !good {
                return rule(option, value, why.into());
            }
        }
        Ok(())
    }
}

/// How far `step` is from `start` to `end`, in 0..=1; 0 when `end` is not after `start`.
fn progress(step: u64, start: u64, end: u64) -> f64 {
    if end <= start {
        return 0.0;
    }
    (step.saturating_sub(start) as f64 / (end - start) as f64).min(1.0)
}
