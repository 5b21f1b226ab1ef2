//! What a model costs, from its shape alone: parameters, arithmetic, memory, bytes between ranks.
//!
//! Nothing here allocates the model. Every count is over the whole model unless it says "per layer".

use serde::Serialize;

use crate::error::Result;
use crate::int4::Int4Layout;
use crate::train::config::{FfnKind, Granularity, ModelConfig, Precision};
use crate::train::exchange::{Exchange, ExchangeCost};

/// Parameters by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ParamCounts {
    /// The embedding `[vocab, hidden]`, which is the output projection too.
    pub embedding: u64,
    /// Query, key, value and output projections, each `[hidden, hidden]`.
    pub attention: u64,
    /// Gains: two per layer and the final one, each `[hidden]`.
    pub norms: u64,
    /// Router rows of clusters and experts, each `[hidden]`.
    pub router: u64,
    /// Gate, up and down of every feed-forward part: full matrices, or bases and residual factors.
    pub expert: u64,
}

impl ParamCounts {
    /// Counts of a valid shape.
    pub fn new(model: &ModelConfig) -> Self {
        let [vocab, d, layers] = [model.vocab, model.hidden, model.layers].map(|x| x as u64);
        let candidates = if model.ffn == FfnKind::Dense { 0 } else { model.layer().shape.logits() };
        ParamCounts {
            embedding: vocab * d,
            attention: layers * 4 * d * d,
            norms: (2 * layers + 1) * d,
            router: layers * candidates as u64 * d,
            expert: layers * expert_params(model, model.experts, model.routing_clusters()),
        }
    }

    /// Their sum.
    pub fn total(&self) -> u64 {
        self.embedding + self.attention + self.norms + self.router + self.expert
    }
}

/// Parameters of one layer's feed-forward part with `experts` residuals on `clusters` bases (clustered) or
/// `experts` full experts (flat).
fn expert_params(model: &ModelConfig, experts: usize, clusters: usize) -> u64 {
    let [d, f, r] = [model.hidden, model.inner, model.residual_rank()].map(|x| x as u64);
    let full = 3 * d * f;
    match model.ffn {
        FfnKind::Dense => full,
        FfnKind::Flat | FfnKind::Full => experts as u64 * full,
        FfnKind::Clustered => clusters as u64 * full + experts as u64 * 3 * r * (d + f),
    }
}

/// Bytes of bases in bf16 and residuals in INT4, of all layers.
fn expert_bytes_int4(model: &ModelConfig) -> Result<Option<u64>> {
    if model.ffn != FfnKind::Clustered {
        return Ok(None);
    }
    let factors = model.layer().shape.factors();
    let side = |long| Int4Layout::new([model.clusters, factors, long], Granularity::Block.format());
    // Gate, up and down have a factor along each of the two sizes.
    let packed = 3 * (side(model.hidden)?.bytes() + side(model.inner)?.bytes());
    let bases = 2 * 3 * (model.clusters * model.hidden * model.inner) as u64;
    Ok(Some(model.layers as u64 * (bases + packed)))
}

/// Floating-point operations of the forward pass per token (a multiply-add counts 2), averaged over the
/// positions of a full context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Flops {
    /// Projections, and causal scores over half the context on average.
    pub attention: f64,
    /// Scores of the clusters, and of the experts of one cluster.
    pub router: f64,
    /// The feed-forward part; a clustered one computes its base once per token.
    pub expert: f64,
    /// The output projection over the vocabulary.
    pub head: f64,
}

impl Flops {
    /// Counts of a valid shape.
    pub fn new(model: &ModelConfig) -> Self {
        let [vocab, d, layers] = [model.vocab, model.hidden, model.layers].map(|x| x as f64);
        let context = (model.seq as f64 + 1.0) / 2.0;
        let candidates = match model.ffn {
            FfnKind::Dense => 0,
            FfnKind::Flat => model.experts,
            FfnKind::Full | FfnKind::Clustered if model.clusters == 1 => model.experts,
            FfnKind::Full | FfnKind::Clustered => model.clusters + model.experts_per_cluster(),
        };
        Flops {
            attention: layers * (8.0 * d * d + 4.0 * d * context),
            router: layers * 2.0 * candidates as f64 * d,
            expert: layers * 2.0 * expert_params(model, model.topk, 1) as f64,
            head: 2.0 * vocab * d,
        }
    }

    /// Forward pass.
    pub fn forward(&self) -> f64 {
        self.attention + self.router + self.expert + self.head
    }

    /// Forward and backward pass: each product has two more in the backward pass.
    pub fn training(&self) -> f64 {
        3.0 * self.forward()
    }
}

/// Bytes per parameter while training: the stored weight, its gradient, AdamW's two moments and, beside
/// bf16 weights, the f32 master copy.
pub const fn training_bytes_per_param(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 4 + 4 + 8,
        Precision::Bf16 => 2 + 4 + 4 + 8,
    }
}

/// Everything `inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accounting {
    /// The shape that was counted.
    pub model: ModelConfig,
    /// Parameters by part.
    pub params: ParamCounts,
    /// All parameters.
    pub params_total: u64,
    /// Parameters of the feed-forward parts.
    pub params_expert: u64,
    /// Parameters one token passes through; the embedding counts whole, since the output projection uses it.
    pub active_params: u64,
    /// Feed-forward parameters over those of flat experts of the same number and size; `None` for dense.
    pub expert_share_of_flat: Option<f64>,
    /// Bytes of the feed-forward parameters as stored in bf16.
    pub expert_bytes: u64,
    /// The same with residuals packed in INT4, [`Granularity::Block`]; `None` unless clustered.
    pub expert_bytes_int4: Option<u64>,
    /// Forward arithmetic per token, by part.
    pub flops_forward: Flops,
    /// MFLOP per token of the forward pass.
    pub mflop_forward: f64,
    /// MFLOP per token of a training step.
    pub mflop_training: f64,
    /// Storage that `training_bytes` is for.
    pub precision: Precision,
    /// Bytes of weights, gradients and optimiser state.
    pub training_bytes: u64,
    /// Ranks over which the experts would be spread: `min(8, clusters)`.
    pub ranks: usize,
    /// Expected traffic of expert parallelism under uniform routing; empty for dense.
    pub all_to_all: Vec<ExchangeCost>,
}

impl Accounting {
    /// Counts `model`; errors if it breaks a rule.
    pub fn new(model: &ModelConfig, precision: Precision) -> Result<Self> {
        model.validate()?;
        let params = ParamCounts::new(model);
        let flops = Flops::new(model);
        let one_token = model.layers as u64 * expert_params(model, model.topk, 1);
        let flat = ModelConfig { ffn: FfnKind::Flat, ..model.clone() };
        let share = || params.expert as f64 / ParamCounts::new(&flat).expert as f64;
        Ok(Accounting {
            model: model.clone(),
            params,
            params_total: params.total(),
            params_expert: params.expert,
            active_params: params.total() - params.expert + one_token,
            expert_share_of_flat: (model.ffn != FfnKind::Dense).then(share),
            expert_bytes: 2 * params.expert,
            expert_bytes_int4: expert_bytes_int4(model)?,
            flops_forward: flops,
            mflop_forward: flops.forward() / 1e6,
            mflop_training: flops.training() / 1e6,
            precision,
            training_bytes: params.total() * training_bytes_per_param(precision),
            ranks: Exchange::ranks(model),
            all_to_all: Exchange::of(model).iter().map(|e| e.expected(model)).collect(),
        })
    }

    /// Bytes per token between ranks, over all layers, of the exchange the variant would use: the plain one
    /// for flat, the two-stage one for clustered; 0 for dense.
    pub fn all_to_all_bytes_per_token(&self) -> f64 {
        self.all_to_all.first().map_or(0.0, |cost| cost.bytes_per_token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::train::layout;
    use crate::train::preset::Preset;

    fn account(preset: Preset, ffn: FfnKind) -> Accounting {
        let model = ModelConfig { ffn, ..preset.model() };
        Accounting::new(&model, Precision::F32).unwrap()
    }

    #[test]
    fn clustered_base_holds_at_most_16_percent_of_flat() {
        let share = account(Preset::Base, FfnKind::Clustered).expert_share_of_flat.unwrap();
        assert!(share <= 0.16, "{share}");
        // 4 bases and 32 residuals of rank 16 against 32 full experts, gate, up and down alike.
        let want = (4 * 768 * 3072 + 32 * 16 * (768 + 3072)) as f64 / (32 * 768 * 3072) as f64;
        assert!((share - want).abs() < 1e-12, "{share} {want}");
        assert_eq!(account(Preset::Base, FfnKind::Flat).expert_share_of_flat, Some(1.0));
        assert_eq!(account(Preset::Base, FfnKind::Dense).expert_share_of_flat, None);
    }

    #[test]
    fn packed_residuals_leave_13_and_15_percent_of_flat_bytes() {
        for (preset, most) in [(Preset::Base, 0.14), (Preset::Small, 0.155)] {
            let (flat, clustered) = (account(preset, FfnKind::Flat), account(preset, FfnKind::Clustered));
            let share = clustered.expert_bytes_int4.unwrap() as f64 / flat.expert_bytes as f64;
            assert!((most - 0.01..most).contains(&share), "{share}");
            assert_eq!(flat.expert_bytes_int4, None);
        }
    }

    #[test]
    fn small_step_is_about_35_49_49_and_37_mflop_a_token() {
        let mflop = FfnKind::ALL.map(|ffn| account(Preset::Small, ffn).mflop_training.round());
        assert_eq!(mflop, [35.0, 49.0, 49.0, 37.0]);
    }

    #[test]
    fn tiny_counts_match_the_shapes_written_out() {
        let params = ParamCounts::new(&Preset::Tiny.model());
        let want = ParamCounts {
            embedding: 512 * 64,
            attention: 2 * 4 * 64 * 64,
            norms: 5 * 64,
            router: 2 * (2 + 8) * 64,
            expert: 2 * (2 * 3 * 64 * 128 + 8 * 3 * 8 * (64 + 128)),
        };
        assert_eq!(params, want);
        let active = account(Preset::Tiny, FfnKind::Clustered).active_params;
        assert_eq!(active, params.total() - params.expert + 2 * 3 * (64 * 128 + 2 * 8 * (64 + 128)));
    }

    #[test]
    fn counts_are_those_of_the_model_that_is_built() {
        for ffn in FfnKind::ALL {
            for clusters in [1, 4] {
                let model = ModelConfig { clusters, ..Preset::Tiny.model().variant(ffn) };
                let built = layout::build::<f32>(&model, &Device::cpu(), 0, false).unwrap();
                let pieces = built.iter().flat_map(|p| &p.pieces);
                let sum = |part: &str| {
                    pieces.clone().filter(|p| p.name.contains(part)).map(|p| p.len() as u64).sum::<u64>()
                };
                let params = ParamCounts::new(&model);
                let [router, expert] = [sum("gate.weight"), sum(".mlp.") - sum("gate.weight")];
                assert_eq!(
                    [params.router, params.expert, params.total()],
                    [router, expert, sum("")],
                    "{ffn}"
                );
            }
        }
    }

    #[test]
    fn flat_base_needs_about_43_gb_to_train() {
        let gb = account(Preset::Base, FfnKind::Flat).training_bytes as f64 / 1e9;
        assert!((43.0..45.0).contains(&gb), "{gb}");
        let two_bytes = Accounting::new(&Preset::Base.model(), Precision::Bf16).unwrap();
        assert_eq!(two_bytes.training_bytes, two_bytes.params_total * 18);
    }
}
