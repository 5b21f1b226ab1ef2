//! The shape of a model.

use serde::{Deserialize, Serialize};

use super::{Parts, positive, rule};
use crate::error::Result;
use crate::moe::FfnKind;

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
    /// Rank of an expert's residual; only those of [`FfnKind::Clustered`] have one.
    pub rank: usize,
    /// Which parts of a clustered model's experts there are.
    pub parts: Parts,
    /// Base of the rotary embedding's wave lengths.
    pub rope_theta: f32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
}

impl ModelConfig {
    /// Clusters the router sees: 1 unless there is a cluster level.
    pub fn routing_clusters(&self) -> usize {
        if self.ffn.has_clusters() { self.clusters } else { 1 }
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
        if self.ffn.has_clusters() {
            positive("--clusters", self.clusters)?;
            if !self.experts.is_multiple_of(self.clusters) {
                return rule(
                    "--clusters",
                    self.clusters,
                    format!("does not divide --experts {}", self.experts),
                );
            }
        }
        if self.ffn == FfnKind::Clustered {
            positive("--rank", self.rank)?;
            let smallest = self.hidden.min(self.inner);
            if self.rank > smallest {
                let why = format!("above min(--hidden {}, --inner {}) = {smallest}", self.hidden, self.inner);
                return rule("--rank", self.rank, why);
            }
        }
        let choice = self.experts_per_cluster();
        if self.topk > choice {
            let why = match self.ffn {
                FfnKind::Full | FfnKind::Clustered => format!(
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
