//! What is trained and how: the model's shape and the schedule.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::elem::DType;
use crate::error::{Error, Result};
pub use crate::moe::FfnKind;

/// Storage of weights and activations; sums and the optimiser are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 everywhere.
    #[default]
    F32,
    /// bf16 weights and activations beside f32 master weights.
    Bf16,
}

impl Precision {
    /// The dtype of stored weights and activations.
    pub const fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// The shape of a decoder-only language model.
///
/// The fields about experts are ignored by [`FfnKind::Dense`], whose `inner` is the whole inner size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModelConfig {
    /// The feed-forward part of every layer.
    pub ffn: FfnKind,
    /// Number of token ids; the embedding `[vocab, hidden]` is also the output projection.
    pub vocab: usize,
    /// Size of a token row.
    pub hidden: usize,
    /// Inner size of the feed-forward part, of each expert.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads; `hidden / heads` is even.
    pub heads: usize,
    /// Tokens of context.
    pub seq: usize,
    /// Experts of a layer, over all clusters.
    pub experts: usize,
    /// Clusters of a layer; one for [`FfnKind::Flat`] whatever is set, see
    /// [`routing_clusters`](ModelConfig::routing_clusters).
    pub clusters: usize,
    /// Experts chosen per token, all in one cluster.
    pub topk: usize,
    /// Rank of an expert's residual; no residual exists in [`FfnKind::Flat`].
    pub rank: usize,
    /// Base of the rotary embedding's wave lengths.
    pub rope_theta: f32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
}

impl ModelConfig {
    /// Clusters the router sees: 1 unless the model is clustered.
    pub fn routing_clusters(&self) -> usize {
        if self.ffn == FfnKind::Clustered { self.clusters } else { 1 }
    }

    /// Experts per cluster.
    pub fn experts_per_cluster(&self) -> usize {
        self.experts / self.routing_clusters().max(1)
    }

    /// Rank of an expert's residual: 0 unless the model is clustered.
    pub fn residual_rank(&self) -> usize {
        if self.ffn == FfnKind::Clustered { self.rank } else { 0 }
    }

    /// Size of an attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads.max(1)
    }

    /// The same model as another variant of `compare`: dense gets `topk * inner`, so that a token passes as
    /// many feed-forward weights in every variant.
    pub fn variant(&self, ffn: FfnKind) -> Self {
        let widen = self.ffn != FfnKind::Dense && ffn == FfnKind::Dense;
        let inner = if widen { self.inner.saturating_mul(self.topk) } else { self.inner };
        ModelConfig { ffn, inner, ..self.clone() }
    }

    /// Checks every rule of the shape; the error names the option that breaks one.
    pub fn validate(&self) -> Result<()> {
        positive("--vocab", self.vocab)?;
        positive("--hidden", self.hidden)?;
        positive("--inner", self.inner)?;
        positive("--layers", self.layers)?;
        positive("--heads", self.heads)?;
        positive("--seq", self.seq)?;
        if !self.hidden.is_multiple_of(self.heads) {
            return rule("--heads", self.heads, format!("does not divide --hidden {}", self.hidden));
        }
        if !self.head_dim().is_multiple_of(2) {
            let why = format!("--hidden {} / heads must be even for the rotary embedding", self.hidden);
            return rule("--heads", self.heads, why);
        }
        if self.ffn != FfnKind::Dense {
            self.validate_experts()?;
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return rule("--rope-theta", self.rope_theta, "must be a number above 1".into());
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return rule("--norm-eps", self.norm_eps, "must be a number above 0".into());
        }
        self.validate_size()
    }

    fn validate_experts(&self) -> Result<()> {
        positive("--experts", self.experts)?;
        positive("--topk", self.topk)?;
        if self.ffn == FfnKind::Clustered {
            positive("--clusters", self.clusters)?;
            positive("--rank", self.rank)?;
            if !self.experts.is_multiple_of(self.clusters) {
                return rule(
                    "--clusters",
                    self.clusters,
                    format!("does not divide --experts {}", self.experts),
                );
            }
            let smallest = self.hidden.min(self.inner);
            if self.rank > smallest {
                let why = format!("above min(--hidden {}, --inner {}) = {smallest}", self.hidden, self.inner);
                return rule("--rank", self.rank, why);
            }
        }
        let choice = self.experts_per_cluster();
        if self.topk > choice {
            let why = match self.ffn {
                FfnKind::Clustered => format!(
                    "above the {choice} experts of a cluster (--experts {} / --clusters {})",
                    self.experts, self.clusters
                ),
                _ => format!("above --experts {choice}"),
            };
            return rule("--topk", self.topk, why);
        }
        Ok(())
    }

    /// Ids are 32-bit, and every size that the accounting multiplies out must be addressable.
    fn validate_size(&self) -> Result<()> {
        const MOST: usize = u32::MAX as usize;
        for (option, value) in [
            ("--vocab", self.vocab),
            ("--hidden", self.hidden),
            ("--inner", self.inner),
            ("--layers", self.layers),
            ("--seq", self.seq),
        ] {
            if value > MOST {
                return rule(option, value, format!("above the limit of {MOST}"));
            }
        }
        if self.ffn != FfnKind::Dense && self.experts > MOST {
            return rule("--experts", self.experts, format!("above the limit of {MOST}"));
        }
        // All factors fit 32 bits, so sums of products of three fit 128 bits.
        let [vocab, d, f, layers, experts] =
            [self.vocab, self.hidden, self.inner, self.layers, self.experts].map(|x| x as u128);
        let copies = if self.ffn == FfnKind::Dense { 1 } else { experts };
        let per_layer = 4 * d * d + 3 * copies * d * f + copies * d * 2;
        let total = layers.checked_mul(per_layer).and_then(|n| n.checked_add(vocab * d));
        // 18 bytes of weights, gradient and optimiser state each.
        if total.is_none_or(|n| n > i64::MAX as u128 / 18) {
            let why = "makes a model too large to address, with --inner, --layers, --vocab and --experts";
            return rule("--hidden", self.hidden, why.into());
        }
        Ok(())
    }
}

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
    /// Coefficient of the balance loss, at both levels of the router.
    pub balance: f32,
    /// Coefficient of the router's z-loss; 0 for none.
    pub z_loss: f32,
    /// Router temperature until `burn_in`.
    pub temperature_start: f32,
    /// Router temperature at the last step.
    pub temperature_end: f32,
    /// Steps before the temperature starts to fall.
    pub burn_in: u64,
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
        let decay = |x: f32| (0.0..1.0).contains(&x);
        for (option, value, good, why) in [
            ("--lr", self.lr, above_zero(self.lr), "must be a number above 0"),
            ("--min-lr-ratio", self.min_lr_ratio, share(self.min_lr_ratio), "must lie in 0..=1"),
            ("--weight-decay", self.weight_decay, not_negative(self.weight_decay), "must not be negative"),
            ("--beta1", self.beta1, decay(self.beta1), "must be at least 0 and below 1"),
            ("--beta2", self.beta2, decay(self.beta2), "must be at least 0 and below 1"),
            ("--eps", self.eps, above_zero(self.eps), "must be a number above 0"),
            ("--clip", self.clip, above_zero(self.clip), "must be a number above 0"),
            ("--balance", self.balance, not_negative(self.balance), "must not be negative"),
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

fn positive(option: &'static str, value: usize) -> Result<()> {
    if value == 0 { rule(option, value, "must be at least 1".into()) } else { Ok(()) }
}

fn rule(option: &'static str, value: impl ToString, why: String) -> Result<()> {
    Err(Error::config(option, value, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::preset::Preset;

    #[test]
    fn presets_are_valid_in_every_variant() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Base] {
            for ffn in FfnKind::ALL {
                preset.model().variant(ffn).validate().unwrap();
            }
            preset.train().validate(preset.model().seq).unwrap();
        }
    }

    #[test]
    fn schedule_meets_its_corner_points() {
        let train = TrainConfig { lr: 1.0, warmup: 10, steps: 110, burn_in: 20, ..Preset::Tiny.train() };
        let near = |got: f32, want: f32| assert!((got - want).abs() < 1e-6, "{got} {want}");
        near(train.lr_at(1), 0.1);
        near(train.lr_at(10), 1.0);
        near(train.lr_at(60), 0.55);
        near(train.lr_at(110), 0.1);
        near(train.lr_at(500), 0.1);
        near(train.temperature_at(20), 1.0);
        near(train.temperature_at(65), 0.85);
        near(train.temperature_at(110), 0.7);
        // Shorter than warm-up and burn-in: neither divides by zero.
        let short = TrainConfig { steps: 5, ..train };
        near(short.lr_at(5), 0.5);
        near(short.temperature_at(5), 1.0);
    }
}
